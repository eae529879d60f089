//! Matrices of few bits an element inside a safetensors file: how a small query tower is shipped.
//!
//! A row is cut into groups; a group has a scale (f16) and whole numbers of `bits` bits, packed without gaps, a row
//! starting on a byte. Of a table of embeddings the rows that are hardly ever looked up may be left out; they read as
//! the row of the unknown token. Under the file's metadata key [`KEY`] lies a JSON object: tensor name -> [`Packed`].
//! The tensor holds the bits (U8), `<name>.scales` the scales `[rows kept, groups]`, `<name>.kept` a bitmap of the rows
//! kept (lowest bit first), where not all are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Metadata key of the description.
pub const KEY: &str = "scalingnote_packed";
/// A table may have this many times as many rows as are kept: what a damaged file can make a reader allocate is
/// bounded.
const LARGEST_TABLE: usize = 64;

/// How a matrix is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packed {
    /// Rows and width of the matrix as it reads.
    pub shape: [usize; 2],
    /// Bits of an element, 2 to 8.
    pub bits: u32,
    /// Elements that share a scale.
    pub group: usize,
    /// Row that stands for those left out; absent where all are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<usize>,
}

/// The parts of a packed matrix, as they are in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    /// Packed elements, row by row.
    pub bits: Vec<u8>,
    /// `[rows kept, groups]`.
    pub scales: Vec<half::f16>,
    /// Bitmap of the rows kept; empty where all are.
    pub kept: Vec<u8>,
}

