//! The vector instructions that the kernels are written against, one type per instruction set.
//!
//! A kernel is a [`Kernel`] whose body is generic over [`Simd`]; [`Isa::run`] enters it through a function
//! compiled for that instruction set, so everything marked `inline(always)` below it uses it too. [`kernel!`] makes
//! a plain function of one.

/// An instruction set of this machine, found at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 4 lanes, whatever the compiler makes of them (NEON on aarch64).
    Portable,
}

impl Isa {
    /// The instruction sets that this machine has, best first.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
                found.push(Self::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Self::Avx2);
            }
        }
        found.push(Self::Portable);
        found
    }

    /// The best one.
    pub fn best() -> Self {
        Self::available().first().copied().unwrap_or(Self::Portable)
    }

    /// Elements of one vector.
    pub fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::LANES,
            Self::Portable => Portable::LANES,
        }
    }

    /// Runs a kernel with this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
                fn enter<K: Kernel>(kernel: K) {
                    kernel.run::<Avx512>();
                }
                // SAFETY: this value exists only where the features were found.
                unsafe { enter(kernel) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                #[target_feature(enable = "avx2,fma")]
                fn enter<K: Kernel>(kernel: K) {
                    kernel.run::<Avx2>();
                }
                // SAFETY: this value exists only where the features were found.
                unsafe { enter(kernel) }
            }
            Self::Portable => kernel.run::<Portable>(),
        }
    }
}

/// A computation that can be compiled for every instruction set.
pub trait Kernel {
    /// The body; implementations are `inline(always)`.
    fn run<S: Simd>(self);
}

/// Defines a function of an [`Isa`] and other arguments whose body is a [`Kernel`]'s, generic over the type of vectors, or
/// one of `Words` whose body is a `WordKernel`'s.
macro_rules! kernel {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$life:lifetime, $v:ident: Simd>($on:ident: Isa, $($rest:tt)*) $body:block
    ) => {
        kernel! { @Isa Kernel Simd $(#[$meta])* $vis fn $name<$life, $v>($on, $($rest)*) $body }
    };
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$life:lifetime, $v:ident: Word>($on:ident: Words, $($rest:tt)*) $body:block
    ) => {
        kernel! { @Words WordKernel Word $(#[$meta])* $vis fn $name<$life, $v>($on, $($rest)*) $body }
    };
    (
        @$set:ident $kernel:ident $bound:ident $(#[$meta:meta])*
        $vis:vis fn $name:ident<$life:lifetime, $v:ident>(
            $on:ident, $($argument:ident: $type:ty),* $(,)?
        ) $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name<$life>($on: $set, $($argument: $type),*) {
            struct Arguments<$life> {
                $($argument: $type),*
            }
            impl $kernel for Arguments<'_> {
                #[inline(always)]
                fn run<$v: $bound>(self) {
                    let Self { $($argument),* } = self;
                    $body
                }
            }
            $on.run(Arguments { $($argument),* });
        }
    };
}
pub(crate) use kernel;

/// One instruction set's f32 vectors.
///
/// # Safety
/// All functions may only be called where the instruction set exists, that is below [`Isa::run`]; `load` and
/// `store` need `LANES` valid elements at the pointer.
#[allow(clippy::missing_safety_doc)] // said once, for all of them, above
pub trait Simd: Copy {
    /// Elements of a vector.
    const LANES: usize;
    /// Rows of a register tile: `2 * ROWS` accumulators, two panel vectors and one broadcast fill the registers.
    const ROWS: usize;
    /// Whether products ask for weights ahead; so far measured with AVX2 alone, where it gains.
    const AHEAD: bool = false;
    /// A vector.
    type V: Copy;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// To the nearest whole number.
    unsafe fn round(a: Self::V) -> Self::V;
    /// a * 2^n for a whole n within -126..=127.
    unsafe fn scale(a: Self::V, n: Self::V) -> Self::V;

    /// Writes LANES vectors as columns: element `i` of `rows[j]` to `to[i * step + j]`, i ascending. Writes LANES
    /// elements at every step, so what lies behind a narrower step must still be written, or be slack.
    unsafe fn interleave(rows: &[Self::V; 16], to: *mut f32, step: usize);

    /// e^x within 2 units in the last place, for x held within -87.3..=88.3; NaN stays NaN.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: as the trait demands.
        unsafe {
            // Cephes expf: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial for e^r. Below -87.3 the result is
            // e^-87.3 = 1.2e-38, which vanishes in every sum this is used for.
            // Bounds first: where an operand is NaN the second is taken, so that NaN stays NaN.
            let x = Self::min(Self::splat(88.3), Self::max(Self::splat(-87.3), x));
            let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fma(n, Self::splat(-0.693_359_4), x);
            let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
                p = Self::fma(p, r, Self::splat(c));
            }
            let p = Self::fma(p, Self::mul(r, r), Self::add(r, Self::splat(1.0)));
            Self::scale(p, n)
        }
    }

    /// x times the normal distribution up to x, within 3e-7 of it: Abramowitz and Stegun 7.1.26. NaN stays NaN.
    #[inline(always)]
    unsafe fn gelu(x: Self::V) -> Self::V {
        // SAFETY: as the trait demands.
        unsafe {
            let size = Self::max(Self::mul(x, Self::splat(-1.0)), x);
            let bell = Self::exp(Self::mul(Self::mul(size, size), Self::splat(-0.5)));
            let slope = Self::splat(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2);
            let t = Self::div(Self::splat(1.0), Self::fma(size, slope, Self::splat(1.0)));
            let mut p = Self::splat(1.061_405_4);
            for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
                p = Self::fma(p, t, Self::splat(c));
            }
            // The share beyond |x| is half of p t bell: taken from x above 0, from 0 below.
            let beyond = Self::mul(Self::mul(p, t), bell);
            let above = Self::max(Self::splat(0.0), x);
            Self::fma(Self::mul(size, Self::splat(-0.5)), beyond, above)
        }
    }
}

