//! Taking damaged files out, so that the next run makes them again.
//!
//! A reader of a damaged file says so and stops: nothing is made from it, and nothing is made in its place while it
//! is there under the name of the bytes that it should have. Somebody has to decide that it cannot be restored. Then
//! it goes, with every receipt that names it, and the next full run finds out what is gone, encodes texts and builds
//! indexes again.
//!
//! Snapshots that name such a file stay as they are. They lose nothing that they had: serving refuses a damaged index,
//! and needs no parts. Where the same bytes are made again, as by the same tower on the same kind of machine, the file
//! gets its old name, and the old snapshots are whole again.
//!
//! Most files are named by their hash. Those of an adapted query tower are not: any program can load a model from their
//! folder. What they must be is in the snapshots and receipts that name them. Such a tower goes as a whole: it is of no use
//! without one of its files, and without the list of what it read no purge would find whose texts are in its weights. The
//! next run adapts it from scratch.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::gc::{files_in, strings_in};
use super::manifest;
use crate::error::{Result, found, unless};
use crate::store::layout::{self, Key};
use crate::store::{FileRef, Listed, Root};
use crate::types::Cancel;

/// Files hashed at the same time.
const READERS: usize = 4;

/// What was found, and taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// True where nothing was changed.
    pub dry_run: bool,
    /// Files that were hashed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged files, by key.
    pub damaged: Vec<String>,
    /// Whole files of query towers that have a damaged one.
    pub useless: Vec<String>,
    /// Receipts that named one of these, or a file that is gone.
    pub receipts: Vec<String>,
}

/// Hashes every embedding part, index, sidecar, ids file and list of removed keys, and every file of an adapted query
/// tower, and deletes those that are not what was written, with what is of no use without them and the receipts that name
/// them. No run may be in progress. `progress` is called with bytes done.
///
/// A crash leaves work for the same call, nothing else: a receipt without its file is found by the next.
///
/// # Errors
/// What the store says; Cancelled.
pub async fn repair(
    root: &Root,
    dry_run: bool,
    cancel: &Cancel,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<RepairReport> {
    let listed = root.list("").await?;
    let objects: BTreeMap<&str, &Listed> =
        listed.iter().map(|object| (object.key.as_str(), object)).collect();
    let towers = hashes_of_towers(root, &listed).await?;
    let expected = |key: &str| match layout::hash_in_name(key) {
        Some(hash) => Some(BTreeSet::from([hash])),
        None => towers.get(key).cloned(),
    };
    let named = listed.iter().filter_map(|object| Some((object, expected(&object.key)?)));
    let checks: Vec<_> = named
        .map(|(object, hashes)| async move {
            cancel.check()?;
            let hashed = found(root.hash(&object.key).await)?;
            progress(object.size);
            let wrong = hashed.is_some_and(|(sha256, _)| !hashes.contains(&sha256.short()));
            Ok::<_, crate::error::Error>((object, wrong))
        })
        .collect();
    let checked: Vec<(&Listed, bool)> =
        futures::stream::iter(checks).buffered(READERS).try_collect().await?;
    let mut report = RepairReport { dry_run, ..RepairReport::default() };
    for (object, wrong) in checked {
        report.files += 1;
        report.bytes += object.size;
        if wrong {
            report.damaged.push(object.key.clone());
        }
    }
    let broken: BTreeSet<&str> =
        report.damaged.iter().filter_map(|key| layout::tower_of(key)).collect();
    let is_of_broken = |key: &str| layout::tower_of(key).is_some_and(|it| broken.contains(it));
    let keys = listed.iter().map(|object| &object.key).filter(|key| is_of_broken(key));
    let whole = keys.filter(|key| report.damaged.binary_search(key).is_err());
    report.useless = whole.cloned().collect();
    let gone: BTreeSet<&str> =
        report.damaged.iter().chain(&report.useless).map(String::as_str).collect();
    for object in listed.iter().filter(|object| layout::is_receipt(&object.key)) {
        let names = strings_in(root, object, layout::is_file).await?;
        let stays = |name: &String| {
            let name = name.as_str();
            name == object.key || (objects.contains_key(name) && !gone.contains(name))
        };
        if !names.iter().all(stays) {
            report.receipts.push(object.key.clone());
        }
    }
    if !dry_run {
        // The list of what a tower read is deleted last: as long as its weights are there, a purge has to find it.
        let (lists, others): (Vec<&str>, Vec<&str>) =
            gone.into_iter().partition(|key| is_list(key));
        let receipts = report.receipts.iter().map(String::as_str);
        for key in others.into_iter().chain(lists).chain(receipts) {
            root.delete(key).await?;
        }
    }
    Ok(report)
}

/// The starts of the hashes that files of adapted query towers may have, by key: as snapshots name them, and receipts,
/// which know towers that no snapshot has yet. Receipts are not checked by a hash themselves, so a file that fits one of
/// these is whole.
async fn hashes_of_towers(
    root: &Root,
    listed: &[Listed],
) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut hashes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    if !listed.iter().any(|object| is_of_tower(&object.key)) {
        return Ok(hashes);
    }
    for object in listed {
        let files: Vec<FileRef> = match layout::parse(&object.key) {
            Some(Key::Manifest { number }) => {
                // One that cannot be read says nothing of any file.
                let read = manifest::read(root, number).await;
                let read = unless(read, |error| !error.is_retryable())?;
                let files = read.iter().flat_map(|manifest| manifest.content.files());
                files.filter(|file| is_of_tower(&file.path)).cloned().collect()
            }
            Some(Key::AdaptReceipt { .. }) => files_in(root, object, is_of_tower).await?,
            _ => continue,
        };
        for file in files {
            hashes.entry(file.path).or_default().insert(file.sha256.short());
        }
    }
    Ok(hashes)
}

fn is_of_tower(key: &str) -> bool {
    layout::tower_of(key).is_some()
}

/// Whether this is the list of what a tower read.
fn is_list(key: &str) -> bool {
    matches!(layout::parse(key), Some(Key::TowerTexts { .. }))
}
