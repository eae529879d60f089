//! A memory-mapped index shard: search by the graph, rescoring from the sidecar, exact search.

use std::path::Path;

use super::options::{IndexOptions, Quantization};
use super::quantize::{Calibration, cosine_of};
use super::rescore::rescore;
use super::row_set::RowSet;
use super::rows::{Hit, best_first, unit};
use super::walk::{REMOVED, Walk};
use crate::error::{Error, Result, ResultExt};
use crate::index::file::format::{FREE_KEY, Layout};
use crate::index::file::sidecar::{Sidecar, map_file};

/// A memory-mapped index shard with its sidecar. Shared between threads by reference.
///
/// What is checked when it opens is not checked again: a search reads links and vectors of the graph and keys and vectors of
/// the sidecar from the maps. Neither file may be changed while it is open; `map_file` says what happens otherwise.
pub struct ShardIndex {
    walk: Walk,
    sidecar: Sidecar,
    options: IndexOptions,
}

impl std::fmt::Debug for ShardIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardIndex")
            .field("vectors", &self.len())
            .field("dimensions", &self.dimensions())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// usearch's letter for the metric and number for the element type of a quantisation.
pub(super) fn kinds(quantization: Quantization) -> (u8, u8) {
    match quantization {
        Quantization::F32 => (b'i', 11),
        Quantization::F16 => (b'i', 12),
        Quantization::Bf16 => (b'i', 4),
        Quantization::I8 => (b'c', 23),
        Quantization::B1 | Quantization::B1r => (b'b', 1),
    }
}

impl ShardIndex {
    /// Maps both files, whose bytes the caller has hashed; checks that they belong together (count, keys, dimensions, options) and that no
    /// byte of the graph leads outside the file.
    ///
    /// # Errors
    /// NotFound; Corrupt where a file is damaged or the two do not belong together.
    pub fn open(
        index: &Path,
        sidecar: &Path,
        options: &IndexOptions,
        calibration: &Calibration,
    ) -> Result<Self> {
        options.check()?;
        let sidecar_path = sidecar;
        let sidecar = Sidecar::open(sidecar)?;
        calibration.check(options, sidecar.dimensions())?;
        let opening = || format!("opening {}", index.display());
        let bytes = map_file(index)?;
        let walk = Layout::parse(&bytes).and_then(|layout| {
            let rows = paired(&bytes, &layout, &sidecar, sidecar_path, options)?;
            Walk::new(bytes, layout, rows, options, calibration)
        });
        let walk = walk.context(opening)?;
        Ok(Self { walk, sidecar, options: options.clone() })
    }

    /// Vectors.
    pub fn len(&self) -> usize {
        self.sidecar.len()
    }

    /// True without vectors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of a vector.
    pub fn dimensions(&self) -> usize {
        self.sidecar.dimensions()
    }