/// 512-bit vectors.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx512;

/// 256-bit vectors.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx2;

/// Four lanes in plain Rust.
#[derive(Clone, Copy)]
pub struct Portable;

// SAFETY of all calls below: the trait's contract names the instruction set and the valid pointers.
macro_rules! forward {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {
        $(#[inline(always)]
        #[allow(unused_unsafe)] // a body may do without
        unsafe fn $name($($arg: $ty),*) -> $ret {
            // SAFETY: as the trait demands.
            unsafe { $body }
        })*
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Avx512, Simd};
    use std::arch::x86_64::*;

    impl Simd for Avx512 {
        const LANES: usize = 16;
        const ROWS: usize = 14;
        type V = __m512;
        forward! {
            splat(x: f32) -> __m512 = _mm512_set1_ps(x);
            load(from: *const f32) -> __m512 = _mm512_loadu_ps(from);
            store(to: *mut f32, v: __m512) -> () = _mm512_storeu_ps(to, v);
            add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
            mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
            div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
            max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
            min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
            fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            round(a: __m512) -> __m512 =
                _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
            scale(a: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(a, n);
        }

        #[inline(always)]
        unsafe fn interleave(r: &[__m512; 16], to: *mut f32, step: usize) {
            // SAFETY: as the trait demands.
            unsafe {
                let mut u = [_mm512_setzero_ps(); 16];
                for i in [0, 4, 8, 12] {
                    let (a, b) = (r[i], r[i + 1]);
                    let (c, d) = (r[i + 2], r[i + 3]);
                    let low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
                    let high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
                    let low2 = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
                    let high2 = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
                    u[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2));
                    u[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2));
                    u[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2));
                    u[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2));
                }
                // 128-bit lane l of u[i + j] now holds column 4 l + j of rows i to i + 3.
                let mut columns = [_mm512_setzero_ps(); 16];
                for j in 0..4 {
                    let even = _mm512_shuffle_f32x4::<0x88>(u[j], u[j + 4]);
                    let odd = _mm512_shuffle_f32x4::<0xdd>(u[j], u[j + 4]);
                    let even2 = _mm512_shuffle_f32x4::<0x88>(u[j + 8], u[j + 12]);
                    let odd2 = _mm512_shuffle_f32x4::<0xdd>(u[j + 8], u[j + 12]);
                    columns[j] = _mm512_shuffle_f32x4::<0x88>(even, even2);
                    columns[j + 4] = _mm512_shuffle_f32x4::<0x88>(odd, odd2);
                    columns[j + 8] = _mm512_shuffle_f32x4::<0xdd>(even, even2);
                    columns[j + 12] = _mm512_shuffle_f32x4::<0xdd>(odd, odd2);
                }
                for (i, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(to.add(i * step), column);
                }
            }
        }
    }

    impl Simd for Avx2 {
        const LANES: usize = 8;
        const ROWS: usize = 6;
        const AHEAD: bool = true;
        type V = __m256;
        forward! {
            splat(x: f32) -> __m256 = _mm256_set1_ps(x);
            load(from: *const f32) -> __m256 = _mm256_loadu_ps(from);
            store(to: *mut f32, v: __m256) -> () = _mm256_storeu_ps(to, v);
            add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
            mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
            div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
            max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
            min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
            fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
            round(a: __m256) -> __m256 =
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
            scale(a: __m256, n: __m256) -> __m256 = {
                let bits = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(bits)))
            };
        }

        #[inline(always)]
        unsafe fn interleave(r: &[__m256; 16], to: *mut f32, step: usize) {
            // SAFETY: as the trait demands.
            unsafe {
                let mut u = [_mm256_setzero_ps(); 8];
                for i in [0, 4] {
                    let (a, b) = (r[i], r[i + 1]);
                    let (c, d) = (r[i + 2], r[i + 3]);
                    let low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
                    let high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
                    let low2 = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
                    let high2 = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
                    u[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, low2));
                    u[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, low2));
                    u[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high, high2));
                    u[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high, high2));
                }
                for j in 0..4 {
                    let column = _mm256_permute2f128_ps::<0x20>(u[j], u[j + 4]);
                    _mm256_storeu_ps(to.add(j * step), column);
                }
                for j in 0..4 {
                    let column = _mm256_permute2f128_ps::<0x31>(u[j], u[j + 4]);
                    _mm256_storeu_ps(to.add((j + 4) * step), column);
                }
            }
        }
    }
}

