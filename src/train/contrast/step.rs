//! One contrastive step with gradient caching: the batch is embedded in chunks that fit in memory, the loss is
//! taken over all of it, and its gradient is carried back through each chunk (Gao et al. 2021). Several devices share a
//! batch in the same way: a chunk is embedded wherever there is room.

use candle_core::{Device, Tensor, Var};

use super::loss::{Contrast, info_nce};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::train::model::adapter::Adapter;
use crate::train::model::decoder::Decoder;
use crate::train::tensors::{STACK, tensor_error};

/// One tower in training: a decoder and, where only that is trained, the adapter over it.
pub(super) struct Tracked {
    pub(super) decoder: Decoder,
    frozen: Decoder,
    pub(super) adapter: Option<Adapter>,
}

impl Tracked {
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
    pub(super) document: Tracked,
    pub(super) query: Option<Tracked>,
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
    pub(super) fn new(document: Tracked, query: Option<Tracked>, vars: Vec<Var>) -> Self {
        Self { document, query, vars }
    }

    /// Number of the tower that a side (0 query, 1 document) uses: 1 for documents and for both.
    fn tower_of(&self, side: usize) -> usize {
        if self.query.is_some() { side } else { 1 }
    }

    /// Embeds sequences of one tower, `[sequences, dimensions]`.
    fn embed(&self, items: &[Item<'_>], track: bool) -> Result<Tensor> {
        let sequences: Vec<&[u32]> = items.iter().map(|(_, s)| *s).collect();
        match (&self.query, items[0].0) {
            (Some(query), 0) => query.embed(&sequences, track),
            _ => self.document.embed(&sequences, track),
        }
    }

    /// Embeds sequences of one side without a graph, `[sequences, dimensions]`.
    pub(super) fn encode(
        &self,
        side: usize,
        sequences: &[Vec<u32>],
        chunk_tokens: usize,
    ) -> Result<Tensor> {
        let items: Vec<Item<'_>> =
            sequences.iter().map(|s| (self.tower_of(side), s.as_slice())).collect();
        let chunks = chunks(&items, chunk_tokens).into_iter();
        let parts: Vec<Tensor> =
            chunks.map(|chunk| self.embed(chunk, false)).collect::<Result<_>>()?;
        Tensor::cat(&parts, 0).map_err(tensor_error)
    }

    /// Where it computes.
    fn device(&self) -> &Device {
        self.document.decoder.device()
    }

    /// Embeds this replica's share of a batch. What fits at once keeps its graph; otherwise each chunk is embedded again
    /// when its gradient is known.
    fn embed_share<'a>(
        &self,
        items: &'a [Item<'a>],
        activation_tokens: usize,
    ) -> Result<Share<'a>> {
        let keep = items.iter().map(|(_, s)| s.len()).sum::<usize>() <= activation_tokens;
        let chunks = chunks(items, activation_tokens);
        let parts: Vec<Tensor> =
            chunks.iter().map(|chunk| self.embed(chunk, keep)).collect::<Result<_>>()?;
        let detached = parts.iter().map(Tensor::detach).collect();
        Ok(Share { chunks, detached, graphs: if keep { parts } else { Vec::new() } })
    }

    /// The share's part of the gradients, given the gradient of its vectors, `[rows, dimensions]`.
    fn backward_share(&self, share: Share<'_>, upstream: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let upstream = upstream.to_device(self.device()).map_err(tensor_error)?;
        let mut grads: Vec<Option<Tensor>> = vec![None; self.vars.len()];
        let mut start = 0;
        let mut graphs = share.graphs.into_iter();
        for chunk in &share.chunks {
            let part = match graphs.next() {
                Some(part) => part,
                None => self.embed(chunk, true)?,
            };
            let rows = chunk.len();
            let mut back = || {
                let upstream = upstream.narrow(0, start, rows)?.detach();
                let surrogate = (&part * upstream)?.sum_all()?;
                let mut store = surrogate.backward()?;
                for (sum, var) in grads.iter_mut().zip(&self.vars) {
                    add(sum, store.remove(var).map(|grad| grad.detach()))?;
                }
                Ok(())
            };
            back().map_err(tensor_error)?;
            start += rows;
        }
        Ok(grads)
    }
}

/// Tower, and token ids of one of its texts.
type Item<'a> = (usize, &'a [u32]);

/// One replica's share of a batch, embedded.
struct Share<'a> {
    chunks: Vec<&'a [Item<'a>]>,
    /// Vectors of each chunk.
    detached: Vec<Tensor>,
    /// The same with their graphs, or nothing.
    graphs: Vec<Tensor>,
}

/// `sum += grad`
fn add(sum: &mut Option<Tensor>, grad: Option<Tensor>) -> candle_core::Result<()> {
    let Some(grad) = grad else { return Ok(()) };
    *sum = Some(match sum.take() {
        Some(sum) => (sum + grad)?,
        None => grad,
    });
    Ok(())
}

