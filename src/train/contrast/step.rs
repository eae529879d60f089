//! One contrastive step with gradient caching: the batch is embedded in chunks that fit in memory, the loss is
//! taken over all of it, and its gradient is carried back through each chunk (Gao et al. 2021). Several devices share a
//! batch in the same way: a chunk is embedded wherever there is room.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Tensor, Var};

use super::objective::Objective;
use crate::error::{Error, ErrorKind, Result, no_thread};
use crate::observe::Reporter;
use crate::train::gradients::Gradients;
use crate::train::model::adapter::Adapter;
use crate::train::model::decoder::{Decoder, Memory, NamedVar, normalize};
use crate::train::model::student::Student;
use crate::train::tensors::{STACK, tensor_error};
use crate::train::training::StepResult;

/// One tower in training: a decoder and, where only that is trained, the adapter over it.
pub(super) struct Tracked {
    pub(super) decoder: Decoder,
    pub(super) adapter: Option<Adapter>,
}

/// A query tower with parameters of its own.
pub(super) enum QueryTower {
    /// The LLM, or its first layers.
    Decoder(Box<Tracked>),
    /// A small encoder.
    Student { student: Student, vars: Vec<NamedVar> },
}

impl Tracked {
    fn embed(&self, sequences: &[&[u32]], keep: bool) -> Result<(Tensor, Memory)> {
        let view = self.adapter.as_ref().map(Adapter::view);
        self.decoder.embed(sequences, view.as_ref(), keep)
    }

    fn backward(
        &self,
        memory: Memory,
        sequences: &[&[u32]],
        upstream: &Tensor,
        grads: &mut Gradients,
    ) -> Result<()> {
        let view = self.adapter.as_ref().map(Adapter::view);
        self.decoder.backward(memory, sequences, view.as_ref(), upstream, grads)
    }
}

/// The towers in training: one for documents and, where queries have parameters of their own, one for those.
pub(super) struct Model {
    pub(super) document: Tracked,
    pub(super) query: Option<QueryTower>,
    vars: Vec<Var>,
}

impl Model {
    pub(super) fn new(document: Tracked, query: Option<QueryTower>, vars: Vec<Var>) -> Self {
        Self { document, query, vars }
    }

    /// Number of the tower that a side (0 query, 1 document) uses: 1 for documents and for both.
    fn tower_of(&self, side: usize) -> usize {
        if self.query.is_some() { side } else { 1 }
    }

