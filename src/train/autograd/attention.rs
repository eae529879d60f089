//! Self-attention over packed sequences, with or without rotary embedding, each token on those of its window, with a
//! backward pass.
//!
//! Tokens of all sequences lie one after the other, `[total, heads * head_dim]`; no padding is computed. The
//! backward pass computes the probabilities again instead of keeping them.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::rows::Rows;
use crate::kernel::{Angles, Head, Window, copy_rows};
use crate::tower::DecoderConfig;

/// What stands for a score that is not seen: small enough to vanish, and a number, so that rows of padding that see
/// nothing stay numbers, too.
const NEVER: f32 = -1e30;

/// Scores of a pack at most: candle's kernels for GPUs count them in 32 bits, and one that is given twice as many loops
/// endlessly.
const MOST_SCORES: usize = 1 << 31;

/// Where each sequence of a pack begins, and the rotary angles up to the longest.
#[derive(Clone)]
pub(crate) struct Pack {
    /// Lengths of the sequences, none of them 0.
    pub(crate) lengths: Arc<Vec<usize>>,
    /// `[longest, head_dim / 2]`.
    cos: Arc<Vec<f32>>,
    sin: Arc<Vec<f32>>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Whether queries and keys are rotated by their positions.
    rotary: bool,
    /// What a token sees of its sequence.
    pub(crate) window: Window,
    padding: Arc<OnceLock<Padding>>,
}

