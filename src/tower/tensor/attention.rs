//! Attention over packed sequences on a device, each token on those of its window, without a mask over the whole batch.
//!
//! With feature `flash-attn` f16 and bf16 on a GPU take the fused varlen kernel. Elsewhere sequences of about equal
//! length form a group, and a group is one batch of products, padded to its longest member; nothing else is padded.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::fused::Turned;
use super::parts::{blocks, group};
use super::relative::DistanceBias;
use super::transfer::words;
use crate::kernel::Window;
use crate::tower::model::pool::Pool;

/// Scores of one group at most: what attention takes beside the activations, 256 MiB in bf16.
const GROUP_SCORES: usize = 1 << 27;

/// What attention has to know of a tower.
#[derive(Clone, Copy)]
pub(super) struct Scored {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// What scores are multiplied by.
    pub(super) scale: f32,
    /// Whether some layer sees what comes later, so that padding has to be hidden.
    pub(super) looks_ahead: bool,
}

/// Attention of one tower on one device.
pub(super) struct Attention {
    device: Device,
    dtype: DType,
    of: Scored,
    /// What is added to scores, if anything.
    bias: Option<DistanceBias>,
    /// Whether the fused kernels are wanted.
    flash: bool,
    /// Scores of one head that are computed at once.
    group_scores: usize,
    /// Made when first needed and grown.
    bands: Mutex<Vec<Band>>,
}

/// What a block of queries sees of a block of keys: `[queries, keys]`, 0 where key minus query lies within the bounds
/// (`None`: none), else -inf.
struct Band {
    low: Option<i64>,
    high: Option<i64>,
    mask: Tensor,
}

/// Sequences that are computed together, each padded to `length`.
struct Group {
    length: usize,
    rows: Vec<usize>,
    /// Where all members are, if that is one after the other without a gap: no copy is needed.
    whole: Option<usize>,
    /// Rows of the packed batch that fill `[rows, length]`.
    pad: Range<usize>,
    /// Real lengths.
    lengths: Range<usize>,
}

/// A batch's plan on the host: ranges of what is uploaded.
pub(super) struct Staged {
    groups: Vec<Group>,
    /// From the groups' rows one after the other back to packed rows; `None` where they are in order.
    unpad: Option<Range<usize>>,
    /// Groups' sequences one after the other back to the batch's order.
    order: Range<usize>,
    /// Cumulative lengths, for the fused kernel.
    #[cfg_attr(
        not(feature = "flash-attn"),
        allow(dead_code, reason = "only that kernel reads it")
    )]
    ends: Range<usize>,
    #[cfg_attr(
        not(feature = "flash-attn"),
        allow(dead_code, reason = "only that kernel reads it")
    )]
    longest: usize,
}

/// The plan on the device.
pub(super) struct Groups {
    staged: Staged,
    words: Tensor,
    /// For each group that is padded, where padding has to be hidden: `[rows, 1, 1, length]`, -inf behind a sequence's
    /// end.
    padding: Vec<Option<Tensor>>,
}

impl Attention {
    pub(super) fn new(
        of: Scored,
        bias: Option<DistanceBias>,
        device: &Device,
        dtype: DType,
        flash: bool,
    ) -> Self {
        let (device, group_scores) = (device.clone(), GROUP_SCORES / of.heads);
        Self { device, dtype, of, bias, flash, group_scores, bands: Mutex::default() }
    }

    /// Whether the fused kernel takes these heads.
    pub(super) fn fused(&self) -> bool {
        cfg!(feature = "flash-attn")
            && self.flash
            && self.device.is_cuda()
            && matches!(self.dtype, DType::F16 | DType::BF16)
            && self.of.head_dim.is_multiple_of(8)
            && self.of.head_dim <= 256
            // They have no place for it.
            && self.bias.is_none()
    }

    /// What the fused kernel does itself, and queries have to bring along elsewhere: there it costs least, and keeps
    /// f16 scores in range.
    pub(super) fn query_scale(&self) -> f32 {
        if self.fused() { 1. } else { self.of.scale }
    }

