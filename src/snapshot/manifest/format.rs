//! The manifest: the JSON that is the snapshot.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::purged::Purged;
use super::query_tower::QueryTower;
use crate::error::{Error, Result, ResultExt};
use crate::store::{FileRef, key};
use crate::types::{Canary, Digest256, EmbeddingSpace, ModelCard, SpaceId, hash_json};

/// Version of the manifest format that this release writes.
pub const MANIFEST_VERSION: u32 = 1;

/// The JSON that is the snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version ([`MANIFEST_VERSION`]).
    pub version: u32,
    /// This snapshot's number, from 1.
    pub number: u64,
    /// Number of the snapshot it was made from.
    pub parent: Option<u64>,
    /// SHA-256 of `content`: names what readers get.
    pub content_hash: Digest256,
    /// What readers get.
    pub content: Content,
    /// Content hashes that must not be published again (rolled back).
    pub blocked: Vec<Digest256>,
    /// Embedding spaces that were rolled back: no back-fill may switch to them automatically. Publishing one lifts its
    /// block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_spaces: Vec<SpaceId>,
    /// Notes that were purged: no run indexes them again until somebody lifts that.
    #[serde(default, skip_serializing_if = "Purged::is_empty")]
    pub purged: Purged,
    /// Provenance; never decides what a reader gets.
    pub provenance: Provenance,
}

impl Manifest {
    /// What a run has to know before it publishes on top of this one; `None` where the last word on the content was a
    /// run's, or nothing was rolled back.
    pub fn rolled_back(&self) -> Option<String> {
        let is_of_run = self.provenance.made_by() == Some(self.provenance.run.as_str());
        let is_copied = self.provenance.measured.contains_key(COPIED);
        (!self.blocked.is_empty() && !is_of_run && !is_copied).then(|| {
            format!(
                "newer content than that of snapshot {} was rolled back: a run that comes to the same content again \
                 publishes nothing",
                self.number
            )
        })
    }
}

/// The hashed part of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Name of the embedding space.
    pub space_id: SpaceId,
    /// What its vectors mean.
    pub space: EmbeddingSpace,
    /// Notes over all shards.
    pub notes: u64,
    /// Vectors over all shards (more than notes where long notes are chunked).
    pub vectors: u64,
    /// Number of shards of the pinned hash.
    pub shard_count: u32,
    /// Index options and frozen scale, as their own JSON (`index::IndexOptions`, `index::Calibration`).
    pub index: IndexContent,
    /// One entry per shard, in order.
    pub shards: Vec<ShardContent>,
    /// Every embedding part that a live vector is in, sorted by path.
    pub parts: Vec<FileRef>,
    /// Names of the stored columns.
    pub stored_columns: Vec<String>,
    /// Towers that may encode queries for this space.
    pub query_towers: Vec<QueryTower>,
}

/// How every shard's index was built. Kept as JSON so that this module does not depend on the index's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IndexContent {
    /// 16 hex digits naming the options in paths.
    pub options_id: String,
    /// The options.
    pub options: serde_json::Value,
    /// The frozen quantisation scale.
    pub calibration: serde_json::Value,
}

