//! What all targets that prepare a corpus ask for.

use std::path::Path;
use std::sync::Arc;

use scalingnote::corpus::{
    CorpusInput, CorpusMode, CorpusOptions, PrepareOutcome, PrepareRequest, TableOptions, TypeRule,
    prepare,
};
use scalingnote::error::Result;
use scalingnote::observe::{Reporter, Silent};
use scalingnote::store::{Root, StorageOptions};
use scalingnote::types::Cancel;

/// A corpus of one table, whose query gives `note_id` and `body`.
pub fn corpus(table: TableOptions, sql: String, types: TypeRule) -> CorpusOptions {
    CorpusOptions {
        tables: vec![table],
        sql,
        types,
        mode: CorpusMode::Full,
        template: "{{ body }}".into(),
        stored_columns: Vec::new(),
        max_rejected: 10,
        memory_limit_mib: 256,
        share_mib: 128,
        storage: None,
    }
}

/// Prepares it; its files are in `folder`.
pub async fn prepared(
    options: &CorpusOptions,
    folder: &Path,
    root: &Root,
) -> Result<PrepareOutcome> {
    let storage = StorageOptions::default();
    let (reporter, cancel): (Arc<dyn Reporter>, _) = (Arc::new(Silent), Cancel::new());
    let (base_dir, reporter, cancel) = (folder, &reporter, &cancel);
    let request = PrepareRequest {
        input: CorpusInput { options, base_dir, storage: &storage, reporter, cancel },
        shard_count: Some(1),
        default_shards: 1,
        share_bytes: u64::MAX,
        chunker: None,
        exclude: None,
        known: None,
        earlier: None,
        feed: None,
        root,
        run: "fuzz",
    };
    prepare(request).await
}
