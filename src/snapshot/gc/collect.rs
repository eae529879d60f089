//! What may be deleted: everything that no retained manifest, no young run and no protection names, once it is old
//! enough.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::{named_by, read_names};
use super::sweep;
use crate::error::{Result, ResultExt};
use crate::snapshot::lease::{Leases, living_run};
use crate::snapshot::manifest;
use crate::store::layout::{self, Folder, Key};
use crate::store::{Listed, Root};

/// How many snapshots stay, and how young anything must be to be left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Newest snapshots kept; at least the newest always is.
    pub snapshots: u32,
    /// Unreferenced objects younger than this many hours are left alone (readers, running attempts), and so is a
    /// snapshot that was the newest until less than this many hours ago.
    pub grace_hours: u32,
    /// Run folders and prepared text older than this many days are deleted, and so are embeddings that no retained
    /// snapshot names: until then a run that was interrupted finds them.
    pub runs_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { snapshots: 7, grace_hours: 24, runs_days: 7 }
    }
}

/// What else must stay, whatever its age. Leases of runs and readers are honoured without being named here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protected {
    /// Snapshots that somebody reads.
    pub snapshots: BTreeSet<u64>,
    /// Runs that are in progress.
    pub runs: BTreeSet<String>,
    /// Single objects.
    pub keys: BTreeSet<String>,
    /// Embeddings of every space that no retained snapshot serves: a back-fill may be configured but pause for longer
    /// than run folders stay.
    pub growing: bool,
}

/// What a gc kept and deleted (or would delete).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// True where nothing was deleted.
    pub dry_run: bool,
    /// Snapshots that stay.
    pub kept_snapshots: Vec<u64>,
    /// Snapshots that were deleted.
    pub deleted_snapshots: Vec<u64>,
    /// Objects that stay, manifests included.
    pub kept_objects: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Keys of objects that were deleted, manifests included, in order of deletion.
    pub deleted: Vec<String>,
    /// Their bytes, and those of torn writes on local disk.
    pub deleted_bytes: u64,
    /// Staged files of killed processes that were deleted (local disk).
    pub torn_writes: u64,
    /// Purged notes that had been stored again and were purged once more. [`gc`] alone looks for none.
    pub purged_again: u64,
    /// Embeddings and indexes kept because a run in progress may be about to use them again.
    pub held_back: u64,
}

/// Deletes what nothing needs any more. Manifests go first, then receipts, then the files that they named, so a
/// crash leaves nothing that names a missing file. Never touches what this program did not make
/// ([`Root::own_objects`]).
///
/// `now` is compared with the store's time stamps: pass [`Root::now`].
///
/// # Errors
/// Any manifest that would be kept but cannot be read stops the gc before anything is deleted. Transient where a
/// publish does not end.
pub async fn gc(
    root: &Root,
    retention: &Retention,
    now: DateTime<Utc>,
    dry_run: bool,
    protected: &Protected,
) -> Result<GcReport> {
    let plan = select(root, retention, now, protected).await.context(|| "collecting garbage")?;
    let cutoff = now - TimeDelta::hours(i64::from(retention.grace_hours));
    let mut report = GcReport {
        dry_run,
        kept_snapshots: plan.kept_snapshots.iter().copied().collect(),
        ..GcReport::default()
    };
    let mut doomed = sweep::in_order(plan.doomed);
    if plan.run_lives {
        report.held_back = sweep::hold_back(&mut doomed);
    }
    let gone = match dry_run {
        true => Vec::from(doomed),
        false => {
            let swept =
                sweep::delete(root, doomed, plan.kept_snapshots, sweep::Heed::Everyone).await?;
            report.held_back += swept.held_back;
            swept.gone
        }
    };
    let torn = root.sweep_staged(cutoff, dry_run).await?;
    report.torn_writes = torn.files;
    report.deleted_bytes = torn.bytes;
    for object in gone {
        report.deleted_bytes += object.size;
        report.deleted_snapshots.extend(layout::manifest_number(&object.key));
        report.deleted.push(object.key);
    }
    report.kept_objects = plan.objects - report.deleted.len() as u64;
    report.kept_bytes = plan.bytes + torn.bytes - report.deleted_bytes;
    Ok(report)
}

/// What a gc would delete.
struct Plan {
    kept_snapshots: BTreeSet<u64>,
    doomed: Vec<Listed>,
    objects: u64,
    bytes: u64,
    run_lives: bool,
}