    /// Groups the sequences and puts what the device needs behind `staged`. `mean` says that states will be averaged,
    /// which goes by groups too.
    pub(super) fn stage(&self, lengths: &[usize], mean: bool, staged: &mut Vec<u32>) -> Staged {
        let mut starts = Vec::with_capacity(lengths.len());
        let mut total = 0;
        for length in lengths {
            starts.push(total);
            total += length;
        }
        let ends = std::iter::once(0).chain(starts.iter().zip(lengths).map(|(at, n)| at + n));
        let ends = words(staged, ends.map(|end| end as u32));
        let members = match self.fused() && !mean {
            true => Vec::new(),
            false => group(lengths, self.group_scores),
        };
        let mut unpad = vec![0u32; total];
        let mut order = vec![0u32; lengths.len()];
        let (mut base, mut number, mut in_order) = (0, 0, true);
        let mut groups = Vec::with_capacity(members.len());
        for (length, rows) in members {
            let consecutive = rows.windows(2).all(|pair| pair[0] + 1 == pair[1]);
            let full = rows.iter().all(|row| lengths[*row] == length);
            let whole = (consecutive && full).then(|| starts[rows[0]]);
            in_order &= whole == Some(base);
            let pad = rows.iter().flat_map(|row| {
                // A sequence's last token stands in for what is missing: it comes later than all real ones.
                let (start, last) = (starts[*row], lengths[*row] - 1);
                (0..length).map(move |i| (start + i.min(last)) as u32)
            });
            let pad = if whole.is_some() { 0..0 } else { words(staged, pad) };
            for row in &rows {
                for i in 0..lengths[*row] {
                    unpad[starts[*row] + i] = (base + i) as u32;
                }
                base += length;
                order[*row] = number;
                number += 1;
            }
            let lengths = words(staged, rows.iter().map(|row| lengths[*row] as u32));
            groups.push(Group { length, rows, whole, pad, lengths });
        }
        let unpad = (!in_order).then(|| words(staged, unpad.into_iter()));
        let order = words(staged, order.into_iter());
        let longest = lengths.iter().copied().max().unwrap_or(0);
        Staged { groups, unpad, order, ends, longest }
    }

    /// The plan with what was uploaded of it.
    pub(super) fn groups(&self, staged: Staged, words: &Tensor) -> candle_core::Result<Groups> {
        let groups = Groups { staged, words: words.clone(), padding: Vec::new() };
        let hidden = |group: &Group| {
            let padded = group.whole.is_none() && self.of.looks_ahead && !self.fused();
            padded.then(|| self.padding(group, &groups)).transpose()
        };
        let padding =
            groups.staged.groups.iter().map(hidden).collect::<candle_core::Result<_>>()?;
        Ok(Groups { padding, ..groups })
    }

    fn padding(&self, group: &Group, groups: &Groups) -> candle_core::Result<Tensor> {
        let at = Tensor::arange(0, group.length as u32, &self.device)?.unsqueeze(0)?;
        let lengths = groups.part(&group.lengths)?.unsqueeze(1)?;
        let hidden = at.broadcast_ge(&lengths)?;
        let never = Tensor::full(f32::NEG_INFINITY, hidden.dims(), &self.device)?;
        let mask = hidden.where_cond(&never, &never.zeros_like()?)?.to_dtype(self.dtype)?;
        mask.reshape((group.rows.len(), 1, 1, group.length))
    }

    /// The mask of `rows` queries, the first at position `offset` of the `columns` keys; `None` where each sees all.
    fn band(
        &self,
        window: Window,
        offset: usize,
        (rows, columns): (usize, usize),
    ) -> candle_core::Result<Option<Tensor>> {
        let bound = |distance: usize| i64::try_from(distance).ok();
        let offset = offset as i64;
        let low = bound(window.before)
            .map(|before| offset - before)
            .filter(|low| *low > -(rows as i64 - 1));
        let high = bound(window.after)
            .map(|after| offset + after)
            .filter(|high| *high < columns as i64 - 1);
        if low.is_none() && high.is_none() {
            return Ok(None);
        }
        // Blocks that reach back to a sequence's start without beginning there have one each; the others share.
        if offset > 0 && bound(window.before).is_none_or(|before| offset < before) {
            return self.made_band((low, high), (rows, columns)).map(Some);
        }
        let mut bands = self.bands.lock().unwrap_or_else(PoisonError::into_inner);
        let at = bands.iter().position(|band| (band.low, band.high) == (low, high));
        let (mut wide, mut deep) = (columns, rows);
        if let Some(at) = at {
            let (kept_rows, kept_columns) = bands[at].mask.dims2()?;
            if kept_rows >= rows && kept_columns >= columns {
                return Ok(Some(bands[at].mask.narrow(0, 0, rows)?.narrow(1, 0, columns)?));
            }
            (wide, deep) = (wide.max(kept_columns), deep.max(kept_rows));
            bands.swap_remove(at);
        }
        let mask = self.made_band((low, high), (deep, wide))?;
        bands.push(Band { low, high, mask: mask.clone() });
        Ok(Some(mask.narrow(0, 0, rows)?.narrow(1, 0, columns)?))
    }

