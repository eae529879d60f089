//! Purging notes: their text, vectors and index entries leave everything that is stored, and that is proven.
//!
//! ```text
//! look into every object -> copy the parts, build the indexes, write the ids files without the notes
//!     -> commit a snapshot of those, with tombstones -> delete what held the notes -> look into every object again
//! ```
//!
//! Only what this program made is deleted. Whatever else below the root holds the notes is named.
//!
//! Every step leaves the root whole, and each is a function of what is stored: after a crash the same purge goes on
//! where it stopped. What knows which texts were the notes' is deleted last.

mod again;
mod classify;
mod foreign;
mod replace;
mod scan;
mod target;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, ResultExt};
use crate::index::BuildReport;
use crate::observe::format::counted;
use crate::observe::{Event, Reporter, Stage};
use crate::snapshot::{self, CommitOutcome, Content, Manifest, Provenance};
use crate::stage::written::Written;
use crate::store::{Listed, Root};
use crate::types::{Cancel, NoteId, TextHash};

pub use again::{Risen, find_risen, purge_again};
use classify::{Holders, classify};
pub use scan::Scanned;
use target::Target;

/// How often what is found again is purged again.
const ROUNDS: usize = 3;
/// Half-written files younger than this may belong to a process that still writes them.
const STAGED_MINUTES: i64 = 5;

/// What a purge is asked to do.
pub struct PurgeRequest<'a> {
    /// Where everything is stored.
    pub root: &'a Root,
    /// The notes to remove.
    pub notes: &'a [NoteId],
    /// Only say what would be done.
    pub dry_run: bool,
    /// Progress.
    pub reporter: Arc<dyn Reporter>,
    /// Cancellation: looked at until the commit, not after.
    pub cancel: Cancel,
}

/// What a purge did and how it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PurgeReport {
    /// True where nothing was changed.
    pub dry_run: bool,
    /// Notes asked for.
    pub notes: u64,
    /// Of those, the ones of which nothing was stored (tagged ids); they get a tombstone like the others.
    pub unknown: Vec<String>,
    /// Whether tombstones keep the notes out of later runs: they have a place only where there is a snapshot.
    pub tombstoned: bool,
    /// Vectors that stay, because another note has the very same text.
    pub shared: Vec<SharedText>,
    /// The snapshot that was committed; absent where none had to be.
    pub snapshot: Option<u64>,
    /// Snapshots that held the notes and were deleted.
    pub dropped_snapshots: Vec<u64>,
    /// Parts that were copied without the notes' rows.
    pub parts_rewritten: u64,
    /// Indexes that were rebuilt.
    pub indexes_rebuilt: u64,
    /// Keys of everything that was deleted, in order.
    pub deleted: Vec<String>,
    /// Their bytes, and those of half-written files on local disk.
    pub deleted_bytes: u64,
    /// What was looked at in the end, to prove it.
    pub scanned: Scanned,
    /// What holds something of the notes still, with what it is. Empty is the proof.
    pub left: Vec<Left>,
}

/// A text of a purged note that another note has too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedText {
    /// The purged note.
    pub note: String,
    /// A note that stays and has the same text.
    pub also: String,
}

/// An object that holds something of a purged note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Left {
    /// Its key.
    pub key: String,
    /// What was found.
    pub what: String,
}

/// Removes notes from everything under the root, commits a snapshot without them and deletes what held them: no grace
/// time, no lease of a reader counts. Tombstones keep later runs from indexing them again. No run may be in progress.
///
/// A report with anything in `left` is a failure that the caller must report. Memory: the largest shard.
///
/// # Errors
/// Usage where nothing is stored of an id, but something under its digits in the other type; Corrupt where something that the newest snapshot needs cannot be read; Conflict where another publisher was first
/// (run again); Transient where the store fails (run again).
pub async fn purge(request: PurgeRequest<'_>) -> Result<PurgeReport> {
    let mut purge = Purge::begin(&request).await.context(|| "purging")?;
    if request.dry_run {
        return Ok(purge.report);
    }
    // Who writes beside a purge looks at the tombstones after each write, and takes back what it wrote where it sees
    // them. Where it does not, the object was there before they were committed, so the look after that finds it.
    for _ in 0..ROUNDS {
        purge.replace_and_commit().await.context(|| "purging")?;
        purge.delete().await?;
        purge.look().await.context(|| "proving that the notes are gone")?;
        if purge.holders.doomed.is_empty() {
            break;
        }
    }
    purge.prove().await.context(|| "proving that the notes are gone")?;
    Ok(purge.report)
}

