//! The fake tower: deterministic vectors from token ids by integer arithmetic, the same bytes on
//! every machine. Texts that share words get similar vectors, so retrieval can be tested without a model.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::tower::Encoder;
use crate::types::{Embeddings, mix};

/// Names this tokenizer's definition.
pub(crate) const TOKENIZER: &str = "scalingnote fake tokenizer 1";
/// The id appended for [`crate::types::Pooling::Eos`].
pub(crate) const EOS: u32 = u32::MAX;
/// Characters of the longest piece.
const PIECE: usize = 12;

/// What `fake:<dimensions>[?tokens_per_second=<n>][&tilt=<x>][&memory_tokens=<n>]` asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FakeTower {
    pub(crate) dimensions: u32,
    /// Encoding is slowed down to this rate; never part of the identity.
    pub(crate) tokens_per_second: Option<f64>,
    /// Turns every vector: this much of it is added to the next element. Never part of the identity: it stands for a
    /// tower that changed under its name (another library, driver or device), which the drift check must see.
    pub(crate) tilt: f32,
    /// Batches above this many tokens fail as on a device that is out of memory; never part of the identity.
    pub(crate) memory_tokens: Option<usize>,
}

impl FakeTower {
    /// Parses what stands after `fake:`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::config(format!(
                "model `fake:{text}` must read `fake:<dimensions>`, or go on with \
                 `?tokens_per_second=<number>`, `?tilt=<number>` or `?memory_tokens=<number>`, joined by `&`"
            ))
        };
        let (dimensions, query) = text.split_once('?').unwrap_or((text, ""));
        let dimensions = dimensions.parse().ok().filter(|n| (1..=65_536).contains(n));
        let dimensions = dimensions.ok_or_else(wrong)?;
        let mut fake = Self { dimensions, tokens_per_second: None, tilt: 0.0, memory_tokens: None };
        for (name, value) in query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| part.split_once('=').unwrap_or((part, "")))
        {
            let number = value.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0);
            let number = number.ok_or_else(wrong)?;
            match name {
                "tokens_per_second" => fake.tokens_per_second = Some(number),
                "tilt" => fake.tilt = number as f32,
                "memory_tokens" => fake.memory_tokens = Some(number as usize),
                _ => return Err(wrong()),
            }
        }
        Ok(fake)
    }
}

/// Byte ranges of the tokens: runs of letters and digits in pieces of at most 12 characters, CJK
/// characters one by one, other visible characters one by one.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = &text[at..];
            let first = rest.chars().next()?;
            let start = at;
            at += first.len_utf8();
            if first.is_whitespace() {
                continue;
            }
            if in_word(first) {
                for c in rest.chars().skip(1).take(PIECE - 1).take_while(|c| in_word(*c)) {
                    at += c.len_utf8();
                }
            }
            return Some(start..at);
        }
    })
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() && !('\u{2e80}'..='\u{9fff}').contains(&c)
}

