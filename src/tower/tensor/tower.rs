//! What both kinds of towers on candle's tensors are: a packed forward pass whose batches are handed over.

use candle_core::Tensor;

use super::batch::Planned;
use super::fault::fault;
use super::transfer::{Landing, Transfer};
use crate::error::Result;
use crate::tower::model::pool::Want;

/// A tower loaded onto a device that candle knows.
pub(crate) trait TensorTower: Send + Sync {
    /// Its copies from and to the host.
    fn transfer(&self) -> &Transfer;

    /// Whether attention takes the fused kernels.
    fn is_fused(&self) -> bool;

    /// Lays a batch out for the device.
    ///
    /// # Errors
    /// Resource, where it has too many tokens for the kernels of a device.
    fn plan(&self, sequences: &[&[u32]], want: Want) -> Result<Planned>;

    /// Computes a batch whose words are on the device.
    fn forward(&self, planned: Planned, words: &Tensor) -> candle_core::Result<Tensor>;

    /// Final states in f32 on the device: `[total, width]`, or one row per sequence.
    fn run(&self, sequences: &[&[u32]], want: Want) -> Result<Tensor> {
        let planned = self.plan(sequences, want)?;
        let states = self.transfer().upload(&planned.words);
        let states = states.and_then(|words| self.forward(planned, &words));
        fault(states, "computing the forward pass on the device")
    }

    /// Hands a batch over to the device and returns before it is computed, where the device works asynchronously.
    fn start(&self, sequences: &[&[u32]], want: Want) -> Result<Landing> {
        let begun = fault(self.transfer().begin(), "handing a batch to the device")?;
        let states = self.run(sequences, want)?;
        fault(self.transfer().land(states, begun), "copying vectors from the device")
    }
}
