//! Building one index: encode, insert in key order, save, splice, repair, measure.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::MmapMut;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grow::Growing;
use super::options::{Builder, IndexOptions, Quantization};
use super::quantize::{Calibration, Encoder};
use super::recall::{self, Recall};
use super::row_set::RowSet;
use super::rows::unit;
use super::shard::ShardIndex;
use crate::error::{Error, Result, ResultExt};
use crate::index::file::format::{FREE_KEY, Layout};
use crate::index::file::graph::{Duplicate, audit, repair, splice};
use crate::index::file::sidecar::{SidecarWriter, map_file, write_error};
use crate::kernel::graph::GraphBuilder;
use crate::types::{Cancel, Embeddings};

/// Insertions between two looks at [`Cancel`] and two reports of progress.
const STEP: usize = 256;

/// What a build made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BuildReport {
    /// Vectors in the index.
    pub vectors: u64,
    /// Unreachable vectors found by the audit after repair; 0 in anything published.
    pub orphans: u64,
    /// Unreachable vectors that the repair linked in again.
    pub repaired: u64,
    /// recall@10 of the index as served (with rescoring) against exact search.
    pub recall: Recall,
    /// Share of i8 elements clipped; refit the scale when this grows.
    pub clipped: f64,
}

/// Estimated resident bytes while building an index of `vectors` x `dimensions`: the f32 input, the
/// index with its key table, the table of duplicates, and a fixed part.
pub fn estimate_memory(vectors: u64, dimensions: u32, options: &IndexOptions) -> u64 {
    let tables = match options.builder {
        Builder::Scalingnote => GraphBuilder::BYTES_PER_NODE as u64,
        // Two pointers and two 16-byte slots of its key table.
        Builder::Usearch => 16 + 32,
    };
    // Codes that the graph is linked by, where they are not those of the file.
    let linked = options.quantization.linked();
    let tables = match options.builder {
        Builder::Scalingnote if linked != options.quantization => {
            tables + linked.element().row_bytes(dimensions as usize) as u64 + 4
        }
        _ => tables,
    };
    // The table of duplicates.
    let tables = tables + 32;
    let each = 4 * u64::from(dimensions) + tables;
    vectors
        .saturating_mul(each.saturating_add(bytes_per_vector(dimensions, options)))
        .saturating_add(64 << 20)
}

/// Estimated bytes of the usearch file and its f16 sidecar.
pub fn estimate_file_bytes(vectors: u64, dimensions: u32, options: &IndexOptions) -> u64 {
    let sidecar = 8 + 2 * u64::from(dimensions);
    vectors.saturating_mul(sidecar.saturating_add(bytes_per_vector(dimensions, options)))
}

/// One vector with its node of the graph, in the index and in its file.
fn bytes_per_vector(dimensions: u32, options: &IndexOptions) -> u64 {
    let element_bits = match options.quantization {
        Quantization::F32 => 32,
        Quantization::F16 | Quantization::Bf16 => 16,
        Quantization::I8 => 8,
        Quantization::B1 | Quantization::B1r => 1,
    };
    let connectivity = options.connectivity.max(2) as u64;
    let links = connectivity.saturating_mul(4).saturating_add(4);
    // Base links, and links / (connectivity - 1) above them: levels are geometric.
    let node = 10 + links.saturating_mul(2) + links.div_ceil(connectivity - 1);
    (u64::from(dimensions) * element_bits).div_ceil(8).saturating_add(node)
}

