//! The graph of an index in the making, by our own builder or by usearch's.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use usearch::{MetricKind, ScalarKind};

use super::options::{Builder, IndexOptions, Quantization};
use super::quantize::{Calibration, Code, Encoder};
use super::shard::kinds;
use crate::error::{Error, Result};
use crate::index::file::sidecar::write_error;
use crate::index::file::write::{About, graph_bytes, node_head, write_graph};
use crate::kernel::distance::{Codes, Instructions, SLACK, between};
use crate::kernel::graph::GraphBuilder;
use crate::types::mix;

/// Mixed into keys before levels are drawn: the sampled queries of `recall` and the canaries are the smallest mixed
/// keys, and must not be the nodes of the upper levels.
const LEVELS: u64 = 0x6c65_7665_6c73;

/// A graph that grows by one vector at a time.
pub(super) enum Growing {
    Own { graph: Box<GraphBuilder>, about: About, linked: Option<Box<Linked>> },
    Usearch(usearch::Index),
}

/// For a graph that is linked by better codes than its file holds.
pub(super) struct Linked {
    /// Of the better codes.
    encoder: Encoder,
    /// What the file holds.
    codes: Vec<u8>,
}

impl Growing {
    /// An empty graph with the memory for vectors of these keys.
    ///
    /// # Errors
    /// Resource where that is not to be had; Unsupported where usearch refuses the options.
    pub fn new(
        dimensions: usize,
        keys: &[u64],
        options: &IndexOptions,
        calibration: &Calibration,
    ) -> Result<Self> {
        let failed = |cause: &dyn std::fmt::Display| {
            Error::resource(format!(
                "not enough memory for an index of {} vectors ({cause}); use more shards",
                keys.len()
            ))
        };
        match options.builder {
            Builder::Scalingnote => {
                let quantization = options.quantization.linked();
                let element = quantization.element();
                if Codes::new(element, dimensions, 0, &[0; SLACK], &[]).is_none() {
                    return Err(Error::unsupported(format!(
                        "vectors of {dimensions} dimensions are longer than an index takes; set \
                         index.quantization = \"f16\", or a tower with fewer"
                    )));
                }
                let about = About {
                    dimensions,
                    vector_bytes: options.quantization.element().row_bytes(dimensions),
                    kinds: kinds(options.quantization),
                    connectivity: options.connectivity,
                };
                let (shape, add) = (about.shape(), options.expansion_add);
                let levels = keys.iter().map(|key| level_of(*key, options.connectivity)).sum();
                let graph = GraphBuilder::new(element, dimensions, shape, add, keys.len(), levels)
                    .map_err(|cause| failed(&cause))?;
                let mut linked = None;
                if quantization != options.quantization {
                    let encoder = Encoder::new(
                        &IndexOptions { quantization, ..options.clone() },
                        calibration,
                    );
                    let mut codes = Vec::new();
                    codes
                        .try_reserve_exact(keys.len().saturating_mul(about.vector_bytes))
                        .map_err(|cause| failed(&cause))?;
                    linked = Some(Box::new(Linked { encoder, codes }));
                }
                Ok(Self::Own { graph: Box::new(graph), about, linked })
            }
            Builder::Usearch => {
                let mut index = usearch_index(dimensions, options)?;
                measured_here(&mut index, options.quantization).map_err(|cause| failed(&cause))?;
                // Room for one thread.
                index
                    .reserve_capacity_and_threads(keys.len().max(1), 1)
                    .map_err(|cause| failed(&cause))?;
                Ok(Self::Usearch(index))
            }
        }
    }

    /// Inserts the vector of the next key: what the file holds of it, and all of it.
    ///
    /// # Errors
    /// Resource where usearch refuses it.
    pub fn insert(&mut self, key: u64, code: &Code, unit: &[f32]) -> Result<()> {
        match self {
            Self::Own { graph, about, linked } => {
                let level = level_of(key, about.connectivity);
                let by = match linked {
                    Some(linked) => {
                        linked.codes.extend_from_slice(code.bytes());
                        linked.encoder.encode(unit)
                    }
                    None => code,
                };
                graph.insert(&node_head(key, level), by.bytes(), level);
                Ok(())
            }
            Self::Usearch(index) => code.add_to(index, key).map_err(|cause| {
                Error::resource(format!(
                    "usearch cannot insert key {key:016x}: {cause}; use more shards or more memory"
                ))
            }),
        }
    }

