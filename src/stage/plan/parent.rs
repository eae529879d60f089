//! What of the parent snapshot a plan may take over.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::envelope::{ParentIndex, ParentShard, RunSpec};
use crate::corpus::{CorpusMode, KnownText};
use crate::error::{Error, Result, unless};
use crate::index::{Calibration, Recall};
use crate::observe::Reporter;
use crate::snapshot::{Content, Manifest, ShardContent};
use crate::stage::calibration;
use crate::stage::ids::Ids;
use crate::stage::inputs::{Inputs, is_damage};
use crate::store::{FileRef, Root, layout};
use crate::types::{NoteId, SpaceId, TextHash};

/// Corpora of this many texts keep them all in their prepared files; of larger ones about this many texts are kept
/// beside those that changed, for the checks that encode a sample again.
const KEPT_TEXTS: usize = 2048;

/// The files of the parent that are not there any more, by key: damaged ones that `snapshot repair` took out. What lay
/// in them is made again.
pub(super) async fn lost_files(root: &Root, parent: Option<&Manifest>) -> Result<HashSet<String>> {
    let Some(content) = parent.map(|parent| &parent.content) else { return Ok(HashSet::new()) };
    let folders =
        [layout::embeddings_dir(&content.space_id), layout::indexes_dir(&content.index.options_id)];
    let mut there = HashSet::new();
    for folder in &folders {
        there.extend(root.list(folder).await?.into_iter().map(|object| object.key));
    }
    let listed = |path: &str| folders.iter().any(|folder| path.starts_with(folder));
    let paths = content.files().map(|file| &file.path);
    Ok(paths.filter(|path| listed(path) && !there.contains(*path)).cloned().collect())
}

/// The texts whose vectors the parent has in the space `space`: nobody will need to read them, except a sample, and
/// those that a query tower is adapted to, at most `read` of them.
///
/// Memory: 32 bytes a text. A parent whose ids cannot be read knows nothing.
pub(super) async fn known_texts(
    root: &Root,
    inputs: &Inputs,
    parent: Option<&Manifest>,
    lost: &HashSet<String>,
    space: &SpaceId,
    read: usize,
) -> Result<Option<KnownText>> {
    let kept = KEPT_TEXTS.max(read);
    let content = parent.map(|parent| &parent.content);
    let large = |c: &&Content| c.space_id == *space && c.vectors > kept as u64;
    let Some(content) = content.filter(large) else { return Ok(None) };
    let mut hashes = Vec::new();
    for shard in &content.shards {
        let ids = inputs.ids(root, shard).await;
        let Some(ids) = unless(ids, is_damage)? else { return Ok(None) };
        let rows = ids.rows.iter().filter(|row| !lost.contains(&*row.place.part));
        hashes.extend(rows.map(|row| row.text_hash));
    }
    hashes.sort_unstable();
    hashes.dedup();
    if hashes.len() <= kept {
        return Ok(None);
    }
    // The sampled checks and the query tower take the smallest hashes: these are the texts to keep.
    let first_left_out = hashes.split_off(kept);
    Ok(Some(Arc::new(move |hash| first_left_out.binary_search(hash).is_ok())))
}

/// A delta names only what changed, so whatever needs every note's text needs a full run.
pub(super) fn refuse_impossible_delta(
    spec: &RunSpec,
    parent: Option<&Manifest>,
    lost: &HashSet<String>,
) -> Result<()> {
    let (CorpusMode::Delta, Some(parent)) = (spec.mode, parent) else { return Ok(()) };
    if let Some(first) = lost.iter().min() {
        return Err(Error::not_found(format!(
            "{first}, which snapshot {} names, is gone, and a delta does not have every note to make it again from; run \
             once with corpus.mode = \"full\"",
            parent.number
        )));
    }
    let obstacle = if parent.content.space_id != spec.space_id {
        "a tower or template other than the newest snapshot's"
    } else if parent.content.shard_count != spec.shard_count {
        "another shard count than the newest snapshot's"
    } else if parent.content.stored_columns != spec.stored_columns {
        "other stored columns than the newest snapshot's"
    } else {
        return Ok(());
    };
    Err(Error::config(format!(
        "a delta cannot be applied with {obstacle}; run once with corpus.mode = \"full\""
    )))
}

