//! How often a run reads what it works from: no prepared file and none of the parent's ids files more than twice, once
//! for the plan and once for the tasks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use scalingnote::report::Outcome;
use scalingnote::snapshot::{self, Segment};
use scalingnote::store::Root;

use super::segments::edit;
use crate::fixture::days::{self, Corpus, encoded};

/// Counts the readings of each object. Whoever reads a Parquet file asks for its end, where the footer is, once,
/// however many ranges follow; a reader of the whole object gets its end, too.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn ObjectStore>,
    readings: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let found = self.inner.get_opts(at, options).await?;
        if !head && found.range.end == found.meta.size {
            *self.readings.lock().unwrap().entry(at.to_string()).or_default() += 1;
        }
        Ok(found)
    }

    async fn put_opts(&self, at: &Path, data: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, data, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Three days of `notes` notes in two shards; the readings of the third are counted.
async fn a_third_day(notes: i64, mode: &str) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let root = Root::from_store(Arc::clone(&store), "memory://", None);
    let set = ["encode.part_texts=4096"];
    let mut corpus = Corpus::new(notes);
    corpus.run(&root, &set).await.unwrap();
    edit(&mut corpus, 0..8, 2);
    corpus.run(&root, &set).await.unwrap();
    let parent = snapshot::newest(&root).await.unwrap().unwrap();
    let segments: Vec<Segment> =
        parent.content.shards.iter().flat_map(|shard| shard.segments()).collect();
    assert_eq!(segments.len(), 4, "both shards have a base and a delta");

    edit(&mut corpus, 20..28, 3);
    if mode == "delta" {
        corpus.notes.retain(|id, _| (20..28).contains(id));
    }
    corpus.write(|_| serde_json::Value::Bool(false));
    let readings = Arc::<Mutex<BTreeMap<String, u64>>>::default();
    let counting = Counting { inner: store, readings: Arc::clone(&readings) };
    let counted = Root::from_store(Arc::new(counting), "memory://", None);
    let mode = format!("corpus.mode=\"{mode}\"");
    let pipeline = corpus.pipeline(&[&set[..], &[&mode]].concat());
    let report = days::run(pipeline, &counted).await.unwrap();
    assert_eq!((encoded(&report), report.outcome), (8, Outcome::Published { snapshot: 3 }));
    assert_eq!(report.shards_rebuilt, 0, "{:?}", report.warnings);

    let readings = readings.lock().unwrap();
    let prepared: Vec<_> = readings
        .iter()
        .filter(|(key, _)| key.starts_with("prepared/") && !key.contains("located"))
        .collect();
    println!("{notes} notes, {mode}: {prepared:?}");
    assert_eq!(prepared.len(), 2, "{readings:?}");
    assert!(prepared.iter().all(|(_, times)| **times <= 2), "{prepared:?}");
    for segment in segments {
        let times = readings.get(&segment.ids.path).copied().unwrap_or(0);
        println!("{}: {times}", segment.ids.path);
        assert!((1..=2).contains(&times), "{}: {times}", segment.ids.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_reads_its_prepared_files_and_the_parents_ids_at_most_twice() {
    a_third_day(600, "full").await;
    a_third_day(600, "delta").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_where_stored_texts_are_left_out_of_the_prepared_files() {
    a_third_day(6_000, "full").await;
}
