//! The corpus end to end: real tables in, prepared shards out.

mod bombs;
mod contract;
mod duplicates;
mod faults;
mod find;
mod formats;
mod hints;
mod hostile_sql;
mod ids;
mod markdown;
mod newest;
mod numbers;
mod oddities;
mod scale;
mod shares;
mod sources;
mod types;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scalingnote::corpus::{
    Chunker, CorpusInput, CorpusMode, CorpusOptions, Earlier, FeedRequest, PrepareOutcome,
    PrepareRequest, PreparedReader, PreparedRow, TableOptions, TypeRule, prepare,
};
use scalingnote::error::Result;
use scalingnote::observe::{Recorder, Reporter};
use scalingnote::store::{Root, StorageOptions};
use scalingnote::types::{Cancel, Digest256, NoteId, shard_of};

/// A corpus in a folder of its own.
pub struct Corpus {
    pub dir: tempfile::TempDir,
    pub options: CorpusOptions,
    pub shards: Option<u32>,
    pub share_bytes: u64,
    pub chunker: Option<Arc<dyn Chunker>>,
    pub earlier: Option<Earlier>,
    pub feed: Option<FeedRequest>,
    pub root: Root,
    pub reporter: Arc<Recorder>,
    pub cancel: Cancel,
}

impl Corpus {
    /// One table `notes` at `uri`, relative to the folder; one shard, `title` and `body` as text.
    pub fn new(uri: &str, sql: &str) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            options: CorpusOptions {
                tables: vec![table("notes", uri)],
                sql: sql.to_owned(),
                types: TypeRule::Exact,
                mode: CorpusMode::Full,
                template: "{{ title }}\n{{ body }}".to_owned(),
                stored_columns: vec![],
                max_rejected: 0,
                memory_limit_mib: 256,
                share_mib: 128,
                storage: None,
            },
            shards: Some(1),
            share_bytes: 128 << 20,
            chunker: None,
            earlier: None,
            feed: None,
            root: Root::in_memory(),
            reporter: Arc::default(),
            cancel: Cancel::new(),
        }
    }

    pub fn write(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        self
    }

    pub async fn prepare(&self) -> Result<PrepareOutcome> {
        let reporter: Arc<dyn Reporter> = self.reporter.clone();
        let input = CorpusInput {
            options: &self.options,
            base_dir: self.dir.path(),
            storage: &StorageOptions::default(),
            reporter: &reporter,
            cancel: &self.cancel,
        };
        prepare(PrepareRequest {
            input,
            shard_count: self.shards,
            default_shards: 4,
            share_bytes: self.share_bytes,
            chunker: self.chunker.clone(),
            known: None,
            earlier: self.earlier.clone(),
            feed: self.feed.clone(),
            exclude: None,
            root: &self.root,
            run: "test",
        })
        .await
    }

    /// Prepares and reads everything back, checking what must hold for every outcome.
    pub async fn rows(&self) -> (PrepareOutcome, Vec<PreparedRow>) {
        let outcome = self.prepare().await.unwrap();
        let mut all = Vec::new();
        for (at, shard) in outcome.shards.iter().enumerate() {
            assert_eq!(shard.shard as usize, at);
            let bytes = self.root.get(&shard.file.path).await.unwrap();
            assert_eq!(bytes.len() as u64, shard.file.size);
            assert_eq!(Digest256::of(&bytes), shard.file.sha256);
            let rows = read(&self.root, shard).await.unwrap();
            assert_eq!(rows.len() as u64, shard.rows);
            for row in &rows {
                let home = shard_of(&row.note_id, outcome.shards.len() as u32);
                assert_eq!(home, shard.shard);
                assert_eq!(row.text_hash, Digest256::of(row.text.as_bytes()));
                assert_eq!(row.text.is_empty(), row.deleted);
            }
            let keys: Vec<_> = rows.iter().map(|r| (r.note_id.clone(), r.chunk)).collect();
            assert!(keys.is_sorted_by(|a, b| a < b), "rows are sorted and unique");
            let live = rows.iter().filter(|r| !r.deleted && r.chunk == 0).count() as u64;
            assert_eq!(live, shard.notes);
            assert_eq!(rows.iter().filter(|r| r.deleted).count() as u64, shard.deletions);
            all.extend(rows);
        }
        (outcome, all)
    }

    /// The prepared texts by tagged id, in shard order.
    pub async fn texts(&self) -> Vec<(String, String)> {
        let (_, rows) = self.rows().await;
        rows.into_iter().map(|row| (row.note_id.to_string(), row.text)).collect()
    }

    /// The error of a run that must fail.
    pub async fn fails(&self) -> scalingnote::error::Error {
        self.prepare().await.expect_err("this corpus must be refused")
    }
}

pub fn table(name: &str, uri: &str) -> TableOptions {
    TableOptions::new(name, uri)
}

pub async fn read(
    root: &Root,
    shard: &scalingnote::corpus::PreparedShard,
) -> Result<Vec<PreparedRow>> {
    let mut reader = PreparedReader::open(root, shard).await?;
    let mut rows = Vec::new();
    while let Some(batch) = reader.next().await? {
        assert_eq!(batch.rows.len(), batch.stored.num_rows());
        rows.extend(batch.rows);
    }
    Ok(rows)
}

/// What must be equal where only the spelling of the input differs.
pub fn digests(outcome: &PrepareOutcome) -> Vec<(Digest256, Digest256, Digest256)> {
    outcome.shards.iter().map(|s| (s.content, s.columns, s.file.sha256)).collect()
}

/// A file of the shared data, or `None` with a line that says what is skipped.
pub fn shared(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("SCALINGNOTE_SHARED_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    let path = dir.join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is missing; set SCALINGNOTE_SHARED_DATA", path.display());
    None
}

pub fn int(id: i64) -> String {
    NoteId::Int(id).to_string()
}
