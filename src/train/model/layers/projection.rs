//! One matrix of a layer, with what is trained of it or beside it.

use candle_core::Result;

use super::{Values, size};
use crate::kernel::{
    LowRank, LowRankUpdate, Target, View, add_columns, add_outer, add_to, product,
};
use crate::train::autograd::linear::Weight;

/// `y = x W^T + scale (x A^T) B^T + bias`.
pub(in crate::train::model) struct Projection {
    pub(in crate::train::model) weight: Weight,
    /// (out, in).
    pub(in crate::train::model) shape: (usize, usize),
    /// Whether W learns.
    pub(in crate::train::model) learns: bool,
    pub(in crate::train::model) lora: Option<Lora>,
    pub(in crate::train::model) bias: Option<Values>,
}

/// A low-rank update: `a` is `[rank, in]`, `b` `[out, rank]`; both learn.
pub(in crate::train::model) struct Lora {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    scale: f32,
    /// The same for packed weights.
    packed: Option<LowRankUpdate>,
}

/// Gradients of a projection; empty for what does not learn.
#[derive(Default)]
pub(in crate::train::model) struct ProjectionGradients {
    pub(in crate::train::model) weight: Vec<f32>,
    pub(in crate::train::model) a: Vec<f32>,
    /// Turned: `[rank, out]`.
    pub(in crate::train::model) b: Vec<f32>,
    pub(in crate::train::model) bias: Vec<f32>,
}

impl ProjectionGradients {
    pub(super) fn add(&mut self, other: &Self) {
        add_to(&mut self.weight, &other.weight);
        add_to(&mut self.a, &other.a);
        add_to(&mut self.b, &other.b);
        add_to(&mut self.bias, &other.bias);
    }
}

/// A projection's input and output in the backward pass, of this many rows.
pub(super) struct Passed<'a> {
    pub(super) rows: usize,
    /// The input.
    pub(super) x: &'a [f32],
    /// What the low-rank update had between its factors.
    pub(super) low: &'a [f32],
    /// The gradient of the output.
    pub(super) g: &'a [f32],
}

impl Projection {
    pub(super) fn gradients(&self) -> ProjectionGradients {
        let (out, input) = self.shape;
        let rank = self.lora.as_ref().map_or(0, |lora| lora.rank);
        ProjectionGradients {
            weight: vec![0.0; if self.learns { out * input } else { 0 }],
            a: vec![0.0; rank * input],
            b: vec![0.0; rank * out],
            bias: self.bias.as_ref().map(Values::zeros).unwrap_or_default(),
        }
    }

    /// `y` of `x`, `[rows, in]`; `low` becomes `scale x A^T`.
    pub(super) fn forward(
        &self,
        x: &[f32],
        rows: usize,
        low: &mut Vec<f32>,
        y: &mut Vec<f32>,
    ) -> Result<()> {
        let (out, input) = self.shape;
        size(y, rows * out);
        match (&self.lora, &self.weight) {
            (None, weight) => weight.forward(x, rows, y)?,
            (Some(lora), Weight::Packed(weight)) => {
                size(low, rows * lora.rank);
                weight.forward(x, lora.packed.as_ref(), y, low);
            }
            (Some(lora), weight) => {
                weight.forward(x, rows, y)?;
                let rank = lora.rank;
                size(low, rows * rank);
                let (a, b) = (View::rows(&lora.a, input), View::rows(&lora.b, rank));
                let target = Target { data: low, stride: rank, accumulate: false };
                let x = View::rows(x, input);
                product(target, (rows, rank, input), lora.scale, x, a.t(), true);
                let target = Target { data: y, stride: out, accumulate: true };
                product(target, (rows, out, rank), 1.0, View::rows(low, rank), b.t(), true);
            }
        }
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(out).for_each(|row| add_to(row, &bias.numbers));
        }
        Ok(())
    }

    /// Adds what the parameters learn; `dx`, if wanted, becomes the gradient of the input, or is added to (`add`).
    pub(super) fn backward(
        &self,
        passed: &Passed<'_>,
        dx: Option<(&mut [f32], bool)>,
        dlow: &mut Vec<f32>,
        grads: &mut ProjectionGradients,
    ) -> Result<()> {
        let (out, input) = self.shape;
        let Passed { rows, x, low, g } = *passed;
        if !grads.bias.is_empty() {
            add_columns(g, &mut grads.bias);
        }
        if self.learns {
            self.weight.gradient(g, x, rows, &mut grads.weight)?;
        }
        let Some(lora) = &self.lora else {
            if let Some((dx, add)) = dx {
                self.weight.backward(g, rows, dx, add)?;
            }
            return Ok(());
        };
        let rank = lora.rank;
        size(dlow, rows * rank);
        match (dx, &self.weight) {
            (Some((dx, add)), Weight::Packed(weight)) => {
                weight.backward(g, lora.packed.as_ref(), dx, add, dlow);
            }
            (dx, weight) => {
                let (a, b) = (View::rows(&lora.a, input), View::rows(&lora.b, rank));
                let target = Target { data: dlow, stride: rank, accumulate: false };
                product(target, (rows, rank, out), lora.scale, View::rows(g, out), b, true);
                if let Some((dx, add)) = dx {
                    weight.backward(g, rows, dx, add)?;
                    let target = Target { data: dx, stride: input, accumulate: true };
                    product(target, (rows, input, rank), 1.0, View::rows(dlow, rank), a, true);
                }
            }
        }
        add_outer(dlow, rank, x, input, &mut grads.a);
        add_outer(low, rank, g, out, &mut grads.b);
        Ok(())
    }
}

impl Lora {
    /// A low-rank update beside `weight`.
    pub(in crate::train::model) fn new(
        a: Vec<f32>,
        b: Vec<f32>,
        rank: usize,
        scale: f32,
        weight: &Weight,
    ) -> Self {
        let packed = match weight {
            Weight::Packed(weight) => Some(weight.low_rank(LowRank { a: &a, b: &b, rank, scale })),
            Weight::Tensor(_) => None,
        };
        Self { a, b, rank, scale, packed }
    }
}