/// Takes tombstones away: the next run indexes the notes again where the corpus has them. Returns the snapshot
/// committed for it; `None` where none of the notes had a tombstone.
///
/// # Errors
/// NotFound in an empty root; as [`purge`].
pub async fn lift(root: &Root, notes: &[NoteId]) -> Result<Option<u64>> {
    let newest = snapshot::newest(root).await?;
    let newest =
        newest.ok_or_else(|| Error::not_found(format!("{} holds no snapshot", root.uri())))?;
    let purged = newest.purged.without(notes);
    if purged == newest.purged {
        return Ok(None);
    }
    let provenance =
        provenance(&newest, format!("lifted the purge of {}", counted(notes.len() as u64, "note")));
    let content = newest.content.clone();
    let outcome = snapshot::commit_purged(root, &newest, content, purged, provenance).await?;
    Ok(Some(committed(outcome)?.number))
}

struct Purge<'a> {
    request: &'a PurgeRequest<'a>,
    objects: Vec<Listed>,
    newest: Option<Manifest>,
    target: Target,
    /// The notes' texts that were seen, each with the note that had it.
    texts: HashMap<TextHash, String>,
    shared: HashMap<TextHash, NoteId>,
    holders: Holders,
    /// Snapshots that stay.
    kept: BTreeSet<u64>,
    report: PurgeReport,
}

impl<'a> Purge<'a> {
    /// Finds everything that holds something of the notes.
    async fn begin(request: &'a PurgeRequest<'a>) -> Result<Self> {
        let mut purge = Self {
            request,
            objects: Vec::new(),
            newest: None,
            target: Target::new(request.notes),
            texts: HashMap::new(),
            shared: HashMap::new(),
            holders: Holders::default(),
            kept: BTreeSet::new(),
            report: PurgeReport {
                dry_run: request.dry_run,
                notes: request.notes.len() as u64,
                ..PurgeReport::default()
            },
        };
        purge.look().await?;
        let seen: HashSet<&String> = purge.texts.values().collect();
        let newest = purge.newest.as_ref();
        let unknown = request.notes.iter().filter(|note| {
            let tombstone = newest.is_some_and(|newest| newest.purged.lists(note));
            !tombstone && !seen.contains(&note.to_string())
        });
        let unknown: Vec<&NoteId> = unknown.collect();
        purge.refuse_the_other_type(&unknown).await?;
        let Self { objects, newest, holders, report, .. } = &mut purge;
        report.unknown = unknown.into_iter().map(NoteId::to_string).collect();
        report.tombstoned = newest.is_some();
        if request.dry_run {
            let doomed = objects.iter().filter(|object| holders.doomed.contains(&object.key));
            report.dropped_snapshots = holders.manifests.iter().copied().collect();
            report.deleted = holders.doomed.iter().cloned().collect();
            report.deleted_bytes = doomed.map(|object| object.size).sum();
        }
        Ok(purge)
    }

    /// Refuses ids of which nothing is stored where something is under the same digits of the other type: their tombstones would
    /// keep out that note, and the report would say that it is gone.
    async fn refuse_the_other_type(&self, unknown: &[&NoteId]) -> Result<()> {
        let others: Vec<NoteId> = unknown.iter().filter_map(|note| note.of_other_type()).collect();
        if others.is_empty() {
            return Ok(());
        }
        let root = self.request.root;
        let (mut target, mut stored) = (Target::new(&others), HashMap::new());
        let written = Written::of(root, &self.objects).await?;
        for object in &self.objects {
            self.request.cancel.check()?;
            match scan::texts(root, object, &written, &mut target, &mut stored).await {
                Err(error) if !error.is_retryable() => {}
                outcome => outcome?,
            }
        }
        let stored: HashSet<&String> = stored.values().collect();
        match others.iter().find(|other| stored.contains(&other.to_string())) {
            None => Ok(()),
            Some(other) => Err(Error::usage(format!(
                "nothing is stored of note {}, but {other} is a note here; name that one (nothing was purged)",
                other.of_other_type().map_or_else(String::new, |note| note.to_string())
            ))),
        }
    }