/// Recall of each shard as a manifest remembers it.
pub(crate) fn recall_by_shard(manifest: &Manifest) -> BTreeMap<u32, Recall> {
    let measured = manifest.provenance.measured.get("recall_by_shard");
    measured.and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default()
}

/// Notes of the parent: id -> chunk -> text hash.
pub(super) type ParentNotes = HashMap<NoteId, BTreeMap<u32, TextHash>>;

pub(super) fn notes_of(ids: &Ids) -> ParentNotes {
    let mut notes = ParentNotes::new();
    for row in &ids.rows {
        notes.entry(row.note_id.clone()).or_default().insert(row.chunk, row.text_hash);
    }
    notes
}

/// What of the parent may be taken over.
pub(super) struct Comparison {
    pub root: Root,
    pub inputs: Arc<Inputs>,
    pub spec: RunSpec,
    pub parent: Option<Manifest>,
    /// Files of the parent that are gone.
    lost: HashSet<String>,
    /// Same space, options, columns and shard count: an unchanged shard needs no task.
    shards_reusable: bool,
    pub same_shards: bool,
    /// The index of a changed shard may extend the parent's.
    updatable: bool,
    recalls: BTreeMap<u32, Recall>,
    recall_min: f64,
}

impl Comparison {
    pub async fn new(
        root: &Root,
        inputs: &Arc<Inputs>,
        spec: &RunSpec,
        parent: Option<&Manifest>,
        lost: HashSet<String>,
        recall_min: f64,
    ) -> Result<Self> {
        let options_id = spec.index.id()?;
        let content = parent.map(|parent| &parent.content);
        let same_shards = content.is_some_and(|p| p.shard_count == spec.shard_count);
        let shards_reusable = same_shards
            && content.is_some_and(|p| {
                p.space_id == spec.space_id
                    && p.index.options_id == options_id
                    && p.stored_columns == spec.stored_columns
            });
        let mut updatable = false;
        if let Some(content) = content.filter(|_| shards_reusable) {
            let key = layout::calibration(&options_id, &spec.space_id);
            if root.size(&key).await?.is_some() {
                let frozen = calibration::frozen(root, &spec.index, &spec.space_id).await?;
                let theirs = serde_json::from_value(content.index.calibration.clone());
                updatable = theirs.is_ok_and(|theirs: Calibration| theirs.encodes_as(&frozen));
            }
        }
        let recalls = parent.map(recall_by_shard).unwrap_or_default();
        Ok(Self {
            root: root.clone(),
            inputs: Arc::clone(inputs),
            spec: spec.clone(),
            parent: parent.cloned(),
            lost,
            shards_reusable,
            same_shards,
            updatable,
            recalls,
            recall_min,
        })
    }

    pub fn same_space(&self) -> bool {
        self.parent.as_ref().is_some_and(|p| p.content.space_id == self.spec.space_id)
    }

    pub fn shard(&self, number: u32) -> Option<&ShardContent> {
        self.parent
            .as_ref()
            .filter(|_| self.same_shards)
            .and_then(|parent| parent.content.shards.get(number as usize))
    }

    /// Whether a shard of the parent may be taken over as it is, where its notes are the same.
    pub fn is_reusable(&self, shard: &ShardContent) -> bool {
        let files = shard.files().map(|file| &file.path);
        self.shards_reusable && !files.chain(&shard.parts).any(|file| self.lost.contains(file))
    }

    /// Whether the vectors of a part can be taken over.
    pub fn has(&self, part: &str) -> bool {
        !self.lost.contains(part)
    }

