//! What every loaded tower does: batches of token ids in, vectors out.

use crate::error::Result;
use crate::types::Embeddings;

/// A loaded tower on one device. One per worker thread.
pub trait Encoder: Send + Sync {
    /// Encodes sequences packed without padding; row i belongs to sequence i. Pooled, cut to the Matryoshka
    /// dimensions and normalised. The result of a sequence does not depend on its neighbours.
    fn encode(&mut self, sequences: &[&[u32]]) -> Result<Embeddings>;

    /// Hands a batch over and comes back while a device still computes it, where there is one: the next batch may be
    /// started before this one's vectors are asked for, so that the device never waits. By default it is encoded here
    /// and now.
    ///
    /// # Errors
    /// As [`Encoder::encode`]; Resource, where the device's memory does not hold the batch: a smaller one may fit.
    fn start(&mut self, sequences: &[&[u32]]) -> Result<Started> {
        self.encode(sequences).map(Started::Done)
    }

    /// Tokens per second that the device would encode if it did nothing but the tower's products with weights, at the
    /// rate that it reached in large products when the tower was loaded; `None` where that was not measured.
    fn ceiling(&self) -> Option<f64> {
        None
    }
}

/// A batch that was handed over.
pub enum Started {
    /// Its vectors are there.
    Done(Embeddings),
    /// A device computes it.
    Running(Box<dyn Running>),
}

impl Started {
    /// Its vectors, waited for where a device computes it.
    pub(super) fn finish(self) -> Result<Embeddings> {
        match self {
            Self::Done(vectors) => Ok(vectors),
            Self::Running(batch) => batch.finish().map(|computed| computed.vectors),
        }
    }
}

/// A batch on a device.
pub trait Running {
    /// Waits for its vectors, and for no batch that was started after it.
    ///
    /// # Errors
    /// As [`Encoder::start`].
    fn finish(self: Box<Self>) -> Result<Computed>;
}

/// What a device made of a batch.
pub struct Computed {
    /// Row i belongs to sequence i.
    pub vectors: Embeddings,
    /// How long the device was at this batch, by its own clock: neither the time in which the batch waited for those
    /// before it, nor that in which the device waited for the batch.
    pub seconds: f64,
}