/// a * b + c, fused only where the hardware does it (elsewhere the library call would cost tens of cycles).
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
}

macro_rules! lanes {
    (|$i:ident| $body:expr) => {{
        let mut out = [Default::default(); 4];
        for $i in 0..4 {
            out[$i] = $body;
        }
        out
    }};
}
pub(crate) use lanes;

impl Simd for Portable {
    const LANES: usize = 4;
    const ROWS: usize = 8;
    type V = [f32; 4];
    forward! {
        splat(x: f32) -> [f32; 4] = [x; 4];
        load(from: *const f32) -> [f32; 4] = from.cast::<[f32; 4]>().read_unaligned();
        store(to: *mut f32, v: [f32; 4]) -> () = to.cast::<[f32; 4]>().write_unaligned(v);
        add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = lanes!(|i| a[i] + b[i]);
        mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = lanes!(|i| a[i] * b[i]);
        div(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = lanes!(|i| a[i] / b[i]);
        // Comparisons as x86 makes them: the second operand where one is NaN.
        max(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = lanes!(|i| if a[i] > b[i] { a[i] } else { b[i] });
        min(a: [f32; 4], b: [f32; 4]) -> [f32; 4] = lanes!(|i| if a[i] < b[i] { a[i] } else { b[i] });
        fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] =
            lanes!(|i| mul_add(a[i], b[i], c[i]));
        // Adding 1.5 * 2^23 leaves no fraction bits; `f32::round` is a library call on baseline x86-64.
        round(a: [f32; 4]) -> [f32; 4] = lanes!(|i| (a[i] + 12_582_912.0) - 12_582_912.0);
        scale(a: [f32; 4], n: [f32; 4]) -> [f32; 4] =
            lanes!(|i| a[i] * f32::from_bits(((n[i] as i32 + 127) as u32) << 23));
    }

    #[inline(always)]
    unsafe fn interleave(rows: &[[f32; 4]; 16], to: *mut f32, step: usize) {
        let [a, b, c, d, ..] = rows;
        for i in 0..4 {
            // SAFETY: as the trait demands.
            unsafe { Self::store(to.add(i * step), [a[i], b[i], c[i], d[i]]) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::elementary::normal;
    use super::*;

    struct Exp<'a>(&'a [f32], &'a mut [f32]);
    impl Kernel for Exp<'_> {
        #[inline(always)]
        fn run<S: Simd>(self) {
            for (x, y) in self.0.chunks_exact(S::LANES).zip(self.1.chunks_exact_mut(S::LANES)) {
                // SAFETY: whole vectors, below `Isa::run`.
                unsafe { S::store(y.as_mut_ptr(), S::exp(S::load(x.as_ptr()))) }
            }
        }
    }

    struct Gelu<'a>(&'a [f32], &'a mut [f32]);
    impl Kernel for Gelu<'_> {
        #[inline(always)]
        fn run<S: Simd>(self) {
            for (x, y) in self.0.chunks_exact(S::LANES).zip(self.1.chunks_exact_mut(S::LANES)) {
                // SAFETY: whole vectors.
                unsafe { S::store(y.as_mut_ptr(), S::gelu(S::load(x.as_ptr()))) }
            }
        }
    }

    #[test]
    fn gelu_is_accurate_on_every_instruction_set() {
        let x: Vec<f32> = (0..3200).map(|i| -16.0 + i as f32 * 0.01).collect();
        for isa in Isa::available() {
            let mut y = vec![0.; x.len()];
            isa.run(Gelu(&x, &mut y));
            for (x, y) in x.iter().zip(&y) {
                let exact = f64::from(*x) * f64::from(normal(*x).0);
                let error = (f64::from(*y) - exact).abs();
                assert!(error < 4e-7 * (1. + exact.abs()), "{isa:?}: gelu({x}) = {y}, not {exact}");
            }
            let mut y = vec![1.; 16];
            isa.run(Gelu(&[f32::NAN; 16], &mut y));
            assert!(y.iter().all(|y| y.is_nan()), "{isa:?}: {y:?}");
            isa.run(Gelu(&[f32::INFINITY; 16], &mut y));
            assert!(y.iter().all(|y| *y == f32::INFINITY || y.is_nan()), "{isa:?}: {y:?}");
        }
    }

    #[test]
    fn exp_is_accurate_on_every_instruction_set() {
        let x: Vec<f32> = (0..160_000).map(|i| -87.0 + i as f32 * 1.09e-3).collect();
        for isa in Isa::available() {
            let mut y = vec![0.; x.len()];
            isa.run(Exp(&x, &mut y));
            for (x, y) in x.iter().zip(&y) {
                let exact = f64::from(*x).exp();
                let error = ((f64::from(*y) - exact) / exact).abs();
                assert!(error < 3e-7, "{isa:?}: exp({x}) = {y}, relative error {error}");
            }
            let mut y = vec![1.; 16];
            isa.run(Exp(&[f32::NEG_INFINITY; 16], &mut y));
            assert!(y.iter().all(|y| *y < 2e-38), "{isa:?}: {y:?}");
        }
    }
}
