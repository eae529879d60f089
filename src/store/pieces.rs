//! Hashes of the pieces of a stored file, so that reading a page of it checks the bytes that it is about to decode.
//!
//! The SHA-256 in a receipt or a manifest is that of a whole file. What is read is checked by it, every kind of file by
//! every reader:
//!
//! | file | reader | what is hashed, and when |
//! |---|---|---|
//! | part | build, calibration, compaction, purge, drift check, `verify`'s sample, training and evaluation | each piece that is read, whenever it is ([`ParquetObject`](super::ParquetObject)); `embedding::object` says how for parts of earlier releases |
//! | prepared | plan, encode, build, drift check | all of it while it is written, or once before another process reads it; then each piece, whenever it is read |
//! | prepared, of a run with a plan | a purge's look at it | all of it, once; then each piece, whenever it is read |
//! | located, removed keys, ids | plan, encode, build, purge, `diff` | the bytes in memory that are then decoded ([`Root::get_file`](super::Root::get_file)) |
//! | index, sidecar, ids | search, serve, `verify`'s canaries, the measuring of a shard that grew | the file, before it is mapped ([`Root::fetch`](super::Root::fetch), [`Root::copy`](super::Root::copy)); `search::fetch` says what is mapped where |
//! | adapted query tower | search, serve, the next adaptation | the bytes in memory that are then loaded ([`Root::get_file`](super::Root::get_file)) |
//! | everything that a snapshot names | `snapshot verify` | all of it (what is opened for the canaries is hashed by that) |
//! | everything whose name ends in its hash | a purge's look at it, `snapshot repair` | all of it |
//! | the other files of an adapted query tower | `snapshot repair` | all of it, by what snapshots and receipts say |
//! | manifest | everybody | its content |
//!
//! Plans, receipts, the frozen scale and reports have no hash that anything else holds: what a receipt says of a file
//! is compared with the file.
//!
//! A part's receipt brings the hashes of its pieces, so reading one column, or the page of one vector, reads and hashes
//! little more than that. Of a file without such hashes all is hashed once in a process, and the hashes of its pieces
//! are kept in memory from then on (32 bytes for 256 KiB). They are remembered by the file's SHA-256 alone: they hold
//! for every copy of these bytes in any root, and a file that changes after it was hashed is found out all the same.

use std::collections::HashMap;
use std::iter::{Peekable, StepBy};
use std::ops::{Range, RangeFrom};
use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{Digest256, Hasher256};

/// Pieces of a file that was written without hashes of its pieces.
const PIECE: u64 = 256 << 10;

/// A file in consecutive pieces, with the SHA-256 of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pieces {
    /// Where each piece ends; the last ends with the file.
    pub(super) ends: Vec<u64>,
    /// The SHA-256 of each.
    sha256: Vec<Digest256>,
}

impl Pieces {
    /// Whether these are pieces of a file of `size` bytes.
    pub fn cover(&self, size: u64) -> bool {
        self.ends.len() == self.sha256.len()
            && self.ends.is_sorted_by(|a, b| a < b)
            && self.size() == size
            && self.ends.first() != Some(&0)
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The pieces that hold the bytes of `range`.
    pub(super) fn touched(&self, range: &Range<u64>) -> Range<usize> {
        let first = self.ends.partition_point(|end| *end <= range.start);
        let last = self.ends.partition_point(|end| *end < range.end);
        first..if range.is_empty() { first } else { (last + 1).min(self.ends.len()) }
    }

    /// The bytes of some pieces.
    pub(super) fn bytes(&self, pieces: &Range<usize>) -> Range<u64> {
        let end = |piece: usize| piece.checked_sub(1).map_or(0, |before| self.ends[before]);
        end(pieces.start)..end(pieces.end)
    }

    /// The first of `pieces` that is not what it was, where `bytes` are the bytes of all of them.
    pub(super) fn altered(&self, pieces: Range<usize>, bytes: &[u8]) -> Option<Range<u64>> {
        let start = self.bytes(&pieces).start;
        pieces.map(|piece| (piece, self.bytes(&(piece..piece + 1)))).find_map(|(piece, place)| {
            let (from, to) = ((place.start - start) as usize, (place.end - start) as usize);
            let same = bytes.get(from..to).is_some_and(|b| Digest256::of(b) == self.sha256[piece]);
            (!same).then_some(place)
        })
    }
}

/// Cuts a file into pieces while its bytes go by.
pub struct Cutter<I: Iterator<Item = u64>> {
    ends: Peekable<I>,
    at: u64,
    hasher: Hasher256,
    pieces: Pieces,
}

/// Hashes a file while its bytes go by, as a whole and in pieces of one size, and remembers these.
pub struct FileHasher {
    whole: Hasher256,
    cutter: Cutter<StepBy<RangeFrom<u64>>>,
}

impl Default for FileHasher {
    fn default() -> Self {
        let cutter = Cutter::new((PIECE..).step_by(PIECE as usize));
        Self { whole: Hasher256::new(), cutter }
    }
}

impl FileHasher {
    /// The next bytes of the file.
    pub fn add(&mut self, bytes: &[u8]) {
        self.whole.raw(bytes);
        self.cutter.add(bytes);
    }

