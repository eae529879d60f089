//! What a tower read when it was adapted: stored beside its weights.

use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use super::draw::Drawn;
use super::judge::Judged;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::snapshot::Purged;
use crate::store::layout::{self, Key};
use crate::store::{FileRef, Root};
use crate::types::{Digest256, NoteId};

/// Version of this format. Version 1 names every text that was drawn, read or not, and no steps.
const VERSION: u32 = 2;

/// Notes and texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Read {
    version: u32,
    /// Ids of the notes, those of the tower that it goes on from among them; a purge looks for them.
    notes: Vec<String>,
    /// The starts of the hashes of the titles and sentences that it read.
    texts: Vec<String>,
    /// What the tower found.
    pub judged: Judged,
    /// Steps that it took on these texts, in this run and in those before: the next goes on where time ended them.
    #[serde(default)]
    pub steps: u64,
}

impl Read {
    /// `read` of the drawn pieces, and those of `before` that are drawn still. The notes of `before` stay, drawn or not:
    /// the weights go on from what they taught, and a purge may come after the corpus lost them.
    pub fn of<'a>(
        drawn: &Drawn,
        read: impl Iterator<Item = &'a Digest256>,
        before: Option<&Self>,
        judged: Judged,
        steps: u64,
    ) -> Self {
        let ids = drawn.notes.iter().flat_map(|(ids, _)| ids);
        let mut notes: Vec<String> = ids.map(ToString::to_string).collect();
        notes.extend(before.into_iter().flat_map(|before| before.notes.iter().cloned()));
        notes.sort_unstable();
        notes.dedup();
        let read: HashSet<&Digest256> = read.collect();
        let known = before.map(Self::known).unwrap_or_default();
        let pieces = drawn.pieces().map(|piece| (&piece.hash, piece.hash.short()));
        let pieces = pieces.filter(|(hash, short)| read.contains(hash) || known.contains(&**short));
        let texts = pieces.map(|(_, short)| short).collect();
        Self { version: VERSION, notes, texts, judged, steps }
    }

    fn known(&self) -> HashSet<&str> {
        self.texts.iter().map(String::as_str).collect()
    }

    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context(|| "writing what a query tower read")
    }

    /// What the tower with these files read.
    ///
    /// # Errors
    /// NotFound or Corrupt.
    pub async fn open(root: &Root, files: &[FileRef]) -> Result<Self> {
        let is_own =
            |file: &&FileRef| matches!(layout::parse(&file.path), Some(Key::TowerTexts { .. }));
        let file = files.iter().find(is_own);
        let file =
            file.ok_or_else(|| Error::corrupt("an adapted tower does not say what it read"))?;
        let bytes = root.get_file(file).await?;
        let read: Self = serde_json::from_slice(&bytes)
            .or_error(ErrorKind::Corrupt, || format!("{} cannot be read", file.path))?;
        match read.version {
            1 | VERSION => Ok(read),
            other => Err(Error::corrupt(format!("{} has version {other}", file.path))),
        }
    }

    /// The hashes of those of these pieces that it has not read.
    pub fn new_among(&self, drawn: &Drawn) -> HashSet<Digest256> {
        let known = self.known();
        let new = drawn.pieces().filter(|piece| !known.contains(&*piece.hash.short()));
        new.map(|piece| piece.hash).collect()
    }

    /// Whether it read a note that was purged.
    pub fn holds(&self, purged: &Purged) -> bool {
        !self.purged(purged).is_empty()
    }

    /// Those of the purged notes that it read.
    fn purged(&self, purged: &Purged) -> BTreeSet<NoteId> {
        let notes = self.notes.iter().filter_map(|note| note.parse::<NoteId>().ok());
        notes.filter(|note| purged.contains(note)).collect()
    }
}

/// Those of the purged notes that the tower with these files read.
///
/// # Errors
/// As [`Read::open`].
pub(in crate::stage) async fn purged_notes(
    root: &Root,
    files: &[FileRef],
    purged: &Purged,
) -> Result<BTreeSet<NoteId>> {
    Ok(Read::open(root, files).await?.purged(purged))
}

#[cfg(test)]
mod tests {
    use super::super::judge::Found;
    use super::*;

    #[test]
    fn what_time_left_unread_is_new_the_next_day() {
        let texts = (0..8).map(|id| {
            let text = format!("Title {id}\nA sentence of {id}.");
            (Digest256::of(text.as_bytes()), (vec![NoteId::Int(id)], text))
        });
        let drawn = Drawn::of(texts.collect(), 100);
        let found = Found { hit_at_10: 1.0, ndcg_at_10: 1.0 };
        let judged = Judged { texts: 1, notes: 8, llm: found, before: found, now: found };
        let hashes: Vec<Digest256> = drawn.pieces().map(|piece| piece.hash).collect();
        let of = |some: &[Digest256], before: Option<&Read>, steps| {
            Read::of(&drawn, some.iter(), before, judged, steps)
        };
        let first = of(&hashes[..6], None, 10);
        let new = first.new_among(&drawn);
        assert_eq!((hashes.len(), new.len(), first.notes.len()), (16, 10, 8));
        assert!(hashes[6..].iter().all(|hash| new.contains(hash)));
        // The next day reads the others, and knows both.
        let second = of(&hashes[6..], Some(&first), 20);
        assert!(second.new_among(&drawn).is_empty());
        assert_eq!(second.notes, first.notes);
        // A file of version 1 counts no steps.
        let mut old = serde_json::to_value(&second).unwrap();
        old.as_object_mut().unwrap().remove("steps");
        let old: Read = serde_json::from_value(old).unwrap();
        assert_eq!(old.steps, 0);
    }

    /// Its weights come from the tower before, and so do the notes that a purge has to find.
    #[test]
    fn notes_of_the_tower_before_stay_read() {
        let drawn = |ids: std::ops::Range<i64>| {
            let texts = ids.map(|id| {
                let text = format!("Title {id}\nA sentence of {id}.");
                (Digest256::of(text.as_bytes()), (vec![NoteId::Int(id)], text))
            });
            Drawn::of(texts.collect(), 100)
        };
        let found = Found { hit_at_10: 1.0, ndcg_at_10: 1.0 };
        let judged = Judged { texts: 1, notes: 8, llm: found, before: found, now: found };
        let of = |drawn: &Drawn, before: Option<&Read>| {
            Read::of(drawn, drawn.pieces().map(|piece| &piece.hash), before, judged, 10)
        };
        let first = of(&drawn(0..4), None);
        let second = of(&drawn(2..6), Some(&first));
        let third = of(&drawn(5..8), Some(&second));
        let purged = |id: i64| Purged::default().with(&[NoteId::Int(id)]);
        assert!((0..8).all(|id| third.holds(&purged(id))), "{:?}", third.notes);
        assert!(!third.holds(&purged(8)) && !first.holds(&purged(4)));
        // One that began from scratch read what it was shown, and no more.
        assert!(!of(&drawn(5..8), None).holds(&purged(0)));
    }
}
