//! What is under a root: manifests, plans, receipts, parts, indexes. A real run of the fake tower makes the root once;
//! then one object of it is damaged.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::memory::InMemory;

use scalingnote::config::resolve_text;
use scalingnote::corpus::PreparedReader;
use scalingnote::embedding::{self, PartReceipt};
use scalingnote::error::{Error, ErrorKind, Result};
use scalingnote::exec::{self, RunContext, RunOptions};
use scalingnote::index::{self, Calibration, IndexOptions, ShardIndex};
use scalingnote::observe::Silent;
use scalingnote::search::Snapshot;
use scalingnote::snapshot::{self, Content, Manifest, Protected, Retention};
use scalingnote::stage::{self, Plan, PurgeRequest, TaskEnv, Worker};
use scalingnote::store::layout::{self, Key};
use scalingnote::store::{FileRef, Root};
use scalingnote::tower::DeviceSpec;
use scalingnote::types::{Cancel, Digest256, NoteId, hash_json};

use super::{CANARY, Target, block_on};

/// A root on disk whose one object is damaged.
pub struct Stored {
    kind: String,
    folder: tempfile::TempDir,
    root: Root,
    objects: Vec<(String, bytes::Bytes)>,
    manifest: Manifest,
    plan: Plan,
    part: PartReceipt,
    key: String,
}

const NOTES: usize = 60;

impl Stored {
    pub fn new(kind: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let line = |at: usize| {
            let title = format!("{CANARY} {at}");
            serde_json::json!({"id": at, "title": title, "body": format!("{CANARY} body {at}")})
        };
        let lines: String = (0..NOTES).map(|at| format!("{}\n", line(at))).collect();
        std::fs::write(folder.path().join("notes.jsonl"), lines).unwrap();
        let text = r#"version = 1
[corpus]
sql = "select id as note_id, title, body from notes"
template = "{{ title }} {{ body }}"
stored_columns = ["title"]
[[corpus.tables]]
name = "notes"
uri = "notes.jsonl"
[tower]
model = "fake:16"
pooling = "mean"
max_tokens = 32
[index]
shards = 2
[publish]
root = "root"
"#;
        let resolved = resolve_text(text, "fuzz.toml", folder.path(), [], &[]).unwrap();
        let at = folder.path().join("root");
        let root = Root::open(at.to_str().unwrap()).unwrap();
        let ctx = RunContext {
            pipeline: resolved.pipeline,
            root: root.clone(),
            reporter: Arc::new(Silent),
            cancel: Cancel::new(),
        };
        let (manifest, plan, objects, part) = block_on(async {
            let report = exec::run(&ctx, &RunOptions::default()).await.unwrap();
            let manifest = snapshot::newest(&root).await.unwrap().unwrap();
            let plan = Plan::load(&root, &report.run).await.unwrap();
            let mut objects = Vec::new();
            for object in root.list("").await.unwrap() {
                let bytes = root.get(&object.key).await.unwrap();
                objects.push((object.key, bytes));
            }
            let space = &manifest.content.space_id;
            let part = embedding::list_parts(&root, space, None).await.unwrap().remove(0);
            (manifest, plan, objects, part)
        });
        let shard = &manifest.content.shards[0];
        let receipt = |is: fn(&Key) -> bool| {
            let mut keys = objects.iter().filter_map(|(key, _)| layout::parse(key));
            keys.find(is).unwrap().to_string()
        };
        let key = match kind {
            "manifest" => layout::manifest(1),
            "plan" => Plan::key(&plan.spec.run),
            "part-receipt" => receipt(|key| matches!(key, Key::PartReceipt { .. })),
            "encode-receipt" => receipt(|key| matches!(key, Key::EncodeReceipt { .. })),
            "build-receipt" => receipt(|key| matches!(key, Key::BuildReceipt { .. })),
            "part" => part.file.path.clone(),
            "ids" => shard.ids.path.clone(),
            "prepared" => plan.shards[0].prepared.file.path.clone(),
            "usearch" => shard.index.as_ref().unwrap().path.clone(),
            "sidecar" => shard.sidecar.as_ref().unwrap().path.clone(),
            other => panic!("there is no target {other}"),
        };
        Self { kind: kind.to_owned(), folder, root, objects, manifest, plan, part, key }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.local_path(key).unwrap()
    }