    fn made_band(
        &self,
        (low, high): (Option<i64>, Option<i64>),
        (rows, columns): (usize, usize),
    ) -> candle_core::Result<Tensor> {
        let line = |length: usize| Tensor::arange(0f32, length as f32, &self.device);
        let apart = line(columns)?.unsqueeze(0)?.broadcast_sub(&line(rows)?.unsqueeze(1)?)?;
        let never = Tensor::full(f32::NEG_INFINITY, (rows, columns), &self.device)?;
        let mut mask = never.zeros_like()?;
        if let Some(low) = low {
            mask = apart.lt(low as f32)?.where_cond(&never, &mask)?;
        }
        if let Some(high) = high {
            mask = apart.gt(high as f32)?.where_cond(&never, &mask)?;
        }
        mask.to_dtype(self.dtype)
    }

    /// Queries, scaled by [`Attention::query_scale`], on keys and values: `[total, heads, head_dim]`. Every token sees
    /// those of its sequence that are in the window.
    pub(super) fn attend(
        &self,
        Turned { q, k, v }: &Turned,
        window: Window,
        groups: &Groups,
    ) -> candle_core::Result<Tensor> {
        #[cfg(feature = "flash-attn")]
        if self.fused() {
            let (ends, longest) = (groups.part(&groups.staged.ends)?, groups.staged.longest);
            let scale = self.of.scale;
            let bound = |distance: usize| (distance < longest).then_some(distance);
            let (before, after) = (bound(window.before), bound(window.after));
            return candle_flash_attn::flash_attn_varlen_windowed(
                q, k, v, &ends, &ends, longest, longest, scale, before, after,
            );
        }
        let v = v.contiguous()?;
        let mut attended = Vec::with_capacity(groups.staged.groups.len());
        for (group, padding) in groups.staged.groups.iter().zip(&groups.padding) {
            attended.push(self.attend_group(
                [q, k, &v],
                window,
                groups,
                (group, padding.as_ref()),
            )?);
        }
        let attended = match attended.as_slice() {
            [one] => one.clone(),
            _ => Tensor::cat(&attended, 0)?,
        };
        match &groups.staged.unpad {
            Some(unpad) => attended.index_select(&groups.part(unpad)?, 0),
            None => Ok(attended),
        }
    }

    /// Query rows of a sequence that are computed at once where they meet `keys` keys in all its group: fewer than it
    /// has where one sequence alone has more scores than memory and the kernels' indices are for.
    fn rows_at_once(&self, keys: usize) -> usize {
        (self.group_scores / keys).max(1)
    }

    /// `[rows * length, heads, head_dim]`.
    fn attend_group(
        &self,
        [q, k, v]: [&Tensor; 3],
        window: Window,
        groups: &Groups,
        (group, padding): (&Group, Option<&Tensor>),
    ) -> candle_core::Result<Tensor> {
        let Scored { heads, kv_heads: kv, head_dim: d, .. } = self.of;
        let (n, length) = (group.rows.len(), group.length);
        // Query heads that share a key/value head: more rows of the same product.
        let shared = heads / kv;
        let q = groups.gather(group, q)?.reshape((n, length, kv, shared, d))?;
        let q = q.permute((0, 2, 3, 1, 4))?.contiguous()?.reshape((n * kv, shared, length, d))?;
        let by_head = |x: &Tensor| {
            let x = groups.gather(group, x)?.reshape((n, length, kv, d))?;
            x.transpose(1, 2)?.contiguous()?.reshape((n * kv, length, d))
        };
        let (k, v) = (by_head(k)?, by_head(v)?);
        let mut parts = Vec::new();
        for (queries, keys) in blocks(window, length, self.rows_at_once(n * length)) {
            let (rows, columns) = (queries.len(), keys.len());
            let q = q.narrow(2, queries.start, rows)?.contiguous()?;
            let q = q.reshape((n * kv, shared * rows, d))?;
            let part = |x: &Tensor| x.narrow(1, keys.start, columns)?.contiguous();
            let (k, v) = (part(&k)?, part(&v)?);
            let mut scores = q.matmul(&k.t()?)?.reshape((n * heads, rows, columns))?;
            if let Some(bias) = &self.bias {
                scores = scores
                    .reshape((n, heads, rows, columns))?
                    .broadcast_add(&bias.of(&queries, &keys)?)?
                    .reshape((n * heads, rows, columns))?;
            }
            let offset = queries.start - keys.start;
            if let Some(band) = self.band(window, offset, (rows, columns))? {
                scores = scores.broadcast_add(&band)?;
            }
            if let Some(padding) = padding.filter(|_| window.after > 0) {
                scores = scores
                    .reshape((n, heads, rows, columns))?
                    .broadcast_add(&padding.narrow(3, keys.start, columns)?)?;
            }
            let probabilities =
                softmax_last_dim(&scores)?.reshape((n * kv, shared * rows, columns))?;
            parts.push(probabilities.matmul(&v)?.reshape((n, kv, shared, rows, d))?);
        }
        let mixed = match parts.as_slice() {
            [one] => one.clone(),
            _ => Tensor::cat(&parts, 3)?,
        };
        mixed.permute((0, 3, 1, 2, 4))?.contiguous()?.reshape((n * length, heads, d))
    }
}