impl Pack {
    /// For an encoder: every token sees its whole sequence, positions are in the input already.
    pub(crate) fn bidirectional(heads: usize, head_dim: usize, lengths: Vec<usize>) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let angles = longest * (head_dim / 2);
        Self {
            lengths: Arc::new(lengths),
            cos: Arc::new(vec![1.0; angles]),
            sin: Arc::new(vec![0.0; angles]),
            heads,
            kv_heads: heads,
            head_dim,
            rotary: false,
            window: Window::FULL,
            padding: Arc::default(),
        }
    }

    /// For the layers of a decoder that see `window`.
    pub(crate) fn new(config: &DecoderConfig, window: Window, lengths: Vec<usize>) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let half = config.head_dim / 2;
        let mut cos = Vec::with_capacity(longest * half);
        let mut sin = Vec::with_capacity(longest * half);
        // f32 throughout, as the reference implementations compute the angles.
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let base = config.rope_theta as f32;
                let plain = 1.0 / base.powf((2 * i) as f32 / config.head_dim as f32);
                plain / config.rope_factors.as_ref().map_or(1.0, |factors| factors[i])
            })
            .collect();
        for position in 0..longest {
            for frequency in &frequencies {
                let angle = position as f32 * frequency;
                cos.push(angle.cos());
                sin.push(angle.sin());
            }
        }
        Self {
            lengths: Arc::new(lengths),
            cos: Arc::new(cos),
            sin: Arc::new(sin),
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            rotary: true,
            window,
            padding: Arc::default(),
        }
    }

    /// The same sequences as layers of another window see them.
    pub(crate) fn seeing(&self, window: Window) -> Self {
        Self { window, padding: Arc::default(), ..self.clone() }
    }

    pub(crate) fn total(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }

    /// `None` for an encoder, whose positions are in its input.
    fn angles(&self) -> Option<Angles<'_>> {
        let (cos, sin, half) = (&self.cos[..], &self.sin[..], self.head_dim / 2);
        self.rotary.then_some(Angles { cos, sin, half })
    }

    /// Copies one head of a sequence from `source` (rows `stride` apart) into rows `depth` apart, rotated by its
    /// positions.
    fn rotate(&self, source: &[f32], stride: usize, target: &mut [f32], depth: usize) {
        match self.angles() {
            Some(angles) => angles.rotate(source, stride, target, depth),
            None => copy_rows(source, stride, target, depth, self.head_dim),
        }
    }

    /// The transpose of [`Pack::rotate`].
    fn unrotate(&self, source: &[f32], depth: usize, target: &mut [f32], stride: usize) {
        match self.angles() {
            Some(angles) => angles.unrotate(source, depth, target, stride),
            None => copy_rows(source, depth, target, stride, self.head_dim),
        }
    }

    /// Cuts a packed row-major buffer of `width` columns into its sequences.
    fn cut<'a>(&self, mut data: &'a [f32], width: usize) -> Vec<&'a [f32]> {
        let mut parts = Vec::with_capacity(self.lengths.len());
        for length in self.lengths.iter() {
            let (part, rest) = data.split_at(length * width);
            parts.push(part);
            data = rest;
        }
        parts
    }

    fn cut_mut<'a>(&self, mut data: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let mut parts = Vec::with_capacity(self.lengths.len());
        for length in self.lengths.iter() {
            let (part, rest) = data.split_at_mut(length * width);
            parts.push(part);
            data = rest;
        }
        parts
    }

    /// Attention of packed rows: `q` and `out` are `[total, heads * head_dim]`, `k` and `v` `[total, kv_heads *
    /// head_dim]`.
    pub(crate) fn forward(&self, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
        let d = self.head_dim;
        let (width, kv_width) = (self.heads * d, self.kv_heads * d);
        let group = self.heads / self.kv_heads;
        let inputs = self.cut(q, width).into_par_iter().zip(self.cut(k, kv_width));
        let inputs = inputs.zip(self.cut(v, kv_width));
        self.cut_mut(out, width).into_par_iter().zip(inputs).for_each(|(out, ((q, k), v))| {
            let length = out.len() / width;
            with_head(length, |head| {
                head.resize(length, d, false);
                let depth = head.depth();
                for at in 0..self.heads {
                    let kv = at / group * d;
                    if at % group == 0 {
                        self.rotate(&k[kv..], kv_width, &mut head.k, depth);
                        copy_rows(&v[kv..], kv_width, &mut head.v, depth, d);
                    }
                    self.rotate(&q[at * d..], width, &mut head.q, depth);
                    head.forward(self.scale(), self.window);
                    copy_rows(&head.out, depth, &mut out[at * d..], width, d);
                }
            });
        });
    }

    /// Gradients of q, k and v, each shaped as what it is the gradient of, from the gradient `g` of the output.
    pub(crate) fn backward(&self, [q, k, v, g]: [&[f32]; 4], [dq, dk, dv]: [&mut [f32]; 3]) {
        let d = self.head_dim;
        let (width, kv_width) = (self.heads * d, self.kv_heads * d);
        let group = self.heads / self.kv_heads;
        let inputs = self.cut(q, width).into_par_iter().zip(self.cut(k, kv_width));
        let inputs = inputs.zip(self.cut(v, kv_width)).zip(self.cut(g, width));
        let outputs = self.cut_mut(dq, width).into_par_iter();
        let outputs = outputs.zip(self.cut_mut(dk, kv_width));
        let outputs = outputs.zip(self.cut_mut(dv, kv_width));
        outputs.zip(inputs).for_each(|(((dq, dk), dv), (((q, k), v), g))| {
            let length = dq.len() / width;
            with_head(length, |head| {
                head.resize(length, d, true);
                let depth = head.depth();
                for at in 0..self.heads {
                    let kv = at / group * d;
                    if at % group == 0 {
                        self.rotate(&k[kv..], kv_width, &mut head.k, depth);
                        copy_rows(&v[kv..], kv_width, &mut head.v, depth, d);
                        head.dk.fill(0.0);
                        head.dv.fill(0.0);
                    }
                    self.rotate(&q[at * d..], width, &mut head.q, depth);
                    copy_rows(&g[at * d..], width, &mut head.out, depth, d);
                    head.backward(self.scale(), self.window);
                    self.unrotate(&head.dq, depth, &mut dq[at * d..], width);
                    if at % group == group - 1 {
                        self.unrotate(&head.dk, depth, &mut dk[kv..], kv_width);
                        copy_rows(&head.dv, depth, &mut dv[kv..], kv_width, d);
                    }
                }
            });
        });
    }

    /// What [`Pack::composed`] needs beside q, k and v, made for the first layer and kept for the others.
    fn padding(&self, device: &Device, dtype: DType) -> Result<Padding> {
        if let Some(made) = self.padding.get()
            && made.cos.dtype() == dtype
            && made.cos.device().same_device(device)
        {
            return Ok(made.clone());
        }
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let sequences = self.lengths.len();
        let (mut unpad, mut starts, mut lasts) = (Vec::new(), Vec::new(), Vec::new());
        for (at, &length) in self.lengths.iter().enumerate() {
            starts.push(unpad.len() as u32);
            lasts.push(length as u32 - 1);
            unpad.extend((0..length).map(|i| (at * longest + i) as u32));
        }
        // What is as large as the padded sequences is made on the device: an upload of that size may wait for it.
        let starts = Tensor::from_vec(starts, (sequences, 1), device)?;
        let lasts = Tensor::from_vec(lasts, (sequences, 1), device)?;
        let places = Tensor::arange(0u32, longest as u32, device)?.unsqueeze(0)?;
        let table = |t: &[f32]| {
            Tensor::from_slice(t, (1, 1, longest, self.head_dim / 2), device)?.to_dtype(dtype)
        };
        let seen = Tensor::zeros((1, 1, longest, longest), DType::F32, device)?;
        let never = Tensor::full(NEVER, (1, 1, longest, longest), device)?;
        // Key minus query.
        let at = Tensor::arange(0f32, longest as f32, device)?;
        let apart = at.unsqueeze(0)?.broadcast_sub(&at.unsqueeze(1)?)?;
        let apart = apart.reshape((1, 1, longest, longest))?;
        let Window { before, after } = self.window;
        let mut mask = apart.gt(after.min(longest) as f32)?.where_cond(&never, &seen)?;
        mask = apart.lt(-(before.min(longest) as f32))?.where_cond(&never, &mask)?;
        // The copies that pad a sequence come after its tokens: only who looks ahead could see them.
        if after > 0 {
            let beyond = places.broadcast_gt(&lasts)?.reshape((sequences, 1, 1, longest))?;
            let shape = (sequences, 1, longest, longest);
            let never = never.broadcast_as(shape)?;
            mask = beyond.broadcast_as(shape)?.where_cond(&never, &mask.broadcast_as(shape)?)?;
        }
        let real = places.broadcast_le(&lasts)?.to_dtype(DType::F32)?;
        let real = real.reshape((sequences * longest, 1))?;
        // A gap repeats the last token of its sequence.
        let pad = places.broadcast_minimum(&lasts)?.broadcast_add(&starts)?.flatten_all()?;
        let unpad = Tensor::from_vec(unpad, self.total(), device)?;
        let made = Padding {
            pad: Rows::new(&pad, &unpad, None),
            unpad: Rows::new(&unpad, &pad, Some(&real)),
            cos: table(&self.cos)?,
            sin: table(&self.sin)?,
            mask,
        };
        let _earlier = self.padding.set(made.clone());
        Ok(made)
    }

    /// [`Pack::forward`] in candle operations, padded to the longest sequence: for other devices, and the reference in
    /// tests.
    fn composed(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let sequences = self.lengths.len();
        let half = self.head_dim / 2;
        if !q.device().is_cpu() {
            check_scores(sequences * self.heads * longest * longest)?;
        }
        let Padding { pad, unpad, cos, sin, mask } = self.padding(q.device(), q.dtype())?;
        let split = |x: &Tensor, heads: usize, turn: bool| -> Result<Tensor> {
            let x = pad.select(x)?;
            let x = x.reshape((sequences, longest, heads, self.head_dim))?;
            let x = x.transpose(1, 2)?.contiguous()?;
            if !turn {
                return Ok(x);
            }
            let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
            let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
            let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
            Tensor::cat(&[first, second], 3)
        };
        let repeat = |x: Tensor| -> Result<Tensor> {
            let group = self.heads / self.kv_heads;
            let x = x.unsqueeze(2)?;
            x.broadcast_as((sequences, self.kv_heads, group, longest, self.head_dim))?
                .contiguous()?
                .reshape((sequences, self.heads, longest, self.head_dim))
        };
        let q = split(q, self.heads, true)?;
        let k = repeat(split(k, self.kv_heads, true)?)?;
        let v = repeat(split(v, self.kv_heads, false)?)?;
        let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * f64::from(self.scale()))?;
        let scores = scores.to_dtype(DType::F32)?.broadcast_add(&mask)?;
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let p = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?.to_dtype(v.dtype())?;
        let out = p.matmul(&v)?.transpose(1, 2)?.contiguous()?;
        unpad.select(&out.reshape((sequences * longest, self.heads * self.head_dim))?)
    }
}