    /// The root in memory with `data` in the place of the damaged object, and without the objects `left_out`.
    async fn in_memory(&self, data: &[u8], left_out: impl Fn(&str) -> bool) -> Root {
        let root = Root::from_store(Arc::new(InMemory::new()), "memory://fuzz", None);
        for (key, bytes) in &self.objects {
            let bytes = if *key == self.key { data.to_vec().into() } else { bytes.clone() };
            if *key == self.key || !left_out(key) {
                root.put_if_absent(key, bytes).await.unwrap();
            }
        }
        root
    }

    /// The damaged object as a manifest that knows its damage would name it.
    fn as_named(&self, old: &FileRef, data: &[u8]) -> FileRef {
        FileRef { path: old.path.clone(), size: data.len() as u64, sha256: Digest256::of(data) }
    }

    /// Puts this content into snapshot 1, opens and searches it.
    async fn search(&self, content: Content) -> Result<()> {
        let manifest =
            Manifest { content_hash: hash_json(&content)?, content, ..self.manifest.clone() };
        std::fs::write(self.path(&layout::manifest(1)), serde_json::to_vec(&manifest).unwrap())
            .unwrap();
        self.open().await
    }

    async fn open(&self) -> Result<()> {
        let cache = self.folder.path().join("cache");
        let opened = Snapshot::open(&self.root, Some(1), &cache).await?;
        let query = vec![0.25; opened.manifest().content.space.dimensions.clamp(1, 64) as usize];
        for exact in [false, true] {
            opened.search_vector(&query, 100, exact)?;
        }
        Ok(())
    }

    async fn manifest(&self, data: &[u8]) -> Result<()> {
        let at = self.path(&layout::manifest(1));
        std::fs::write(&at, data).unwrap();
        let first = self.open().await;
        // The same, with the hash corrected too: that guards against accidents only.
        let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(data) else { return first };
        let Ok(content) = serde_json::from_value::<Content>(json["content"].clone()) else {
            return first;
        };
        json["content_hash"] = serde_json::to_value(hash_json(&content)?).unwrap();
        std::fs::write(&at, json.to_string()).unwrap();
        self.open().await?;
        let manifest = snapshot::read(&self.root, 1).await?;
        snapshot::diff(&self.manifest, &manifest);
        snapshot::diff_ids(&self.root, &self.manifest, &manifest, 3).await?;
        snapshot::verify_hashes(&self.root, &manifest, &|_| {}).await?;
        let (retention, protected) = (Retention::default(), Protected::default());
        snapshot::gc(&self.root, &retention, chrono::Utc::now(), true, &protected).await?;
        first
    }

    /// Loads the plan and executes every task of it, adopting nothing.
    async fn plan(&self, data: &[u8]) -> Result<()> {
        let root = self.in_memory(data, layout::is_receipt).await;
        let plan = Plan::load(&root, &self.plan.spec.run).await?;
        let env = TaskEnv::new(root.clone(), Arc::new(Silent), Cancel::new());
        let mut worker = Worker::new(DeviceSpec::Cpu { threads: 1 }, None);
        let encode = plan.encode.iter().map(|task| &task.id);
        let calibrate = plan.calibrate.iter().map(|task| &task.id);
        let build = plan.build.iter().map(|task| &task.id);
        let tasks: Vec<String> = encode.chain(calibrate).chain(build).cloned().collect();
        for id in tasks {
            stage::execute(&plan.envelope(&id)?, &mut worker, &env).await?;
        }
        Ok(())
    }

    async fn receipt(&self, data: &[u8]) -> Result<()> {
        let root = self.in_memory(data, |_| false).await;
        embedding::list_parts(&root, &self.manifest.content.space_id, None).await?;
        let env = TaskEnv::new(root.clone(), Arc::new(Silent), Cancel::new());
        let mut worker = Worker::new(DeviceSpec::Cpu { threads: 1 }, None);
        for task in &self.plan.encode {
            stage::encode_receipt(task, &root).await?;
            stage::execute(&self.plan.envelope(&task.id)?, &mut worker, &env).await?;
        }
        for task in &self.plan.build {
            stage::build_receipt(task, &root).await?;
            stage::execute(&self.plan.envelope(&task.id)?, &mut worker, &env).await?;
        }
        Ok(())
    }

    async fn part(&self, data: &[u8]) -> Result<()> {
        let root = self.in_memory(data, |_| false).await;
        let hashes = embedding::read_text_hashes(&root, &self.part).await;
        let rows: Vec<u32> = (0..self.part.rows as u32).collect();
        let vectors = embedding::read_vectors(&root, &self.part.file.path, &rows).await;
        let fate = |note: &str, _: &Digest256| match note {
            "i:3" => embedding::Fate::Drop,
            _ => embedding::Fate::Keep,
        };
        embedding::rewrite_part(&root, &self.part, &fate).await?;
        hashes.and(vectors.map(drop))
    }