async fn select(
    root: &Root,
    retention: &Retention,
    now: DateTime<Utc>,
    protected: &Protected,
) -> Result<Plan> {
    let grace = TimeDelta::hours(i64::from(retention.grace_hours));
    let runs = TimeDelta::days(i64::from(retention.runs_days)).max(grace);
    let objects: BTreeMap<String, Listed> =
        root.own_objects().await?.into_iter().map(|o| (o.key.clone(), o)).collect();
    let younger = |object: &Listed, than: TimeDelta| now - object.modified < than;

    let leases = Leases::among(objects.values(), now);
    let read: BTreeSet<u64> =
        protected.snapshots.union(&leases.read_snapshots()).copied().collect();
    let kept_snapshots = retained(&objects, retention, &read, |object| younger(object, grace));
    let mut live_runs = protected.runs.clone();
    for key in leases.runs() {
        if let Some(run) = living_run(root, key, &leases).await? {
            live_runs.insert(run);
        }
    }
    let mut keep: HashSet<String> = protected.keys.iter().cloned().collect();
    let mut spaces = HashSet::new();
    for &number in &kept_snapshots {
        let manifest = manifest::read(root, number).await?;
        spaces.insert(manifest.content.space_id.0.clone());
        keep.extend(named_by(&manifest.content));
    }

    // A run is as young as its youngest object.
    let mut youngest: HashMap<Folder<'_>, &Listed> = HashMap::new();
    for (key, object) in &objects {
        if let Some(owner) = owner(key) {
            let entry = youngest.entry(owner).or_insert(object);
            if object.modified > entry.modified {
                *entry = object;
            }
        }
    }
    let run_lives = |run: &str| {
        live_runs.contains(run)
            || youngest.get(&Folder::Runs(run)).is_some_and(|object| younger(object, runs))
    };
    let space_grows = |space: &str| {
        protected.growing
            || youngest.get(&Folder::Embeddings(space)).is_some_and(|object| younger(object, runs))
    };

    // Whatever a living run's plan and receipts name stays.
    let plans = objects.values().filter(|object| {
        layout::is_json(&object.key)
            && matches!(owner(&object.key), Some(Folder::Runs(run)) if run_lives(run))
    });
    keep.extend(read_names(root, plans).await?.into_iter().flat_map(|(_, named)| named));

    let receipts = objects.values().filter(|object| layout::is_receipt(&object.key));
    let receipts = read_names(root, receipts).await?;
    let with_receipt: HashSet<&str> =
        receipts.iter().flat_map(|(_, named)| named).map(String::as_str).collect();
    let limit = |key: &str| match owner(key) {
        // A space that no snapshot serves yet may be filling up over many nights.
        Some(Folder::Embeddings(space)) if !spaces.contains(space) && space_grows(space) => {
            TimeDelta::MAX
        }
        // An interrupted run may resume and need what it finished.
        Some(Folder::Embeddings(_)) if layout::is_receipt(key) || with_receipt.contains(key) => {
            runs
        }
        _ if matches!(layout::parse(key), Some(Key::Calibration { .. })) => runs,
        _ => grace,
    };
    for (receipt, named) in &receipts {
        if keep.contains(receipt) || younger(&objects[receipt], limit(receipt)) {
            keep.extend(named.iter().cloned());
        }
    }

    let mut doomed: BTreeSet<&str> = BTreeSet::new();
    for (key, object) in &objects {
        let old = match layout::folder(key) {
            Some(Folder::Leases) => !younger(object, grace.max(TimeDelta::days(1))),
            Some(Folder::Runs(run) | Folder::Prepared(run)) => !run_lives(run),
            Some(Folder::Embeddings(_) | Folder::Indexes(_) | Folder::Towers(_)) => {
                !layout::is_receipt(key) && !younger(object, limit(key))
            }
            Some(Folder::Snapshots | Folder::Signatures) | None => false,
        };
        if old && !keep.contains(key) {
            doomed.insert(key);
        }
    }
    // A receipt is deleted before the first file it names, and so is one whose file is gone already: a reader
    // that trusted it would publish something that is not there.
    loop {
        let before = doomed.len();
        for (receipt, named) in &receipts {
            let dangling = || named.iter().any(|name| !objects.contains_key(name));
            let old = !younger(&objects[receipt], limit(receipt));
            if named.iter().any(|name| doomed.contains(name.as_str()))
                || (old && (named.is_empty() || dangling()))
            {
                doomed.insert(receipt);
            }
        }
        if doomed.len() == before {
            break;
        }
    }

    let there = |number| objects.contains_key(&layout::manifest(number));
    let goes = |object: &Listed| match layout::snapshot_of(&object.key) {
        // A signature without a manifest may be that of the next one.
        Some(number) => {
            !kept_snapshots.contains(&number) && (there(number) || !younger(object, grace))
        }
        None => doomed.contains(object.key.as_str()),
    };
    Ok(Plan {
        doomed: objects.values().filter(|object| goes(object)).cloned().collect(),
        objects: objects.len() as u64,
        bytes: objects.values().map(|object| object.size).sum(),
        run_lives: leases.any_run(),
        kept_snapshots,
    })
}

/// The newest few, those that somebody protects, and those that were the newest until a moment ago: their readers
/// may not have noticed yet.
fn retained(
    objects: &BTreeMap<String, Listed>,
    retention: &Retention,
    read: &BTreeSet<u64>,
    young: impl Fn(&Listed) -> bool,
) -> BTreeSet<u64> {
    let manifests: Vec<(u64, &Listed)> = objects
        .iter()
        .filter_map(|(key, object)| Some((layout::manifest_number(key)?, object)))
        .collect();
    let newest = retention.snapshots.max(1) as usize;
    let mut kept = BTreeSet::new();
    for (at, (number, _)) in manifests.iter().enumerate() {
        let superseded_by = manifests.get(at + 1).map(|(_, object)| *object);
        if at + newest >= manifests.len()
            || read.contains(number)
            || superseded_by.is_none_or(&young)
        {
            kept.insert(*number);
        }
    }
    kept
}

/// Whose age counts for a key: its run's or its space's.
fn owner(key: &str) -> Option<Folder<'_>> {
    match layout::folder(key)? {
        Folder::Prepared(run) => Some(Folder::Runs(run)),
        owner @ (Folder::Runs(_) | Folder::Embeddings(_)) => Some(owner),
        _ => None,
    }
}