/// Loss and gradients of a batch. Every replica embeds a share of it; their vectors are gathered, the loss contrasts each
/// query with the documents of all, and the gradients, summed, lie where the first replica computes (the paper's
/// cross-device contrastive learning).
pub(super) fn step(
    replicas: &[Model],
    queries: &[Vec<u32>],
    documents: &[Vec<u32>],
    contrast: &Contrast,
    temperature: f64,
    activation_tokens: usize,
) -> Result<StepResult> {
    let first = first(replicas)?;
    let queried = queries.iter().map(|s| (first.tower_of(0), s.as_slice()));
    let answered = documents.iter().map(|s| (first.tower_of(1), s.as_slice()));
    let items: Vec<Item<'_>> = queried.chain(answered).collect();
    let tokens = items.iter().map(|(_, s)| s.len()).sum();
    let embedded = on_each(replicas.iter().zip(shares(&items, replicas.len())), |model, items| {
        model.embed_share(items, activation_tokens)
    })?;
    let gather = || {
        let vectors = embedded.iter().flat_map(|share| &share.detached);
        let vectors: Vec<Tensor> = vectors
            .map(|part| part.to_device(first.device()))
            .collect::<candle_core::Result<_>>()?;
        let all = Var::from_tensor(&Tensor::cat(&vectors, 0)?)?;
        let q = all.narrow(0, 0, queries.len())?;
        let d = all.narrow(0, queries.len(), documents.len())?;
        let (loss, accuracy) = info_nce(&q, &d, contrast, temperature)?;
        Ok((loss.to_scalar::<f32>()?, accuracy, loss.backward()?.remove(&all)))
    };
    let (loss, accuracy, upstream) = gather().map_err(tensor_error)?;
    let upstream =
        upstream.ok_or_else(|| Error::internal("the loss does not reach the vectors"))?;
    let mut start = 0;
    let mut work = Vec::with_capacity(embedded.len());
    for share in embedded {
        let rows = share.chunks.iter().map(|chunk| chunk.len()).sum();
        let part = upstream.narrow(0, start, rows).map_err(tensor_error)?;
        work.push((share, part));
        start += rows;
    }
    let shares = on_each(replicas.iter().zip(work), |model, (share, upstream)| {
        model.backward_share(share, &upstream)
    })?;
    let mut grads: Vec<Option<Tensor>> = vec![None; first.vars.len()];
    for share in shares {
        for (sum, grad) in grads.iter_mut().zip(share) {
            let grad = grad.map(|grad| grad.to_device(first.device())).transpose();
            grad.and_then(|grad| add(sum, grad)).map_err(tensor_error)?;
        }
    }
    Ok(StepResult { loss, accuracy, grads, tokens })
}

/// Gives every replica the parameters of the first.
pub(super) fn broadcast(replicas: &[Model]) -> Result<()> {
    let first = first(replicas)?;
    for other in &replicas[1..] {
        for (from, to) in first.vars.iter().zip(&other.vars) {
            let value = from.as_detached_tensor().to_device(to.device());
            value.and_then(|value| to.set(&value)).map_err(tensor_error)?;
        }
    }
    Ok(())
}

fn first(replicas: &[Model]) -> Result<&Model> {
    replicas.first().ok_or_else(|| Error::config("training needs a device"))
}

/// Does a replica's part of the work on each: alone on the caller's thread, several at once on a thread each.
fn on_each<'m, W: Send, T: Send>(
    work: impl Iterator<Item = (&'m Model, W)>,
    f: impl Fn(&'m Model, W) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let work: Vec<(&Model, W)> = work.collect();
    if work.len() == 1 {
        return work.into_iter().map(|(model, item)| f(model, item)).collect();
    }
    std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(work.len());
        for (model, item) in work {
            let f = &f;
            let thread = std::thread::Builder::new().name("train".to_owned()).stack_size(STACK);
            let thread = thread.spawn_scoped(scope, move || f(model, item));
            threads.push(thread.or_error(ErrorKind::Resource, || "starting a thread that trains")?);
        }
        let ended = |thread: std::thread::ScopedJoinHandle<'_, Result<T>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(ended).collect()
    })
}

/// Cuts items into `count` runs of about equally many tokens, in order; some may be empty.
fn shares<'a>(items: &'a [Item<'a>], count: usize) -> Vec<&'a [Item<'a>]> {
    let total: usize = items.iter().map(|(_, s)| s.len()).sum();
    let (mut rest, mut seen) = (items, 0);
    let mut shares = Vec::with_capacity(count);
    for share in 1..=count {
        let end = total * share / count;
        let take = rest
            .iter()
            .take_while(|(_, s)| {
                seen += s.len();
                share == count || seen <= end
            })
            .count();
        // The item that went beyond the end was counted and belongs to the next.
        seen = items[..items.len() - rest.len() + take].iter().map(|(_, s)| s.len()).sum();
        let (own, others) = rest.split_at(take);
        shares.push(own);
        rest = others;
    }
    shares
}

/// Runs of consecutive sequences of one tower that hold at most `tokens` tokens (one at least).
fn chunks<'a>(items: &'a [Item<'a>], tokens: usize) -> Vec<&'a [Item<'a>]> {
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
