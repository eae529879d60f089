//! The files of an index as bytes: usearch's own, its graph, and the sidecar.

pub(super) mod format;
pub(super) mod graph;
mod keys;
pub(super) mod sidecar;
pub(super) mod write;

pub use graph::{Audit, audit};
pub use keys::{StoredKeys, sidecar_keys, stored_keys};
