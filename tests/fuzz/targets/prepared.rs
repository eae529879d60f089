//! What all targets that prepare a corpus ask for.

use std::path::Path;
use std::sync::Arc;

use scalingnote::corpus::{
    CorpusMode, CorpusOptions, PrepareOutcome, PrepareRequest, TableOptions, TypeRule, prepare,
};
use scalingnote::error::Result;
use scalingnote::observe::Silent;
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
    let request = PrepareRequest {
        options,
        base_dir: folder,
        shard_count: Some(1),
        default_shards: 1,
        share_bytes: u64::MAX,
        chunker: None,
        exclude: None,
        known: None,
        earlier: None,
        feed: None,
        storage: &StorageOptions::default(),
        root,
        run: "fuzz",
        reporter: Arc::new(Silent),
        cancel: Cancel::new(),
    };
    prepare(request).await
}
