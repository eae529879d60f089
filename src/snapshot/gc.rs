//! What may go: everything that no retained manifest, no young run and no protection names, once it is old enough.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::manifest::{Content, Manifest};
use super::read::read;
use super::sweep;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::store::{Listed, Root, key, layout};

/// Receipts and plans read at the same time.
const READERS: usize = 32;
/// Receipts and plans above this size are not looked into: what they name is then protected by age alone.
const MAX_JSON: u64 = 256 << 20;

/// How many snapshots stay, and how young anything must be to be left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Newest snapshots kept; at least the newest always is.
    pub snapshots: u32,
    /// Unreferenced objects younger than this many hours are left alone (readers, running attempts), and so is a
    /// snapshot that was the newest until less than this many hours ago.
    pub grace_hours: u32,
    /// Run folders and prepared text older than this many days go, and so do embeddings that no retained snapshot
    /// names: until then a run that was interrupted finds them.
    pub runs_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { snapshots: 7, grace_hours: 24, runs_days: 7 }
    }
}

/// What else must stay, whatever its age: what running runs and readers hold leases on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protected {
    /// Snapshots that somebody reads.
    pub snapshots: BTreeSet<u64>,
    /// Runs that are going on.
    pub runs: BTreeSet<String>,
    /// Single objects.
    pub keys: BTreeSet<String>,
}

/// What a gc kept and deleted (or would delete).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// True where nothing was deleted.
    pub dry_run: bool,
    /// Snapshots that stay.
    pub kept_snapshots: Vec<u64>,
    /// Snapshots that went.
    pub deleted_snapshots: Vec<u64>,
    /// Objects that stay, manifests included.
    pub kept_objects: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Keys of objects that went, manifests included, in order of deletion.
    pub deleted: Vec<String>,
    /// Their bytes, and those of torn writes on local disk.
    pub deleted_bytes: u64,
    /// Staged files of killed processes that went (local disk).
    pub torn_writes: u64,
}

/// Deletes what nothing needs any more. Manifests go first, then receipts, then the files that they named, so a
/// crash leaves nothing that names a missing file. Never touches what is not under this program's folders.
///
/// `now` is compared with the store's time stamps: pass [`super::store_time`] unless this machine's clock is right.
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
    let doomed = [plan.manifests, plan.receipts, plan.files];
    let gone = match dry_run {
        true => doomed.into_iter().flatten().collect(),
        false => sweep::delete(root, doomed, plan.kept_snapshots).await?,
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

/// What a gc would delete, in three steps whose order matters.
struct Plan {
    kept_snapshots: BTreeSet<u64>,
    manifests: Vec<Listed>,
    receipts: Vec<Listed>,
    files: Vec<Listed>,
    objects: u64,
    bytes: u64,
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
        root.list("").await?.into_iter().map(|object| (object.key.clone(), object)).collect();
    let younger = |object: &Listed, than: TimeDelta| now - object.modified < than;

    let kept_snapshots = retained(&objects, retention, protected, |object| younger(object, grace));
    let mut keep: HashSet<String> = protected.keys.iter().cloned().collect();
    let mut spaces = HashSet::new();
    for &number in &kept_snapshots {
        let manifest = read(root, number).await?;
        spaces.insert(manifest.content.space_id.0.clone());
        keep.extend(named_by(&manifest.content));
    }

    // A run is as young as its youngest object.
    let mut youngest: HashMap<(&str, &str), &Listed> = HashMap::new();
    for (key, object) in &objects {
        if let Some(owner) = owner(key) {
            let entry = youngest.entry(owner).or_insert(object);
            if object.modified > entry.modified {
                *entry = object;
            }
        }
    }
    let run_lives = |run: &str| {
        protected.runs.contains(run)
            || youngest.get(&("runs", run)).is_some_and(|object| younger(object, runs))
    };
    let space_grows =
        |space: &str| youngest.get(&("space", space)).is_some_and(|object| younger(object, runs));

    // Whatever a living run's plan and receipts name stays.
    let plans = objects.values().filter(|object| {
        object.key.ends_with(".json")
            && owner(&object.key).is_some_and(|(kind, run)| kind == "runs" && run_lives(run))
    });
    for (_, named) in read_names(root, &objects, plans).await? {
        keep.extend(named);
    }

    // A receipt and the files it names go together or stay together.
    let receipts = objects.values().filter(|object| is_receipt(&object.key));
    let receipts = read_names(root, &objects, receipts).await?;
    let mut doomed_receipts = Vec::new();
    for (receipt, named) in receipts {
        let object = &objects[&receipt];
        let limit = match owner(&receipt) {
            // A space that no snapshot serves yet may be filling up over many nights.
            Some(("space", space)) if !spaces.contains(space) && space_grows(space) => {
                TimeDelta::MAX
            }
            Some(("space", _)) => runs,
            _ => grace,
        };
        let unit = || std::iter::once(object).chain(named.iter().map(|name| &objects[name]));
        if unit().any(|object| keep.contains(&object.key) || younger(object, limit)) {
            keep.insert(receipt);
            keep.extend(named);
        } else {
            doomed_receipts.push(object.clone());
        }
    }

    let mut plan = Plan {
        manifests: Vec::new(),
        receipts: Vec::new(),
        files: Vec::new(),
        objects: objects.len() as u64,
        bytes: objects.values().map(|object| object.size).sum(),
        kept_snapshots,
    };
    for (key, object) in &objects {
        let old = match key.split('/').next().unwrap_or_default() {
            layout::SNAPSHOTS => {
                if layout::manifest_number(key).is_some_and(|n| !plan.kept_snapshots.contains(&n)) {
                    plan.manifests.push(object.clone());
                }
                false
            }
            layout::LEASES => !younger(object, grace.max(TimeDelta::hours(1))),
            "runs" | "prepared" => owner(key).is_some_and(|(_, run)| !run_lives(run)),
            "embeddings" => !is_receipt(key) && !younger(object, grace),
            "indexes" if is_calibration(key) => !younger(object, runs),
            "indexes" => !is_receipt(key) && !younger(object, grace),
            _ => false,
        };
        if old && !keep.contains(key) {
            plan.files.push(object.clone());
        }
    }
    plan.receipts = doomed_receipts.into_iter().filter(|r| !keep.contains(&r.key)).collect();
    Ok(plan)
}

/// Every key that a content needs, its frozen scale included.
pub(super) fn named_by(content: &Content) -> impl Iterator<Item = String> + '_ {
    let calibration = layout::calibration(&content.index.options_id, &content.space_id);
    content.files().map(|file| file.path.clone()).chain([calibration])
}

