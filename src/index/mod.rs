//! usearch indexes: calibrated quantisation, builds in key order, reachability audit, rescoring sidecar. The graph is built by
//! this program or by the usearch library ([`Builder`]), which opens and searches every file before it is published.
//!
//! Vectors are compared by cosine: every vector is scaled to unit length before it is stored, so that
//! the index, the sidecar and the queries agree whatever the tower's own normalisation is.
//!
//! | quantisation | stored element | metric in the file | a distance `d` means |
//! |---|---|---|---|
//! | `f32`, `f16`, `bf16` | the unit vector | inner product | cosine = `1 - d` |
//! | `i8` | [`Calibration::quantize`] | cosine | cosine = `1 - d` |
//! | `b1` | sign bits, first dimension in the lowest bit | Hamming | cosine about `cos(pi * d / dimensions)` |
//! | `b1r` | sign bits of the centred and rotated vector ([`SignCodes`]) | Hamming | our walk asks with numbers in place of bits: cosine about `1 - d` |
//!
//! A shard is a list of segments: a base index and small delta indexes of what came later, each immutable, with a
//! [`RowSet`] of the rows that still count (`stage::segments` says when which is written). Every function here takes
//! one segment, except [`measure`], which takes them together as they serve.
//!
//! A file is searched by [`crate::kernel::graph`], which finds in it what usearch's own search finds.
//!
//! Source of the graph: Malkov and Yashunin, HNSW, arXiv 1603.09320, as usearch 2.26 stores it.

mod build;
mod canary;
mod file;
mod fit;
mod grow;
mod options;
mod quantize;
mod recall;
mod rescore;
mod row_set;
mod rows;
mod shard;
mod signs;
mod walk;
mod witness;

pub use build::{BuildReport, build, estimate_file_bytes, estimate_memory};
pub use canary::{check_canaries, record_canaries};
pub use file::{Audit, StoredKeys, audit, sidecar_keys, stored_keys};
pub use options::{Builder, IndexOptions, Quantization};
pub use quantize::{Calibration, calibrate};
pub use recall::{Recall, measure};
pub use row_set::RowSet;
pub use rows::Hit;
pub use shard::ShardIndex;
pub use signs::SignCodes;
pub use witness::check_with_usearch;