    /// Writes the usearch file of the graph.
    ///
    /// # Errors
    /// What writing says; Resource where not all bytes arrive.
    pub fn save(self, path: &Path) -> Result<()> {
        let expected = match self {
            Self::Own { mut graph, about, linked } => {
                graph.finish();
                let codes = linked.as_ref().map_or(graph.codes(), |linked| &linked.codes);
                let failed = |cause| write_error(path, cause);
                let mut out =
                    BufWriter::with_capacity(1 << 18, File::create(path).map_err(failed)?);
                write_graph(&graph, codes, &about, &mut out).map_err(failed)?;
                out.flush().map_err(failed)?;
                graph_bytes(&graph, codes)
            }
            Self::Usearch(index) => {
                let name = path.to_str().ok_or_else(|| {
                    Error::input(format!(
                        "{} is not UTF-8, which usearch needs; set another working folder",
                        path.display()
                    ))
                })?;
                index.save(name).map_err(|cause| full(path, &cause))?;
                index.serialized_length() as u64
            }
        };
        // usearch checks neither its last flush nor its close.
        let found = std::fs::metadata(path).map_err(|cause| write_error(path, cause))?.len();
        if found == expected {
            Ok(())
        } else {
            Err(full(path, &format_args!("{found} of {expected} bytes arrived")))
        }
    }
}

fn full(path: &Path, what: &dyn std::fmt::Display) -> Error {
    Error::resource(format!("writing {}: {what}; is the disk or quota full?", path.display()))
}

/// The top level of a key's node: `l` or higher in one of `connectivity ^ l`, whatever the other keys are.
pub(super) fn level_of(key: u64, connectivity: usize) -> usize {
    let (drawn, mut below, mut level) = (mix(key ^ LEVELS), u64::MAX, 0);
    loop {
        // In whole numbers, so that every machine draws the same; 63 halvings leave nothing.
        below /= connectivity.max(2) as u64;
        if drawn >= below {
            return level;
        }
        level += 1;
    }
}

pub(super) fn usearch_index(dimensions: usize, options: &IndexOptions) -> Result<usearch::Index> {
    let (metric, quantization) = match options.quantization {
        Quantization::F32 => (MetricKind::IP, ScalarKind::F32),
        Quantization::F16 => (MetricKind::IP, ScalarKind::F16),
        Quantization::Bf16 => (MetricKind::IP, ScalarKind::BF16),
        // Cosine: its i8 kernel divides by the norms, which repairs what rounding did to them and makes
        // the scale free to differ by vector. Measured: recall 0.912 against 0.898 by inner product.
        Quantization::I8 => (MetricKind::Cos, ScalarKind::I8),
        Quantization::B1 | Quantization::B1r => (MetricKind::Hamming, ScalarKind::B1),
    };
    usearch::Index::new(&usearch::IndexOptions {
        dimensions,
        metric,
        quantization,
        connectivity: options.connectivity,
        expansion_add: options.expansion_add,
        expansion_search: options.expansion_search,
        multi: false,
    })
    .map_err(|cause| Error::unsupported(format!("usearch: {cause}")))
}

/// Lets usearch's builder measure by our kernels: its own take minutes to compile. What opens and confirms a finished
/// file measures by usearch's plain loops.
fn measured_here(
    index: &mut usearch::Index,
    quantization: Quantization,
) -> std::result::Result<(), String> {
    match quantization {
        Quantization::F32 => measured_as::<f32>(index, quantization),
        // usearch has no type for bf16; it only hands over addresses.
        Quantization::F16 | Quantization::Bf16 => measured_as::<usearch::f16>(index, quantization),
        Quantization::I8 => measured_as::<i8>(index, quantization),
        Quantization::B1 | Quantization::B1r => measured_as::<usearch::b1x8>(index, quantization),
    }
}

fn measured_as<T: usearch::VectorType>(
    index: &mut usearch::Index,
    quantization: Quantization,
) -> std::result::Result<(), String> {
    let (on, element) = (Instructions::best(), quantization.element());
    let bytes = element.row_bytes(index.dimensions());
    let measured = T::change_metric(
        index,
        Box::new(move |a: *const T, b: *const T| {
            // SAFETY: usearch calls this with two vectors of the index, or one and a query of the same form, each of
            // `bytes` bytes, which live until it returns.
            let (a, b) = unsafe {
                (
                    std::slice::from_raw_parts(a.cast(), bytes),
                    std::slice::from_raw_parts(b.cast(), bytes),
                )
            };
            between(on, element, a, b)
        }),
    );
    measured.map_err(|cause| cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_thin_out_by_the_connectivity() {
        for connectivity in [2, 16, 1_024] {
            let levels: Vec<usize> =
                (0..200_000).map(|key| level_of(mix(key), connectivity)).collect();
            for level in 1..4 {
                let expected = 200_000. / (connectivity as f64).powi(level);
                let found = levels.iter().filter(|l| **l >= level as usize).count() as f64;
                let apart = (found - expected).abs() / expected.sqrt();
                assert!(apart < 5., "{connectivity}, level {level}: {found} of {expected}");
            }
        }
        // Every key has one for good: files of other machines and days have the same.
        let some: Vec<usize> = (0..12).map(|key| level_of(key, 2)).collect();
        assert_eq!(some, [2, 0, 0, 0, 3, 0, 0, 3, 0, 0, 0, 2]);
        assert!(level_of(u64::MAX, 2) < 64);
    }
}
