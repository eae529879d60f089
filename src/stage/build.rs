//! Stage `build`: one shard's notes and vectors become an index, a sidecar and an ids file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::calibrate;
use super::encode::{EncodeReceipt, Quarantined};
use super::ids::{IdRow, Ids, Place, no_columns};
use super::located::{self, Places};
use super::plan::{BuildTask, RunSpec};
use super::prepare::source_digest;
use super::task::{TaskEnv, not_finished, put_receipt, read_receipt};
use crate::corpus::{CorpusMode, PreparedReader, PreparedRow};
use crate::embedding::{self, PartReceipt};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::index::{self, BuildReport, Calibration, IndexOptions, ShardIndex};
use crate::observe::{Event, Stage};
use crate::snapshot::ShardContent;
use crate::store::{FileRef, Root, layout};
use crate::types::{
    Canary, Cancel, Digest256, Embeddings, Hasher256, NoteId, NoteKey, SpaceId, TextHash,
};

/// What a build task made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildReceipt {
    /// Task id.
    pub id: String,
    /// The shard, as the manifest will name it.
    pub shard: ShardContent,
    /// Every part that a vector of the shard lies in.
    pub parts: Vec<FileRef>,
    /// What the index build measured; absent in an empty shard.
    pub report: Option<BuildReport>,
    /// Notes left out because they could not be encoded.
    pub quarantined: Vec<Quarantined>,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// The files of one index, with what was measured while building it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IndexReceipt {
    pub index: FileRef,
    pub sidecar: FileRef,
    pub report: BuildReport,
    /// None in a receipt of an earlier release.
    #[serde(default)]
    pub canaries: Vec<Canary>,
}

/// Runs the task, or returns the receipt of the attempt that finished it.
pub(crate) async fn execute(task: &BuildTask, env: &TaskEnv) -> Result<BuildReceipt> {
    let spec = &task.spec;
    let options_id = spec.index.id()?;
    let number = task.shard.prepared.shard;
    let key = layout::build_receipt(&options_id, number, &task.id);
    if let Some(receipt) = read_receipt::<BuildReceipt>(&env.root, &key).await? {
        if all_present(&env.root, &receipt).await? {
            return Ok(receipt);
        }
        env.root.delete(&key).await?;
    }
    let started = std::time::Instant::now();
    let encoded = encoded_places(task, &env.root).await?;
    let calibration = calibrate::frozen(&env.root, &spec.index, &spec.space_id).await?;
    let entries = Entries::gather(task, &env.root, &encoded).await?;
    env.cancel.check()?;
    let ids = entries.into_ids()?;
    let built = match ids.rows.is_empty() {
        true => None,
        false => Some(index_of(task, env, &options_id, &ids, &calibration).await?),
    };
    let mut notes = HashSet::new();
    let mut used = HashSet::new();
    for row in &ids.rows {
        notes.insert(&row.note_id);
        used.insert(Arc::clone(&row.place.part));
    }
    let parts = part_refs(&env.root, spec, &encoded, &used).await?;
    let shard = ShardContent {
        shard: number,
        notes: notes.len() as u64,
        vectors: ids.rows.len() as u64,
        orphans: built.as_ref().map_or(0, |built| built.report.orphans),
        source: (spec.mode == CorpusMode::Full).then(|| source_digest(&task.shard.prepared)),
        parts: parts.iter().map(|part| part.path.clone()).collect(),
        index: built.as_ref().map(|built| built.index.clone()),
        sidecar: built.as_ref().map(|built| built.sidecar.clone()),
        ids: write_ids(&env.root, &options_id, number, &ids).await?,
        canaries: built.as_ref().map(|built| built.canaries.clone()).unwrap_or_default(),
    };
    let receipt = BuildReceipt {
        id: task.id.clone(),
        shard,
        parts,
        report: built.map(|built| built.report),
        quarantined: encoded.quarantined,
        seconds: started.elapsed().as_secs_f64(),
    };
    env.reporter.event(Event::Progress { stage: Stage::Build, done: 1, tokens: 0 });
    put_receipt(&env.root, &key, receipt).await
}

