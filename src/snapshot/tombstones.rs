//! Work beside a purge: who writes notes looks at the tombstones again after each write.
//!
//! ```text
//! writer: put -> newest tombstones other than when the work was planned? -> what holds a purged note is deleted,
//!         the work ends
//! purge:  commit tombstones -> list, check everything -> delete
//! ```
//!
//! Each side writes before it looks, so one of them sees the other: an object that was put before the tombstones is
//! found by the purge, one that was put after them is taken back by who put it. A writer that dies in between leaves
//! something that the next run, gc and `purge --scan` find: see `stage::purge`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::manifest::{Manifest, Purged, newest, numbers, read};
use crate::error::{Error, ErrorKind, Result, found};
use crate::store::{Root, layout};
use crate::types::{Digest256, NoteId};

/// Letters of a text that may begin an id, and places where one may end: bounds the work for a text of any size.
const MOST_TAGS: usize = 10_000;
const MOST_ENDS: usize = 32;

/// The tombstones of the newest snapshot, read again only where there is a newer one.
#[derive(Debug, Default)]
pub struct Tombstones(Mutex<Option<(u64, Arc<Purged>)>>);

/// What some work was planned under.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlannedUnder {
    /// Number of the snapshot that it was compared with.
    pub parent: Option<u64>,
    /// [`Purged::stamp`] of that snapshot.
    pub stamp: Option<Digest256>,
}

impl PlannedUnder {
    /// For work that begins on top of this snapshot.
    pub fn of(parent: Option<&Manifest>) -> Self {
        Self {
            parent: parent.map(|parent| parent.number),
            stamp: parent.and_then(|parent| parent.purged.stamp()),
        }
    }

    /// Whether the work is void where snapshot `number` with these tombstones is the newest.
    pub fn is_void(self, number: u64, purged: &Purged) -> bool {
        self.parent != Some(number) && self.stamp != purged.stamp()
    }
}

impl Tombstones {
    /// The number of the newest snapshot and its tombstones.
    async fn newest(&self, root: &Root) -> Result<Option<(u64, Arc<Purged>)>> {
        let Some(number) = numbers(root).await?.pop() else { return Ok(None) };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.as_ref().is_some_and(|(of, _)| *of == number) {
            return Ok(known);
        }
        let read = newest(root).await?.map(|newest| (newest.number, Arc::new(newest.purged)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&read);
        Ok(read)
    }

    /// The tombstones of now, where they are others than what some work was planned under.
    ///
    /// # Errors
    /// What the store says; Corrupt about the newest manifest.
    pub async fn since(&self, root: &Root, planned: PlannedUnder) -> Result<Option<Arc<Purged>>> {
        let Some((number, purged)) = self.newest(root).await? else { return Ok(None) };
        Ok(planned.is_void(number, &purged).then_some(purged))
    }
}

/// The ids of purged notes that are in the strings of some JSON: by themselves, or in a message.
pub fn purged_in(json: &serde_json::Value, purged: &Purged, found: &mut BTreeSet<NoteId>) {
    match json {
        serde_json::Value::String(text) => {
            let ids = candidates(text).filter_map(|id| id.parse::<NoteId>().ok());
            found.extend(ids.filter(|id| purged.contains(id)));
        }
        serde_json::Value::Array(all) => all.iter().for_each(|one| purged_in(one, purged, found)),
        serde_json::Value::Object(all) => {
            all.values().for_each(|one| purged_in(one, purged, found));
        }
        _ => {}
    }
}

/// What may be a tagged id in a text: from each `i:` or `s:` to its end, or to any of the next places where a message
/// may go on.
fn candidates(text: &str) -> impl Iterator<Item = &str> {
    let tags = text.match_indices(['i', 's']).map(|(at, _)| at).take(MOST_TAGS);
    let begins = tags.filter(|&at| {
        let alone = !text[..at].ends_with(|before: char| before.is_ascii_alphanumeric());
        alone && text[at + 1..].starts_with(':')
    });
    begins.flat_map(|at| {
        let id = &text[at..];
        let ends = id.match_indices([' ', ':', ',', ';', '`', '"', ')']).map(|(end, _)| end);
        ends.skip(1).take(MOST_ENDS).chain([id.len()]).map(|end| &id[..end])
    })
}

/// The error of work that was planned under other tombstones: it is void.
pub fn overtaken_by_purge(what: &str) -> Error {
    Error::conflict(format!(
        "notes were purged, or brought back, since {what} was planned: it may hold what was purged and is void; plan or run \
         again"
    ))
}

/// How some work of `run` ended. A purge takes away what work planned before it still needs: where that work failed, the
/// purge is what there is to tell, not the file that is missing.
///
/// # Errors
/// Conflict where the work failed and was planned under other tombstones; else what stopped it.
pub async fn blame_purge<T>(
    root: &Root,
    run: &str,
    planned: PlannedUnder,
    outcome: Result<T>,
) -> Result<T> {
    let Err(error) = outcome else { return outcome };
    if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Conflict | ErrorKind::Deadline) {
        return Err(error);
    }
    match Tombstones::default().since(root, planned).await {
        Ok(Some(_)) => Err(overtaken_by_purge(&format!("run {run}")).with_source(error)),
        Ok(None) | Err(_) => Err(error),
    }
}

/// Since when all snapshots have the tombstones of `newest`, by the store's clock: what is older was checked by the
/// purge itself. `None` where it is not known.
///
/// # Errors
/// What the store says.
pub async fn purged_since(root: &Root, newest: &Manifest) -> Result<Option<DateTime<Utc>>> {
    let stamp = newest.purged.stamp();
    let listed = root.list(layout::SNAPSHOTS).await?;
    let mut since = None;
    for object in listed.iter().rev() {
        let Some(number) = layout::manifest_number(&object.key) else { continue };
        if number != newest.number {
            let Some(older) = found(read(root, number).await)? else { continue };
            if older.purged.stamp() != stamp {
                break;
            }
        }
        since = Some(object.modified);
    }
    Ok(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_messages() {
        let notes = ["42", "it's", "a b: c", "x;y", "ü&<"].map(|id| NoteId::Str(id.to_owned()));
        let purged = Purged::default().with(&notes).with([&NoteId::Int(7)]);
        let found = |json: serde_json::Value| {
            let mut found = BTreeSet::new();
            purged_in(&json, &purged, &mut found);
            found.into_iter().map(|id| id.to_string()).collect::<Vec<_>>()
        };
        for note in &notes {
            let id = note.to_string();
            for text in
                [id.clone(), format!("note {id}: no text"), format!("3 notes, e.g. {id}, bad")]
            {
                assert_eq!(found(serde_json::json!({ "a": [{ "b": text }] })), [&*id], "{text}");
            }
        }
        assert_eq!(found(serde_json::json!("note i:7: no text; note i:8: no text")), ["i:7"]);
        assert_eq!(found(serde_json::json!(["i:42"])), ["i:42"], "of the other type");
        for none in ["i:77", "hi:7", "i:", "s:", "", "s:it", "is: 7"] {
            assert!(found(serde_json::json!(none)).is_empty(), "{none}");
        }
    }

    #[tokio::test]
    async fn other_tombstones_are_seen_and_the_same_are_not() {
        let root = Root::in_memory();
        let none = PlannedUnder::default();
        assert!(Tombstones::default().since(&root, none).await.unwrap().is_none());
        assert!(PlannedUnder::of(None) == none);
    }
}