/// Refuses more scores than a GPU's kernels count, in the words by which less is tried at once.
fn check_scores(scores: usize) -> Result<()> {
    if scores > MOST_SCORES {
        candle_core::bail!("out of memory: {scores} scores, where {MOST_SCORES} are counted");
    }
    Ok(())
}

/// A pack's tables on a device.
#[derive(Clone)]
struct Padding {
    /// Packed rows that fill `[sequences, longest]`, and the inverse.
    pad: Rows,
    unpad: Rows,
    /// `[1, 1, longest, head_dim / 2]`.
    cos: Tensor,
    sin: Tensor,
    /// `[1, 1, longest, longest]`, or `[sequences, 1, longest, longest]` where padding has to be hidden; f32.
    mask: Tensor,
}

thread_local! {
    /// Buffers of the head at work.
    static HEAD: RefCell<Head> = RefCell::default();
}

/// Calls `work` with buffers for a head; a thread keeps them, but for long sequences, whose scores would take memory
/// for good.
fn with_head(length: usize, work: impl FnOnce(&mut Head)) {
    const KEPT: usize = 512;
    if length <= KEPT {
        HEAD.with_borrow_mut(work);
    } else {
        work(&mut Head::default());
    }
}

/// Attention of `q` `[total, heads * head_dim]` on `k`, `v` `[total, kv_heads * head_dim]`, each sequence on its own,
/// of candle's operations.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, pack: &Pack) -> Result<Tensor> {
    if q.dim(0)? != pack.total() || pack.lengths.contains(&0) {
        candle_core::bail!("{} tokens for sequences of {:?}", q.dim(0)?, pack.lengths);
    }
    pack.composed(q, k, v)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::dataset::SplitMix64;
    use crate::train::tests_support::tiny_config;

    #[test]
    fn more_scores_than_kernels_count_are_tried_with_less() {
        check_scores(1 << 31).unwrap();
        let error = check_scores((1 << 31) + 1).unwrap_err();
        assert!(crate::tower::is_out_of_memory(&error.to_string()), "{error}");
    }

    #[test]
    fn attention_on_slices_equals_the_composed_one() {
        // A head is half a vector wide, or one and a part.
        for head_dim in [8, 20] {
            check(DecoderConfig { head_dim, ..tiny_config("llama") });
        }
    }

    fn check(config: DecoderConfig) {
        // One vector, exactly one, and more.
        let lengths = vec![5, 1, 9, 16, 3, 17, 37];
        let narrow = [Window { before: 4, after: 0 }, Window { before: 6, after: 6 }];
        for window in [Window::CAUSAL, Window::FULL].into_iter().chain(narrow) {
            same(&config, Pack::new(&config, window, lengths.clone()));
        }
        let config = DecoderConfig { kv_heads: config.heads, ..config };
        same(&config, Pack::bidirectional(config.heads, config.head_dim, lengths));
    }

    fn same(config: &DecoderConfig, pack: Pack) {
        let mut rng = SplitMix64::new(2);
        let mut random = |heads: usize| {
            let width = heads * config.head_dim;
            let data = (0..pack.total() * width).map(|_| rng.normal() as f32).collect::<Vec<_>>();
            Var::from_vec(data, (pack.total(), width), &Device::Cpu).unwrap()
        };
        let (q, k, v, direction) = (
            random(config.heads),
            random(config.kv_heads),
            random(config.kv_heads),
            random(config.heads),
        );
        let slice = |var: &Tensor| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let [qs, ks, vs, g] = [&q, &k, &v, &direction].map(|var| slice(var));
        let mut out = vec![0f32; qs.len()];
        pack.forward(&qs, &ks, &vs, &mut out);
        let [mut dq, mut dk, mut dv] = [&qs, &ks, &vs].map(|like| vec![0f32; like.len()]);
        pack.backward([&qs, &ks, &vs, &g], [&mut dq, &mut dk, &mut dv]);
        let y = attention(&q, &k, &v, &pack).unwrap();
        let loss = (&y * direction.as_tensor()).unwrap().sum_all().unwrap();
        let store = loss.backward().unwrap();
        let close = |got: &[f32], expected: &[f32], tolerance: f32| {
            let largest = expected.iter().fold(1f32, |most, value| most.max(value.abs()));
            let far = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(far.fold(0f32, f32::max) < tolerance * largest);
        };
        close(&out, &slice(&y), 1e-5);
        for (got, var) in [(dq, &q), (dk, &k), (dv, &v)] {
            close(&got, &slice(store.get(var).unwrap()), 2e-5);
        }
    }
}
