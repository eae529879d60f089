//! An index changed on a copy of its parent: few notes of a shard came, went or changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::build::{Firsts, Staged, bad_vector, check_rows, encoders, insert_error, reserve};
use super::format::{FREE_KEY, Layout};
use super::graph::Duplicate;
use super::quantize::Calibration;
use super::rows::unit;
use super::shard::ShardIndex;
use super::sidecar::{SidecarWriter, map_file};
use super::{BuildReport, IndexOptions};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::types::{Cancel, Embeddings};

/// What changes from a parent index to its child. A changed vector is both removed and added.
#[derive(Debug, Clone, Copy)]
pub struct Delta<'a> {
    /// Keys that go, ascending; all in the parent.
    pub removed: &'a [u64],
    /// Keys that come, ascending; none left in the parent.
    pub added: &'a [u64],
    /// The vectors of `added`, row by row.
    pub vectors: &'a Embeddings,
}

/// Applies `delta` to a copy of a parent index (remove, then add in key order, one thread), then
/// audits, repairs and measures as [`super::build`] does. The parent's files are only read.
///
/// The bytes are a function of the parent's bytes, the options and the delta, so a fingerprint that
/// chains the parent's and the delta's names the result (DESIGN, decision 7). Where more is removed
/// than added, removed vectors stay in the file as unlabelled waypoints of the graph until a later
/// addition takes their place or the shard is rebuilt: to erase a vector, rebuild.
///
/// # Errors
/// As [`super::build`]; Input for a removed key that the parent lacks or an added one that it holds.
#[allow(clippy::too_many_arguments)]
pub fn update(
    parent_index: &Path,
    parent_sidecar: &Path,
    delta: &Delta<'_>,
    options: &IndexOptions,
    calibration: &Calibration,
    index: &Path,
    sidecar: &Path,
    cancel: &Cancel,
    progress: &dyn Fn(u64),
) -> Result<BuildReport> {
    check_rows(delta.added, delta.vectors)?;
    let parent = ShardIndex::open(parent_index, parent_sidecar, options, calibration)
        .context(|| "opening the parent index")?;
    if parent.dimensions() != delta.vectors.dimensions() {
        return Err(Error::input(format!(
            "the added vectors have {} dimensions, the parent index {}; rebuild",
            delta.vectors.dimensions(),
            parent.dimensions()
        )));
    }
    let rows = merged_rows(&parent, delta)?;
    let files = Staged::new(index, sidecar);
    let keys: Vec<u64> = rows.iter().map(|(key, _)| *key).collect();
    let mut writer = SidecarWriter::create(&files.sidecar, parent.dimensions(), &keys)?;
    for (key, source) in &rows {
        match source {
            Source::Parent(row) => writer.push_halves(parent.sidecar().row(*row))?,
            Source::Added(row) => writer
                .push(&unit(delta.vectors.row(*row)).map_err(|what| bad_vector(*key, what))?)?,
        }
    }
    writer.finish()?;
    if parent.is_empty() || keys.is_empty() {
        return Err(Error::internal(
            "an update from or to an empty index has no graph to start from; rebuild",
        ));
    }
    drop(parent);
    cancel.check()?;

    let graph = load(parent_index)?;
    graph.change_expansion_add(options.expansion_add);
    graph.change_expansion_search(options.expansion_search);
    let bytes = map_file(parent_index)?;
    let layout = Layout::parse(&bytes)?;
    reserve(&graph, layout.size + delta.added.len())?;
    for key in delta.removed {
        graph.remove(*key).map_err(|cause| {
            Error::new(ErrorKind::Resource, format!("usearch cannot remove {key:016x}: {cause}"))
        })?;
    }
    // Vectors that stay, by their code: a copy of one is linked below it, not inserted.
    let removed: BTreeSet<u64> = delta.removed.iter().copied().collect();
    let mut firsts = Firsts::default();
    // What a number in `firsts` stands for: a slot of the parent, or an added row.
    let mut known: Vec<Source> = Vec::with_capacity(layout.size);
    for slot in 0..layout.size {
        let key = layout.key(&bytes, slot);
        if key == FREE_KEY || removed.contains(&key) {
            continue;
        }
        let number = known.len() as u32;
        firsts.first(layout.vector(&bytes, slot), number, |_| false);
        known.push(Source::Parent(slot));
    }
    let (mut encoder, mut earlier) = encoders(options, calibration);
    let mut pairs = Vec::new();
    for (at, key) in delta.added.iter().enumerate() {
        if at % 64 == 0 {
            cancel.check()?;
            progress(at as u64);
        }
        let row = unit(delta.vectors.row(at)).map_err(|what| bad_vector(*key, what))?;
        let code = encoder.encode(&row);
        let first =
            firsts.first(code.bytes(), known.len() as u32, |number| match known[number as usize] {
                Source::Parent(slot) => layout.vector(&bytes, slot) == code.bytes(),
                Source::Added(row) => unit(delta.vectors.row(row))
                    .is_ok_and(|row| earlier.encode(&row).bytes() == code.bytes()),
            });
        match first {
            Some(number) => {
                let of = match known[number as usize] {
                    Source::Parent(slot) => layout.key(&bytes, slot),
                    Source::Added(row) => delta.added[row],
                };
                pairs.push((*key, of));
            }
            None => {
                known.push(Source::Added(at));
                code.add_to(&graph, *key).map_err(|cause| insert_error(*key, &cause))?;
            }
        }
    }
    progress(delta.added.len() as u64);
    let elements = delta.vectors.as_slice().len().max(1) as f64;
    let clipped = encoder.clipped as f64 / elements;
    files.finish(
        graph,
        |layout, bytes| resolve(layout, bytes, &pairs),
        options,
        calibration,
        clipped,
        cancel,
    )
}