/// Id of a piece: FNV-1a over its bytes, ASCII letters lower-cased.
pub(crate) fn id(piece: &str) -> u32 {
    piece.bytes().fold(0x811c_9dc5, |hash: u32, byte| {
        (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
    })
}

/// The encoder behind [`FakeTower`].
pub(crate) struct FakeEncoder {
    tower: FakeTower,
    /// After the Matryoshka cut.
    dimensions: usize,
    normalize: bool,
}

impl FakeEncoder {
    pub(crate) fn new(tower: FakeTower, dimensions: u32, normalize: bool) -> Self {
        Self { tower, dimensions: dimensions as usize, normalize }
    }
}

impl Encoder for FakeEncoder {
    fn encode(&mut self, sequences: &[&[u32]]) -> Result<Embeddings> {
        let started = Instant::now();
        let tokens: usize = sequences.iter().map(|sequence| sequence.len()).sum();
        if self.tower.memory_tokens.is_some_and(|most| tokens > most) {
            return Err(Error::resource(format!(
                "the device is out of memory: a batch of {tokens} tokens does not fit"
            )));
        }
        let mut rows = Embeddings::with_capacity(self.dimensions, sequences.len());
        let mut row = vec![0f32; self.dimensions];
        let mut sums = vec![0i64; self.dimensions];
        for sequence in sequences {
            if sequence.is_empty() {
                return Err(Error::input("a sequence has no tokens"));
            }
            sums.fill(0);
            for token in *sequence {
                for (dimension, sum) in sums.iter_mut().enumerate() {
                    let word = mix((u64::from(*token) << 32) | dimension as u64);
                    *sum += i64::from((word >> 48) as u16) * 2 - i64::from(u16::MAX);
                }
            }
            // Sums are exact integers; division and square root are exactly rounded everywhere.
            let squares: i128 = sums.iter().map(|sum| i128::from(*sum) * i128::from(*sum)).sum();
            // At least 1 unless all sums are 0, and then the row is 0.
            let scale = if self.normalize {
                (squares as f64).sqrt().max(1.0)
            } else {
                sequence.len() as f64 * f64::from(u16::MAX)
            };
            for (value, sum) in row.iter_mut().zip(&sums) {
                *value = (*sum as f64 / scale) as f32;
            }
            if self.tower.tilt > 0.0 {
                for at in 1..row.len() {
                    row[at] += self.tower.tilt * row[at - 1];
                }
            }
            rows.push(&row);
        }
        if let Some(rate) = self.tower.tokens_per_second {
            // Its own arithmetic is part of the time.
            let paced = Duration::from_secs_f64(tokens as f64 / rate);
            std::thread::sleep(paced.saturating_sub(started.elapsed()));
        }
        Ok(rows)
    }

    /// The pace is the most that it reaches.
    fn ceiling(&self) -> Option<f64> {
        self.tower.tokens_per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(texts: &[&str]) -> Embeddings {
        let tower = FakeTower::parse("256").unwrap();
        let ids: Vec<Vec<u32>> =
            texts.iter().map(|text| pieces(text).map(|p| id(&text[p])).collect()).collect();
        let sequences: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        FakeEncoder::new(tower, 256, true).encode(&sequences).unwrap()
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn shared_words_make_similar_vectors() {
        let rows = encode(&[
            "How do I bake sourdough bread?",
            "bake the sourdough bread at home",
            "kernel module signing keys",
        ]);
        assert!((dot(rows.row(0), rows.row(0)) - 1.0).abs() < 1e-6);
        assert!(dot(rows.row(0), rows.row(1)) > dot(rows.row(0), rows.row(2)) + 0.2);
    }

    #[test]
    fn the_bytes_are_pinned() {
        let rows = encode(&["note"]);
        let bits: Vec<u32> = rows.row(0)[..3].iter().map(|value| value.to_bits()).collect();
        assert_eq!(id("note"), id("NOTE"));
        assert_eq!(bits, PINNED, "every machine must give these bytes");
    }

    const PINNED: [u32; 3] = [1_017_182_062, 1_029_952_529, 3_179_383_983];

    #[test]
    fn pieces_cover_words_and_characters() {
        let text = " internationalisation 你好, ok ";
        let found: Vec<&str> = pieces(text).map(|piece| &text[piece]).collect();
        assert_eq!(found, ["internationa", "lisation", "你", "好", ",", "ok"]);
    }

    #[test]
    fn options_are_checked() {
        let tower = FakeTower::parse("8?tokens_per_second=500").unwrap();
        assert_eq!((tower.dimensions, tower.tokens_per_second), (8, Some(500.0)));
        assert_eq!(FakeTower::parse("8?tilt=0.5&tokens_per_second=2").unwrap().tilt, 0.5);
        for wrong in
            ["", "0", "8?x=1", "8?tilt=-1", "8?tokens_per_second=0", "8?tokens_per_second=nan"]
        {
            assert!(FakeTower::parse(wrong).is_err(), "{wrong}");
        }
    }
}