    /// Embeds sequences of one tower, `[sequences, dimensions]`.
    fn embed(&self, items: &[Item<'_>], keep: bool) -> Result<(Tensor, Memory)> {
        let sequences: Vec<&[u32]> = items.iter().map(|(_, s)| *s).collect();
        match (&self.query, items[0].0) {
            (Some(QueryTower::Decoder(query)), 0) => query.embed(&sequences, keep),
            (Some(QueryTower::Student { student, .. }), 0) => {
                let vectors = student.forward(&sequences)?;
                let unit = normalize(&vectors).map_err(tensor_error)?.detach();
                Ok((unit, Memory::Nothing))
            }
            _ => self.document.embed(&sequences, keep),
        }
    }

    fn backward(
        &self,
        items: &[Item<'_>],
        memory: Memory,
        upstream: &Tensor,
        grads: &mut Gradients,
    ) -> Result<()> {
        let sequences: Vec<&[u32]> = items.iter().map(|(_, s)| *s).collect();
        match (&self.query, items[0].0) {
            (Some(QueryTower::Decoder(query)), 0) => {
                query.backward(memory, &sequences, upstream, grads)
            }
            (Some(QueryTower::Student { student, vars }), 0) => {
                let pull = |vectors: &Tensor, range: Range<usize>| {
                    let upstream = upstream.narrow(0, range.start, range.len())?;
                    let nothing = Tensor::zeros((), DType::F32, vectors.device())?;
                    Ok(((normalize(vectors)? * upstream)?.sum_all()?, nothing))
                };
                let learnt = student.gradients(&sequences, vars, &pull)?;
                for ((_, var), found) in vars.iter().zip(learnt.gradients) {
                    if let Some(found) = found {
                        grads.add(var.id(), found).map_err(tensor_error)?;
                    }
                }
                Ok(())
            }
            _ => self.document.backward(memory, &sequences, upstream, grads),
        }
    }

    /// Embeds sequences of one side, `[sequences, dimensions]`.
    pub(super) fn encode(
        &self,
        side: usize,
        sequences: &[Vec<u32>],
        chunk_tokens: usize,
    ) -> Result<Tensor> {
        let items: Vec<Item<'_>> =
            sequences.iter().map(|s| (self.tower_of(side), s.as_slice())).collect();
        let chunks = chunks(&items, chunk_tokens).into_iter();
        let parts: Vec<Tensor> = chunks
            .map(|chunk| self.embed(chunk, false).map(|(vectors, _)| vectors))
            .collect::<Result<_>>()?;
        Tensor::cat(&parts, 0).map_err(tensor_error)
    }

    /// Embeds this replica's share of a batch. As much of it as there is room for is kept for the backward pass; the
    /// rest is embedded again when its gradient is known.
    fn embed_share<'a>(
        &self,
        items: &'a [Item<'a>],
        activation_tokens: usize,
    ) -> Result<Share<'a>> {
        let chunks = chunks(items, activation_tokens);
        let tokens = |at: usize| chunks[at].iter().map(|(_, s)| s.len()).sum::<usize>();
        // The largest first, so that little is left; and those that are not kept before those that are, which fill the
        // room.
        let mut by_size: Vec<usize> = (0..chunks.len()).collect();
        by_size.sort_by_key(|at| (Reverse(tokens(*at)), *at));
        let mut room = activation_tokens;
        let (kept, again): (Vec<usize>, Vec<usize>) = by_size.into_iter().partition(|at| {
            // A text longer than there is room for is held all the same: the backward pass would hold it, too.
            let fits = tokens(*at) <= room || room == activation_tokens;
            room -= if fits { tokens(*at).min(room) } else { 0 };
            fits
        });
        let mut parts: Vec<Option<(Tensor, Memory)>> = chunks.iter().map(|_| None).collect();
        for at in &again {
            parts[*at] = Some(self.embed(chunks[*at], false)?);
        }
        for at in &kept {
            parts[*at] = Some(self.embed(chunks[*at], true)?);
        }
        let repeated = again.iter().map(|at| tokens(*at)).sum();
        let (detached, memories) = parts.into_iter().flatten().unzip();
        let order = kept.into_iter().chain(again).collect();
        Ok(Share { chunks, detached, memories, order, repeated })
    }

    /// The share's part of the gradients, given the gradient of its vectors, `[rows, dimensions]`.
    fn backward_share(&self, share: Share<'_>, upstream: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let mut grads = Gradients::new(&self.vars);
        let mut memories: Vec<Option<Memory>> = share.memories.into_iter().map(Some).collect();
        let starts: Vec<usize> = share
            .chunks
            .iter()
            .scan(0, |end, chunk| {
                *end += chunk.len();
                Some(*end - chunk.len())
            })
            .collect();
        for at in share.order {
            let chunk = share.chunks[at];
            let own = upstream
                .narrow(0, starts[at], chunk.len())
                .and_then(|own| own.detach().to_device(share.detached[at].device()))
                .map_err(tensor_error)?;
            let memory = memories[at].take().unwrap_or(Memory::Nothing);
            self.backward(chunk, memory, &own, &mut grads)?;
        }
        Ok(grads.finish())
    }
}

/// Tower, and token ids of one of its texts.
type Item<'a> = (usize, &'a [u32]);

/// One replica's share of a batch, embedded.
struct Share<'a> {
    chunks: Vec<&'a [Item<'a>]>,
    /// Vectors of each chunk.
    detached: Vec<Tensor>,
    /// What is kept of each for the backward pass.
    memories: Vec<Memory>,
    /// The chunks in the order of the backward pass: what takes room first.
    order: Vec<usize>,
    /// Tokens that go forward again.
    repeated: usize,
}

