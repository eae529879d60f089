//! One contrastive step with gradient caching: the batch is embedded in chunks that fit in memory, the loss is
//! taken over all of it, and its gradient is carried back through each chunk (Gao et al. 2021).

use candle_core::{Tensor, Var};

use super::adapter::Adapter;
use super::decoder::Decoder;
use super::loss::{Contrast, info_nce};
use super::tensor_error;
use crate::error::Result;

/// One tower in training: a decoder and, where only that is trained, the adapter over it.
pub(super) struct Side {
    pub(super) decoder: Decoder,
    frozen: Decoder,
    pub(super) adapter: Option<Adapter>,
}

impl Side {
    pub(super) fn new(decoder: Decoder, adapter: Option<Adapter>) -> Self {
        let frozen = decoder.detached();
        Self { decoder, frozen, adapter }
    }

    fn embed(&self, sequences: &[&[u32]], track: bool) -> Result<Tensor> {
        let view = self.adapter.as_ref().map(|adapter| adapter.view(track));
        let decoder = if track { &self.decoder } else { &self.frozen };
        decoder.embed(sequences, view.as_ref())
    }
}

/// The towers in training: one for documents and, where queries have parameters of their own, one for those.
pub(super) struct Model {
    pub(super) document: Side,
    pub(super) query: Option<Side>,
    vars: Vec<Var>,
}

/// What one step gives.
pub(super) struct StepResult {
    pub(super) loss: f32,
    pub(super) accuracy: f32,
    /// In the order of the parameters.
    pub(super) grads: Vec<Option<Tensor>>,
    pub(super) tokens: usize,
}

impl Model {
    pub(super) fn new(document: Side, query: Option<Side>, vars: Vec<Var>) -> Self {
        Self { document, query, vars }
    }

    /// Number of the tower that a side (0 query, 1 document) uses: 1 for documents and for both.
    fn tower_of(&self, side: usize) -> usize {
        if self.query.is_some() { side } else { 1 }
    }

    fn embed(&self, sequences: &[&[u32]], tower: usize, track: bool) -> Result<Tensor> {
        match (&self.query, tower) {
            (Some(query), 0) => query.embed(sequences, track),
            _ => self.document.embed(sequences, track),
        }
    }

    /// Embeds sequences of one side without a graph, `[sequences, dimensions]`.
    pub(super) fn encode(
        &self,
        side: usize,
        sequences: &[Vec<u32>],
        chunk_tokens: usize,
    ) -> Result<Tensor> {
        let items: Vec<(usize, &[u32])> =
            sequences.iter().map(|s| (self.tower_of(side), s.as_slice())).collect();
        let mut parts = Vec::new();
        for chunk in chunks(&items, chunk_tokens) {
            let sequences: Vec<&[u32]> = chunk.iter().map(|(_, s)| *s).collect();
            parts.push(self.embed(&sequences, chunk[0].0, false)?);
        }
        Tensor::cat(&parts, 0).map_err(tensor_error)
    }

    /// Loss and gradients of a batch.
    pub(super) fn step(
        &self,
        queries: &[Vec<u32>],
        documents: &[Vec<u32>],
        contrast: &Contrast,
        temperature: f64,
        activation_tokens: usize,
    ) -> Result<StepResult> {
        let side = |side: usize, all: &[Vec<u32>]| -> Vec<(usize, Vec<u32>)> {
            all.iter().map(|s| (self.tower_of(side), s.clone())).collect()
        };
        let owned = [side(0, queries), side(1, documents)].concat();
        let items: Vec<(usize, &[u32])> = owned.iter().map(|(a, s)| (*a, s.as_slice())).collect();
        let tokens = items.iter().map(|(_, s)| s.len()).sum();
        let chunks = chunks(&items, activation_tokens);
        // What fits at once keeps its graph; otherwise each chunk is embedded again when its gradient is known.
        let keep = tokens <= activation_tokens;
        let mut parts = Vec::with_capacity(chunks.len());
        for chunk in &chunks {
            let sequences: Vec<&[u32]> = chunk.iter().map(|(_, s)| *s).collect();
            parts.push(self.embed(&sequences, chunk[0].0, keep)?);
        }
        let detached: Vec<Tensor> = parts.iter().map(Tensor::detach).collect();
        let all = Tensor::cat(&detached, 0)
            .and_then(|all| Var::from_tensor(&all))
            .map_err(tensor_error)?;
        let split = || {
            let q = all.narrow(0, 0, queries.len())?;
            let d = all.narrow(0, queries.len(), documents.len())?;
            info_nce(&q, &d, contrast, temperature)
        };
        let (loss, accuracy) = split().map_err(tensor_error)?;
        let value = loss.to_scalar::<f32>().map_err(tensor_error)?;
        let mut store = loss.backward().map_err(tensor_error)?;
        let upstream = store
            .remove(&all)
            .ok_or_else(|| crate::error::Error::internal("the loss does not reach the vectors"))?;
        let mut grads: Vec<Option<Tensor>> = vec![None; self.vars.len()];
        let mut start = 0;
        let mut parts = parts.into_iter();
        for chunk in &chunks {
            let part = parts.next().filter(|_| keep);
            let part = match part {
                Some(part) => part,
                None => {
                    let sequences: Vec<&[u32]> = chunk.iter().map(|(_, s)| *s).collect();
                    self.embed(&sequences, chunk[0].0, true)?
                }
            };
            let rows = chunk.len();
            let back = || {
                let upstream = upstream.narrow(0, start, rows)?.detach();
                let surrogate = (&part * upstream)?.sum_all()?;
                let mut store = surrogate.backward()?;
                for (sum, var) in grads.iter_mut().zip(&self.vars) {
                    if let Some(grad) = store.remove(var) {
                        let grad = grad.detach();
                        *sum = Some(match sum.take() {
                            Some(sum) => (sum + grad)?,
                            None => grad,
                        });
                    }
                }
                Ok(())
            };
            let mut back = back;
            back().map_err(tensor_error)?;
            start += rows;
        }
        Ok(StepResult { loss: value, accuracy, grads, tokens })
    }
}

/// Runs of consecutive sequences of one tower that hold at most `tokens` tokens (one at least).
fn chunks<'a, 'b>(items: &'a [(usize, &'b [u32])], tokens: usize) -> Vec<&'a [(usize, &'b [u32])]> {
    let mut chunks = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (at, (tower, sequence)) in items.iter().enumerate() {
        if at > start && (items[start].0 != *tower || sum + sequence.len() > tokens) {
            chunks.push(&items[start..at]);
            (start, sum) = (at, 0);
        }
        sum += sequence.len();
    }
    if start < items.len() {
        chunks.push(&items[start..]);
    }
    chunks
}
