//! The embeddings of tokens, as wide as the arithmetic needs them.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::Result;
use crate::kernel::Format;
use crate::tower::model::layer_weights::Weights;

/// `[vocab_size, hidden_size]`
pub(super) enum Vocabulary {
    F32(Vec<f32>),
    /// What a bf16 tower has.
    Bf16(Vec<bf16>),
    /// Beside 8-bit weights: finer than they are, half of f32's size.
    F16(Vec<f16>),
}

impl Vocabulary {
    pub(super) fn read(weights: &Weights<'_>, format: Format) -> Result<Self> {
        let scale = weights.config.embedding_scale();
        Ok(match format {
            Format::F32(_) => Self::F32(weights.embedding(|x| x * scale)?),
            Format::Int8(_) => Self::F16(weights.embedding(|x| f16::from_f32(x * scale))?),
            _ => {
                // A bf16 model's table, factor and product are rounded to bf16, each.
                let round = |x: f32| bf16::from_f32(x).to_f32();
                let scale = round(scale);
                Self::Bf16(weights.embedding(|x| bf16::from_f32(round(x) * scale))?)
            }
        })
    }

    /// The embedding of a token, `row` being as long as one.
    pub(super) fn copy(&self, id: u32, row: &mut [f32]) {
        let start = id as usize * row.len();
        match self {
            Self::F32(all) => row.copy_from_slice(&all[start..][..row.len()]),
            Self::Bf16(all) => all[start..][..row.len()].convert_to_f32_slice(row),
            Self::F16(all) => all[start..][..row.len()].convert_to_f32_slice(row),
        }
    }
}
