//! An encoder on this machine's processor: weights packed at load into the panels that the kernels read, a group of whole
//! sequences taken through all layers by each thread.

mod layers;

use self::layers::{Model, Workspace};
use super::format::best;
use super::groups::{Batch, threads};
use crate::error::Result;
use crate::kernel::Isa;
use crate::tower::model::encoder_weights::EncoderWeights;
use crate::types::{Arithmetic, Pooling};

/// A loaded encoder and the working memory of its threads.
pub(crate) struct CpuEncoder {
    model: Model,
    group_tokens: usize,
    workspaces: Vec<Workspace>,
}

impl CpuEncoder {
    /// Reads and packs all weights for the `wanted` threads, 0: all of the machine.
    ///
    /// # Errors
    /// Unsupported for f16; whatever reading a tensor reports.
    pub(crate) fn load(
        weights: &EncoderWeights<'_>,
        pooling: Pooling,
        wanted: usize,
        isa: Isa,
        arithmetic: Arithmetic,
    ) -> Result<Self> {
        let format = best(arithmetic, isa)?;
        Ok(Self {
            model: Model::load(weights, pooling, isa, format)?,
            group_tokens: format.group_tokens(),
            workspaces: (0..threads(wanted)).map(|_| Workspace::default()).collect(),
        })
    }

    /// Pooled states behind the projection, if there is one: `[sequences, dimensions]`, not normalised. Ids and lengths lie
    /// within the tables. A row's bits depend on its own sequence only.
    pub(crate) fn run(&mut self, sequences: &[&[u32]]) -> Vec<f32> {
        let model = &self.model;
        let width = model.config.dimensions();
        let batch = Batch { sequences, group_tokens: self.group_tokens, width };
        batch.run(
            &mut self.workspaces,
            |length| model.config.cost(length),
            |_| 1,
            |workspace, members| model.forward(workspace, members),
        )
    }
}

#[cfg(test)]
mod tests;
