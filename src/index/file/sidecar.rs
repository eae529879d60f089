//! The f16 sidecar: unit vectors at a fixed stride, memory-mapped, for rescoring and exact search.
//!
//! ```text
//! 64 bytes   "SNF16\0\0\0", u32 version, u32 dimensions, u64 count, zeros
//! count x u64 keys, ascending; zeros up to a multiple of 64
//! count x dimensions f16
//! ```
//! All numbers are little-endian.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::index::rows::{Best, Hit};
use crate::kernel::{dot_f16, prefetch};

const MAGIC: &[u8; 8] = b"SNF16\0\0\0";
const VERSION: u32 = 1;
const HEAD: usize = 64;

/// Maps a whole file for reading. Nobody may change it as long as it is mapped; what happens otherwise:
///
/// - cut short: reading beyond its new end kills the process with SIGBUS. No check beforehand helps, nor does a
///   private mapping.
/// - written over: our own readers answer wrongly, or panic where a length or a link that they read again no longer fits
///   (they reach into the map through slices, whose bounds are the map's). usearch, which maps an index again by its
///   path, follows the links in it without looking: [`Layout::parse`](super::format::Layout::parse) checked every one of
///   them at opening, and one that changes afterwards leads it out of the file (SIGSEGV).
///
/// So a file is hashed before it is mapped, and what is mapped for long is a copy of our own.
pub(in crate::index) fn map_file(path: &Path) -> Result<Mmap> {
    let failed = |cause: std::io::Error| Error::io(cause, format!("opening {}", path.display()));
    let file = File::open(path).map_err(failed)?;
    // SAFETY: the bytes must not change while they are mapped. Mapped are a build's own files in a temporary folder of
    // its own, copies that `Root::copy` made in a cache folder, both of which nothing else writes to, and files of a
    // local root where they are. This program never changes one of those in place, and one that is deleted stays
    // mapped; that nobody else does either is what the caller must know (`search::fetch` says who maps what; a command
    // that reads for a moment, and `serve --in-place`).
    unsafe { Mmap::map(&file) }.map_err(failed)
}

/// Offset of the first vector.
fn vectors_at(count: usize) -> Option<usize> {
    count.checked_mul(8)?.checked_add(HEAD)?.checked_next_multiple_of(64)
}

/// Streams a sidecar to a file: keys first, then one unit vector per key.
pub(in crate::index) struct SidecarWriter {
    out: BufWriter<File>,
    path: std::path::PathBuf,
    dimensions: usize,
    left: usize,
    row: Vec<f16>,
}

impl SidecarWriter {
    /// Creates `path` with the head and `keys` (ascending).
    pub fn create(path: &Path, dimensions: usize, keys: &[u64]) -> Result<Self> {
        let wide = u32::try_from(dimensions).map_err(|_| Error::internal("dimensions overflow"))?;
        let file = File::create(path).map_err(|cause| write_error(path, cause))?;
        let mut writer = Self {
            out: BufWriter::with_capacity(1 << 18, file),
            path: path.to_owned(),
            dimensions,
            left: keys.len(),
            row: Vec::with_capacity(dimensions),
        };
        let mut head = [0u8; HEAD];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&wide.to_le_bytes());
        head[16..24].copy_from_slice(&(keys.len() as u64).to_le_bytes());
        writer.put(&head)?;
        for key in keys {
            writer.put(&key.to_le_bytes())?;
        }
        let end = HEAD + 8 * keys.len();
        writer.put(&[0; 64][..end.next_multiple_of(64) - end])?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|cause| write_error(&self.path, cause))
    }

    /// Appends the vector of the next key.
    pub fn push(&mut self, unit: &[f32]) -> Result<()> {
        let mut row = std::mem::take(&mut self.row);
        row.clear();
        row.extend(unit.iter().map(|x| f16::from_f32(*x)));
        let pushed = self.push_halves(&row);
        self.row = row;
        pushed
    }

    fn push_halves(&mut self, row: &[f16]) -> Result<()> {
        if row.len() != self.dimensions || self.left == 0 {
            return Err(Error::internal("a sidecar row too many or of the wrong length"));
        }
        self.left -= 1;
        if cfg!(target_endian = "little") {
            return self.put(bytemuck::cast_slice(row));
        }
        let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.put(&bytes)
    }

    /// Writes out what is buffered; every key must have got its vector.
    pub fn finish(mut self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::internal(format!("{} sidecar rows are missing", self.left)));
        }
        self.out.flush().map_err(|cause| write_error(&self.path, cause))
    }
}