    /// The SHA-256 and the size of the file.
    pub fn finish(self) -> (Digest256, u64) {
        let (sha256, pieces) = self.keep();
        (sha256, pieces.size())
    }

    pub(super) fn keep(self) -> Hashed {
        let hashed = (self.whole.finish(), Arc::new(self.cutter.finish()));
        remember(hashed.0, Arc::clone(&hashed.1));
        hashed
    }
}

impl<I: Iterator<Item = u64>> Cutter<I> {
    /// Pieces that end at `ends`, which ascend.
    pub fn new(ends: I) -> Self {
        let pieces = Pieces { ends: Vec::new(), sha256: Vec::new() };
        Self { ends: ends.peekable(), at: 0, hasher: Hasher256::new(), pieces }
    }

    /// The next bytes of the file.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            while self.ends.next_if(|end| *end <= self.at).is_some() {}
            let left = self.ends.peek().map_or(u64::MAX, |end| end - self.at);
            let now;
            (now, bytes) =
                bytes.split_at(bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            self.hasher.raw(now);
            self.at += now.len() as u64;
            if now.len() as u64 == left {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        self.pieces.ends.push(self.at);
        self.pieces.sha256.push(std::mem::take(&mut self.hasher).finish());
    }

    /// The pieces of all bytes that went by.
    pub fn finish(mut self) -> Pieces {
        if self.pieces.size() < self.at {
            self.cut();
        }
        self.pieces
    }
}

/// What was hashed as a whole in this process, by the start of its SHA-256.
static HASHED: Mutex<Option<HashMap<String, Hashed>>> = Mutex::new(None);

/// The SHA-256 of a file and its pieces.
pub(super) type Hashed = (Digest256, Arc<Pieces>);

pub(super) fn hashed(short: &str) -> Option<Hashed> {
    HASHED.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.get(short).cloned()
}

fn remember(sha256: Digest256, pieces: Arc<Pieces>) {
    let mut hashed = HASHED.lock().unwrap_or_else(PoisonError::into_inner);
    hashed.get_or_insert_default().insert(sha256.short(), (sha256, pieces));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], ends: &[u64], step: usize) -> Pieces {
        let mut cutter = Cutter::new(ends.iter().copied());
        bytes.chunks(step).for_each(|bytes| cutter.add(bytes));
        cutter.finish()
    }

    #[test]
    fn pieces_are_cut_where_asked_however_the_bytes_come() {
        let bytes: Vec<u8> = (0..100).collect();
        let pieces = cut(&bytes, &[0, 10, 10, 64], 100);
        assert_eq!(pieces.ends, [10, 64, 100]);
        assert_eq!(pieces.sha256[1], Digest256::of(&bytes[10..64]));
        for step in [1, 7, 10, 54] {
            assert_eq!(cut(&bytes, &[10, 64, 100], step), pieces);
        }
        assert!(pieces.cover(100) && !pieces.cover(99));
        assert!(cut(&[], &[], 1).cover(0));
        assert_eq!(pieces.touched(&(0..10)), 0..1);
        assert_eq!(pieces.touched(&(9..11)), 0..2);
        assert_eq!(pieces.touched(&(64..100)), 2..3);
        assert_eq!(pieces.touched(&(64..64)), 2..2);
        assert_eq!(pieces.bytes(&(1..3)), 10..100);
        assert_eq!(pieces.altered(1..3, &bytes[10..]), None);
        let mut other = bytes.clone();
        other[99] ^= 1;
        assert_eq!(pieces.altered(1..3, &other[10..]), Some(64..100));
        assert_eq!(pieces.altered(0..3, &bytes[..50]), Some(10..64));
    }
}
