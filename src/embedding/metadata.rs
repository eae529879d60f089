//! Key-value metadata of a part: what its vectors mean, for readers that know nothing of this program.

use parquet::file::metadata::KeyValue;

use crate::error::{Result, ResultExt};
use crate::types::EmbeddingSpace;

/// The whole [`EmbeddingSpace`] as JSON.
pub const SPACE: &str = "scalingnote.embedding_space";
/// Id of the space: 16 hex digits.
pub const SPACE_ID: &str = "scalingnote.space_id";
/// SHA-256 of the tower's weights, `+` that of the adapter if one was merged.
pub const MODEL: &str = "scalingnote.model";
/// SHA-256 of the tokenizer.
pub const TOKENIZER: &str = "scalingnote.tokenizer";
/// SHA-256 of the text template.
pub const TEMPLATE: &str = "scalingnote.template";
/// `last-token`, `mean` or `eos`.
pub const POOLING: &str = "scalingnote.pooling";
/// Elements of a vector.
pub const DIMENSIONS: &str = "scalingnote.dimensions";
/// `l2` or `none`.
pub const NORMALISATION: &str = "scalingnote.normalisation";
/// `f32`, `bf16`, `f16` or `int8`.
pub const ARITHMETIC: &str = "scalingnote.arithmetic";
/// JSON: release, device, batch and whatever else tells where the vectors were made; no identity.
pub const PROVENANCE: &str = "scalingnote.provenance";

/// The entries for vectors of `space`.
pub(super) fn entries(
    space: &EmbeddingSpace,
    provenance: &serde_json::Value,
) -> Result<Vec<KeyValue>> {
    let json = |value: serde_json::Result<serde_json::Value>| {
        value.context(|| "a space cannot be written as JSON")
    };
    let whole = json(serde_json::to_value(space))?;
    let arithmetic = json(serde_json::to_value(space.arithmetic))?;
    let model = match &space.adapter {
        Some(adapter) => format!("{}+{adapter}", space.weights),
        None => space.weights.to_string(),
    };
    let entry = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
    Ok(vec![
        entry(SPACE, whole.to_string()),
        entry(SPACE_ID, space.id()?.to_string()),
        entry(MODEL, model),
        entry(TOKENIZER, space.tokenizer.to_string()),
        entry(TEMPLATE, space.template.to_string()),
        entry(POOLING, space.pooling.name().to_owned()),
        entry(DIMENSIONS, space.dimensions.to_string()),
        entry(NORMALISATION, if space.normalize { "l2" } else { "none" }.to_owned()),
        entry(ARITHMETIC, arithmetic.as_str().unwrap_or_default().to_owned()),
        entry(PROVENANCE, provenance.to_string()),
    ])
}