    /// The k best by the graph, rescored from the sidecar if the options say so; best first, ties by key.
    ///
    /// # Errors
    /// Input for a query of other dimensions, non-finite or zero.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Hit>> {
        self.search_unit(&self.query(query)?, k, k, None)
    }

    /// As [`ShardIndex::search`], among `rows` only. Where few rows are left it is [`ShardIndex::search_exact_among`]:
    /// faster there, and every row counts.
    ///
    /// # Errors
    /// As [`ShardIndex::search`]; Internal for the rows of another index.
    pub fn search_among(&self, query: &[f32], k: usize, rows: &RowSet) -> Result<Vec<Hit>> {
        self.check_rows(rows)?;
        self.search_unit_among(&self.query(query)?, k, k, rows)
    }

    /// The `keep` best of the candidates among `rows` that a search for `k` looks at.
    pub(super) fn search_unit_among(
        &self,
        query: &[f32],
        k: usize,
        keep: usize,
        rows: &RowSet,
    ) -> Result<Vec<Hit>> {
        if rows.is_full() {
            return self.search_unit(query, k, keep, None);
        }
        let candidates = k.saturating_mul(self.options.rescore.max(1));
        if rows.is_worth_scanning(candidates.max(self.options.expansion_search), self.dimensions())
        {
            return Ok(self.sidecar.search(query, keep, rows.iter()));
        }
        self.search_unit(query, k, keep, Some(rows))
    }

    /// The `keep` best of the candidates that a search for `k` looks at.
    pub(super) fn search_unit(
        &self,
        query: &[f32],
        k: usize,
        keep: usize,
        rows: Option<&RowSet>,
    ) -> Result<Vec<Hit>> {
        if k == 0 {
            return Ok(Vec::new());
        }
        let count = k.saturating_mul(self.options.rescore.max(1)).max(keep).min(self.len());
        let contains = rows.map(|rows| |row| rows.contains(row));
        let passes = contains.as_ref().map(|contains| contains as &dyn Fn(usize) -> bool);
        let found = self.walk.nearest(query, count, self.options.expansion_search, passes);
        let quantization = self.options.quantization;
        let candidates: Vec<(usize, f32)> = found
            .into_iter()
            .map(|near| {
                (near.row as usize, cosine_of(quantization, near.distance, self.dimensions()))
            })
            .collect();
        let keys = self.sidecar.keys();
        if self.options.rescore == 0 {
            let hit = |(row, score): &(usize, f32)| Hit { key: keys[*row], score: *score };
            let mut hits: Vec<Hit> = candidates.iter().map(hit).collect();
            hits.sort_unstable_by(best_first);
            hits.truncate(keep);
            return Ok(hits);
        }
        // One bit an element says the less the farther a candidate is, so there the rest is always looked at.
        let stops_early = quantization != Quantization::B1;
        let ahead = |row| self.sidecar.prefetch(row);
        let exact = |row| Hit { key: keys[row], score: self.sidecar.score(row, query) };
        Ok(rescore(&candidates, keep, stops_early, ahead, exact))
    }

    /// The k best by exact scan of the sidecar; best first, ties by key.
    ///
    /// # Errors
    /// As [`ShardIndex::search`].
    pub fn search_exact(&self, query: &[f32], k: usize) -> Result<Vec<Hit>> {
        let query = self.query(query)?;
        Ok(self.sidecar.search(&query, k, 0..self.len()))
    }

    /// As [`ShardIndex::search_exact`], among `rows` only.
    ///
    /// # Errors
    /// As [`ShardIndex::search_among`].
    pub fn search_exact_among(&self, query: &[f32], k: usize, rows: &RowSet) -> Result<Vec<Hit>> {
        self.check_rows(rows)?;
        let query = self.query(query)?;
        Ok(self.sidecar.search(&query, k, rows.iter()))
    }

    fn check_rows(&self, rows: &RowSet) -> Result<()> {
        if rows.rows() != self.len() {
            return Err(Error::internal(format!(
                "a set over {} rows cannot choose among {} vectors",
                rows.rows(),
                self.len()
            )));
        }
        Ok(())
    }

    /// Keys in ascending order.
    pub fn keys(&self) -> &[u64] {
        self.sidecar.keys()
    }

    /// The stored f16 vector of `key` as f32, of unit length up to rounding.
    pub fn vector(&self, key: u64) -> Option<Vec<f32>> {
        self.sidecar.row_of(key).map(|row| self.sidecar.row_f32(row))
    }

    pub(super) fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }

    fn query(&self, query: &[f32]) -> Result<Vec<f32>> {
        if query.len() != self.dimensions() {
            return Err(Error::input(format!(
                "the query has {} dimensions, the index {}; encode it with the snapshot's query tower",
                query.len(),
                self.dimensions()
            )));
        }
        unit(query).map_err(|what| Error::input(format!("the query vector {what}")))
    }
}

/// The row of the sidecar by slot, where the two files and the options belong together.
fn paired(
    bytes: &[u8],
    layout: &Layout,
    sidecar: &Sidecar,
    sidecar_path: &Path,
    options: &IndexOptions,
) -> Result<Vec<u32>> {
    let differs = |what: &str, here: String, there: String| {
        Error::corrupt(format!(
            "{what} {here} does not fit {there} of {}: the two files are not of one build",
            sidecar_path.display()
        ))
    };
    let live = layout.size - layout.deleted;
    if live != sidecar.len() {
        return Err(differs("vector count", live.to_string(), sidecar.len().to_string()));
    }
    if layout.dimensions != sidecar.dimensions() {
        let (here, there) = (layout.dimensions.to_string(), sidecar.dimensions().to_string());
        return Err(differs("dimensions", here, there));
    }
    if (layout.metric, layout.scalar) != kinds(options.quantization) {
        return Err(Error::corrupt(format!(
            "metric {:?} and scalar kind {} are not those of {:?}",
            char::from(layout.metric),
            layout.scalar,
            options.quantization
        )));
    }
    // As many live keys as rows, so every row is met where none is met twice.
    let mut met = vec![false; sidecar.len()];
    let row = |slot: usize| {
        let key = layout.key(bytes, slot);
        if key == FREE_KEY {
            return Ok(REMOVED);
        }
        let row = sidecar.row_of(key).filter(|row| !std::mem::replace(&mut met[*row], true));
        row.and_then(|row| u32::try_from(row).ok())
            .ok_or_else(|| differs("key", format!("{key:016x}"), "the keys".to_owned()))
    };
    (0..layout.size).map(row).collect()
}
