//! What a purge looks for: ids, keys, text hashes, and words in JSON.

use std::collections::{BTreeSet, HashSet};

use crate::corpus::shortened;
use crate::observe::format::escape_html;
use crate::types::{NoteId, NoteKey, TextHash};

/// Chunks whose keys are looked for even where nothing says how many a note had.
const CHUNKS: u32 = 1024;
/// Collisions of keys that are looked for: the first already happens once in 2^64 pairs.
const PROBES: u32 = 2;
/// Hex digits of a key in JSON.
const KEY_DIGITS: usize = 16;
/// Shorter texts are in many files by chance.
const LEAST_TEXT: usize = 24;
/// Shorter words are not looked for where there are bytes that no text has.
const LEAST_IN_BINARY: usize = 12;
/// Bytes of a text that are looked for.
const TEXT_START: usize = 256;

/// Everything by which the notes' traces are known.
pub(super) struct Target {
    /// Tagged ids.
    pub notes: HashSet<String>,
    /// Keys of their vectors.
    pub keys: HashSet<u64>,
    /// Hashes of texts that only these notes have.
    pub hashes: HashSet<TextHash>,
    words: Vec<Word>,
    /// How the notes' own texts begin: looked for in other people's files.
    texts: Vec<Word>,
}

/// Some bytes that must not be in a text file.
struct Word {
    bytes: Vec<u8>,
    /// Whether a letter or digit before it makes it another word (`i:42` in `hi:42`).
    begins: bool,
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
            texts: Vec::new(),
        };
        for note in notes {
            for probe in 0..PROBES {
                target.keys.extend((0..CHUNKS).map(|chunk| NoteKey::derive(note, chunk, probe).0));
            }
            let tagged = note.to_string();
            let mut spelled: BTreeSet<Vec<u8>> = BTreeSet::new();
            // In full, and as a message shows a long id; each as it is in JSON and on a page.
            for id in [&*tagged, &shortened(&tagged)] {
                spelled.extend([id.into(), in_json(id), escape_html(id).into_bytes()]);
            }
            let number = matches!(note, NoteId::Int(_));
            let words = spelled.into_iter().map(|bytes| Word { bytes, begins: true, number });
            target.words.extend(words);
            target.notes.insert(tagged);
        }
        target
    }

    /// From now on these text hashes are looked for too.
    pub fn set_hashes(&mut self, hashes: HashSet<TextHash>) {
        let new = hashes.difference(&self.hashes).map(TextHash::to_hex);
        let word = |hash: String| Word { bytes: hash.into(), begins: true, number: false };
        self.words.extend(new.map(word));
        self.hashes = hashes;
    }

    /// From now on how this text of the notes begins is looked for in files of other people.
    pub fn add_text(&mut self, text: &str) {
        if text.len() < LEAST_TEXT {
            return;
        }
        let start = &text[..text.floor_char_boundary(TEXT_START)];
        for bytes in [start.into(), in_json(start)] {
            if self.texts.iter().all(|word| word.bytes != bytes) {
                self.texts.push(Word { bytes, begins: false, number: false });
            }
        }
    }

    /// Bytes of the longest word: how far two windows over a file must overlap, a neighbour on either side included.
    pub fn overlap(&self) -> usize {
        let words = self.words.iter().chain(&self.texts);
        words.map(|word| word.bytes.len()).max().unwrap_or(0).max(KEY_DIGITS) + 2
    }

    /// Whether one of the keys is in it, as canaries spell them.
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

    /// The same of a file of other people, which may hold the notes' text as well. In one that is not a text, short
    /// words stand by chance.
    pub fn stands_in_foreign(&self, bytes: &[u8]) -> bool {
        let least = if bytes.contains(&0) { LEAST_IN_BINARY } else { 0 };
        let words = self.words.iter().chain(&self.texts);
        words.filter(|word| word.bytes.len() >= least).any(|word| word.stands_in(bytes))
            || self.has_key(bytes)
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
                && (!self.begins || alone(before))
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
        for text in ["", "i:421", "hi:42", "s:42", "i:4", "s:a\"b<"] {
            assert!(!target.stands_in(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn ids_of_any_kind_are_found_in_json_and_on_pages() {
        for id in ["it's", "a&b", "<b>", "\"q\"", "ü'ß&", "a\u{7}b\tc", "back\\slash", "&amp;"] {
            for id in [id.to_owned(), id.repeat(100), format!("{id}{}", "x".repeat(300))] {
                let note = NoteId::Str(id);
                let target = Target::new([&note]);
                let sample = format!("note {}: no text", shortened(&note.to_string()));
                for text in [note.to_string(), sample] {
                    let json = serde_json::json!({ "samples": [text] }).to_string();
                    assert!(target.stands_in(json.as_bytes()), "{json}");
                    let page = format!("<td>{}</td>", escape_html(&text));
                    assert!(target.stands_in(page.as_bytes()), "{page}");
                }
            }
        }
    }

    #[test]
    fn texts_are_looked_for_in_files_of_other_people() {
        let mut target = Target::new(&[NoteId::Int(1)]);
        let text = "a \"note\" of thirty letters or so ".repeat(20);
        ["too short", &text].into_iter().for_each(|text| target.add_text(text));
        for copy in [format!("xx{text}"), serde_json::json!([text]).to_string()] {
            assert!(
                target.stands_in_foreign(copy.as_bytes()) && !target.stands_in(copy.as_bytes())
            );
        }
        assert!(!target.stands_in_foreign(b"too short"));
        assert!(target.stands_in_foreign(b"[i:1]") && !target.stands_in_foreign(b"\0[i:1]"));
        assert!(target.stands_in_foreign(format!("\0{text}").as_bytes()));
        assert!(target.overlap() >= TEXT_START);
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