    /// What a build may take over of a shard: not the parts that are gone, nor, where one of its other files is, its
    /// index.
    pub fn parent_shard(&self, shard: &ShardContent) -> ParentShard {
        let parts: Vec<FileRef> = self
            .parent
            .iter()
            .flat_map(|parent| &parent.content.parts)
            .filter(|part| shard.parts.contains(&part.path) && self.has(&part.path))
            .cloned()
            .collect();
        let whole = !shard.files().any(|file| self.lost.contains(&file.path));
        let index = (self.updatable && whole).then(|| ParentIndex {
            recall: self.recalls.get(&shard.shard).copied(),
            recall_min: self.recall_min,
        });
        ParentShard { shard: shard.clone(), parts, compact: Vec::new(), index }
    }

    /// The rows of a shard of the parent; `None` where there is none or, in full mode and with a warning, where its
    /// files are missing or damaged.
    pub async fn ids(
        &self,
        shard: Option<&ShardContent>,
        reporter: &dyn Reporter,
    ) -> Result<Option<Ids>> {
        let Some(old) = shard else { return Ok(None) };
        match self.inputs.ids(&self.root, old).await {
            Ok(ids) => Ok(Some(ids)),
            Err(error) if is_damage(&error) && self.spec.mode == CorpusMode::Full => {
                reporter.warn(format!(
                    "shard {} is made again, its parent cannot be read: {error}",
                    old.shard
                ));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Every note of a parent with other shards; `None` where the shards are the same.
    pub async fn resharded(&self) -> Result<Option<ParentNotes>> {
        let Some(parent) = self.parent.as_ref().filter(|_| !self.same_shards) else {
            return Ok(None);
        };
        let mut notes = ParentNotes::new();
        for shard in &parent.content.shards {
            notes.extend(notes_of(&self.inputs.ids(&self.root, shard).await?));
        }
        Ok(Some(notes))
    }

    /// Refuses a corpus whose ids are of another type than the newest snapshot's: every note would be another note, and
    /// no gate counts that, because as many come as go. `now` is the id of some note of the corpus.
    pub async fn refuse_other_ids(&self, now: &NoteId) -> Result<()> {
        let Some(parent) = &self.parent else { return Ok(()) };
        let before = first_id(&self.root, &self.inputs, parent).await?;
        let Some(before) = before else { return Ok(()) };
        let (was, is) = (before.type_name(), now.type_name());
        if was == is {
            return Ok(());
        }
        let around = |wanted: &str| {
            format!("SELECT * REPLACE (CAST(note_id AS {wanted}) AS note_id) FROM (…)")
        };
        let way_out = match before {
            NoteId::Str(_) => format!("else write around corpus.sql: {}", around("VARCHAR")),
            // A cast of another text fails, and one that gives null instead loses the note.
            NoteId::Int(_) => format!(
                "where every id is a number that is only written as text, write around corpus.sql: {}; to leave out the notes \
                 whose id is not a number, write WHERE regexp_like(note_id, '^-?[0-9]+$') behind that",
                around("BIGINT")
            ),
        };
        Err(Error::input(format!(
            "note_id is {is}, but it was {was} in snapshot {}: every note would become another note. Where the data has changed \
             by mistake, correct it; {way_out}. Ids that are really meant to be {is} from now on need a publish.root of their own",
            parent.number
        )))
    }
}

/// The id of some note of a snapshot; what is damaged, and will be made again, is passed over.
pub async fn first_id(root: &Root, inputs: &Inputs, parent: &Manifest) -> Result<Option<NoteId>> {
    for shard in &parent.content.shards {
        let held = unless(inputs.parent(root, shard).await, is_damage)?;
        if let Some(row) = held.iter().flat_map(|all| &**all).find_map(|h| h.ids.rows.first()) {
            return Ok(Some(row.note_id.clone()));
        }
    }
    Ok(None)
}