    async fn ids(&self, data: &[u8]) -> Result<()> {
        std::fs::write(self.path(&self.key), data).unwrap();
        let mut content = self.manifest.content.clone();
        let named = self.as_named(&content.shards[0].ids, data);
        content.shards[0].ids = named;
        let searched = self.search(content.clone()).await;
        // What planning and purging read of it.
        let root = self.in_memory(data, |key| key.starts_with("snapshots/")).await;
        let manifest =
            Manifest { content_hash: hash_json(&content)?, content, ..self.manifest.clone() };
        let json = serde_json::to_vec(&manifest).unwrap();
        root.put_if_absent(&layout::manifest(1), json.into()).await?;
        snapshot::diff_ids(&root, &self.manifest, &manifest, 3).await?;
        let notes = [NoteId::Int(3)];
        stage::purge(PurgeRequest {
            root: &root,
            notes: &notes,
            dry_run: true,
            reporter: Arc::new(Silent),
            cancel: Cancel::new(),
        })
        .await?;
        searched
    }

    async fn prepared(&self, data: &[u8]) -> Result<()> {
        let root = self.in_memory(data, |_| false).await;
        let mut shard = self.plan.shards[0].prepared.clone();
        shard.file = self.as_named(&shard.file, data);
        let mut reader = PreparedReader::open(&root, &shard).await?;
        while reader.next().await?.is_some() {}
        Ok(())
    }

    fn index(&self, data: &[u8]) -> Result<()> {
        std::fs::write(self.path(&self.key), data).unwrap();
        let content = &self.manifest.content;
        let shard = &content.shards[0];
        let [graph, sidecar] =
            [&shard.index, &shard.sidecar].map(|file| self.path(&file.as_ref().unwrap().path));
        let options: IndexOptions = serde_json::from_value(content.index.options.clone()).unwrap();
        let calibration: Calibration =
            serde_json::from_value(content.index.calibration.clone()).unwrap();
        let stored = index::stored_keys(&graph).and(index::sidecar_keys(&sidecar));
        let audited = index::audit(&graph);
        let opened = ShardIndex::open(&graph, &sidecar, &options, &calibration)?;
        let query = vec![0.25; opened.dimensions()];
        opened.search(&query, 10)?;
        opened.search_exact(&query, 10)?;
        stored.and(audited).map(drop)
    }
}

impl Target for Stored {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let found = self.objects.iter().find(|(key, _)| *key == self.key);
        vec![found.map(|(_, bytes)| bytes.to_vec()).unwrap()]
    }

    fn read(&mut self, data: &[u8]) -> Result<()> {
        let outcome = match self.kind.as_str() {
            "usearch" | "sidecar" => self.index(data),
            _ => block_on(async {
                match self.kind.as_str() {
                    "manifest" => self.manifest(data).await,
                    "plan" => self.plan(data).await,
                    "part" => self.part(data).await,
                    "ids" => self.ids(data).await,
                    "prepared" => self.prepared(data).await,
                    _ => self.receipt(data).await,
                }
            }),
        };
        // A transient failure makes schedulers repeat forever what a damaged file will never let pass; that a task's
        // receipt is not there yet is one.
        match outcome {
            Err(error) if error.kind() == ErrorKind::Transient && self.kind != "plan" => {
                Err(Error::internal("a damaged file is called a transient failure")
                    .with_source(error))
            }
            outcome => outcome,
        }
    }

    fn names(&self) -> Vec<String> {
        let name = self.key.rsplit('/').next().unwrap().to_owned();
        let mut names = vec![name, self.key.clone()];
        match self.kind.as_str() {
            // A manifest that is sound in itself names files that are not: then they are named.
            "manifest" => {
                names.extend(["snapshot 1", "indexes/", "embeddings/", "query"].map(str::to_owned))
            }
            "plan" => names.extend(["task ", "plan of run"].map(str::to_owned)),
            "encode-receipt" | "build-receipt" | "part-receipt" => {
                names.extend(["embeddings/", "indexes/", "task "].map(str::to_owned));
            }
            "usearch" | "sidecar" => {
                let shard = &self.manifest.content.shards[0];
                for file in [&shard.index, &shard.sidecar].into_iter().flatten() {
                    names.push(file.path.rsplit('/').next().unwrap().to_owned());
                }
                // Found while searching, when no file is read any more.
                names.push("of the index".to_owned());
            }
            _ => {}
        }
        names
    }
}