impl Groups {
    fn part(&self, range: &Range<usize>) -> candle_core::Result<Tensor> {
        self.words.narrow(0, range.start, range.len())
    }

    /// A group's rows of a packed tensor, padded: `[rows * length, ...]`.
    fn gather(&self, group: &Group, x: &Tensor) -> candle_core::Result<Tensor> {
        match group.whole {
            Some(start) => x.narrow(0, start, group.rows.len() * group.length),
            None => x.index_select(&self.part(&group.pad)?, 0),
        }
    }

    /// One row of the states of every sequence: `[total, width]` in f32 to `[sequences, width]`.
    pub(super) fn pool(&self, states: &Tensor, pool: Pool) -> candle_core::Result<Tensor> {
        let width = states.dim(1)?;
        let mut pooled = Vec::with_capacity(self.staged.groups.len());
        for group in &self.staged.groups {
            let (n, length) = (group.rows.len(), group.length);
            let states = self.gather(group, states)?.reshape((n, length, width))?;
            let lengths = self.part(&group.lengths)?.unsqueeze(1)?;
            let at = Tensor::arange(0, length as u32, states.device())?.unsqueeze(0)?;
            let real = at.broadcast_lt(&lengths)?.to_dtype(DType::F32)?;
            let lengths = lengths.to_dtype(DType::F32)?;
            let weights = match pool {
                Pool::Mean => real.broadcast_div(&lengths)?,
                Pool::MeanSqrtLen => real.broadcast_div(&lengths.sqrt()?)?,
                Pool::WeightedMean => {
                    let sums = ((&lengths * (&lengths + 1.)?)? / 2.)?;
                    let ranks = (at.to_dtype(DType::F32)? + 1.)?;
                    real.broadcast_mul(&ranks)?.broadcast_div(&sums)?
                }
                Pool::Max => {
                    // What stands in for a missing token is the last one again, which changes no maximum.
                    pooled.push(states.max(1)?);
                    continue;
                }
            };
            pooled.push(weights.unsqueeze(1)?.matmul(&states)?.squeeze(1)?);
        }
        Tensor::cat(&pooled, 0)?.index_select(&self.part(&self.staged.order)?, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tower::model::encoder_config::Relative;
    use crate::tower::testing::close;

    const SCORED: Scored =
        Scored { heads: 4, kv_heads: 2, head_dim: 8, scale: 0.5, looks_ahead: true };

    #[test]
    fn a_long_sequence_in_blocks_is_the_same() {
        let random = |heads| Tensor::randn(0f32, 1., (444, heads, 8), &Device::Cpu).unwrap();
        let turned = Turned { q: random(4), k: random(2), v: random(2) };
        let attend = |window, biased: bool, group_scores| {
            let relative = Relative { buckets: 32, farthest: 128 };
            let numbers: Vec<f32> = (0..32 * 4).map(|at| (at * at % 7) as f32 / 2.).collect();
            let bias = DistanceBias::new((relative, numbers), 4, &Device::Cpu, DType::F32);
            let bias = biased.then_some(bias);
            let mut attention = Attention::new(SCORED, bias, &Device::Cpu, DType::F32, true);
            attention.group_scores = group_scores;
            let mut words = Vec::new();
            let staged = attention.stage(&[3, 41, 400], false, &mut words);
            let words = Tensor::new(words, &Device::Cpu).unwrap();
            let groups = attention.groups(staged, &words).unwrap();
            attention.attend(&turned, window, &groups).unwrap()
        };
        let near = |before, after| Window { before, after };
        for window in [Window::CAUSAL, Window::FULL, near(9, 0), near(20, 90), near(70, 5)] {
            for biased in [false, true] {
                let whole = attend(window, biased, 1 << 20);
                // Blocks of several rows, the last one shorter, and of a single row.
                for scores in [23 * 400, 7 * 48, 1] {
                    close(&attend(window, biased, scores), &whole, 1e-5);
                }
            }
        }
    }

    #[test]
    fn equal_lengths_need_no_copy() {
        let attention = Attention::new(SCORED, None, &Device::Cpu, DType::F32, true);
        let mut words = Vec::new();
        let staged = attention.stage(&[16, 16, 16], false, &mut words);
        assert!(staged.unpad.is_none() && staged.groups[0].whole == Some(0));
        let staged = attention.stage(&[16, 9, 16], false, &mut words);
        assert!(staged.unpad.is_some() && staged.groups[0].whole.is_none());
        assert_eq!(words[staged.ends], [0, 16, 25, 41]);
    }
}
