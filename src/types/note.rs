//! Who a note is: its id, its key in an index, its shard. All three are pinned forever.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A note's id as the corpus gives it. `42` and `"42"` are two different notes.
///
/// Its stored form is type-tagged: `i:42`, `s:42` ([`fmt::Display`], [`FromStr`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoteId {
    /// An integer id.
    Int(i64),
    /// A string id, never empty.
    Str(String),
}

impl NoteId {
    /// The id that reads the same and is of the other type: `15` and `"15"`. `None` for a string that is not an integer
    /// as this program writes it.
    pub fn of_other_type(&self) -> Option<Self> {
        match self {
            Self::Int(id) => Some(Self::Str(id.to_string())),
            Self::Str(id) => {
                id.parse().ok().filter(|number: &i64| number.to_string() == *id).map(Self::Int)
            }
        }
    }

    /// The id as a corpus and a judged set write it.
    pub(crate) fn untagged(&self) -> String {
        match self {
            Self::Int(id) => id.to_string(),
            Self::Str(id) => id.clone(),
        }
    }

    /// What its type is called in messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Int(_) => "an integer",
            Self::Str(_) => "a string",
        }
    }
}

impl fmt::Display for NoteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(id) => write!(f, "i:{id}"),
            Self::Str(id) => write!(f, "s:{id}"),
        }
    }
}

impl FromStr for NoteId {
    type Err = Error;

    fn from_str(tagged: &str) -> Result<Self> {
        match tagged.split_once(':') {
            Some(("i", id)) => id.parse().map(Self::Int).map_err(|cause| {
                Error::corrupt("an integer note id must be a decimal i64").with_source(cause)
            }),
            Some(("s", id)) => Ok(Self::Str(id.to_owned())),
            _ => Err(Error::corrupt("a stored note id must start with `i:` or `s:`")),
        }
    }
}

/// The key of one vector in a usearch index: the first 8 bytes (big-endian) of SHA-256 over the
/// tagged note id, with `#<chunk>` appended for chunks after the first and `~<probe>` after a collision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoteKey(pub u64);

impl NoteKey {
    /// The key of chunk `chunk` (0 for an unchunked note). `probe` counts collisions already seen
    /// in the shard, in note order; it is 0 unless two ids share their first 64 bits.
    pub fn derive(note: &NoteId, chunk: u32, probe: u32) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(note.to_string());
        if chunk > 0 {
            hasher.update(format!("\u{0}#{chunk}"));
        }
        if probe > 0 {
            hasher.update(format!("\u{0}~{probe}"));
        }
        Self(first_u64(&hasher.finalize(), 0))
    }
}

/// The shard of a note: bytes 8..16 (big-endian) of SHA-256 over the tagged id, scaled to
/// `0..shard_count`. Monotone in those bytes, so notes sorted by them are sorted by shard for every count.
pub fn shard_of(note: &NoteId, shard_count: u32) -> u32 {
    let position = first_u64(&Sha256::digest(note.to_string()), 8);
    ((u128::from(position) * u128::from(shard_count)) >> 64) as u32
}

fn first_u64(digest: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[at..at + 8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_shards_are_pinned() {
        // Changing either number orphans every index ever built: the values are part of the format.
        let int = NoteId::Int(42);
        let string = NoteId::Str("42".into());
        assert_ne!(NoteKey::derive(&int, 0, 0), NoteKey::derive(&string, 0, 0));
        let of = |tagged: &str| {
            let digest = Sha256::digest(tagged);
            (first_u64(&digest, 0), first_u64(&digest, 8))
        };
        assert_eq!(NoteKey::derive(&int, 0, 0).0, of("i:42").0);
        assert_eq!(NoteKey::derive(&int, 0, 0).0, 0x27bb_3a27_797e_78e6, "pinned");
        assert_eq!(shard_of(&string, 1), 0);
    }

    #[test]
    fn chunks_and_probes_have_their_own_keys() {
        let note = NoteId::Int(7);
        let keys = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(c, p)| NoteKey::derive(&note, c, p));
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[at + 1..].contains(key));
        }
    }

    #[test]
    fn shards_are_even_and_monotone() {
        let mut counts = [0u32; 8];
        for id in 0..8_000 {
            counts[shard_of(&NoteId::Int(id), 8) as usize] += 1;
        }
        assert!(counts.iter().all(|&n| (850..1150).contains(&n)), "{counts:?}");
    }

    #[test]
    fn tagged_form_round_trips() {
        for id in [NoteId::Int(-3), NoteId::Str("a:b".into()), NoteId::Str("笔记".into())] {
            assert_eq!(id.to_string().parse::<NoteId>().unwrap(), id);
        }
        assert!("42".parse::<NoteId>().is_err());
    }
}