/// The receipt of a finished build task.
///
/// # Errors
/// Transient, where the task is not finished.
pub async fn receipt(task: &BuildTask, root: &Root) -> Result<BuildReceipt> {
    let key = layout::build_receipt(&task.spec.index.id()?, task.shard.prepared.shard, &task.id);
    read_receipt(root, &key).await?.ok_or_else(|| not_finished(&task.id))
}

async fn all_present(root: &Root, receipt: &BuildReceipt) -> Result<bool> {
    let shard = &receipt.shard;
    let files = [Some(&shard.ids), shard.index.as_ref(), shard.sidecar.as_ref()];
    for file in files.into_iter().flatten().chain(&receipt.parts) {
        if root.size(&file.path).await? != Some(file.size) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Everything known about where this shard's vectors lie.
struct Encoded {
    places: Places,
    parts: Vec<PartReceipt>,
    quarantined: Vec<Quarantined>,
}

async fn encoded_places(task: &BuildTask, root: &Root) -> Result<Encoded> {
    let mut places = located::read(root, task.shard.located.as_ref()).await?;
    let mut encoded = Encoded { places: Places::new(), parts: Vec::new(), quarantined: Vec::new() };
    if let Some(encode) = &task.encode {
        let key = layout::encode_receipt(&task.spec.space_id, task.shard.prepared.shard, encode);
        let receipt: EncodeReceipt =
            read_receipt(root, &key).await?.ok_or_else(|| not_finished(encode))?;
        for part in receipt.parts {
            let name: Arc<str> = Arc::from(part.file.path.as_str());
            for (row, hash) in
                embedding::read_text_hashes(root, &part).await?.into_iter().enumerate()
            {
                let place = Place { part: Arc::clone(&name), row: row as u32 };
                places.entry(hash).or_insert(place);
            }
            encoded.parts.push(part);
        }
        encoded.quarantined = receipt.quarantined;
    }
    encoded.places = places;
    Ok(encoded)
}

/// The live vectors of the shard, not yet keyed: sorted by (note, chunk) in the end.
struct Entries {
    rows: Vec<(NoteId, u32, TextHash, Place)>,
    stored: RecordBatch,
}

impl Entries {
    async fn gather(task: &BuildTask, root: &Root, encoded: &Encoded) -> Result<Self> {
        let refused: HashSet<TextHash> =
            encoded.quarantined.iter().map(|note| note.text_hash).collect();
        let mut rows = Vec::new();
        let mut batches = Vec::new();
        let mut touched: HashSet<NoteId> = HashSet::new();
        let mut reader = PreparedReader::open(root, &task.shard.prepared).await?;
        while let Some(batch) = reader.next().await? {
            let mut keep = Vec::new();
            for (at, row) in batch.rows.into_iter().enumerate() {
                if task.spec.mode == CorpusMode::Delta {
                    touched.insert(row.note_id.clone());
                }
                if row.deleted {
                    continue;
                }
                if let Some(place) = place_of(&row, encoded, &refused)? {
                    keep.push(at as u32);
                    rows.push((row.note_id, row.chunk, row.text_hash, place));
                }
            }
            batches.push(rows_of(&batch.stored, keep)?);
        }
        if let Some(file) = &task.parent_ids {
            let parent = Ids::read(root, file).await?;
            let mut keep = Vec::new();
            for (at, row) in parent.rows.into_iter().enumerate() {
                if !touched.contains(&row.note_id) {
                    keep.push(at as u32);
                    rows.push((row.note_id, row.chunk, row.text_hash, row.place));
                }
            }
            batches.push(rows_of(&parent.stored, keep)?);
        }
        let stored = match batches.first() {
            None => no_columns(0)?,
            Some(first) if first.num_columns() == 0 => no_columns(rows.len())?,
            Some(first) => concat_batches(&first.schema(), &batches).or_error(
                ErrorKind::Input,
                || "stored columns changed their types since the parent snapshot; run once with corpus.mode = \"full\"",
            )?,
        };
        Ok(Self { rows, stored })
    }

    /// Assigns keys in note order, re-probing the (one in 2^64) collisions, and sorts by key.
    fn into_ids(self) -> Result<Ids> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_unstable_by(|&a, &b| {
            let ((a, b), (x, y)) =
                ((&self.rows[a].0, &self.rows[b].0), (self.rows[a].1, self.rows[b].1));
            (a, x).cmp(&(b, y))
        });
        let mut keys = vec![0; self.rows.len()];
        let mut taken = HashSet::with_capacity(self.rows.len());
        for at in order {
            let (note, chunk, ..) = &self.rows[at];
            let free = (0..).map(|probe| NoteKey::derive(note, *chunk, probe).0);
            // An endless iterator over fresh hashes: some probe is free in any real shard.
            if let Some(key) = free.into_iter().find(|key| taken.insert(*key)) {
                keys[at] = key;
            }
        }
        let rows = self
            .rows
            .into_iter()
            .zip(keys)
            .map(|((note_id, chunk, text_hash, place), key)| IdRow {
                key,
                note_id,
                chunk,
                text_hash,
                place,
            })
            .collect();
        Ids { rows, stored: self.stored }.sorted_by_key()
    }
}

fn place_of(
    row: &PreparedRow,
    encoded: &Encoded,
    refused: &HashSet<TextHash>,
) -> Result<Option<Place>> {
    match encoded.places.get(&row.text_hash) {
        Some(place) => Ok(Some(place.clone())),
        None if refused.contains(&row.text_hash) => Ok(None),
        None => Err(Error::corrupt(format!(
            "no vector is stored for note {} although the shard was encoded; start a new run",
            row.note_id
        ))),
    }
}

fn rows_of(batch: &RecordBatch, keep: Vec<u32>) -> Result<RecordBatch> {
    if batch.num_columns() == 0 {
        return no_columns(keep.len());
    }
    take_record_batch(batch, &UInt32Array::from(keep)).context(|| "selecting stored columns")
}

/// What decides an index beside its rows.
pub(crate) struct IndexJob<'a> {
    pub space: &'a SpaceId,
    pub dimensions: usize,
    pub options: &'a IndexOptions,
    pub options_id: &'a str,
    pub calibration: &'a Calibration,
    pub shard: u32,
}

