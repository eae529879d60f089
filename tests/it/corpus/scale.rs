//! A corpus larger than its memory limit.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use object_store::local::LocalFileSystem;
use scalingnote::store::Root;

use super::{Corpus, digests};

const ROWS: u64 = 200_000;

fn corpus() -> Corpus {
    let mut corpus = Corpus::new(
        "parts",
        "SELECT id AS note_id, title, body, at AS updated_at, likes FROM notes",
    );
    // Every tenth row is an older duplicate; ids are scattered over the files.
    for part in 0..4 {
        let mut csv = String::from("id,title,body,at,likes\n");
        for row in (part..ROWS).step_by(4) {
            let (id, at) = if row % 10 == 9 { (row - 1, 1) } else { (row, 2) };
            let word = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let body = format!("{word:016x} ").repeat(12);
            writeln!(csv, "{:x},note {row},{body},{at},{}", id * 7919 % ROWS, row % 100).unwrap();
        }
        corpus = corpus.write(&format!("parts/{part}.csv"), csv);
    }
    corpus.options.stored_columns = vec!["title".into(), "likes".into()];
    corpus.shards = Some(5);
    let local = corpus.dir.path().join("root");
    std::fs::create_dir(&local).unwrap();
    let store = LocalFileSystem::new_with_prefix(&local).unwrap();
    corpus.root = Root::from_store(Arc::new(store), "file://root", Some(local));
    corpus
}

#[tokio::test(flavor = "multi_thread")]
async fn spilling_changes_nothing() {
    let mut corpus = corpus();
    let start = Instant::now();
    corpus.options.memory_limit_mib = 1024;
    let (roomy, rows) = corpus.rows().await;
    println!("in memory: {:.1?}", start.elapsed());
    assert!(!format!("{:?}", corpus.reporter.events()).contains("spilled"));
    assert_eq!(roomy.rows_read, ROWS);
    assert_eq!(roomy.duplicates, ROWS / 10);
    assert_eq!(rows.len() as u64, ROWS - ROWS / 10);
    assert!(roomy.shards.iter().all(|s| s.notes > 30_000), "shards are even");

    corpus.options.memory_limit_mib = 16;
    let start = Instant::now();
    let tight = corpus.prepare().await.unwrap();
    println!("spilling: {:.1?}", start.elapsed());
    assert!(format!("{:?}", corpus.reporter.events()).contains("spilled"), "it did spill");
    assert_eq!(digests(&tight), digests(&roomy));
}