/// Where a row of the child comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// A row of the parent's sidecar, or a slot of its graph.
    Parent(usize),
    /// A row of the delta.
    Added(usize),
}

/// The child's keys, ascending, and where their vectors come from.
fn merged_rows(parent: &ShardIndex, delta: &Delta<'_>) -> Result<Vec<(u64, Source)>> {
    let mut rows: BTreeMap<u64, Source> =
        parent.keys().iter().enumerate().map(|(row, key)| (*key, Source::Parent(row))).collect();
    for key in delta.removed {
        if rows.remove(key).is_none() {
            return Err(Error::input(format!(
                "key {key:016x} is to be removed, but the parent index does not hold it; rebuild"
            )));
        }
    }
    for (row, key) in delta.added.iter().enumerate() {
        if rows.insert(*key, Source::Added(row)).is_some() {
            return Err(Error::input(format!(
                "key {key:016x} is to be added, but the parent index holds it; remove it as well"
            )));
        }
    }
    Ok(rows.into_iter().collect())
}

fn load(index: &Path) -> Result<usearch::Index> {
    let path = index.to_str().ok_or_else(|| {
        Error::input(format!("{} is not UTF-8, which usearch needs", index.display()))
    })?;
    usearch::Index::restore(path).map_err(|cause| {
        Error::new(ErrorKind::Resource, format!("usearch cannot load {path}: {cause}"))
    })
}

/// Copies by key as copies by slot of the saved graph.
fn resolve(layout: &Layout, bytes: &[u8], pairs: &[(u64, u64)]) -> Result<Vec<Duplicate>> {
    let wanted: BTreeSet<u64> = pairs.iter().map(|(_, of)| *of).collect();
    let slots: HashMap<u64, u32> = (0..layout.size)
        .map(|slot| (layout.key(bytes, slot), slot as u32))
        .filter(|(key, _)| wanted.contains(key))
        .collect();
    pairs
        .iter()
        .map(|(key, of)| {
            let slot = slots.get(of).copied();
            slot.map(|of| Duplicate { key: *key, of })
                .ok_or_else(|| Error::internal(format!("key {of:016x} is gone from the graph")))
        })
        .collect()
}
