//! What a purge looks for: ids, keys, text hashes, and words in JSON.

use std::collections::HashSet;

use crate::types::{NoteId, NoteKey, TextHash};

/// Chunks whose keys are looked for even where nothing says how many a note had.
const CHUNKS: u32 = 1024;
/// Collisions of keys that are looked for: the first already happens once in 2^64 pairs.
const PROBES: u32 = 2;
/// Hex digits of a key in JSON.
const KEY_DIGITS: usize = 16;
/// Rejection samples show so many characters of an id.
const SHOWN: usize = 80;

/// Everything by which the notes' traces are known.
pub(super) struct Target {
    /// Tagged ids.
    pub notes: HashSet<String>,
    /// Keys of their vectors.
    pub keys: HashSet<u64>,
    /// Hashes of texts that only these notes have.
    pub hashes: HashSet<TextHash>,
    words: Vec<Word>,
}

/// Some bytes that must not stand in a text file.
struct Word {
    bytes: Vec<u8>,
    /// Whether a digit after it makes it another word (`i:42` in `i:421`).
    number: bool,
}

impl Target {
    pub fn new<'a>(notes: impl IntoIterator<Item = &'a NoteId>) -> Self {
        let mut target = Self {
            notes: HashSet::new(),
            keys: HashSet::new(),
            hashes: HashSet::new(),
            words: Vec::new(),
        };
        for note in notes {
            let tagged = note.to_string();
            for probe in 0..PROBES {
                target.keys.extend((0..CHUNKS).map(|chunk| NoteKey::derive(note, chunk, probe).0));
            }
            let number = matches!(note, NoteId::Int(_));
            target.words.push(Word { bytes: in_json(&tagged), number });
            if let Some((end, _)) = tagged.char_indices().nth(SHOWN) {
                target.words.push(Word { bytes: in_json(&tagged[..end]), number: false });
            }
            if html(&tagged) != tagged {
                target.words.push(Word { bytes: html(&tagged).into_bytes(), number: false });
            }
            target.notes.insert(tagged);
        }
        target
    }

    /// From now on these text hashes are looked for too.
    pub fn set_hashes(&mut self, hashes: HashSet<TextHash>) {
        let words = hashes.iter().map(|hash| Word { bytes: hash.to_hex().into(), number: false });
        self.words.extend(words);
        self.hashes = hashes;
    }

    /// Bytes of the longest word: how far two windows over a file must overlap, a neighbour on either side included.
    pub fn overlap(&self) -> usize {
        self.words.iter().map(|word| word.bytes.len()).max().unwrap_or(0).max(KEY_DIGITS) + 2
    }

    /// Whether one of the keys stands in it, as canaries spell them.
    fn has_key(&self, text: &[u8]) -> bool {
        text.split(|byte| !byte.is_ascii_hexdigit()).any(|digits| {
            digits.len() == KEY_DIGITS
                && std::str::from_utf8(digits)
                    .ok()
                    .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                    .is_some_and(|key| self.keys.contains(&key))
        })
    }

    /// Whether a piece of a text file names one of the notes or texts.
    pub fn stands_in(&self, text: &[u8]) -> bool {
        self.words.iter().any(|word| word.stands_in(text)) || self.has_key(text)
    }
}

impl Word {
    fn stands_in(&self, text: &[u8]) -> bool {
        let Some(first) = self.bytes.first() else { return false };
        let mut from = 0;
        while let Some(at) = text[from..].iter().position(|byte| byte == first) {
            let start = from + at;
            let end = start + self.bytes.len();
            let alone = |byte: Option<&u8>| !byte.is_some_and(u8::is_ascii_alphanumeric);
            let before = start.checked_sub(1).and_then(|at| text.get(at));
            if text.get(start..end) == Some(&self.bytes)
                && alone(before)
                && (!self.number || !text.get(end).is_some_and(u8::is_ascii_digit))
            {
                return true;
            }
            from = start + 1;
        }
        false
    }
}

/// As it stands inside a JSON string.
fn in_json(text: &str) -> Vec<u8> {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.as_bytes()[1..quoted.len() - 1].to_vec()
}

/// As it stands in a report page.
fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Digest256;

    #[test]
    fn words_are_found_whole() {
        let target = Target::new(&[NoteId::Int(42), NoteId::Str("a\"b<c".into())]);
        for text in ["\"i:42\"", "note i:42: no text", "i:42", "x s:a\\\"b<c y", "s:a&quot;b&lt;c"]
        {
            assert!(target.stands_in(text.as_bytes()), "{text}");
        }
        for text in ["", "i:421", "hi:42", "s:42", "i:4", "s:a\"b<c"] {
            assert!(!target.stands_in(text.as_bytes()), "{text}");
        }
        let long = NoteId::Str("ü".repeat(100));
        let target = Target::new(&[long]);
        let shown = format!("note s:{}…: no text", "ü".repeat(78));
        assert!(target.stands_in(shown.as_bytes()));
    }

    #[test]
    fn hashes_and_keys_are_looked_for() {
        let note = NoteId::Int(1);
        let mut target = Target::new([&note]);
        let key = NoteKey::derive(&note, 7, 0).0;
        assert!(target.keys.contains(&key));
        assert!(target.stands_in(format!("{{\"key\":\"{key:016x}\"}}").as_bytes()));
        assert!(!target.stands_in(format!("a{key:016x}").as_bytes()));
        let hash = Digest256::of(b"text");
        assert!(!target.stands_in(hash.to_hex().as_bytes()));
        target.set_hashes(HashSet::from([hash]));
        assert!(target.stands_in(format!("{{\"text_hash\":\"{hash}\"}}").as_bytes()));
        assert!(target.overlap() >= 66);
    }
}
