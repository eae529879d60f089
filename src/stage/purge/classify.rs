//! Which objects must be deleted: those that hold something of the notes, and those that would name what is gone.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::scan::{Holds, Scanned, look};
use super::target::Target;
use crate::error::{ErrorKind, Result, found};
use crate::snapshot::{self, Manifest};
use crate::stage::written::Written;
use crate::store::layout::{self, Folder, Key};
use crate::store::{FileRef, Listed, Root};
use crate::types::shard_of;

/// What must be deleted.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// Keys, manifests included.
    pub doomed: BTreeSet<String>,
    /// Numbers of the manifests among them.
    pub manifests: BTreeSet<u64>,
    /// What was found, where something was.
    pub why: BTreeMap<String, String>,
    /// Files that hold a note's id or key, and not only its text.
    named: HashSet<String>,
}

impl Holders {
    /// In which round an object is deleted: manifests and receipts in the first. Parts are judged by what ids files and
    /// prepared files say of whose the texts are, so these are the last.
    pub fn when(&self, key: &str) -> u8 {
        let first = layout::manifest_number(key).is_some() || layout::is_receipt(key);
        match (self.named.contains(key) && !first, layout::folder(key)) {
            (false, _) => 0,
            (true, Some(Folder::Embeddings(_))) => 1,
            (true, _) => 2,
        }
    }

    fn doom(&mut self, key: &str, why: &str) -> bool {
        self.why.entry(key.to_owned()).or_insert_with(|| why.to_owned());
        self.doomed.insert(key.to_owned())
    }
}

/// Looks into every object; `progress` is called with how many are done and may stop it.
///
/// # Errors
/// What the store says; Corrupt where the newest snapshot needs an object that cannot be read.
pub(super) async fn classify(
    root: &Root,
    objects: &[Listed],
    newest: Option<&Manifest>,
    target: &Target,
    scanned: &mut Scanned,
    progress: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<Holders> {
    let needed = FileRef::paths(newest.iter().flat_map(|newest| newest.content.files()));
    let mut holders = Holders::default();
    let written = Written::of(root, objects).await?;
    for (at, object) in objects.iter().enumerate() {
        progress(at as u64)?;
        let key = object.key.as_str();
        if layout::folder(key) == Some(Folder::Leases) {
            // Who is at work right now; short-lived.
            continue;
        }
        let holds = match look(root, object, &written, target, scanned).await {
            Ok(holds) => holds,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) if error.is_retryable() || needed.contains(key) => {
                return Err(error.context(format!("looking into {key}")));
            }
            // Damaged, foreign or torn: what nobody can read, nobody can vouch for, and nothing needs it.
            Err(_) => {
                holders.doom(key, "cannot be read, so that nobody can say what it holds");
                continue;
            }
        };
        let why = match holds {
            Holds::Nothing => continue,
            Holds::Unlabelled if !may_hold(newest, key, target) => continue,
            Holds::Unlabelled => "vectors of removed notes without a key",
            Holds::Text => "a text of the notes, or its vector",
            Holds::Note => "the id or key of a note",
        };
        if holds == Holds::Note {
            holders.named.insert(key.to_owned());
        }
        holders.doom(key, why);
    }
    close(root, objects, &mut holders).await?;
    for number in snapshot::numbers(root).await? {
        let Some(manifest) = found(snapshot::read(root, number).await)? else { continue };
        let key = layout::manifest(number);
        if manifest.content.files().any(|file| holders.doomed.contains(&file.path)) {
            holders.doom(&key, "names a file that holds something of the notes");
        }
        if holders.doomed.contains(&key) {
            holders.manifests.insert(number);
        }
    }
    Ok(holders)
}

/// Whether an index with unlabelled vectors may hold one of the notes': not, where it is the newest snapshot's of
/// a shard that none of them belongs to.
fn may_hold(newest: Option<&Manifest>, key: &str, target: &Target) -> bool {
    let Some(content) = newest.map(|newest| &newest.content) else { return true };
    let shard = content.shards.iter().find(|shard| shard.files().any(|file| file.path == key));
    shard.is_none_or(|shard| {
        target.notes.iter().any(|note| {
            note.parse().is_ok_and(|note| shard_of(&note, content.shard_count) == shard.shard)
        })
    })
}

/// Adds receipts and plans that name what is doomed, and the prepared text of runs whose plan is.
async fn close(root: &Root, objects: &[Listed], holders: &mut Holders) -> Result<()> {
    let mut names: Vec<(&str, BTreeSet<String>)> = Vec::new();
    for object in objects {
        let key = object.key.as_str();
        let of_run = || matches!(layout::folder(key), Some(Folder::Runs(_)));
        if layout::is_receipt(key) || (of_run() && layout::is_json(key)) {
            names.push((key, snapshot::strings_in(root, object, |_| true).await?));
        }
    }
    loop {
        let mut changed = false;
        for (key, named) in &names {
            if !holders.doomed.contains(*key)
                && named.iter().any(|name| holders.doomed.contains(name))
            {
                changed |= holders.doom(key, "names a file that holds something of the notes");
            }
        }
        // A plan and its prepared files are of no use without each other.
        let runs: BTreeSet<String> =
            holders.doomed.iter().filter_map(|key| prepared_for(key)).collect();
        // A tower that read one of the notes is deleted as a whole.
        let towers = holders.doomed.iter().filter_map(|key| layout::tower_of(key));
        let towers: BTreeSet<String> = towers.map(str::to_owned).collect();
        for object in objects {
            if layout::tower_of(&object.key).is_some_and(|tower| towers.contains(tower))
                && !holders.doomed.contains(&object.key)
            {
                changed |= holders.doom(&object.key, "of a query tower that read one of the notes");
            }
            if prepared_for(&object.key).is_some_and(|run| runs.contains(&run))
                && !holders.doomed.contains(&object.key)
            {
                changed |=
                    holders.doom(&object.key, "belongs to a run that prepared one of the notes");
            }
            // A report and its page say the same.
            if let Some(other) = twin(&object.key)
                && holders.doomed.contains(&other)
                && !holders.doomed.contains(&object.key)
            {
                changed |= holders.doom(&object.key, "holds a report that names one of the notes");
            }
        }
        if !changed {
            return Ok(());
        }
    }
}

/// The page of a report, and the report of a page.
fn twin(key: &str) -> Option<String> {
    match layout::parse(key)? {
        Key::Report { run, name } => Some(layout::report_page(&run, name)),
        Key::ReportPage { run, name } => Some(layout::report(&run, name)),
        _ => None,
    }
}

/// The run that `key` is a plan or prepared text of.
fn prepared_for(key: &str) -> Option<String> {
    match (layout::folder(key)?, layout::parse(key)) {
        (Folder::Prepared(run), _) => Some(run.to_owned()),
        (_, Some(Key::Plan { run })) => Some(run),
        _ => None,
    }
}
