//! Drawing titles and sentences of the notes by hash: tomorrow's corpus, mostly the same, gives mostly the same.

use std::collections::BTreeMap;

use futures::TryStreamExt;

use crate::corpus::PreparedShard;
use crate::error::Result;
use crate::stage::worker::TaskEnv;
use crate::types::{Digest256, NoteId, TextHash};

/// Characters of a sentence: shorter ones say little, and longer ones nobody asks for.
const SENTENCE: std::ops::RangeInclusive<usize> = 8..=300;
/// Fewest characters of a title.
const TITLE: usize = 2;
/// One text in this many is held out, whenever it is drawn.
const HELD_OUT: u8 = 8;
/// Held-out texts that a tower is judged by, at most.
const JUDGED: usize = 256;

/// A title or a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub hash: Digest256,
    pub text: String,
    /// Where its note stands among those drawn; of several the first.
    note: usize,
    /// Several notes have it, so that none of them is its own.
    shared: bool,
}

impl Piece {
    /// Where its note stands among those drawn; `None` where several have it.
    pub fn own_note(&self) -> Option<usize> {
        (!self.shared).then_some(self.note)
    }

    fn is_held_out(&self) -> bool {
        self.hash.0[31].is_multiple_of(HELD_OUT)
    }
}

/// What was drawn.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    /// Texts' hashes, ascending, and the notes that have the text: often one.
    pub notes: Vec<(Vec<NoteId>, TextHash)>,
    /// What is learnt from, in the order of the hashes.
    pub learnt: Vec<Piece>,
    /// What the tower is judged by, likewise: it is never learnt from.
    pub held_out: Vec<Piece>,
}

impl Drawn {
    /// Draws at most `most` pieces from the `most` texts with the smallest hashes.
    pub async fn from(env: &TaskEnv, shards: &[PreparedShard], most: usize) -> Result<Self> {
        let mut smallest: BTreeMap<TextHash, (Vec<NoteId>, String)> = BTreeMap::new();
        for shard in shards {
            env.cancel.check()?;
            let mut batches = env.inputs.prepared(&env.root, shard).await?;
            while let Some(batch) = batches.try_next().await? {
                // A text that was left out is none of the smallest.
                for row in batch.rows.into_iter().filter(|row| !row.text.is_empty()) {
                    let full = smallest.len() >= most;
                    if full
                        && smallest.last_key_value().is_some_and(|(last, _)| *last < row.text_hash)
                    {
                        continue;
                    }
                    let new = || (Vec::new(), row.text);
                    smallest.entry(row.text_hash).or_insert_with(new).0.push(row.note_id);
                    if smallest.len() > most {
                        smallest.pop_last();
                    }
                }
            }
        }
        Ok(Self::of(smallest, most))
    }

    pub(super) fn of(texts: BTreeMap<TextHash, (Vec<NoteId>, String)>, most: usize) -> Self {
        let mut pieces: BTreeMap<Digest256, Piece> = BTreeMap::new();
        let mut notes = Vec::with_capacity(texts.len());
        for (text_hash, (ids, text)) in texts {
            let note = notes.len();
            notes.push((ids, text_hash));
            for text in pieces_of(&text) {
                let hash = Digest256::of(text.as_bytes());
                let new = || Piece { hash, text: text.to_owned(), note, shared: false };
                let piece = pieces.entry(hash).or_insert_with(new);
                piece.shared |= piece.note != note;
            }
        }
        let drawn = pieces.into_values().take(most);
        let (mut held_out, learnt): (Vec<Piece>, Vec<Piece>) = drawn.partition(Piece::is_held_out);
        held_out.retain(|piece| !piece.shared);
        held_out.truncate(JUDGED);
        Self { notes, learnt, held_out }
    }

    /// All pieces.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.held_out.iter().chain(&self.learnt)
    }
}

/// The title of a rendered text (its first line) and its sentences.
fn pieces_of(text: &str) -> impl Iterator<Item = &str> {
    let (first, others) = text.split_once('\n').unwrap_or((text, ""));
    let title = first.trim();
    let is_title = (TITLE..=*SENTENCE.end()).contains(&title.chars().count());
    let (title, rest) = if is_title { (Some(title), others) } else { (None, text) };
    let sentences = rest.lines().flat_map(sentences).map(str::trim);
    let sentences = sentences.filter(|text| SENTENCE.contains(&text.chars().count()));
    title.into_iter().chain(sentences)
}

/// Cuts behind every full stop, question and exclamation mark that ends a word.
fn sentences(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut characters = line.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let ends = match character {
            '.' | '!' | '?' => characters.peek().is_none_or(|(_, next)| next.is_whitespace()),
            '。' | '！' | '？' => true,
            _ => false,
        };
        if ends {
            let end = at + character.len_utf8();
            found.push(&line[start..end]);
            start = end;
        }
    }
    found.push(&line[start..]);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_its_title_and_its_sentences() {
        let text = "SQL injection\nThe input 1.5 is not checked. Is it escaped? No!\n  用户输入没有检查到位。查询被改变了一部分。\ntopics, here";
        let found: Vec<&str> = pieces_of(text).collect();
        let expected = [
            "SQL injection",
            "The input 1.5 is not checked.",
            "Is it escaped?",
            "用户输入没有检查到位。",
            "查询被改变了一部分。",
            "topics, here",
        ];
        assert_eq!(found, expected);
        // A first line as long as a page is not a title.
        let page = "A sentence of the page. ".repeat(30);
        assert_eq!(pieces_of(&page).count(), 30);
        assert_eq!(pieces_of("x").count(), 0);
    }

    fn corpus(notes: std::ops::Range<i64>, most: usize) -> Drawn {
        let text =
            |id: i64| format!("Title {id}\nThe first sentence of {id}. What all of them say.");
        let texts =
            notes.map(|id| (Digest256::of(text(id).as_bytes()), (vec![NoteId::Int(id)], text(id))));
        let mut smallest: BTreeMap<TextHash, (Vec<NoteId>, String)> = texts.collect();
        while smallest.len() > most {
            smallest.pop_last();
        }
        Drawn::of(smallest, most)
    }

    #[test]
    fn tomorrow_draws_the_same() {
        let hashes = |drawn: &Drawn| -> std::collections::BTreeSet<Digest256> {
            drawn.pieces().map(|piece| piece.hash).collect()
        };
        let today = corpus(0..1000, 200);
        // Another order and a few more notes.
        let tomorrow = corpus(10..1030, 200);
        let (today, tomorrow) = (hashes(&today), hashes(&tomorrow));
        assert!(today.len() > 180, "{}", today.len());
        let same = today.intersection(&tomorrow).count();
        assert!(same * 10 > today.len() * 8, "{same} of {}", today.len());
    }

    #[test]
    fn what_is_held_out_is_never_learnt_and_has_one_note() {
        let drawn = corpus(0..400, 1000);
        assert!(drawn.held_out.len() > 60 && drawn.learnt.len() > 600, "{}", drawn.held_out.len());
        assert!(drawn.learnt.iter().all(|piece| !piece.is_held_out()));
        for piece in &drawn.held_out {
            assert_ne!(piece.text, "What all of them say.");
            let [NoteId::Int(id)] = drawn.notes[piece.note].0[..] else { panic!("an integer") };
            assert!(piece.text.contains(&id.to_string()), "{}", piece.text);
        }
        let ascending = |pieces: &[Piece]| pieces.is_sorted_by_key(|piece| piece.hash);
        assert!(ascending(&drawn.learnt) && ascending(&drawn.held_out));
    }
}
