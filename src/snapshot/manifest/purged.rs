//! Tombstones: notes that were purged and must not come back.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::types::{Digest256, Hasher256, NoteId};

/// Which notes were purged, without naming them: salted hashes of their ids.
///
/// The salt keeps tables made beforehand and comparisons between roots from telling ids. It cannot hide an id from
/// somebody who has the manifest and tries every number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Purged {
    /// 32 hex digits that go into every hash, drawn when the first note was purged.
    pub salt: String,
    /// SHA-256 over (salt, tagged note id), ascending, no repeats.
    pub notes: Vec<Digest256>,
}

impl Purged {
    /// True where nothing was purged; such a manifest says nothing of it.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// Whether this note was purged and not lifted since: under this id, or under the same digits of the other type. A
    /// CSV's ids turn from integers to strings with one that is none, and that must bring nobody's note back.
    pub fn contains(&self, note: &NoteId) -> bool {
        self.lists(note) || note.of_other_type().is_some_and(|note| self.lists(&note))
    }

    /// Whether this very id was purged and not lifted since.
    pub fn lists(&self, note: &NoteId) -> bool {
        !self.is_empty() && self.notes.binary_search(&self.digest(note)).is_ok()
    }

    /// Names these tombstones; `None` where there are none.
    pub fn stamp(&self) -> Option<Digest256> {
        let mut hasher = Hasher256::new();
        hasher.field("scalingnote tombstones").field(&self.salt);
        for note in &self.notes {
            hasher.raw(note.0);
        }
        (!self.is_empty()).then(|| hasher.finish())
    }

    /// Adds notes; draws the salt with the first.
    #[must_use]
    pub fn with<'a>(&self, notes: impl IntoIterator<Item = &'a NoteId>) -> Self {
        let mut changed = self.clone();
        if changed.is_empty() {
            changed.salt = format!("{:032x}", rand::random::<u128>());
        }
        let added: Vec<Digest256> = notes.into_iter().map(|note| changed.digest(note)).collect();
        changed.notes.extend(added);
        changed.notes.sort_unstable();
        changed.notes.dedup();
        if changed.is_empty() { Self::default() } else { changed }
    }

    /// Takes notes out, under either type: they may come back.
    #[must_use]
    pub fn without<'a>(&self, notes: impl IntoIterator<Item = &'a NoteId>) -> Self {
        let lifted: HashSet<Digest256> = notes
            .into_iter()
            .flat_map(|note| {
                [Some(self.digest(note)), note.of_other_type().map(|n| self.digest(&n))]
            })
            .flatten()
            .collect();
        let mut changed = self.clone();
        changed.notes.retain(|digest| !lifted.contains(digest));
        if changed.is_empty() { Self::default() } else { changed }
    }

    fn digest(&self, note: &NoteId) -> Digest256 {
        let mut hasher = Hasher256::new();
        hasher.field("scalingnote purged note").field(&self.salt).field(note.to_string());
        hasher.finish()
    }

    /// # Errors
    /// Corrupt where the hashes do not ascend: a look-up would miss some.
    pub(super) fn validate(&self) -> Result<()> {
        if self.notes.is_sorted_by(|a, b| a < b) {
            Ok(())
        } else {
            Err(Error::corrupt("the manifest's list of purged notes does not ascend"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tombstones_are_added_found_and_lifted() {
        let (a, b, c) = (NoteId::Int(42), NoteId::Str("who wrote it".into()), NoteId::Int(7));
        let none = Purged::default();
        assert!(!none.contains(&a) && none.with([]).is_empty());
        let two = none.with([&b, &a]).with([&a]);
        assert!(two.contains(&a) && two.contains(&b) && !two.contains(&c));
        assert_eq!((two.notes.len(), two.salt.len()), (2, 32));
        two.validate().unwrap();
        let digits = |id: &str| NoteId::Str(id.into());
        assert!(two.contains(&digits("42")) && !two.contains(&digits("042")));
        assert!(!two.lists(&digits("42")) && !two.without([&digits("42")]).contains(&a));
        assert!(none.with([&digits("7")]).contains(&c));
        let one = two.without([&a, &c]);
        assert!(none.stamp().is_none() && one.stamp().is_some() && one.stamp() != two.stamp());
        assert!(!one.contains(&a) && one.contains(&b) && one.salt == two.salt);
        assert_eq!(one.without([&b]), none);
        let text = serde_json::to_string(&two).unwrap();
        assert!(!text.contains("who"), "no id is in it alone: {text}");
        assert_ne!(none.with([&a]).notes, none.with([&a]).notes, "each root has its own salt");
        let broken = Purged { notes: two.notes.iter().rev().copied().collect(), ..two };
        assert!(broken.validate().is_err());
    }
}