impl Content {
    /// Every object that a reader of this content needs: the files of every shard, the parts, those of a query tower.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        let adapted = self.query_towers.iter().filter_map(|tower| tower.adapted.as_ref());
        let towers = adapted.flat_map(|adapted| &adapted.files);
        self.shards.iter().flat_map(ShardContent::files).chain(&self.parts).chain(towers)
    }

    /// Checks what can be checked without looking at a file: legal paths, one entry per shard in order, counts that
    /// add up, a space under its own name.
    ///
    /// # Errors
    /// Corrupt, naming the field.
    pub fn validate(&self) -> Result<()> {
        for file in self.files() {
            key::check(&file.path)?;
        }
        let wrong = |what: String| Err(Error::corrupt(format!("the content {what}")));
        if self.space.id()? != self.space_id {
            return wrong(format!("says space_id {} but its space is another", self.space_id));
        }
        if self.shards.len() != self.shard_count as usize {
            return wrong(format!("has {} of {} shards", self.shards.len(), self.shard_count));
        }
        let parts: BTreeSet<&str> = self.parts.iter().map(|part| part.path.as_str()).collect();
        let mut sums = (0u64, 0u64);
        for (at, shard) in self.shards.iter().enumerate() {
            if shard.shard as usize != at {
                return wrong(format!("has shard {} at place {at}", shard.shard));
            }
            if (shard.vectors > 0) != shard.index.is_some()
                || shard.index.is_some() != shard.sidecar.is_some()
            {
                return wrong(format!(
                    "must have an index and a sidecar for shard {at} exactly where it has vectors"
                ));
            }
            if shard.index.is_none() && (shard.removed.is_some() || !shard.deltas.is_empty()) {
                return wrong(format!("has deltas without a base index in shard {at}"));
            }
            let gone = |removed: &Option<Removed>| removed.as_ref().map_or(0, |gone| gone.vectors);
            let deltas: u64 = shard.deltas.iter().fold(0, |sum, d| sum.saturating_add(d.vectors));
            let short = |delta: &Segment| gone(&delta.removed) > delta.vectors;
            if shard.base_vectors().is_none() || shard.deltas.iter().any(short) {
                return wrong(format!(
                    "counts {} vectors in shard {at}, of which {deltas} in deltas: they do not add up",
                    shard.vectors
                ));
            }
            for part in &shard.parts {
                if !parts.contains(part.as_str()) {
                    return wrong(format!(
                        "names a part of shard {at} that its list of parts lacks"
                    ));
                }
            }
            sums = (sums.0.saturating_add(shard.notes), sums.1.saturating_add(shard.vectors));
        }
        for tower in &self.query_towers {
            let differing = tower.teacher.as_ref().map(|teacher| self.space.incomparable(teacher));
            if let Some(differing) = differing.filter(|differing| !differing.is_empty()) {
                return wrong(format!(
                    "admits the query tower {}, which was made for another tower than that of its vectors (other {})",
                    tower.fingerprint.short(),
                    differing.join(", ")
                ));
            }
        }
        if sums != (self.notes, self.vectors) {
            return wrong(format!(
                "counts {} notes and {} vectors, its shards {} and {}",
                self.notes, self.vectors, sums.0, sums.1
            ));
        }
        Ok(())
    }

    /// The content exactly as a reader will parse it: every float is one that survives being printed and parsed. This
    /// JSON parser may move the last bit of a float, and the hash must be that of what is read.
    pub fn canonical(&self) -> Result<Self> {
        let failed = || "the content cannot be written as JSON";
        let mut json = serde_json::to_value(self).context(failed)?;
        settle(&mut json);
        serde_json::from_value(json).context(failed)
    }
}

/// Replaces every float by the nearest one (16 significant digits, else ever fewer) that parses back as itself.
fn settle(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::Number(number) if number.is_f64() => {
            let value = number.as_f64().unwrap_or(0.0);
            let kept = (0..=15).rev().find_map(|digits| {
                let rounded: f64 = format!("{value:.digits$e}").parse().ok()?;
                let text = serde_json::to_string(&rounded).ok()?;
                (serde_json::from_str::<f64>(&text).ok()? == rounded).then_some(rounded)
            });
            if let Some(kept) = kept.and_then(serde_json::Number::from_f64) {
                *number = kept;
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(settle),
        serde_json::Value::Object(map) => map.values_mut().for_each(settle),
        _ => {}
    }
}

/// The hash that names a content, of its canonical form: compare this with [`Manifest::content_hash`] to see
/// whether there is anything new to publish.
pub fn content_hash(content: &Content) -> Result<Digest256> {
    hash_json(&content.canonical()?)
}

/// JSON Schema of the manifest, as published in `schemas/manifest.schema.json`.
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(Manifest).to_value()
}

/// One shard of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShardContent {
    /// Shard number.
    pub shard: u32,
    /// Notes.
    pub notes: u64,
    /// Vectors.
    pub vectors: u64,
    /// Unreachable vectors; always 0 in a published snapshot.
    pub orphans: u64,
    /// Digest of the prepared notes and stored columns that it was made from; absent after a delta.
    pub source: Option<Digest256>,
    /// Keys of the parts that its vectors are in, sorted.
    pub parts: Vec<String>,
    /// The usearch file of the base segment; absent in an empty shard.
    pub index: Option<FileRef>,
    /// The f16 sidecar of the base segment; absent in an empty shard.
    pub sidecar: Option<FileRef>,
    /// The ids file of the base segment: key -> note_id, chunk, text_hash, part, row, stored columns; sorted by key.
    pub ids: FileRef,
    /// Vectors of the base segment that no longer count; absent where all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Removed>,
    /// Segments that came after the base, oldest first. A search asks every segment and merges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<Segment>,
    /// Queries with the hits that the base index gave when it was built, whatever was removed since: a reader asks them
    /// again before it serves. None in a shard that an earlier release built.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canaries: Vec<Canary>,
}