/// Builds, audits, repairs and measures one index, and writes `<index>` (usearch) and `<sidecar>` (f16).
/// `keys` ascending, no repeats, `vectors` row by row beside them. One thread; same input, same bytes.
///
/// Both files appear under their names only when they are whole. Vectors that are equal once quantised
/// are inserted once and the copies linked in afterwards: see the `graph` module for why.
///
/// # Errors
/// Input for a non-finite or (cosine) zero vector, naming its key; Cancelled; Resource for a full disk
/// or too little memory; Corrupt if the saved file does not read back.
#[allow(clippy::too_many_arguments)]
pub fn build(
    keys: &[u64],
    vectors: &Embeddings,
    options: &IndexOptions,
    calibration: &Calibration,
    index: &Path,
    sidecar: &Path,
    cancel: &Cancel,
    progress: &dyn Fn(u64),
) -> Result<BuildReport> {
    options.check()?;
    calibration.check(options, vectors.dimensions())?;
    check_rows(keys, vectors)?;
    let files = Staged::new(index, sidecar);
    let mut writer = SidecarWriter::create(&files.sidecar, vectors.dimensions(), keys)?;
    let mut graph = Growing::new(vectors.dimensions(), keys, options, calibration)?;
    let mut encoder = Encoder::new(options, calibration);
    let mut earlier = encoder.clone();
    let mut firsts = Firsts::default();
    let mut rows_of_slots = Vec::with_capacity(keys.len());
    let mut duplicates = Vec::new();
    for (at, (key, row)) in keys.iter().zip(vectors.rows()).enumerate() {
        if at % STEP == 0 {
            cancel.check()?;
            progress(at as u64);
        }
        let row = unit(row).map_err(|what| {
            Error::input(format!(
                "the vector of key {key:016x} {what}; leave its note out or encode it again"
            ))
        })?;
        writer.push(&row)?;
        let code = encoder.encode(&row);
        let slot = rows_of_slots.len() as u32;
        let first = firsts.first(code.bytes(), slot, |slot| {
            let row: usize = rows_of_slots[slot as usize];
            // The row was of use before, so it still is.
            unit(vectors.row(row)).is_ok_and(|row| earlier.encode(&row).bytes() == code.bytes())
        });
        match first {
            Some(of) => duplicates.push(Duplicate { key: *key, of }),
            None => {
                graph.insert(*key, code, &row)?;
                rows_of_slots.push(at);
            }
        }
    }
    writer.finish()?;
    progress(keys.len() as u64);
    let elements = vectors.as_slice().len().max(1) as f64;
    let clipped = encoder.clipped as f64 / elements;
    files.finish(graph, &duplicates, options, calibration, clipped, cancel)
}

/// Checks that keys ascend without repeats or usearch's mark of removal, one per row.
fn check_rows(keys: &[u64], vectors: &Embeddings) -> Result<()> {
    if keys.len() != vectors.len() {
        return Err(Error::internal(format!("{} keys for {} vectors", keys.len(), vectors.len())));
    }
    if vectors.dimensions() == 0 {
        return Err(Error::internal("an index needs to know its dimensions, even without vectors"));
    }
    if let Some(pair) = keys.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(Error::internal(format!(
            "keys must ascend without repeats: {:016x} then {:016x}",
            pair[0], pair[1]
        )));
    }
    // 2^32 - 1 is usearch's mark for "no slot".
    if keys.len() >= u32::MAX as usize {
        return Err(Error::resource(format!(
            "{} vectors in one shard, usearch holds 2^32; use more shards",
            keys.len()
        )));
    }
    if keys.last() == Some(&FREE_KEY) {
        return Err(Error::input(
            "a note has the key ffffffffffffffff, which marks removed vectors; derive it with another probe",
        ));
    }
    Ok(())
}

/// Finds the first vector with the same code.
#[derive(Default)]
struct Firsts(HashMap<u64, u32>);

impl Firsts {
    /// The slot of the first vector with the code `bytes`; if there is none, `slot` becomes that.
    /// `equals` compares for certain: a hash alone would drop one vector in 2^64.
    pub fn first(
        &mut self,
        bytes: &[u8],
        slot: u32,
        equals: impl FnOnce(u32) -> bool,
    ) -> Option<u32> {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        match self.0.entry(hasher.finish()) {
            std::collections::hash_map::Entry::Occupied(entry) => {
                Some(*entry.get()).filter(|first| equals(*first))
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(slot);
                None
            }
        }
    }
}

/// The two files under temporary names beside their final ones; removed again unless they are finished.
struct Staged {
    /// The graph as it was built.
    graph: PathBuf,
    /// The index in the making.
    index: PathBuf,
    /// The sidecar in the making.
    pub sidecar: PathBuf,
    done: [PathBuf; 2],
}

impl Staged {
    pub fn new(index: &Path, sidecar: &Path) -> Self {
        let beside = |path: &Path, ending: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        Self {
            graph: beside(index, ".graph"),
            index: beside(index, ".partial"),
            sidecar: beside(sidecar, ".partial"),
            done: [index.to_owned(), sidecar.to_owned()],
        }
    }