impl IndexJob<'_> {
    /// Names the index of these rows: same keys and texts, same name.
    pub fn name(&self, ids: &Ids) -> String {
        let mut hasher = Hasher256::new();
        hasher.field(&self.space.0).field(self.options_id);
        hasher.field(self.calibration.scale.to_le_bytes());
        for row in &ids.rows {
            hasher.raw(row.key.to_le_bytes()).raw(row.text_hash.0);
        }
        hasher.finish().short()
    }
}

/// The index of these keys and texts: adopted if an earlier run built it, else built.
async fn index_of(
    task: &BuildTask,
    env: &TaskEnv,
    options_id: &str,
    ids: &Ids,
    calibration: &Calibration,
) -> Result<IndexReceipt> {
    let job = IndexJob {
        space: &task.spec.space_id,
        dimensions: task.spec.space.dimensions as usize,
        options: &task.spec.index,
        options_id,
        calibration,
        shard: task.shard.prepared.shard,
    };
    let key = layout::index_receipt(options_id, job.shard, &job.name(ids));
    if let Some(receipt) = read_receipt::<IndexReceipt>(&env.root, &key).await? {
        let whole = env.root.size(&receipt.index.path).await? == Some(receipt.index.size)
            && env.root.size(&receipt.sidecar.path).await? == Some(receipt.sidecar.size);
        if whole {
            return Ok(receipt);
        }
        env.root.delete(&key).await?;
    }
    build_index(&env.root, &job, ids, &env.cancel).await
}