/// Loss and gradients of a batch. Every replica embeds a share of it; their vectors are gathered, the loss contrasts
/// each query with the documents of all, and the gradients, summed, are where the first replica computes (the paper's
/// cross-device contrastive learning).
pub(super) fn step(
    replicas: &[Model],
    queries: &[Vec<u32>],
    documents: &[Vec<u32>],
    objective: &Objective<'_>,
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
            .map(|part| part.to_device(first.document.decoder.device()))
            .collect::<candle_core::Result<_>>()?;
        let all = Var::from_tensor(&Tensor::cat(&vectors, 0)?)?;
        let (loss, accuracy) = objective.loss(&all)?;
        let upstream = loss.backward()?.remove(&all);
        Ok((loss.detach(), accuracy, upstream))
    };
    let (loss, accuracy, upstream) = gather().map_err(tensor_error)?;
    let upstream =
        upstream.ok_or_else(|| Error::internal("the loss does not reach the vectors"))?;
    let (mut start, mut repeated) = (0, 0);
    let mut work = Vec::with_capacity(embedded.len());
    for share in embedded {
        repeated += share.repeated;
        let rows = share.chunks.iter().map(|chunk| chunk.len()).sum();
        let part = upstream.narrow(0, start, rows).map_err(tensor_error)?;
        work.push((share, part));
        start += rows;
    }
    let shares = on_each(replicas.iter().zip(work), |model, (share, upstream)| {
        model.backward_share(share, &upstream)
    })?;
    let mut grads = Gradients::new(&first.vars);
    for share in shares {
        for (var, grad) in first.vars.iter().zip(share) {
            let Some(grad) = grad else { continue };
            let grad = grad.to_device(var.device());
            grad.and_then(|grad| grads.add(var.id(), grad)).map_err(tensor_error)?;
        }
    }
    let (gradients, pairs) = (grads.finish(), queries.len());
    Ok(StepResult { gradients, loss, accuracy, pairs, tokens, repeated })
}

/// Does `work` with this many tokens at once; where a device runs out of memory, again with half as many, from then on.
/// `longest` is one text, which is not cut.
pub(super) fn with_what_fits<T>(
    tokens: &mut usize,
    longest: usize,
    reporter: &Arc<dyn Reporter>,
    mut work: impl FnMut(usize) -> Result<T>,
) -> Result<T> {
    loop {
        match work(*tokens) {
            Err(error) if error.kind() == ErrorKind::Resource && *tokens > longest => {
                *tokens = (*tokens / 2).max(longest);
                reporter.warn(format!(
                    "a device ran out of memory; continuing with {tokens} tokens at once. A smaller activation_tokens \
                     avoids this"
                ));
            }
            other => return other,
        }
    }
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
            threads
                .push(thread.map_err(|cause| no_thread("starting a thread that trains", cause))?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Recorder;

    #[test]
    fn out_of_memory_is_tried_again_with_less() {
        let recorder = Arc::new(Recorder::default());
        let reporter: Arc<dyn Reporter> = recorder.clone();
        let out = candle_core::Error::Msg(r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "")"#.into());
        let text = out.to_string();
        let fits = |most: usize| {
            let text = text.clone();
            move |tokens: usize| match tokens <= most {
                true => Ok(tokens),
                false => Err(tensor_error(candle_core::Error::Msg(text.clone()))),
            }
        };
        let mut tokens = 4096;
        assert_eq!(with_what_fits(&mut tokens, 256, &reporter, fits(1500)).unwrap(), 1024);
        assert_eq!((tokens, recorder.events().len()), (1024, 2));
        // A text alone does not fit.
        let error = with_what_fits(&mut tokens, 600, &reporter, fits(100)).unwrap_err();
        assert_eq!((error.kind(), tokens), (ErrorKind::Resource, 600));
        let wrong = |_| Err::<(), _>(tensor_error(candle_core::Error::Msg("shape".into())));
        let error = with_what_fits(&mut tokens, 1, &reporter, wrong).unwrap_err();
        assert_eq!((error.kind(), tokens), (ErrorKind::Internal, 600));
    }
}