/// An error of writing `path`.
pub(in crate::index) fn write_error(path: &Path, cause: std::io::Error) -> Error {
    Error::io(cause, format!("writing {}", path.display()))
}

/// A mapped sidecar.
#[derive(Debug)]
pub(in crate::index) struct Sidecar {
    map: Mmap,
    count: usize,
    dimensions: usize,
    vectors: usize,
}

impl Sidecar {
    /// Maps and checks a sidecar: size, version, ascending keys.
    ///
    /// # Errors
    /// Corrupt or Unsupported, naming the file.
    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        Self::check(map).or_error(ErrorKind::Corrupt, || format!("opening {}", path.display()))
    }

    fn check(map: Mmap) -> Result<Self> {
        if cfg!(target_endian = "big") {
            return Err(Error::unsupported(
                "sidecars are mapped as little-endian, which this machine is not",
            ));
        }
        let cut =
            || Error::corrupt("the sidecar is cut short or has bytes too many; fetch it again");
        let head: &[u8; HEAD] =
            map.get(..HEAD).and_then(|head| head.try_into().ok()).ok_or_else(cut)?;
        if &head[..8] != MAGIC {
            return Err(Error::corrupt("no f16 sidecar: its magic number is missing"));
        }
        let u32_at =
            |at: usize| head[at..at + 4].iter().rev().fold(0, |x, b| x << 8 | u32::from(*b));
        if u32_at(8) != VERSION {
            return Err(Error::unsupported(format!(
                "sidecar version {}, known is {VERSION}; rebuild the index",
                u32_at(8)
            )));
        }
        let dimensions = u32_at(12) as usize;
        let count = head[16..24].iter().rev().fold(0u64, |x, b| x << 8 | u64::from(*b));
        let count = usize::try_from(count).map_err(|_| cut())?;
        let vectors = vectors_at(count).ok_or_else(cut)?;
        let size =
            count.checked_mul(dimensions).and_then(|all| all.checked_mul(2)?.checked_add(vectors));
        if dimensions == 0 || size != Some(map.len()) {
            return Err(cut());
        }
        let sidecar = Self { map, count, dimensions, vectors };
        if !sidecar.keys().is_sorted_by(|a, b| a < b) {
            return Err(Error::corrupt("the keys of the sidecar do not ascend; fetch it again"));
        }
        Ok(sidecar)
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Keys, ascending.
    pub fn keys(&self) -> &[u64] {
        // Offset 64 of a page-aligned map is aligned, and the length was checked: the cast cannot fail.
        bytemuck::cast_slice(&self.map[HEAD..HEAD + 8 * self.count])
    }

    fn halves(&self) -> &[f16] {
        bytemuck::cast_slice(&self.map[self.vectors..])
    }

    /// The row of a key. Keys are spread evenly (they are hashes), so its place is guessed and the search starts
    /// there: about three looks instead of 17 among 100,000 keys.
    pub fn row_of(&self, key: u64) -> Option<usize> {
        let keys = self.keys();
        let guess = ((u128::from(key) * keys.len() as u128) >> 64) as usize;
        // Whatever the keys are, `low..high` holds the key if anything does.
        let (mut low, mut high, mut step) = (guess, guess, 16);
        while low > 0 && keys[low] > key {
            low = low.saturating_sub(step);
            step *= 2;
        }
        step = 16;
        while high < keys.len() && keys[high] <= key {
            high = high.saturating_add(step).min(keys.len());
            step *= 2;
        }
        keys.get(low..high)?.binary_search(&key).ok().map(|at| low + at)
    }

    pub fn row(&self, at: usize) -> &[f16] {
        &self.halves()[at * self.dimensions..(at + 1) * self.dimensions]
    }

    /// Asks for row `at` before it is read.
    pub fn prefetch(&self, at: usize) {
        prefetch(self.halves(), at * self.dimensions, self.dimensions);
    }

    /// Row `at` as f32.
    pub fn row_f32(&self, at: usize) -> Vec<f32> {
        let mut wide = vec![0.0; self.dimensions];
        self.row(at).convert_to_f32_slice(&mut wide);
        wide
    }

    /// Cosine of row `at` with a unit query.
    pub fn score(&self, at: usize, unit: &[f32]) -> f32 {
        dot_f16(self.row(at), unit)
    }

    /// The `k` best of `rows`, best first, ties by key.
    pub fn search(&self, unit: &[f32], k: usize, rows: impl Iterator<Item = usize>) -> Vec<Hit> {
        let (keys, mut best) = (self.keys(), Best::new(k.min(self.count)));
        for at in rows {
            best.push(Hit { key: keys[at], score: dot_f16(self.row(at), unit) });
        }
        best.into_sorted()
    }
}