/// Builds the index of these rows from their vectors, stores it and puts its receipt.
pub(crate) async fn build_index(
    root: &Root,
    job: &IndexJob<'_>,
    ids: &Ids,
    cancel: &Cancel,
) -> Result<IndexReceipt> {
    let vectors = gather_vectors(root, ids, job.dimensions).await?;
    let folder = tempfile::tempdir()
        .or_error(ErrorKind::Resource, || "making a folder for the index build (set TMPDIR)")?;
    let (index_path, sidecar_path) = (folder.path().join("index"), folder.path().join("sidecar"));
    let keys: Vec<u64> = ids.rows.iter().map(|row| row.key).collect();
    let (report, canaries) = {
        let (options, calibration) = (job.options.clone(), job.calibration.clone());
        let (index_path, sidecar_path) = (index_path.clone(), sidecar_path.clone());
        let cancel = cancel.clone();
        tokio::task::spawn_blocking(move || {
            let report = index::build(
                &keys,
                &vectors,
                &options,
                &calibration,
                &index_path,
                &sidecar_path,
                &cancel,
                &|_| {},
            )?;
            // As a reader will open it: what it must find there is what is found here.
            let built = ShardIndex::open(&index_path, &sidecar_path, &options, &calibration)?;
            Ok::<_, Error>((report, index::record_canaries(&built)?))
        })
        .await
        .map_err(|cause| {
            Error::internal("the index build ended unexpectedly").with_source(cause)
        })??
    };
    let name = job.name(ids);
    let index = upload(root, job.options_id, job.shard, &name, "usearch", &index_path).await?;
    let sidecar = upload(root, job.options_id, job.shard, &name, "f16", &sidecar_path).await?;
    let key = layout::index_receipt(job.options_id, job.shard, &name);
    put_receipt(root, &key, IndexReceipt { index, sidecar, report, canaries }).await
}

/// Stores a finished local file under a name that ends in its own hash: two attempts that made the same bytes
/// share the object, two that did not cannot clash.
async fn upload(
    root: &Root,
    options_id: &str,
    shard: u32,
    name: &str,
    extension: &str,
    file: &std::path::Path,
) -> Result<FileRef> {
    let digest = crate::store::hash_file(file)?;
    let key = layout::index_file(options_id, shard, name, &digest.short(), extension);
    root.upload(&key, file).await
}

/// Vectors in key order, read part by part.
async fn gather_vectors(root: &Root, ids: &Ids, dimensions: usize) -> Result<Embeddings> {
    let mut by_part: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
    for (at, row) in ids.rows.iter().enumerate() {
        by_part.entry(Arc::clone(&row.place.part)).or_default().push(at);
    }
    let mut data = vec![0.0; ids.rows.len() * dimensions];
    for (part, rows) in by_part {
        let wanted: Vec<u32> = rows.iter().map(|&at| ids.rows[at].place.row).collect();
        let vectors = embedding::read_vectors(root, &part, &wanted).await?;
        if vectors.dimensions() != dimensions {
            return Err(Error::corrupt(format!(
                "part {part} holds {} dimensions, the space has {dimensions}",
                vectors.dimensions()
            )));
        }
        for (&at, vector) in rows.iter().zip(vectors.rows()) {
            data[at * dimensions..(at + 1) * dimensions].copy_from_slice(vector);
        }
    }
    Embeddings::from_vec(dimensions, data)
}

async fn part_refs(
    root: &Root,
    spec: &RunSpec,
    encoded: &Encoded,
    used: &HashSet<Arc<str>>,
) -> Result<Vec<FileRef>> {
    let mut known: HashMap<String, FileRef> =
        encoded.parts.iter().map(|part| (part.file.path.clone(), part.file.clone())).collect();
    if used.iter().any(|part| !known.contains_key(&**part)) {
        for part in embedding::list_parts(root, &spec.space_id, None).await? {
            known.insert(part.file.path.clone(), part.file);
        }
    }
    let mut refs = Vec::with_capacity(used.len());
    for part in used {
        refs.push(known.get(&**part).cloned().ok_or_else(|| {
            Error::corrupt(format!("part {part} has no receipt; start a new run"))
        })?);
    }
    refs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(refs)
}

pub(crate) async fn write_ids(
    root: &Root,
    options_id: &str,
    shard: u32,
    ids: &Ids,
) -> Result<FileRef> {
    let bytes: Bytes = ids.to_parquet()?;
    let name = Digest256::of(&bytes).short();
    let key = layout::ids_file(options_id, shard, &name);
    root.put(&key, bytes).await
}
