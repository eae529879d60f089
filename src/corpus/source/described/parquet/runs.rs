//! Runs of levels, of places in a dictionary, and of lengths, as pages encode them: counted, never written out.
//!
//! Format: <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

use std::collections::VecDeque;

use super::trouble::Broken;

const CUT: Broken = "the values of a page are cut off";

pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
    }
}

/// A number of so many bits at a place, the least first.
fn bits(bytes: &[u8], at: usize, width: u32) -> Option<u64> {
    let mut value = 0;
    for bit in 0..width as usize {
        let byte = bytes.get((at + bit) / 8)?;
        value |= u64::from(byte >> ((at + bit) % 8) & 1) << bit;
    }
    Some(value)
}

/// Hands on the values of the hybrid of run lengths and packed bits, each with how often it follows itself.
pub(super) fn hybrid(
    mut bytes: &[u8],
    width: u32,
    values: u64,
    mut each: impl FnMut(u64, u64) -> Result<(), Broken>,
) -> Result<(), Broken> {
    if width > 32 {
        return Err("values of a page have more than 32 bits");
    }
    let mut left = values;
    while left > 0 {
        let head = varint(&mut bytes).ok_or(CUT)?;
        if head & 1 == 0 {
            let size = width.div_ceil(8) as usize;
            let run = (head >> 1).min(left);
            each(bits(bytes, 0, width).ok_or(CUT)?, run)?;
            bytes = bytes.get(size..).ok_or(CUT)?;
            left -= run;
            if head == 0 {
                return Err(CUT);
            }
        } else {
            let count = (head >> 1).saturating_mul(8);
            for at in 0..count.min(left) {
                let place = usize::try_from(at).map_err(|_| CUT)? * width as usize;
                each(bits(bytes, place, width).ok_or(CUT)?, 1)?;
            }
            left -= count.min(left);
            let size = (head >> 1).saturating_mul(u64::from(width));
            // The last group may end with the page.
            bytes = usize::try_from(size).ok().and_then(|size| bytes.get(size..)).unwrap_or(&[]);
        }
    }
    Ok(())
}

/// Numbers that are encoded as differences, one after the other.
pub(super) struct Deltas<'a> {
    bytes: &'a [u8],
    per_block: u64,
    blocks: u64,
    /// Values that are not handed on yet.
    pub(super) left: u64,
    value: i64,
    is_first: bool,
    least: i64,
    widths: VecDeque<u8>,
    /// Of the block that is read: bytes, width, place, values.
    block: (&'a [u8], u32, u64, u64),
}

impl<'a> Deltas<'a> {
    pub(super) fn new(mut bytes: &'a [u8]) -> Option<Self> {
        let size = varint(&mut bytes)?;
        let blocks = varint(&mut bytes)?;
        let left = varint(&mut bytes)?;
        let value = zigzag(varint(&mut bytes)?);
        let per_block = size.checked_div(blocks).filter(|count| *count > 0 && count % 8 == 0)?;
        let widths = VecDeque::new();
        let block = (&bytes[..0], 0, 0, 0);
        let (is_first, least) = (true, 0);
        Some(Self { bytes, per_block, blocks, left, value, is_first, least, widths, block })
    }

    /// The next number; `None` where they are cut off.
    pub(super) fn next(&mut self) -> Option<i64> {
        self.left = self.left.checked_sub(1)?;
        if std::mem::take(&mut self.is_first) {
            return Some(self.value);
        }
        if self.block.2 == self.block.3 {
            if self.widths.is_empty() {
                self.least = zigzag(varint(&mut self.bytes)?);
                let blocks = usize::try_from(self.blocks).ok()?;
                let widths;
                (widths, self.bytes) = self.bytes.split_at_checked(blocks)?;
                self.widths.extend(widths);
            }
            let width = u32::from(self.widths.pop_front()?);
            let size = usize::try_from(self.per_block / 8 * u64::from(width)).ok()?;
            // The last block may end with its values.
            let (block, rest) = self.bytes.split_at(size.min(self.bytes.len()));
            (self.block, self.bytes) = ((block, width, 0, self.per_block), rest);
        }
        let (block, width, at, _) = self.block;
        let delta = bits(block, usize::try_from(at).ok()? * width as usize, width.min(64))?;
        self.block.2 += 1;
        self.value = self.value.wrapping_add(self.least).wrapping_add(delta as i64);
        Some(self.value)
    }

    /// What follows the last number. Blocks without values are not written, their widths are.
    pub(super) fn rest(mut self) -> Option<&'a [u8]> {
        while self.left > 0 {
            self.next()?;
        }
        Some(self.bytes)
    }
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The heaviest so many neighbours of a sequence that comes in runs of equal members.
pub(super) struct Heaviest {
    neighbours: u64,
    runs: VecDeque<(u64, u64)>,
    count: u64,
    sum: u64,
    pub(super) most: u64,
}

impl Heaviest {
    pub(super) fn of(neighbours: u64) -> Self {
        let neighbours = neighbours.max(1);
        Self { neighbours, runs: VecDeque::new(), count: 0, sum: 0, most: 0 }
    }

    pub(super) fn push(&mut self, weight: u64, mut times: u64) {
        // What follows the first full window repeats it.
        times = times.min(self.neighbours.saturating_mul(2));
        while times > 0 {
            let step = match self.runs.front_mut() {
                Some((first, count)) if self.count == self.neighbours => {
                    let step = (*count).min(times);
                    self.sum = self.sum.saturating_sub(first.saturating_mul(step));
                    self.count -= step;
                    *count -= step;
                    if *count == 0 {
                        self.runs.pop_front();
                    }
                    step
                }
                _ => times.min(self.neighbours - self.count),
            };
            match self.runs.back_mut() {
                Some((last, count)) if *last == weight => *count += step,
                _ => self.runs.push_back((weight, step)),
            }
            self.count += step;
            self.sum = self.sum.saturating_add(weight.saturating_mul(step));
            self.most = self.most.max(self.sum);
            times -= step;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_and_packed_bits_are_counted() {
        // Three times 5; then 0 to 7 in three bits each.
        let bytes = [6, 5, 3, 0x88, 0xc6, 0xfa];
        let mut all = Vec::new();
        let each = |value, times| {
            all.extend(vec![value; times as usize]);
            Ok(())
        };
        hybrid(&bytes, 3, 11, each).unwrap();
        assert_eq!(all, [5, 5, 5, 0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(hybrid(&bytes[..4], 3, 11, |_, _| Ok(())).is_err());
        assert!(hybrid(&[0, 0, 0], 1, 1, |_, _| Ok(())).is_err(), "a run of nothing");
    }

    proptest! {
        #[test]
        fn the_heaviest_neighbours_are_found(
            runs in prop::collection::vec((0_u64..5, 1_u64..6), 1..20),
            neighbours in 1_u64..12,
        ) {
            let mut heaviest = Heaviest::of(neighbours);
            let mut all = Vec::new();
            for (weight, times) in runs {
                heaviest.push(weight, times);
                all.extend(vec![weight; times as usize]);
            }
            let window = all.len().min(neighbours as usize);
            let most = all.windows(window).map(|window| window.iter().sum()).max();
            prop_assert_eq!(Some(heaviest.most), most);
        }
    }
}