    /// Looks into every object there is now. What earlier looks learnt of the notes' texts stays known.
    async fn look(&mut self) -> Result<()> {
        let (request, root) = (self.request, self.request.root);
        self.newest = snapshot::newest(root).await?;
        let objects = root.own_objects().await?;
        let before = std::mem::replace(&mut self.objects, objects);
        let before: HashSet<&str> = before.iter().map(|object| object.key.as_str()).collect();
        let written = Written::of(root, &self.objects).await?;
        // No object changes: those of the look before told what they tell.
        for object in self.objects.iter().filter(|object| !before.contains(object.key.as_str())) {
            request.cancel.check()?;
            match scan::texts(root, object, &written, &mut self.target, &mut self.texts).await {
                // What cannot be read is judged below, by whether anything needs it.
                Err(error) if !error.is_retryable() => {}
                outcome => outcome?,
            }
        }
        self.shared = match &self.newest {
            Some(newest) => shared_texts(root, &newest.content, &self.target, &self.texts).await?,
            None => HashMap::new(),
        };
        let own = self.texts.keys().filter(|hash| !self.shared.contains_key(*hash));
        self.target.set_hashes(own.copied().collect());
        let mut scanned = Scanned::default();
        let newest = self.newest.as_ref();
        self.holders =
            look_at_all(request, &self.objects, newest, &self.target, &mut scanned).await?;
        let kept = snapshot::numbers(root).await?.into_iter();
        self.kept = kept.filter(|number| !self.holders.manifests.contains(number)).collect();
        self.report.scanned = scanned;
        self.report.shared = shared_list(&self.shared, &self.texts);
        Ok(())
    }

    /// Writes everything again that the newest snapshot needs and that is doomed, and commits.
    async fn replace_and_commit(&mut self) -> Result<()> {
        let (root, cancel) = (self.request.root, &self.request.cancel);
        let doomed = &self.holders.doomed;
        let newest = self.newest.as_ref();
        let (target, shared) = (&self.target, &self.shared);
        let parts =
            replace::parts(root, newest, &self.objects, doomed, target, shared, cancel).await?;
        self.report.parts_rewritten +=
            parts.values().filter(|rewritten| rewritten.part.is_some()).count() as u64;
        let Some(newest) = &self.newest else { return Ok(()) };
        let purged = newest.purged.with(self.request.notes);
        let dirty = self.holders.manifests.contains(&newest.number);
        if !dirty && purged == newest.purged {
            return Ok(());
        }
        let notes: HashSet<&NoteId> = self.request.notes.iter().collect();
        let mut provenance =
            provenance(newest, format!("purge of {}", counted(notes.len() as u64, "note")));
        let content = match dirty {
            false => newest.content.clone(),
            true => {
                let (content, reports) =
                    replace::content(root, newest, doomed, &parts, &self.target, cancel).await?;
                self.report.indexes_rebuilt += reports.len() as u64;
                measured(&mut provenance, &reports)?;
                content
            }
        };
        cancel.check()?;
        if let Some(file) = content.files().find(|file| doomed.contains(&file.path)) {
            return Err(Error::conflict(format!(
                "{} holds something of the notes, and what made it is gone, so it cannot be copied without them; nothing was \
                 published: roll back, or let a run publish, then purge again",
                file.path
            )));
        }
        let outcome = snapshot::commit_purged(root, newest, content, purged, provenance).await?;
        let number = committed(outcome)?.number;
        self.report.snapshot = Some(number);
        self.kept.insert(number);
        Ok(())
    }

    /// Deletes what held the notes; last what tells which texts were theirs, so that a crash loses no knowledge.
    async fn delete(&mut self) -> Result<()> {
        let root = self.request.root;
        let mut rounds: BTreeMap<u8, Vec<Listed>> = BTreeMap::new();
        for object in &self.objects {
            if self.holders.doomed.contains(&object.key) {
                let round = self.holders.when(&object.key);
                rounds.entry(round).or_default().push(object.clone());
            }
        }
        let mut gone = Vec::new();
        for doomed in rounds.into_values() {
            gone.extend(snapshot::delete_now(root, doomed, self.kept.clone()).await?);
        }
        let before = root.now().await? - TimeDelta::minutes(STAGED_MINUTES);
        let torn = root.sweep_staged(before, false).await?;
        let report = &mut self.report;
        report.dropped_snapshots.extend(&self.holders.manifests);
        report.deleted_bytes += gone.iter().map(|object| object.size).sum::<u64>() + torn.bytes;
        report.deleted.extend(gone.into_iter().map(|object| object.key));
        Ok(())
    }

