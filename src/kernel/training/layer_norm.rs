//! LayerNorm of sums, on slices, and its gradient.

use rayon::prelude::*;

use super::super::lanes::{add_to, dot, sum};
use super::super::simd::{Isa, Kernel, Simd, kernel};
use super::task::ROWS;

/// Parameters of a LayerNorm, or their gradients.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Multiplies the normalised rows.
    pub weight: Vec<f32>,
    /// Added to them.
    pub bias: Vec<f32>,
}

impl Norm {
    /// Zeros.
    pub fn zeros(width: usize) -> Self {
        Self { weight: vec![0.0; width], bias: vec![0.0; width] }
    }

    /// Adds another's numbers.
    pub fn add(&mut self, other: &Self) {
        add_to(&mut self.weight, &other.weight);
        add_to(&mut self.bias, &other.bias);
    }

    /// `sums += bias + residual`, and `y` their normalised rows times the weight plus the bias. Rows are as wide as the
    /// parameters; `bias` and `residual` may be empty.
    pub fn forward(
        &self,
        sums: &mut [f32],
        bias: &[f32],
        residual: &[f32],
        epsilon: f32,
        y: &mut [f32],
    ) {
        let block = self.weight.len() * ROWS;
        let blocks = sums.par_chunks_mut(block).zip(y.par_chunks_mut(block)).enumerate();
        blocks.for_each(|(at, (sums, y))| {
            let residual = residual.get(at * block..).unwrap_or(&[]);
            forward_rows(Isa::best(), self, sums, bias, residual, epsilon, y);
        });
    }

    /// The gradient `dx` of the sums from `g`, that of the normalised rows; adds the parameters' own to `grads` and,
    /// unless it is empty, the columns of `dx` to `dbias`. The order of the sums over rows does not depend on the
    /// threads.
    pub fn backward(
        &self,
        (sums, g): (&[f32], &[f32]),
        epsilon: f32,
        dx: &mut [f32],
        grads: &mut Self,
        dbias: &mut [f32],
    ) {
        let width = self.weight.len();
        let block = width * ROWS;
        let blocks = dx.par_chunks_mut(block).zip(sums.par_chunks(block)).zip(g.par_chunks(block));
        let parts: Vec<[Vec<f32>; 3]> = blocks
            .map(|((dx, sums), g)| {
                let mut columns = [(); 3].map(|()| vec![0.0; width]);
                backward_rows(Isa::best(), &self.weight, sums, g, epsilon, dx, &mut columns);
                columns
            })
            .collect();
        for [weight, bias, columns] in &parts {
            add_to(&mut grads.weight, weight);
            add_to(&mut grads.bias, bias);
            add_to(dbias, columns);
        }
    }
}

/// The row less its mean, into `centred`, and the reciprocal of its deviation.
#[inline(always)]
fn moments(x: &[f32], centred: &mut [f32], epsilon: f32) -> f32 {
    let width = x.len() as f32;
    let mean = sum(x) / width;
    for (to, x) in centred.iter_mut().zip(x) {
        *to = x - mean;
    }
    (dot(centred, centred) / width + epsilon).sqrt().recip()
}

kernel! {
    /// [`Norm::forward`] of some rows.
    fn forward_rows<'a, S: Simd>(
        isa: Isa, norm: &'a Norm, sums: &'a mut [f32], bias: &'a [f32], residual: &'a [f32], epsilon: f32,
        y: &'a mut [f32],
    ) {
        let width = norm.weight.len();
        let rows = sums.chunks_exact_mut(width).zip(y.chunks_exact_mut(width));
        for (at, (sums, y)) in rows.enumerate() {
            add_to(sums, bias);
            add_to(sums, residual.get(at * width..).unwrap_or(&[]));
            let scale = moments(sums, y, epsilon);
            for (y, (w, b)) in y.iter_mut().zip(norm.weight.iter().zip(&norm.bias)) {
                *y = *y * scale * w + b;
            }
        }
    }
}

kernel! {
    /// [`Norm::backward`] of some rows; `columns` are sums over them: of the weight's gradient, of the bias's and of
    /// `dx`.
    fn backward_rows<'a, S: Simd>(
        isa: Isa, weight: &'a [f32], sums: &'a [f32], g: &'a [f32], epsilon: f32, dx: &'a mut [f32],
        columns: &'a mut [Vec<f32>; 3],
    ) {
        let width = weight.len();
        let mut normal = vec![0.0; width];
        let [dweight, dbias, columns] = columns;
        let rows = dx.chunks_exact_mut(width).zip(sums.chunks_exact(width));
        for ((dx, sums), g) in rows.zip(g.chunks_exact(width)) {
            let scale = moments(sums, &mut normal, epsilon);
            let own = dweight.iter_mut().zip(dbias.iter_mut()).zip(dx.iter_mut());
            let given = normal.iter_mut().zip(g).zip(weight);
            for (((dw, db), dx), ((normal, g), w)) in own.zip(given) {
                *normal *= scale;
                *dw += g * *normal;
                *db += g;
                *dx = g * w;
            }
            let pull = dot(dx, &normal) / width as f32;
            let shift = sum(dx) / width as f32;
            for ((dx, normal), column) in dx.iter_mut().zip(&normal).zip(columns.iter_mut()) {
                *dx = scale * (*dx - shift - normal * pull);
                *column += *dx;
            }
        }
    }
}
