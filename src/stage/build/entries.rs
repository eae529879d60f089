//! What a shard must hold: its notes with the places of their vectors, keyed, before there is an index.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::TryStreamExt;

use crate::corpus::{CorpusMode, PreparedRow};
use crate::embedding::{self, PartReceipt};
use crate::error::{Error, Result};
use crate::stage::encode::EncodeReceipt;
use crate::stage::ids::{IdRow, Ids, Place, concat_stored, no_columns, take_rows};
use crate::stage::located;
use crate::stage::plan::BuildTask;
use crate::stage::quarantine::Quarantined;
use crate::stage::rows::notes_in;
use crate::stage::vectors::{Places, find_in_parts, places_in};
use crate::stage::worker::TaskEnv;
use crate::stage::written::Written;
use crate::store::{FileRef, Root, layout, receipt};
use crate::types::{NoteId, NoteKey, TextHash, computing};

/// Elements of vectors held while parts are compacted: 64 MiB.
const COPY_ELEMENTS: usize = 16 << 20;

/// Everything known about where a shard's vectors are.
pub(super) struct Encoded {
    places: Places,
    /// Parts by key: the parent's, those of this run's encode task, and those that compaction wrote.
    parts: HashMap<String, FileRef>,
    /// Texts that could not be encoded.
    pub quarantined: Vec<Quarantined>,
}

impl Encoded {
    /// Reads the parent's rows, the located file and the encode task's receipt.
    pub async fn gather(task: &BuildTask, root: &Root, parent: Option<&Ids>) -> Result<Self> {
        let mut places = Places::new();
        if let Some((ids, parent)) = parent.zip(task.shard.parent.as_ref()) {
            let stored = parent.stored(ids).map(|row| (row.text_hash, row.place.clone()));
            computing(|| places.extend(stored));
        }
        places.extend(located::read(root, task.shard.located.as_ref()).await?);
        let mut encoded = Self { places, parts: HashMap::new(), quarantined: Vec::new() };
        if let Some(parent) = &task.shard.parent {
            encoded.parts.extend(parent.parts.iter().map(|part| (part.path.clone(), part.clone())));
        }
        if let Some(encode) = &task.encode {
            let shard = task.shard.prepared.shard;
            let key = layout::encode_receipt(&task.spec.space_id, shard, encode);
            let receipt: EncodeReceipt = receipt::of_finished(root, &key, encode).await?;
            for part in receipt.parts {
                for (hash, place) in places_in(root, &part).await? {
                    encoded.places.entry(hash).or_insert(place);
                }
                encoded.know(part);
            }
            encoded.quarantined = receipt.quarantined;
        }
        Ok(encoded)
    }

    /// Looks for the texts of the shard in every part of the space: for a parent whose ids cannot be read.
    pub async fn look_everywhere(&mut self, task: &BuildTask, env: &TaskEnv) -> Result<()> {
        let (mut wanted, root) = (HashSet::new(), &env.root);
        let mut batches = env.inputs.prepared(root, &task.shard.prepared).await?;
        while let Some(batch) = batches.try_next().await? {
            wanted.extend(batch.rows.iter().map(|row| row.text_hash));
        }
        let parts = embedding::list_parts(root, &task.spec.space_id, None).await?;
        for (hash, place) in find_in_parts(root, &parts, &wanted).await? {
            self.places.entry(hash).or_insert(place);
        }
        parts.into_iter().for_each(|part| self.know(part));
        Ok(())
    }

    fn know(&mut self, part: PartReceipt) {
        self.parts.insert(part.file.path.clone(), part.file);
    }

    fn place_of(&self, row: &PreparedRow, refused: &HashSet<TextHash>) -> Result<Option<Place>> {
        match self.places.get(&row.text_hash) {
            Some(place) => Ok(Some(place.clone())),
            None if refused.contains(&row.text_hash) => Ok(None),
            None => Err(Error::corrupt(format!(
                "no vector is stored for note {} although the shard was encoded; start a new run",
                row.note_id
            ))),
        }
    }

    /// The files of the parts that `ids` needs, by path.
    pub async fn part_refs(
        &mut self,
        root: &Root,
        task: &BuildTask,
        ids: &Ids,
    ) -> Result<Vec<FileRef>> {
        let used: BTreeSet<Arc<str>> =
            computing(|| ids.rows.iter().map(|row| Arc::clone(&row.place.part)).collect());
        let all_known = used.iter().all(|part| self.parts.contains_key(&**part));
        if !all_known {
            for part in embedding::list_parts(root, &task.spec.space_id, None).await? {
                self.know(part);
            }
        }
        let known = |part: Arc<str>| {
            self.parts.get(&*part).cloned().ok_or_else(|| {
                Error::corrupt(format!("part {part} has no receipt; start a new run"))
            })
        };
        used.into_iter().map(known).collect()
    }

