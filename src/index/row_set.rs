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

/// Rows that a walk over the graph meets for each candidate that it collects.
const MET: u128 = 24;
/// What meeting one costs beside its distance (the queue, the visited set, a cache miss), in elements of a scanned row.
const OVERHEAD: u128 = 600;

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
    /// A scan costs one row for each row of the set. A walk collects only one in `rows / count` of what it meets, and meeting
    /// a row costs as much as scanning `1 + OVERHEAD / dimensions`. On 80,000 x 100 a walk for 80 candidates
    /// takes 93 us and a scanned row 6 to 9 ns (2 cores of an AMD EPYC, Zen 5): the two meet at four rows in ten; by this
    /// estimate at 17 in a hundred of 100,000 rows of 1,024 elements. `cargo bench --bench index -- FOLDER --filter` measures both.
    pub(super) fn is_worth_scanning(&self, candidates: usize, dimensions: usize) -> bool {
        let (count, rows) = (self.count as u128, self.bits.len() as u128);
        let dimensions = dimensions.max(1) as u128;
        let walk = MET * candidates as u128 * (dimensions + OVERHEAD);
        count * count * dimensions <= walk * rows
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
        assert!(!set.is_full() && set.is_worth_scanning(64, 100));
        let large = RowSet::new(BooleanBuffer::new_set(1_000_000));
        assert!(large.is_full() && !large.is_worth_scanning(80, 100));
    }
}