impl Packed {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        (self.shape[1] * self.bits as usize).div_ceil(8)
    }

    /// Scales of one row.
    pub fn groups(&self) -> usize {
        self.shape[1].div_ceil(self.group.max(1))
    }

    fn levels(&self) -> f32 {
        ((1u32 << (self.bits - 1)) - 1) as f32
    }

    fn check(&self) -> Result<()> {
        let [rows, width] = self.shape;
        let sizes = rows > 0 && width > 0 && rows < 1 << 26 && width < 1 << 20;
        if !sizes || !(2..=8).contains(&self.bits) || self.group == 0 {
            return Err(Error::corrupt(format!("a matrix cannot be packed as {self:?}")));
        }
        if self.missing.is_some_and(|row| row >= rows) {
            return Err(Error::corrupt(
                "the row that stands for missing ones is none of the table's",
            ));
        }
        Ok(())
    }

    /// Packs a matrix. `keep` says which rows stay (`missing` must be among them); without it all do.
    ///
    /// # Errors
    /// Input for values that are not finite; Corrupt for a description that fits nothing.
    pub fn pack(&self, values: &[f32], keep: Option<&[bool]>) -> Result<Parts> {
        self.check()?;
        let [rows, width] = self.shape;
        let kept_missing = match (keep, self.missing) {
            (None, None) => true,
            (Some(keep), Some(row)) => keep.len() == rows && keep[row],
            _ => false,
        };
        if values.len() != rows * width || !kept_missing {
            return Err(Error::internal("a matrix and its description do not fit"));
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::input("a weight is not finite"));
        }
        let mut parts = Parts { bits: Vec::new(), scales: Vec::new(), kept: Vec::new() };
        if let Some(keep) = keep {
            parts.kept = vec![0; rows.div_ceil(8)];
            for (at, _) in keep.iter().enumerate().filter(|(_, keep)| **keep) {
                parts.kept[at / 8] |= 1 << (at % 8);
            }
        }
        for (at, row) in values.chunks_exact(width).enumerate() {
            if keep.is_some_and(|keep| !keep[at]) {
                continue;
            }
            let mut writer = Bits { bytes: vec![0; self.row_bytes()], at: 0 };
            for group in row.chunks(self.group) {
                let scale = best_scale(group, self.levels());
                parts.scales.push(scale);
                for value in group {
                    let whole = quantised(*value, scale.to_f32(), self.levels());
                    writer.put((whole + self.levels()) as u32, self.bits);
                }
            }
            parts.bits.extend(writer.bytes);
        }
        Ok(parts)
    }

    /// The matrix as f32, row by row.
    ///
    /// # Errors
    /// Corrupt where the parts do not fit the description or a scale is not finite.
    pub fn unpack(&self, parts: &Parts) -> Result<Vec<f32>> {
        self.check()?;
        let [rows, width] = self.shape;
        let wrong = |what: &str| Err(Error::corrupt(format!("a packed matrix has {what}")));
        let kept = |row: usize| parts.kept[row / 8] >> (row % 8) & 1 == 1;
        let count = match self.missing {
            None => rows,
            Some(_) if parts.kept.len() != rows.div_ceil(8) => {
                return wrong("another number of rows than its bitmap");
            }
            Some(missing) if !kept(missing) => return wrong("no row for those left out"),
            Some(_) => (0..rows).filter(|row| kept(*row)).count(),
        };
        if parts.bits.len() != count * self.row_bytes()
            || parts.scales.len() != count * self.groups()
        {
            return wrong("more or less than its rows");
        }
        if rows > count.saturating_mul(LARGEST_TABLE) {
            return wrong("hardly any of its rows");
        }
        if parts.scales.iter().any(|scale| !scale.is_finite()) {
            return wrong("a scale that is not finite");
        }
        let mut read = vec![0.0; count * width];
        let rows_read = read.chunks_exact_mut(width);
        let stored = parts.bits.chunks_exact(self.row_bytes());
        for ((row, bytes), scales) in
            rows_read.zip(stored).zip(parts.scales.chunks_exact(self.groups()))
        {
            for (at, value) in row.iter_mut().enumerate() {
                let whole = get(bytes, at * self.bits as usize, self.bits) as f32 - self.levels();
                *value = whole * scales[at / self.group].to_f32();
            }
        }
        let Some(missing) = self.missing else { return Ok(read) };
        let stand_in = (0..missing).filter(|row| kept(*row)).count();
        let stand_in = read[stand_in * width..(stand_in + 1) * width].to_vec();
        let mut whole = Vec::with_capacity(rows * width);
        let mut next = read.chunks_exact(width);
        for row in 0..rows {
            let values = if kept(row) { next.next() } else { None };
            whole.extend_from_slice(values.unwrap_or(&stand_in));
        }
        Ok(whole)
    }
}

/// The descriptions that a file's metadata holds.
pub(crate) fn described(metadata: &BTreeMap<String, String>) -> Result<BTreeMap<String, Packed>> {
    let Some(text) = metadata.get(KEY) else { return Ok(BTreeMap::new()) };
    let all: BTreeMap<String, Packed> =
        serde_json::from_str(text).or_error(ErrorKind::Corrupt, || format!("metadata {KEY}"))?;
    for packed in all.values() {
        packed.check()?;
    }
    Ok(all)
}

/// The scale with the least squared error among some at and below the one that spans the whole group.
fn best_scale(group: &[f32], levels: f32) -> half::f16 {
    let largest = group.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let error = |scale: half::f16| -> f32 {
        let scale = scale.to_f32();
        group.iter().map(|value| (value - scale * quantised(*value, scale, levels)).powi(2)).sum()
    };
    let candidates =
        (0..12).map(|step| half::f16::from_f32(largest / levels * (1.0 - 0.03 * step as f32)));
    candidates
        .map(|scale| (error(scale), scale))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(half::f16::ZERO, |(_, scale)| scale)
}

fn quantised(value: f32, scale: f32, levels: f32) -> f32 {
    // A scale too small for f16 is 0, and so is what it would have told apart.
    if scale > 0.0 { (value / scale).round().clamp(-levels, levels) } else { 0.0 }
}

struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    fn put(&mut self, value: u32, bits: u32) {
        for bit in 0..bits as usize {
            let at = self.at + bit;
            self.bytes[at / 8] |= ((value >> bit & 1) as u8) << (at % 8);
        }
        self.at += bits as usize;
    }
}

fn get(bytes: &[u8], at: usize, bits: u32) -> u32 {
    let low = u32::from(bytes[at / 8]);
    let high = bytes.get(at / 8 + 1).map_or(0, |byte| u32::from(*byte));
    (low | high << 8) >> (at % 8) & ((1 << bits) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize) -> Vec<f32> {
        (0..count).map(|at| (at as f32 * 0.7).sin() * (1.0 + (at % 7) as f32)).collect()
    }

    #[test]
    fn what_is_packed_reads_back_within_half_a_step() {
        let values = wave(5 * 37);
        let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
        let mut last = f32::INFINITY;
        for bits in 2..=8 {
            for group in [8, 16, 37, 64] {
                let packed = Packed { shape: [5, 37], bits, group, missing: None };
                let parts = packed.pack(&values, None).unwrap();
                assert_eq!(parts.bits.len(), 5 * (37 * bits as usize).div_ceil(8));
                assert_eq!(parts.scales.len(), 5 * 37usize.div_ceil(group));
                let read = packed.unpack(&parts).unwrap();
                let error =
                    read.iter().zip(&values).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
                if group == 8 {
                    assert!(error < 0.7 * last, "{bits} bits: {error} after {last}");
                    last = error;
                }
                if bits == 8 {
                    assert!(error < 0.008 * norm, "{group}: {error} of {norm}");
                }
            }
        }
    }

    #[test]
    fn rows_left_out_read_as_the_unknown_token() {
        let values = wave(20 * 8);
        let keep: Vec<bool> = (0..20).map(|row| row % 3 != 0 || row == 9).collect();
        let packed = Packed { shape: [20, 8], bits: 8, group: 8, missing: Some(9) };
        let parts = packed.pack(&values, Some(&keep)).unwrap();
        let read = packed.unpack(&parts).unwrap();
        for (row, keep) in keep.iter().enumerate() {
            let from = if *keep { row } else { 9 };
            for at in 0..8 {
                let (got, expected) = (read[row * 8 + at], values[from * 8 + at]);
                assert!((got - expected).abs() < 0.04, "{row} {at}: {got} {expected}");
            }
        }
        // An all-zero group stays zero, values that are not numbers are refused.
        let zeros = Packed { shape: [1, 4], bits: 4, group: 4, missing: None };
        let parts = zeros.pack(&[0.0; 4], None).unwrap();
        assert_eq!(zeros.unpack(&parts).unwrap(), [0.0; 4]);
        assert_eq!(zeros.pack(&[f32::NAN; 4], None).unwrap_err().kind(), ErrorKind::Input);
    }

    #[test]
    fn damaged_parts_are_refused() {
        let packed = Packed { shape: [16, 8], bits: 5, group: 4, missing: Some(1) };
        let keep: Vec<bool> = (0..16).map(|row| row < 4).collect();
        let good = packed.pack(&wave(16 * 8), Some(&keep)).unwrap();
        packed.unpack(&good).unwrap();
        type Damage<'a> = &'a dyn Fn(&mut Packed, &mut Parts);
        let damage: [Damage<'_>; 8] = [
            &|_, parts| parts.bits.truncate(3),
            &|_, parts| parts.scales.truncate(3),
            &|_, parts| parts.kept.truncate(1),
            &|_, parts| parts.kept[0] = 0b1101,
            &|_, parts| parts.scales[0] = half::f16::NAN,
            &|packed, _| packed.bits = 9,
            &|packed, _| packed.group = 0,
            &|packed, _| packed.shape = [usize::MAX, 8],
        ];
        for change in damage {
            let (mut packed, mut parts) = (packed, good.clone());
            change(&mut packed, &mut parts);
            assert_eq!(packed.unpack(&parts).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