/// One immutable index of a shard with what belongs to it. `removed` may be replaced by a longer one from snapshot to
/// snapshot, `ids` by one with other stored columns; index and sidecar stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Vectors in the index, those that no longer count included.
    pub vectors: u64,
    /// The usearch file.
    pub index: FileRef,
    /// The f16 sidecar.
    pub sidecar: FileRef,
    /// The ids file, one row for every vector of the index.
    pub ids: FileRef,
    /// Vectors that no longer count; absent where all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Removed>,
    /// Queries with the hits that the index gave when it was built, whatever was removed since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canaries: Vec<Canary>,
}

/// Vectors of a segment that were deleted, or replaced by a later segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Removed {
    /// How many.
    pub vectors: u64,
    /// Parquet with one column, `key` (uint64, ascending).
    pub file: FileRef,
}

impl ShardContent {
    /// Vectors in the base index, removed ones included; `None` where the counts contradict each other.
    pub fn base_vectors(&self) -> Option<u64> {
        let gone = |removed: &Option<Removed>| removed.as_ref().map_or(0, |gone| gone.vectors);
        let mut live = self.vectors;
        for delta in &self.deltas {
            live = live.checked_sub(delta.vectors.checked_sub(gone(&delta.removed))?)?;
        }
        live.checked_add(gone(&self.removed))
    }

    /// The base and then the deltas, oldest first; none in an empty shard. A note's vector is in exactly one of them
    /// where it is not removed.
    pub fn segments(&self) -> Vec<Segment> {
        let base = match (&self.index, &self.sidecar, self.base_vectors()) {
            (Some(index), Some(sidecar), Some(vectors)) => Segment {
                vectors,
                index: index.clone(),
                sidecar: sidecar.clone(),
                ids: self.ids.clone(),
                removed: self.removed.clone(),
                canaries: self.canaries.clone(),
            },
            _ => return Vec::new(),
        };
        std::iter::once(base).chain(self.deltas.iter().cloned()).collect()
    }

    /// Every file of the shard but its parts.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        let base = [Some(&self.ids), self.index.as_ref(), self.sidecar.as_ref()];
        base.into_iter().flatten().chain(self.removed.iter().map(|removed| &removed.file)).chain(
            self.deltas.iter().flat_map(|delta| {
                [&delta.ids, &delta.index, &delta.sidecar]
                    .into_iter()
                    .chain(delta.removed.iter().map(|removed| &removed.file))
            }),
        )
    }
}

/// Where a snapshot comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Host name.
    pub host: String,
    /// Release of this program.
    pub program: String,
    /// Run that published it, or the command (`rollback to 41`).
    pub run: String,
    /// SHA-256 of the SQL.
    pub sql: Option<Digest256>,
    /// Input files as they were when read.
    pub inputs: Vec<serde_json::Value>,
    /// Gates with their measured values.
    pub gates: Vec<GateOutcome>,
    /// Pooled recall and other measurements, by name. Where a command committed the content again, `run` is the run
    /// that made and measured it. `model-card` is what the document tower's files say of it (`model-card.schema.json`),
    /// absent in a snapshot of an earlier release. `copied` is in a copy of a snapshot of another root: `root`, its
    /// number (`snapshot`), when it was `published_at` and `by` which run or command. `evaluation` is of pipelines with a
    /// judged set: its name (`set`) and `digest`, the mean `ndcg_10`, that of every query in the order of their IDs
    /// (`per_query`), how many notes it judges as `relevant` and how many of them are `missing`.
    pub measured: BTreeMap<String, serde_json::Value>,
}

/// The name in [`Provenance::measured`] of the run that made the content. A field of its own would keep readers of
/// release 0.1.0 from following a rollback.
pub(in crate::snapshot) const MADE_BY: &str = "run";

/// The name in [`Provenance::measured`] of the types that the columns of the corpus were read by, where its pipeline
/// has `corpus.types = "exact"`.
pub const SOURCE_TYPES: &str = "types";

