//! Attention over packed sequences on a device, each token on those of its window, without a mask over the whole batch.
//!
//! With feature `flash-attn` f16 and bf16 on a GPU take the fused varlen kernel. Elsewhere sequences of about equal
//! length form a group, and a group is one batch of products, padded to its longest member; nothing else is padded.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::softmax_last_dim;

use super::transfer::words;
use crate::kernel::Window;
use crate::tower::DecoderConfig;
use crate::tower::model::pool::Pool;

/// Scores of one group at most: what attention takes beside the activations, 256 MiB in bf16.
const GROUP_SCORES: usize = 1 << 27;
/// Lengths of groups are multiples of this, the width that matrix units like.
const GRAIN: usize = 8;
/// Up to this length a group holds any shorter sequence: padding is cheaper than another launch.
const SHORT: usize = 32;
/// Queries that share one product of a window's keys, at least.
const BLOCK: usize = 64;

/// Attention of one decoder on one device.
pub(super) struct Attention {
    device: Device,
    dtype: DType,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f64,
    /// Whether some layer sees what comes later, so that padding has to be hidden.
    looks_ahead: bool,
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
    /// Where all members lie, if that is one after the other without a gap: no copy is needed.
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
    /// For each group that is padded, where padding has to be hidden: `[rows, 1, 1, length]`, -inf behind a sequence's end.
    padding: Vec<Option<Tensor>>,
}

impl Attention {
    pub(super) fn new(config: &DecoderConfig, device: &Device, dtype: DType) -> Self {
        Self {
            device: device.clone(),
            dtype,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: config.score_scale(),
            looks_ahead: (0..config.layers).any(|layer| config.window(layer).after > 0),
            bands: Mutex::default(),
        }
    }

    /// Whether the fused kernel takes these heads.
    fn fused(&self) -> bool {
        cfg!(feature = "flash-attn")
            && self.device.is_cuda()
            && matches!(self.dtype, DType::F16 | DType::BF16)
            && self.head_dim.is_multiple_of(8)
            && self.head_dim <= 256
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
            false => group(lengths, GROUP_SCORES / self.heads),
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
            let padded = group.whole.is_none() && self.looks_ahead && !self.fused();
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
        let line = |length: usize| Tensor::arange(0f32, length as f32, &self.device);
        let apart = line(wide)?.unsqueeze(0)?.broadcast_sub(&line(deep)?.unsqueeze(1)?)?;
        let never = Tensor::full(f32::NEG_INFINITY, (deep, wide), &self.device)?;
        let mut mask = never.zeros_like()?;
        if let Some(low) = low {
            mask = apart.lt(low as f32)?.where_cond(&never, &mask)?;
        }
        if let Some(high) = high {
            mask = apart.gt(high as f32)?.where_cond(&never, &mask)?;
        }
        let mask = mask.to_dtype(self.dtype)?;
        bands.push(Band { low, high, mask: mask.clone() });
        Ok(Some(mask.narrow(0, 0, rows)?.narrow(1, 0, columns)?))
    }