    /// Moves the rows that are in a part of the plan's list into new parts of this shard; nothing is encoded. Returns
    /// the vectors and bytes copied.
    pub async fn compact(
        &mut self,
        env: &TaskEnv,
        task: &BuildTask,
        ids: &mut Ids,
    ) -> Result<(u64, u64)> {
        let root = &env.root;
        let sparse: HashSet<String> =
            task.shard.parent.iter().flat_map(|p| &p.compact).cloned().collect();
        // One place for each text, whatever notes share it.
        let mut texts: BTreeMap<TextHash, Place> = BTreeMap::new();
        for row in ids.rows.iter().filter(|row| sparse.contains(&*row.place.part)) {
            texts.entry(row.text_hash).or_insert_with(|| row.place.clone());
        }
        let mut places: Vec<Place> = texts.into_values().collect();
        places.sort_unstable_by(|a, b| (&a.part, a.row).cmp(&(&b.part, b.row)));
        places.dedup();
        let (mut moved, mut bytes) = (HashMap::new(), 0);
        let step = COPY_ELEMENTS / task.spec.space.dimensions.max(1) as usize;
        for places in places.chunks(step.clamp(1, task.spec.encode.part_texts.max(1) as usize)) {
            let mut picked: BTreeMap<String, Vec<u32>> = BTreeMap::new();
            for place in places {
                picked.entry(place.part.to_string()).or_default().push(place.row);
            }
            let provenance = serde_json::json!({ "model": task.spec.tower.model });
            let shard = task.shard.prepared.shard;
            let part =
                embedding::copy_rows(root, &task.spec.space, shard, &picked, &provenance).await?;
            let file = (part.file.path.as_str(), part.file.size);
            let notes = notes_in(root, file, &Written::default(), &|_| true).await?;
            env.unless_purged(&task.spec, &[&part.key(), &part.file.path], |purged| {
                notes.iter().any(|note| purged.contains(note))
            })
            .await?;
            moved.extend(places_in(root, &part).await?);
            bytes += part.file.size;
            self.know(part);
        }
        for row in ids.rows.iter_mut().filter(|row| sparse.contains(&*row.place.part)) {
            row.place = moved.get(&row.text_hash).cloned().ok_or_else(|| {
                Error::corrupt(format!(
                    "part {} does not hold the text of note {} that its ids file names; start a new run",
                    row.place.part, row.note_id
                ))
            })?;
        }
        Ok((moved.len() as u64, bytes))
    }
}

/// The rows of the shard, by key: the prepared notes, and in delta mode what the parent has beside them.
pub(super) async fn target(
    task: &BuildTask,
    env: &TaskEnv,
    encoded: &Encoded,
    parent: Option<Ids>,
) -> Result<Ids> {
    let refused: HashSet<TextHash> =
        encoded.quarantined.iter().map(|note| note.text_hash).collect();
    let mut rows = Vec::new();
    let mut stored = Vec::new();
    let mut touched: HashSet<NoteId> = HashSet::new();
    let delta = task.spec.mode == CorpusMode::Delta;
    let mut batches = env.inputs.prepared(&env.root, &task.shard.prepared).await?;
    while let Some(batch) = batches.try_next().await? {
        let mut keep = Vec::new();
        for (at, row) in batch.rows.into_iter().enumerate() {
            if delta {
                touched.insert(row.note_id.clone());
            }
            if row.deleted {
                continue;
            }
            if let Some(place) = encoded.place_of(&row, &refused)? {
                keep.push(at as u32);
                let (note_id, chunk, text_hash) = (row.note_id, row.chunk, row.text_hash);
                rows.push(IdRow { key: 0, note_id, chunk, text_hash, place });
            }
        }
        stored.push(take_rows(&batch.stored, keep)?);
    }
    if let Some(parent) = parent.filter(|_| delta) {
        let mut keep = Vec::new();
        for (at, row) in parent.rows.into_iter().enumerate() {
            if !touched.contains(&row.note_id) {
                keep.push(at as u32);
                rows.push(row);
            }
        }
        stored.push(take_rows(&parent.stored, keep)?);
    }
    let stored = match stored.first() {
        None => no_columns(0)?,
        Some(first) => concat_stored(&first.schema(), &stored, rows.len())?,
    };
    // One hash per row and two sorts: seconds for millions of rows.
    computing(|| keyed(rows, stored))
}

/// Assigns keys in note order, re-probing the (one in 2^64) collisions, and sorts by key.
fn keyed(mut rows: Vec<IdRow>, stored: arrow::array::RecordBatch) -> Result<Ids> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_unstable_by_key(|&at| (&rows[at].note_id, rows[at].chunk));
    let mut taken = HashSet::with_capacity(rows.len());
    for at in order {
        let row = &mut rows[at];
        let mut free = (0..).map(|probe| NoteKey::derive(&row.note_id, row.chunk, probe).0);
        // An endless iterator over fresh hashes: some probe is free in any real shard.
        if let Some(key) = free.find(|key| taken.insert(*key)) {
            row.key = key;
        }
    }
    Ids { rows, stored }.sorted_by_key()
}
