//! What a tower read when it was adapted: stored beside its weights.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::draw::Drawn;
use super::judge::Judged;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::snapshot::Purged;
use crate::store::layout::{self, Key};
use crate::store::{FileRef, Root};
use crate::types::NoteId;

/// Version of this format.
const VERSION: u32 = 1;

/// Notes and texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Read {
    version: u32,
    /// Ids of the notes, which a purge looks for.
    notes: Vec<String>,
    /// The starts of the hashes of titles and sentences.
    texts: Vec<String>,
    /// What the tower found.
    pub judged: Judged,
}

impl Read {
    pub fn of(drawn: &Drawn, judged: Judged) -> Self {
        let mut notes: Vec<String> = drawn.notes.iter().map(|(id, _)| id.to_string()).collect();
        notes.sort_unstable();
        notes.dedup();
        let texts = drawn.pieces().map(|piece| piece.hash.short()).collect();
        Self { version: VERSION, notes, texts, judged }
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
            VERSION => Ok(read),
            other => Err(Error::corrupt(format!("{} has version {other}", file.path))),
        }
    }

    /// How many of these pieces it has not read.
    pub fn new_among(&self, drawn: &Drawn) -> u64 {
        let known: HashSet<&str> = self.texts.iter().map(String::as_str).collect();
        drawn.pieces().filter(|piece| !known.contains(&*piece.hash.short())).count() as u64
    }

    /// Whether it read a note that was purged.
    pub fn holds(&self, purged: &Purged) -> bool {
        let notes = self.notes.iter().filter_map(|note| note.parse::<NoteId>().ok());
        notes.into_iter().any(|note| purged.contains(&note))
    }
}
