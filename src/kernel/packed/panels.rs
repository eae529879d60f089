//! How weights are laid out in panels, and how a tile of products leaves the registers: the same for every arithmetic.

use super::super::elementary::Activation;
use super::super::simd::Simd;

/// Runs a body with the const `M` set to the number of rows, 1 to 14 but no more than the tile has.
macro_rules! rows {
    ($S:ty, $count:expr, $M:ident => $body:block) => {
        rows!(@ $S, $count, $M, $body, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    (@ $S:ty, $count:expr, $M:ident, $body:block, $($m:literal)*) => {
        match $count {
            $($m if $m <= <$S>::ROWS => {
                const $M: usize = $m;
                $body
            })*
            _ => unreachable!("a tile has 1 to {} rows", <$S>::ROWS),
        }
    };
}
pub(crate) use rows;

/// Panels worked off together: a block of them fits the second-level cache, and the rows are read once for all.
pub const PANELS: usize = 4;

/// 32-bit words of weights that stay in the second-level cache beside a tile of rows.
const CACHED: usize = 1 << 17;

/// A weight matrix `[n, k]` cut into panels of columns, two vectors wide. Two matrices of one shape whose product
/// is `f(gate) * up` share panels: one vector of gate columns, one of up.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The layer's input width.
    pub k: usize,
    /// Its output width.
    pub n: usize,
    /// Lanes of a vector.
    pub lanes: usize,
    /// Where this is gate and up, the function on the gate.
    pub gate: Option<Activation>,
}

impl Layout {
    /// Columns of one panel.
    pub fn panel(&self) -> usize {
        2 * self.lanes
    }

    /// Columns of the result that one panel makes.
    pub fn width(&self) -> usize {
        if self.gate.is_some() { self.lanes } else { self.panel() }
    }

    /// How many panels there are; the last may have columns that are padding.
    pub fn panels(&self) -> usize {
        self.n.div_ceil(self.width())
    }

    /// Panel, and column in it, of row `at` of the matrices one below the other.
    pub fn place(&self, at: usize) -> (usize, usize) {
        if self.gate.is_some() {
            let (up, at) = (at / self.n, at % self.n);
            (at / self.lanes, up * self.lanes + at % self.lanes)
        } else {
            (at / self.panel(), at % self.panel())
        }
    }

    /// Where the product of panel `at` goes.
    pub fn target(&self, at: usize, then: Then) -> Target {
        let column = at * self.width();
        let columns = self.width().min(self.n - column);
        Target { column, columns, stride: self.n, gate: self.gate, then }
    }
}

/// How many panels of `len` 32-bit words are worked off together: [`PANELS`], fewer where so many would leave
/// the cache.
pub fn together(len: usize) -> usize {
    (CACHED / len.max(1)).clamp(1, PANELS)
}

/// What becomes of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// c = a b
    Store,
    /// c = c + a b
    Add,
}

/// The columns of the result that one panel makes.
pub struct Target {
    pub column: usize,
    columns: usize,
    stride: usize,
    gate: Option<Activation>,
    then: Then,
}

/// Writes M rows of products.
///
/// # Safety
/// `c` has M rows of the target's columns, its stride apart; below `Isa::run`.
#[inline(always)]
pub unsafe fn finish<S: Simd, const M: usize>(sums: &[[S::V; 2]; M], c: *mut f32, target: &Target) {
    for (i, sum) in sums.iter().enumerate() {
        // SAFETY: the caller vouches for c; parts of vectors go through `edge`.
        unsafe {
            let c = c.add(i * target.stride);
            if let Some(gate) = target.gate {
                let value = S::mul(gated::<S>(gate, sum[0]), sum[1]);
                put::<S>(value, c, target.columns, Then::Store);
            } else {
                put::<S>(sum[0], c, target.columns, target.then);
                if target.columns > S::LANES {
                    put::<S>(sum[1], c.add(S::LANES), target.columns - S::LANES, target.then);
                }
            }
        }
    }
}

/// The function on the gate.
///
/// # Safety
/// Below `Isa::run`.
#[inline(always)]
unsafe fn gated<S: Simd>(gate: Activation, x: S::V) -> S::V {
    // SAFETY: as this function's.
    unsafe {
        let minus = match gate {
            Activation::Relu => return S::max(x, S::splat(0.)),
            Activation::Gelu => return S::gelu(x),
            Activation::Silu => S::mul(x, S::splat(-1.)),
            // x times the logistic function of twice the tangent's argument, sqrt(2 / pi) (x + 0.044715 x^3).
            Activation::GeluTanh => {
                let square = S::mul(x, x);
                S::mul(x, S::fma(square, S::splat(-0.071_354_814), S::splat(-1.595_769_2)))
            }
        };
        S::div(x, S::add(S::splat(1.), S::exp(minus)))
    }
}

/// # Safety
/// `c` has min(columns, LANES) elements.
#[inline(always)]
unsafe fn put<S: Simd>(value: S::V, c: *mut f32, columns: usize, then: Then) {
    // SAFETY: the caller vouches for c.
    unsafe {
        if columns >= S::LANES {
            let value = if then == Then::Add { S::add(S::load(c), value) } else { value };
            S::store(c, value);
        } else {
            let mut edge = [0f32; 16];
            S::store(edge.as_mut_ptr(), value);
            for (i, value) in edge[..columns].iter().enumerate() {
                let c = &mut *c.add(i);
                *c = if then == Then::Add { *c + *value } else { *value };
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// All of them, in f64.
    pub fn exact(gate: Activation, x: f64) -> f64 {
        match gate {
            Activation::Silu => x / (1. + (-x).exp()),
            Activation::GeluTanh => {
                let inner = (2. / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1. + inner.tanh())
            }
            Activation::Gelu => x * up_to(x),
            Activation::Relu => x.max(0.),
        }
    }

    /// The normal distribution up to x, by its series.
    fn up_to(x: f64) -> f64 {
        if x.abs() > 6. {
            return if x > 0. { 1. } else { 0. };
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..120 {
            let n = f64::from(n);
            term *= -x * x / (2. * n);
            sum += term / (2. * n + 1.);
        }
        0.5 + sum / (2. * std::f64::consts::PI).sqrt()
    }

    /// Numbers from -1 to 1, of a linear congruential generator.
    pub fn noise(seed: u64) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.
        }
    }

    /// None, or one of them.
    pub fn any_gate() -> impl proptest::strategy::Strategy<Value = Option<Activation>> {
        use Activation::{Gelu, GeluTanh, Relu, Silu};
        let all = [None, Some(Silu), Some(GeluTanh), Some(Gelu), Some(Relu)];
        proptest::sample::select(all.to_vec())
    }

    #[test]
    fn every_row_has_one_place() {
        let silu = Some(Activation::Silu);
        for (n, lanes, gate) in [(40, 16, None), (40, 16, silu), (7, 4, silu), (9, 4, None)] {
            let layout = Layout { k: 1, n, lanes, gate };
            let rows = if gate.is_some() { 2 * n } else { n };
            let mut seen: Vec<_> = (0..rows).map(|at| layout.place(at)).collect();
            assert!(seen.iter().all(|(p, c)| *p < layout.panels() && *c < layout.panel()));
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), rows);
            if gate.is_some() {
                let (panel, column) = layout.place(3);
                assert_eq!(layout.place(n + 3), (panel, column + lanes));
            }
        }
    }
}
