//! What encoding will take, for plans and for reports that put the plan beside what was done.

use crate::stage::RunSpec;
use crate::types::VectorType;

/// Bytes of a part's row beside its vector: text hash, note id, counts.
const PART_ROW: u64 = 48;

/// Bytes that this many texts take in parts.
pub(super) fn part_bytes(texts: u64, spec: &RunSpec) -> u64 {
    let element = match spec.encode.vector_type {
        VectorType::F32 => 4,
        VectorType::F16 => 2,
    };
    texts * (u64::from(spec.space.dimensions) * element + PART_ROW)
}

/// Wall seconds of encoding this many tokens at `speed` tokens per second on each device.
pub(super) fn encode_seconds(tokens: u64, speed: f64, spec: &RunSpec) -> f64 {
    tokens as f64 / speed / spec.encode.devices.len().max(1) as f64
}