/// The name in [`Provenance::measured`] of what a judged set says of the snapshot, where the pipeline has
/// `evaluation.set` (`stage::SetScore`).
pub const EVALUATION: &str = "evaluation";
/// The name in [`Provenance::measured`] of where a Delta table was read, from where a later run reads what changed.
pub const FEED: &str = "feed";

/// The name in [`Provenance::measured`] of the repository and the commit of the document tower, where it is a hub's.
const TOWER: &str = "tower";

/// The name in [`Provenance::measured`] of the document tower's card. A field of its own would keep readers of release
/// 0.1.0 from the snapshot.
const CARD: &str = "model-card";

/// The name in [`Provenance::measured`] of the snapshot that this one is a copy of, in another root.
const COPIED: &str = "copied";

impl Provenance {
    /// What the document tower's files say of it; `None` in a snapshot of an earlier release.
    pub fn card(&self) -> Option<ModelCard> {
        serde_json::from_value(self.measured.get(CARD)?.clone()).ok()
    }

    /// Writes down what the document tower's files say of it.
    ///
    /// # Errors
    /// Internal.
    pub fn set_card(&mut self, card: &ModelCard) -> Result<()> {
        let card = serde_json::to_value(card).context(|| "writing a model card")?;
        self.measured.insert(CARD.to_owned(), card);
        Ok(())
    }

    /// Repository and commit of the document tower, where it is a hub's.
    pub fn tower(&self) -> Option<(String, String)> {
        let told = self.measured.get(TOWER)?;
        let text = |key: &str| told.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
        text("model").zip(text("revision"))
    }

    /// Writes repository and commit of the document tower down.
    pub fn set_tower(&mut self, model: &str, revision: &str) {
        let told = serde_json::json!({ "model": model, "revision": revision });
        self.measured.insert(TOWER.to_owned(), told);
    }

    /// Writes down which snapshot of which root this is a copy of.
    pub fn set_copied(&mut self, root: &str, source: &Manifest) {
        let told = serde_json::json!({
            "root": root,
            "snapshot": source.number,
            "published_at": source.provenance.created_at,
            "by": source.provenance.run,
        });
        self.measured.insert(COPIED.to_owned(), told);
    }

    /// The run that made the content, as far as this says it: what a command says of itself is not the id of a run.
    pub fn made_by(&self) -> Option<&str> {
        let told = self.measured.get(MADE_BY).and_then(serde_json::Value::as_str);
        Some(told.unwrap_or(&self.run)).filter(|run| key::check(run).is_ok())
    }
}

/// One gate's verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GateOutcome {
    /// Gate name: `recall`, `orphans`, `count-change`, `rejected`, `quarantined`, `vectors`, `drift`, `ndcg-drop`,
    /// `top1-change`.
    pub gate: String,
    /// Whether it passed.
    pub passed: bool,
    /// What was measured and what is required, for people.
    pub detail: String,
    /// Reason of a human override, if it was overridden.
    pub overridden: Option<String>,
}

/// What a commit found. Losing a race is a value, not an error.
#[derive(Debug, Clone, PartialEq)]
pub enum CommitOutcome {
    /// This snapshot is now the newest.
    Committed(Box<Manifest>),
    /// Another publisher was first; its manifest.
    LostTo(Box<Manifest>),
    /// The content was rolled back by snapshot `by` and must not come back unchanged.
    Blocked {
        /// The oldest retained snapshot that blocks it.
        by: u64,
    },
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    /// What `canonical` relies on: settled floats are near, stay settled, and survive print and parse.
    #[test]
    fn floats_settle_and_then_survive_print_and_parse() {
        let mut random = rand::rngs::StdRng::seed_from_u64(5);
        for _ in 0..100_000 {
            let value: f64 =
                random.random_range(-1.0..1.0) * 10f64.powf(random.random_range(-20.0..20.0));
            let mut json = serde_json::json!({ "x": [value] });
            super::settle(&mut json);
            let settled = json["x"][0].as_f64().unwrap();
            assert!(((settled - value) / value).abs() < 1e-6, "{value:e} became {settled:e}");
            let read: serde_json::Value = serde_json::from_str(&json.to_string()).unwrap();
            assert_eq!(read, json);
            let mut again = read.clone();
            super::settle(&mut again);
            assert_eq!(again, read);
        }
    }
}
