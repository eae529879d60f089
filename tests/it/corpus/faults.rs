//! Broken, changing and cancelled inputs.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use scalingnote::corpus::Chunker;
use scalingnote::error::{ErrorKind, Result};
use scalingnote::types::Cancel;

use super::oddities::{OWN, TEXTS, pack, written};
use super::{Corpus, read};

const SQL: &str = "SELECT id AS note_id, title FROM notes";

#[track_caller]
fn says(error: &scalingnote::error::Error, kind: ErrorKind, words: &[&str]) {
    super::find::says(error, kind, words);
    assert!(!format!("{error:?}").contains("SECRET"), "note text in: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_there_or_not_alike_are_named() {
    let error = Corpus::new("nowhere/*.csv", SQL).fails().await;
    says(&error, ErrorKind::Input, &["nowhere does not exist"]);
    let error = Corpus::new("nowhere.csv", SQL).fails().await;
    says(&error, ErrorKind::Input, &["nowhere.csv", "does not exist"]);
    let mixed = Corpus::new("d", SQL).write("d/a.csv", "id,title\n").write("d/b.jsonl", "{}\n");
    says(&mixed.fails().await, ErrorKind::Input, &["a.csv", "b.jsonl", "UNION ALL"]);
    let order = Corpus::new("d", SQL)
        .write("d/a.csv", "id,title\n1,x\n")
        .write("d/b.csv", "title,id\nx,1\n");
    says(&order.fails().await, ErrorKind::Input, &["a.csv", "b.csv has the columns `title`, `id`"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn casts_that_fail_do_not_quote_the_note() {
    let sql = "SELECT CAST(title AS BIGINT) AS note_id, title FROM notes";
    let error = Corpus::new("n.csv", sql).write("n.csv", "id,title\n1,SECRET\n").fails().await;
    says(&error, ErrorKind::Input, &["reading the corpus"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_fails_on_a_note_rejects_it() {
    let mut corpus = Corpus::new("n.csv", "SELECT id AS note_id, title, likes FROM notes")
        .write("n.csv", "id,title,likes\n1,SECRET,2\n2,SECRET,0\n3,SECRET,\n");
    corpus.options.template = "{{ title }} {{ 10 // likes }}".into();
    let error = corpus.fails().await;
    says(&error, ErrorKind::Input, &["template failed in line 1", "note i:2"]);
    corpus.options.max_rejected = 2;
    let (outcome, rows) = corpus.rows().await;
    assert_eq!((rows.len(), outcome.rejections.total()), (1, 2));
}

/// Does something to the outside when the first note is cut.
struct Meddler(Box<dyn Fn() + Send + Sync>);

impl Chunker for Meddler {
    fn chunks(&self, text: &str) -> Result<Vec<Range<usize>>> {
        (self.0)();
        Ok(std::iter::once(0..text.len()).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_read_is_an_error() {
    let (before, after) = ([(1, "one")], [(1, "two"), (2, "three")]);
    let mut names: Vec<String> = OWN.map(|format| format!("n.{format}")).into();
    names.push("stream.arrow".into());
    for format in TEXTS {
        names.extend(["", ".gz", ".zst"].map(|packing| format!("n.{format}{packing}")));
    }
    for name in names {
        let bytes = |rows: &[(i64, &str)]| {
            let (packed, packing) = match name.rsplit_once('.') {
                Some((packed, "gz")) => (packed, ".gz"),
                Some((packed, "zst")) => (packed, ".zst"),
                _ => (&*name, ""),
            };
            match packed.rsplit_once('.') {
                Some(("stream", _)) => written("stream", rows),
                Some((_, format)) => pack(&written(format, rows), packing),
                None => unreachable!("{name}"),
            }
        };
        let (old, new) = (bytes(&before), bytes(&after));
        // Other bytes of the same length at the same place, as a writer in place makes them, are a change, too.
        let twin = bytes(&[(1, "eno")]);
        for change in [Some(new), Some(twin), None] {
            let mut corpus = Corpus::new(&name, SQL).write(&name, &old);
            let path: PathBuf = corpus.dir.path().join(&name);
            corpus.chunker = Some(Arc::new(Meddler(Box::new(move || match &change {
                None => std::fs::remove_file(&path).unwrap(),
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            }))));
            says(&corpus.fails().await, ErrorKind::Input, &[&name, "changed while it was read"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_it() {
    let rows: String = (0..50_000).map(|id| format!("{id},note\n")).collect();
    let mut corpus = Corpus::new("n.csv", SQL).write("n.csv", format!("id,title\n{rows}"));
    let cancel = Cancel::new();
    let handle = cancel.clone();
    corpus.cancel = cancel;
    corpus.chunker = Some(Arc::new(Meddler(Box::new(move || handle.cancel()))));
    assert_eq!(corpus.fails().await.kind(), ErrorKind::Cancelled);
    assert_eq!(corpus.fails().await.kind(), ErrorKind::Cancelled, "at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_prepared_files_are_found() {
    let corpus = Corpus::new("n.csv", SQL).write("n.csv", "id,title\n1,one\n");
    let shard = corpus.prepare().await.unwrap().shards.remove(0);
    let (store, path) = corpus.root.object(&shard.file.path);
    let bytes = corpus.root.get(&shard.file.path).await.unwrap();
    let put = async |bytes: Bytes| {
        store.put_opts(&path, bytes.into(), object_store::PutOptions::default()).await.unwrap();
        read(&corpus.root, &shard).await.unwrap_err().kind()
    };
    assert_eq!(put(bytes.slice(..bytes.len() - 1)).await, ErrorKind::Corrupt);
    assert_eq!(put(Bytes::from(vec![0; bytes.len()])).await, ErrorKind::Corrupt);
    corpus.root.delete(&shard.file.path).await.unwrap();
    assert_eq!(read(&corpus.root, &shard).await.unwrap_err().kind(), ErrorKind::NotFound);
}