    /// `q` `[total, heads, head_dim]` on `k`, `v` `[total, kv_heads, head_dim]`: `[total, heads, head_dim]`. Every token
    /// sees those of its sequence that lie in the window.
    pub(super) fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        window: Window,
        groups: &Groups,
    ) -> candle_core::Result<Tensor> {
        let scale = self.scale;
        #[cfg(feature = "flash-attn")]
        if self.fused() {
            let (ends, longest) = (groups.part(&groups.staged.ends)?, groups.staged.longest);
            let scale = scale as f32;
            let bound = |distance: usize| (distance < longest).then_some(distance);
            let (before, after) = (bound(window.before), bound(window.after));
            return candle_flash_attn::flash_attn_varlen_windowed(
                q, k, v, &ends, &ends, longest, longest, scale, before, after,
            );
        }
        // On q it costs least, and keeps f16 scores in range.
        let q = (q * scale)?;
        let mut attended = Vec::with_capacity(groups.staged.groups.len());
        for (group, padding) in groups.staged.groups.iter().zip(&groups.padding) {
            attended.push(self.attend_group(
                [&q, k, v],
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

    /// `[rows * length, heads, head_dim]`.
    fn attend_group(
        &self,
        [q, k, v]: [&Tensor; 3],
        window: Window,
        groups: &Groups,
        (group, padding): (&Group, Option<&Tensor>),
    ) -> candle_core::Result<Tensor> {
        let (n, length, d, kv) = (group.rows.len(), group.length, self.head_dim, self.kv_heads);
        // Query heads that share a key/value head: more rows of the same product.
        let shared = self.heads / kv;
        let q = groups.gather(group, q)?.reshape((n, length, kv, shared, d))?;
        let q = q.permute((0, 2, 3, 1, 4))?.contiguous()?.reshape((n * kv, shared, length, d))?;
        let by_head = |x: &Tensor| {
            let x = groups.gather(group, x)?.reshape((n, length, kv, d))?;
            x.transpose(1, 2)?.contiguous()?.reshape((n * kv, length, d))
        };
        let (k, v) = (by_head(k)?, by_head(v)?);
        let mut parts = Vec::new();
        for (queries, keys) in blocks(window, length) {
            let (rows, columns) = (queries.len(), keys.len());
            let q = q.narrow(2, queries.start, rows)?.contiguous()?;
            let q = q.reshape((n * kv, shared * rows, d))?;
            let part = |x: &Tensor| x.narrow(1, keys.start, columns)?.contiguous();
            let (k, v) = (part(&k)?, part(&v)?);
            let mut scores = q.matmul(&k.t()?)?.reshape((n * kv * shared, rows, columns))?;
            let offset = queries.start - keys.start;
            if let Some(band) = self.band(window, offset, (rows, columns))? {
                scores = scores.broadcast_add(&band)?;
            }
            if let Some(padding) = padding.filter(|_| window.after > 0) {
                scores = scores
                    .reshape((n, kv * shared, rows, columns))?
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
        mixed.permute((0, 3, 1, 2, 4))?.contiguous()?.reshape((n * length, self.heads, d))
    }
}

/// Blocks of queries of a sequence, each with the keys that any of them sees: one block where the window leaves little out.
fn blocks(window: Window, length: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let wide = window.before.max(window.after).max(BLOCK);
    if wide.saturating_add(window.most(length)) >= length {
        return vec![(0..length, 0..length)];
    }
    let block = |start: usize| {
        let end = length.min(start + wide);
        (start..end, window.keys(start, length).start..window.keys(end - 1, length).end)
    };
    (0..length).step_by(wide).map(block).collect()
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

/// Groups sequences so that each wastes at most about a quarter on padding and has at most `scores` scores a head.
/// Returns lengths and members, every sequence once, longest first.
fn group(lengths: &[usize], scores: usize) -> Vec<(usize, Vec<usize>)> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(lengths[*at]), *at));
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for at in order {
        let length = lengths[at].next_multiple_of(GRAIN);
        match groups.last_mut() {
            Some((longest, rows))
                if (*longest <= SHORT || length * 4 >= *longest * 3)
                    && (rows.len() + 1) * *longest * *longest <= scores =>
            {
                rows.push(at);
            }
            _ => groups.push((length, vec![at])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_lengths_need_no_copy() {
        let config = crate::tower::files::config::from_json(
            crate::tower::testing::tiny_config().as_object().unwrap(),
        )
        .unwrap();
        let attention = Attention::new(&config, &Device::Cpu, DType::F32);
        let mut words = Vec::new();
        let staged = attention.stage(&[16, 16, 16], false, &mut words);
        assert!(staged.unpad.is_none() && staged.groups[0].whole == Some(0));
        let staged = attention.stage(&[16, 9, 16], false, &mut words);
        assert!(staged.unpad.is_some() && staged.groups[0].whole.is_none());
        assert_eq!(words[staged.ends], [0, 16, 25, 41]);
    }

    proptest! {
        #[test]
        fn blocks_hold_every_query_once_with_all_its_keys(
            before in 0usize..300, after in 0usize..300, length in 1usize..2_000,
        ) {
            let window = Window { before, after };
            let mut next = 0;
            for (queries, keys) in blocks(window, length) {
                prop_assert_eq!(queries.start, next);
                next = queries.end;
                for query in queries {
                    let seen = window.keys(query, length);
                    prop_assert!(keys.start <= seen.start && seen.end <= keys.end);
                }
                prop_assert!(keys.len() <= before + after + 1 + before.max(after).max(BLOCK));
            }
            prop_assert_eq!(next, length);
        }

        #[test]
        fn groups_hold_every_sequence_once_and_little_padding(
            lengths in prop::collection::vec(1usize..600, 1..120), scores in 1usize..2_000_000,
        ) {
            let groups = group(&lengths, scores);
            let mut seen: Vec<usize> = Vec::new();
            for (length, rows) in &groups {
                prop_assert!(rows.len() == 1 || rows.len() * length * length <= scores);
                for row in rows {
                    let own = lengths[*row];
                    prop_assert!(own <= *length);
                    prop_assert!(*length <= SHORT || own.next_multiple_of(GRAIN) * 4 >= *length * 3);
                }
                seen.extend(rows);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