/// The newest few, those that somebody protects, and those that were the newest until a moment ago: their readers
/// may not have noticed yet.
fn retained(
    objects: &BTreeMap<String, Listed>,
    retention: &Retention,
    protected: &Protected,
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
            || protected.snapshots.contains(number)
            || superseded_by.is_none_or(&young)
        {
            kept.insert(*number);
        }
    }
    kept
}

/// Whose age counts for a key: its run's or its space's.
fn owner(key: &str) -> Option<(&'static str, &str)> {
    let (top, rest) = key.split_once('/')?;
    let name = rest.split('/').next()?;
    match top {
        "runs" | "prepared" => Some(("runs", name)),
        "embeddings" => Some(("space", name)),
        _ => None,
    }
}

fn is_receipt(key: &str) -> bool {
    key.ends_with(layout::PART_RECEIPT_SUFFIX)
        && (key.starts_with("embeddings/") || key.starts_with("indexes/"))
}

fn is_calibration(key: &str) -> bool {
    key.rsplit('/').next().is_some_and(|name| name.starts_with("calibration-"))
}

/// For each JSON object the existing keys that stand in it as strings, whatever its format.
async fn read_names<'a>(
    root: &Root,
    objects: &BTreeMap<String, Listed>,
    files: impl Iterator<Item = &'a Listed>,
) -> Result<Vec<(String, Vec<String>)>> {
    let files: Vec<(String, u64)> = files.map(|file| (file.key.clone(), file.size)).collect();
    let read = futures::stream::iter(files.into_iter().map(|(key, size)| async move {
        let mut named = Vec::new();
        if size <= MAX_JSON {
            match root.get(&key).await {
                Ok(bytes) => {
                    // A torn or foreign file names nothing; its age decides.
                    if let Ok(value) = serde_json::from_slice(&bytes) {
                        collect_keys(&value, objects, &mut named);
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        named.sort_unstable();
        named.dedup();
        named.retain(|name| *name != key);
        Ok((key, named))
    }));
    read.buffered(READERS).try_collect().await
}

fn collect_keys(
    value: &serde_json::Value,
    objects: &BTreeMap<String, Listed>,
    named: &mut Vec<String>,
) {
    match value {
        serde_json::Value::String(text)
            if text.contains('/') && key::check(text).is_ok() && objects.contains_key(text) =>
        {
            named.push(text.clone());
        }
        serde_json::Value::Array(items) => {
            items.iter().for_each(|item| collect_keys(item, objects, named));
        }
        serde_json::Value::Object(map) => {
            map.values().for_each(|item| collect_keys(item, objects, named));
        }
        _ => {}
    }
}

/// The keys that a manifest committed during the gc needs.
pub(super) async fn names_of(root: &Root, number: u64) -> Result<Vec<String>> {
    let manifest: Manifest = read(root, number).await?;
    Ok(named_by(&manifest.content).collect())
}