    /// Saves the graph, adds duplicates, repairs, re-reads, measures, and gives both files their names.
    pub fn finish(
        self,
        graph: Growing,
        duplicates: &[Duplicate],
        options: &IndexOptions,
        calibration: &Calibration,
        clipped: f64,
        cancel: &Cancel,
    ) -> Result<BuildReport> {
        cancel.check()?;
        // Only the file counts from here on; a large graph and its mapped copy need not share the memory.
        graph.save(&self.graph)?;
        self.add_duplicates(duplicates)?;
        let repaired = self.repair()?;
        let audited = audit(&self.index)?;
        let shard = ShardIndex::open(&self.index, &self.sidecar, options, calibration)?;
        let every = RowSet::without(shard.keys(), &[])?;
        let recall = recall::measure(&[(&shard, &every)], cancel)?;
        let report = BuildReport {
            vectors: shard.len() as u64,
            orphans: audited.orphans.len() as u64,
            repaired,
            recall,
            clipped,
        };
        drop(shard);
        for (from, to) in [&self.index, &self.sidecar].into_iter().zip(&self.done) {
            std::fs::rename(from, to).map_err(|cause| write_error(to, cause))?;
        }
        Ok(report)
    }

    fn add_duplicates(&self, duplicates: &[Duplicate]) -> Result<()> {
        if duplicates.is_empty() {
            return std::fs::rename(&self.graph, &self.index)
                .map_err(|cause| write_error(&self.index, cause));
        }
        let bytes = map_file(&self.graph)?;
        let layout =
            Layout::parse(&bytes).context(|| format!("reading {} back", self.graph.display()))?;
        let failed = |cause| write_error(&self.index, cause);
        let file = File::create(&self.index).map_err(failed)?;
        let mut out = BufWriter::with_capacity(1 << 18, file);
        splice(&layout, &bytes, duplicates, &mut out).map_err(failed)?;
        out.flush().map_err(failed)?;
        drop(bytes);
        std::fs::remove_file(&self.graph).map_err(failed)
    }

    fn repair(&self) -> Result<u64> {
        let failed =
            |cause: std::io::Error| Error::io(cause, format!("opening {}", self.index.display()));
        let file = OpenOptions::new().read(true).write(true).open(&self.index).map_err(failed)?;
        // SAFETY: the bytes must not change by other means while they are mapped: the file is this build's own, in the
        // folder that its caller made for it, under a name that nothing else opens before it is renamed.
        let mut bytes = unsafe { MmapMut::map_mut(&file) }.map_err(failed)?;
        let layout =
            Layout::parse(&bytes).context(|| format!("reading {} back", self.index.display()))?;
        let repaired = repair(&layout, &mut bytes)?;
        bytes.flush().map_err(|cause| write_error(&self.index, cause))?;
        Ok(repaired)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for path in [&self.graph, &self.index, &self.sidecar] {
            // Nothing is left to remove after success; after a failure its error matters, not this one.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_with_every_part_and_never_overflows() {
        let of = |vectors, dimensions, quantization| {
            let options = IndexOptions { quantization, ..IndexOptions::default() };
            estimate_memory(vectors, dimensions, &options)
        };
        let base = of(1_000_000, 100, Quantization::I8);
        // 400 bytes of input, 100 of codes, 151 of links, 80 of tables.
        assert!((700 << 20..800 << 20).contains(&base), "{base}");
        let options = IndexOptions { builder: Builder::Scalingnote, ..IndexOptions::default() };
        assert!(estimate_memory(1_000_000, 100, &options) < base);
        assert!(of(1_000_000, 100, Quantization::F32) > base);
        assert!(of(1_000_000, 100, Quantization::B1) < base);
        assert_eq!(of(u64::MAX, u32::MAX, Quantization::F32), u64::MAX);
    }

    #[test]
    fn a_hash_collision_is_no_duplicate() {
        let mut firsts = Firsts::default();
        assert_eq!(firsts.first(b"a", 0, |_| unreachable!()), None);
        assert_eq!(firsts.first(b"a", 1, |_| true), Some(0));
        assert_eq!(firsts.first(b"a", 1, |_| false), None);
    }
}
