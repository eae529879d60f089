//! Which rows of a shard a search may return.

use arrow::array::BooleanBufferBuilder;
use arrow::buffer::BooleanBuffer;

use crate::error::{Error, Result};

/// A set of the rows of one shard: row `r` is that of the `r`-th key.
#[derive(Debug, Clone, PartialEq)]
pub struct RowSet {
    bits: BooleanBuffer,
    count: usize,
}

/// How many distances a walk over the graph costs for each candidate it must collect when every row passes,
/// measured against the distances of a scan: see benches/README.md.
const WALK: usize = 4;

impl RowSet {
    /// The rows whose bit is set.
    pub fn new(bits: BooleanBuffer) -> Self {
        let count = bits.count_set_bits();
        Self { bits, count }
    }

    /// Every row but those of `removed`, of a segment with these `keys` (ascending).
    ///
    /// # Errors
    /// Corrupt for a removed key that the segment does not hold.
    pub fn without(keys: &[u64], removed: &[u64]) -> Result<Self> {
        let mut bits = BooleanBufferBuilder::new(keys.len());
        bits.append_n(keys.len(), true);
        for key in removed {
            let row = keys.binary_search(key).map_err(|_| {
                Error::corrupt(format!(
                    "key {key:016x} is removed from a segment that never held it"
                ))
            })?;
            bits.set_bit(row, false);
        }
        Ok(Self::new(bits.finish()))
    }

    /// The rows in both sets, which are over the same rows.
    pub fn and(&self, other: &Self) -> Self {
        Self::new(&self.bits & &other.bits)
    }

    /// Rows of the shard, in the set or not.
    pub fn rows(&self) -> usize {
        self.bits.len()
    }

    /// Rows in the set.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True for a set without rows.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `row` is in the set; false beyond the shard's rows.
    pub fn contains(&self, row: usize) -> bool {
        row < self.bits.len() && self.bits.value(row)
    }

    /// The rows in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.bits.set_indices()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.bits.len().div_ceil(8)
    }

    pub(super) fn is_full(&self) -> bool {
        self.count == self.bits.len()
    }

    /// Whether comparing with every row of the set costs less than a walk that collects `candidates` of them.
    ///
    /// A walk meets `rows / count` times as many rows as it collects, so it costs about `WALK * candidates * rows / count`
    /// distances; the scan costs `count`.
    pub(super) fn is_worth_scanning(&self, candidates: usize) -> bool {
        let scan = self.count as u128 * self.count as u128;
        scan <= WALK as u128 * candidates as u128 * self.bits.len() as u128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_keys_leave_the_set() {
        let keys = [3, 5, 9];
        let live = RowSet::without(&keys, &[5]).unwrap();
        assert_eq!((live.len(), live.contains(1)), (2, false));
        assert!(RowSet::without(&keys, &[]).unwrap().is_full());
        assert_eq!(
            live.and(&RowSet::without(&keys, &[3]).unwrap()).iter().collect::<Vec<_>>(),
            [2]
        );
        assert!(RowSet::without(&keys, &[4]).is_err());
    }

    #[test]
    fn rows_in_and_out_of_the_set() {
        let set = RowSet::new(BooleanBuffer::collect_bool(100, |row| row % 7 == 0));
        assert_eq!((set.rows(), set.len(), set.bytes()), (100, 15, 13));
        assert!(set.contains(98) && !set.contains(99) && !set.contains(105));
        assert_eq!(set.iter().collect::<Vec<_>>().len(), 15);
        assert!(set.iter().all(|row| row % 7 == 0));
        assert!(!set.is_full() && set.is_worth_scanning(64));
        let large = RowSet::new(BooleanBuffer::new_set(1_000_000));
        assert!(large.is_full() && !large.is_worth_scanning(80));
    }
}
