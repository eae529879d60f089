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

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::gc::strings_in;
use crate::error::{Result, found};
use crate::store::{Listed, Root, layout};
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
    /// Receipts that named one of them, or a file that is gone.
    pub receipts: Vec<String>,
}

/// Hashes every embedding part, index, sidecar, ids file and list of removed keys, and deletes those that are not what
/// their name says, with the receipts that name them. No run may be in progress. `progress` is called with bytes done.
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
    let named =
        listed.iter().filter_map(|object| Some((object, layout::hash_in_name(&object.key)?)));
    let checks: Vec<_> = named
        .map(|(object, hash)| async move {
            cancel.check()?;
            let hashed = found(root.hash(&object.key).await)?;
            progress(object.size);
            let wrong = hashed.is_some_and(|(sha256, _)| sha256.short() != hash);
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
    for object in listed.iter().filter(|object| layout::is_receipt(&object.key)) {
        let names = strings_in(root, object, layout::is_file).await?;
        let stays = |name: &String| {
            *name == object.key
                || (objects.contains_key(name.as_str())
                    && report.damaged.binary_search(name).is_err())
        };
        if !names.iter().all(stays) {
            report.receipts.push(object.key.clone());
        }
    }
    if !dry_run {
        for key in report.damaged.iter().chain(&report.receipts) {
            root.delete(key).await?;
        }
    }
    Ok(report)
}