    /// Says what is left: of this program's own, half-written, and in files of other people.
    async fn prove(&mut self) -> Result<()> {
        let (root, holders) = (self.request.root, &self.holders);
        let mut left: Vec<Left> = holders
            .doomed
            .iter()
            .map(|key| {
                let what = holders.why.get(key).map_or("names one of these files", String::as_str);
                Left { key: key.clone(), what: what.to_owned() }
            })
            .collect();
        let everything = root.now().await? + TimeDelta::days(1);
        let torn = root.sweep_staged(everything, true).await?;
        if torn.files > 0 {
            left.push(Left {
                key: root.uri().to_owned(),
                what: format!(
                    "{}, younger than {STAGED_MINUTES} minutes: stop what writes there, then purge again",
                    counted(torn.files, "half-written file")
                ),
            });
        }
        let scanned = &mut self.report.scanned;
        let foreign = foreign::left(root, &self.target, scanned, &self.request.cancel).await?;
        left.extend(foreign.into_iter().map(|(key, what)| Left { key, what }));
        self.report.left = left;
        Ok(())
    }
}

/// The texts that stay, because another note has them too.
fn shared_list(
    shared: &HashMap<TextHash, NoteId>,
    texts: &HashMap<TextHash, String>,
) -> Vec<SharedText> {
    let shared = shared.iter().filter_map(|(hash, also)| {
        Some(SharedText { note: texts.get(hash)?.clone(), also: also.to_string() })
    });
    let mut list: Vec<SharedText> = shared.collect();
    list.sort_by(|a, b| (&a.note, &a.also).cmp(&(&b.note, &b.also)));
    list
}

/// Classifies all objects, with progress.
async fn look_at_all(
    request: &PurgeRequest<'_>,
    objects: &[Listed],
    newest: Option<&Manifest>,
    target: &Target,
    scanned: &mut Scanned,
) -> Result<Holders> {
    let started = Instant::now();
    let total = objects.len() as u64;
    let reporter = &request.reporter;
    let (stage, unit) = (Stage::Verify, "objects");
    reporter.event(Event::StageStarted { stage, total, unit, tokens: 0 });
    let holders = classify(request.root, objects, newest, target, scanned, &|done| {
        reporter.event(Event::Progress { stage: Stage::Verify, done, tokens: 0 });
        request.cancel.check()
    })
    .await?;
    reporter.event(Event::StageFinished {
        stage: Stage::Verify,
        seconds: started.elapsed().as_secs_f64(),
        summary: format!("{} checked", counted(total, "object")),
    });
    Ok(holders)
}

/// Which of `texts` a note of the newest snapshot that stays has too, and one such note.
async fn shared_texts(
    root: &Root,
    content: &Content,
    target: &Target,
    texts: &HashMap<TextHash, String>,
) -> Result<HashMap<TextHash, NoteId>> {
    let mut shared: HashMap<TextHash, NoteId> = HashMap::new();
    if texts.is_empty() {
        return Ok(shared);
    }
    for shard in &content.shards {
        let ids = super::ids::Ids::of_shard(root, shard).await?;
        for row in ids.rows {
            if texts.contains_key(&row.text_hash)
                && !target.notes.contains(&row.note_id.to_string())
            {
                let entry = shared.entry(row.text_hash).or_insert_with(|| row.note_id.clone());
                if row.note_id < *entry {
                    *entry = row.note_id;
                }
            }
        }
    }
    Ok(shared)
}

/// What the new manifest says of itself: what its parent said of the corpus, and that it is a purge. What a judged set
/// found in the parent need not be there any more.
fn provenance(parent: &Manifest, run: String) -> Provenance {
    let mut provenance = Provenance {
        created_at: chrono::Utc::now().to_rfc3339(),
        host: snapshot::host_name(),
        program: concat!("scalingnote ", env!("CARGO_PKG_VERSION")).to_owned(),
        run,
        gates: Vec::new(),
        ..parent.provenance.clone()
    };
    provenance.measured.remove(snapshot::EVALUATION);
    provenance
}

/// The recall of the indexes that were built takes the place of that of the old ones.
fn measured(provenance: &mut Provenance, reports: &BTreeMap<u32, BuildReport>) -> Result<()> {
    if let Some(by_shard) = provenance.measured.get_mut("recall_by_shard") {
        for (shard, report) in reports {
            by_shard[shard.to_string()] =
                serde_json::to_value(report.recall).context(|| "writing the recall")?;
        }
    }
    Ok(())
}

fn committed(outcome: CommitOutcome) -> Result<Manifest> {
    match outcome {
        CommitOutcome::Committed(manifest) => Ok(*manifest),
        CommitOutcome::LostTo(winner) => Err(Error::conflict(format!(
            "snapshot {} was published by {} in the meantime; nothing was deleted, stop runs and purge again",
            winner.number, winner.provenance.run
        ))),
        CommitOutcome::Blocked { by } => {
            Err(Error::conflict(format!("snapshot {by} blocks the content without the notes")))
        }
    }
}
