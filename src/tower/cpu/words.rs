//! Products of narrow numbers: every 32-bit lane is a word of four 8-bit integers or two bf16, which neighbour
//! each other along k. One type per instruction set and element.

use super::blocks::{BLOCK, Quantized, quantize};
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Isa, Portable, Simd};

/// Vectors of words, and their multiply-add.
///
/// # Safety
/// All functions may only be called below [`Words::run`]; `load` needs as many valid words at the pointer as
/// `S` has lanes.
#[allow(clippy::missing_safety_doc)] // said once, for all of them, above
pub(crate) trait Word: Copy {
    /// f32 vectors with as many lanes.
    type S: Simd;
    /// Sums of products.
    type Sum: Copy;
    /// A vector of words.
    type V: Copy;
    /// Rows of a register tile.
    const ROWS: usize;
    /// What every 8-bit weight is raised by before it is packed, for instructions that take unsigned ones.
    const OFFSET: u8;
    unsafe fn load(from: *const u32) -> Self::V;
    unsafe fn splat(word: u32) -> Self::V;
    /// All lanes begin with this.
    unsafe fn sum(start: i32) -> Self::Sum;
    /// sum + the products of the elements of every lane. 8-bit `x` lies within -127..=127.
    unsafe fn dot(sum: Self::Sum, weight: Self::V, x: Self::V) -> Self::Sum;
    /// The sums as floats.
    unsafe fn float(sum: Self::Sum) -> <Self::S as Simd>::V;
    /// [`quantize`], bit for bit where all elements are finite.
    #[inline(always)]
    unsafe fn quantize(x: &[f32; BLOCK]) -> Quantized {
        quantize(x)
    }
}

/// A computation over words that can be compiled for every instruction set.
pub(crate) trait WordKernel {
    /// The body; implementations are `inline(always)`.
    fn run<W: Word>(self);
}

/// Which multiply-add of words this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// 8-bit: vpdpbusd, 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Int8Avx512,
    /// 8-bit: vpdpbusd, 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Int8AvxVnni,
    /// 8-bit: vpmaddubsw and vpmaddwd, 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Int8Avx2,
    /// 8-bit, 4 lanes, in plain Rust.
    Int8Portable,
    /// bf16: vdpbf16ps, 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Bf16Avx512,
    /// bf16 widened to f32 in registers, 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Bf16WideAvx512,
    /// The same with 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Bf16WideAvx2,
    /// The same with 4 lanes.
    Bf16Portable,
}

impl Words {
    /// Those for 8-bit integers that this machine has within `isa`, best first.
    pub(crate) fn int8(isa: Isa) -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if isa == Isa::Avx512
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                found.push(Self::Int8Avx512);
            }
            if isa != Isa::Portable
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
            {
                if is_x86_feature_detected!("avxvnni") {
                    found.push(Self::Int8AvxVnni);
                }
                found.push(Self::Int8Avx2);
            }
        }
        let _ = isa;
        found.push(Self::Int8Portable);
        found
    }

    /// Those for bf16 that this machine has within `isa`, best first.
    pub(crate) fn bf16(isa: Isa) -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if isa == Isa::Avx512 {
                if is_x86_feature_detected!("avx512bf16") {
                    found.push(Self::Bf16Avx512);
                }
                found.push(Self::Bf16WideAvx512);
            }
            if isa != Isa::Portable
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
            {
                found.push(Self::Bf16WideAvx2);
            }
        }
        let _ = isa;
        found.push(Self::Bf16Portable);
        found
    }

    /// Words of one vector.
    pub(crate) fn lanes(self) -> usize {
        struct Lanes<'a>(&'a mut usize);
        impl WordKernel for Lanes<'_> {
            #[inline(always)]
            fn run<W: Word>(self) {
                *self.0 = W::S::LANES;
            }
        }
        let mut lanes = 0;
        self.run(Lanes(&mut lanes));
        lanes
    }

    /// See [`Word::OFFSET`].
    pub(crate) fn offset(self) -> u8 {
        struct Offset<'a>(&'a mut u8);
        impl WordKernel for Offset<'_> {
            #[inline(always)]
            fn run<W: Word>(self) {
                *self.0 = W::OFFSET;
            }
        }
        let mut offset = 0;
        self.run(Offset(&mut offset));
        offset
    }

    /// Runs a kernel with these words.
    pub(crate) fn run<K: WordKernel>(self, kernel: K) {
        #[cfg(target_arch = "x86_64")]
        macro_rules! enter {
            ($features:literal, $word:ty) => {{
                #[target_feature(enable = $features)]
                fn enter<K: WordKernel>(kernel: K) {
                    kernel.run::<$word>();
                }
                // SAFETY: this value exists only where the features were found.
                unsafe { enter(kernel) }
            }};
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Int8Avx512 => {
                enter!("avx512f,avx512dq,avx512bw,avx512vnni,avx2,fma", x86::Int8Avx512)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Int8AvxVnni => enter!("avxvnni,avx2,fma", x86::Int8AvxVnni),
            #[cfg(target_arch = "x86_64")]
            Self::Int8Avx2 => enter!("avx2,fma", x86::Int8Avx2),
            Self::Int8Portable => kernel.run::<Int8Portable>(),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Avx512 => {
                enter!("avx512f,avx512dq,avx512bf16,avx2,fma", x86::Bf16Avx512)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Bf16WideAvx512 => enter!("avx512f,avx512dq,avx2,fma", x86::Bf16WideAvx512),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16WideAvx2 => enter!("avx2,fma", x86::Bf16WideAvx2),
            Self::Bf16Portable => kernel.run::<Bf16Portable>(),
        }
    }
}

/// 8-bit integers, 4 lanes.
#[derive(Clone, Copy)]
pub(crate) struct Int8Portable;

/// bf16, 4 lanes.
#[derive(Clone, Copy)]
pub(crate) struct Bf16Portable;

macro_rules! lanes {
    (|$i:ident| $body:expr) => {{
        let mut out = [Default::default(); 4];
        for $i in 0..4 {
            out[$i] = $body;
        }
        out
    }};
}

impl Word for Int8Portable {
    type S = Portable;
    type Sum = [i32; 4];
    type V = [u32; 4];
    const ROWS: usize = 4;
    const OFFSET: u8 = 0;
    #[inline(always)]
    unsafe fn load(from: *const u32) -> [u32; 4] {
        // SAFETY: the caller gives 4 valid words.
        unsafe { from.cast::<[u32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(word: u32) -> [u32; 4] {
        [word; 4]
    }
    #[inline(always)]
    unsafe fn sum(start: i32) -> [i32; 4] {
        [start; 4]
    }
    #[inline(always)]
    unsafe fn dot(sum: [i32; 4], weight: [u32; 4], x: [u32; 4]) -> [i32; 4] {
        lanes!(|i| {
            let (w, x) = (weight[i].to_ne_bytes(), x[i].to_ne_bytes());
            let product = |j: usize| i32::from(w[j] as i8) * i32::from(x[j] as i8);
            sum[i] + product(0) + product(1) + product(2) + product(3)
        })
    }
    #[inline(always)]
    unsafe fn float(sum: [i32; 4]) -> [f32; 4] {
        lanes!(|i| sum[i] as f32)
    }
}

impl Word for Bf16Portable {
    type S = Portable;
    type Sum = [f32; 4];
    type V = [u32; 4];
    const ROWS: usize = 4;
    const OFFSET: u8 = 0;
    #[inline(always)]
    unsafe fn load(from: *const u32) -> [u32; 4] {
        // SAFETY: the caller gives 4 valid words.
        unsafe { from.cast::<[u32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(word: u32) -> [u32; 4] {
        [word; 4]
    }
    #[inline(always)]
    unsafe fn sum(start: i32) -> [f32; 4] {
        [start as f32; 4]
    }
    #[inline(always)]
    unsafe fn dot(sum: [f32; 4], weight: [u32; 4], x: [u32; 4]) -> [f32; 4] {
        let low = |v: [u32; 4]| lanes!(|i| f32::from_bits(v[i] << 16));
        let high = |v: [u32; 4]| lanes!(|i| f32::from_bits(v[i] & 0xffff_0000));
        // SAFETY: as the trait demands.
        unsafe { Portable::fma(high(weight), high(x), Portable::fma(low(weight), low(x), sum)) }
    }
    #[inline(always)]
    unsafe fn float(sum: [f32; 4]) -> [f32; 4] {
        sum
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Avx512, BLOCK, Quantized, Word};
    use crate::tower::cpu::blocks::scales;
    use std::arch::x86_64::*;

    // SAFETY of all calls below: the trait's contract names the instruction set and the valid pointers.
    macro_rules! word {
        (
            $(#[$doc:meta])* $name:ident: $s:ty, $sum:ty, $v:ty, rows $rows:literal, offset $offset:literal;
            $($function:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*
        ) => {
            $(#[$doc])*
            #[derive(Clone, Copy)]
            pub(crate) struct $name;

            impl Word for $name {
                type S = $s;
                type Sum = $sum;
                type V = $v;
                const ROWS: usize = $rows;
                const OFFSET: u8 = $offset;
                $(#[inline(always)]
                #[allow(unused_unsafe)] // a body may do without
                unsafe fn $function($($arg: $ty),*) -> $ret {
                    // SAFETY: as the trait demands.
                    unsafe { $body }
                })*
            }
        };
    }

    word! {
        /// AVX-512 VNNI.
        Int8Avx512: Avx512, __m512i, __m512i, rows 6, offset 128;
        load(from: *const u32) -> __m512i = _mm512_loadu_si512(from.cast());
        splat(word: u32) -> __m512i = _mm512_set1_epi32(word as i32);
        sum(start: i32) -> __m512i = _mm512_set1_epi32(start);
        dot(sum: __m512i, weight: __m512i, x: __m512i) -> __m512i =
            _mm512_dpbusd_epi32(sum, weight, x);
        float(sum: __m512i) -> __m512 = _mm512_cvtepi32_ps(sum);
        quantize(x: &[f32; BLOCK]) -> Quantized = {
            let (a, b) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)));
            // As integers, so that NaN counts as the largest.
            let magnitude = |v| _mm512_castps_si512(_mm512_abs_ps(v));
            let top = _mm512_max_epi32(magnitude(a), magnitude(b));
            let top = _mm256_max_epi32(
                _mm512_castsi512_si256(top), _mm512_extracti64x4_epi64::<1>(top));
            let top = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256::<1>(top));
            let top = _mm_max_epi32(top, _mm_shuffle_epi32::<0b01_00_11_10>(top));
            let top = _mm_max_epi32(top, _mm_shuffle_epi32::<0b10_11_00_01>(top));
            let top = f32::from_bits(_mm_cvtsi128_si32(top) as u32);
            let (scale, inverse) = scales(top);
            let inverse = _mm512_set1_ps(inverse);
            let narrow = |v| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(v, inverse)));
            let whole = _mm256_set_m128i(narrow(b), narrow(a));
            let mut quants = [0i8; BLOCK];
            _mm256_storeu_si256(quants.as_mut_ptr().cast(), whole);
            // Raised by 128 to be unsigned, for the instruction that adds up bytes.
            let raised = _mm256_xor_si256(whole, _mm256_set1_epi8(-128));
            let sums = _mm256_sad_epu8(raised, _mm256_setzero_si256());
            let sums = _mm_add_epi64(
                _mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            let sum = _mm_cvtsi128_si32(sums) + _mm_extract_epi32::<2>(sums) - 128 * BLOCK as i32;
            Quantized { scale, quants, sum }
        };
    }

    word! {
        /// AVX-VNNI.
        Int8AvxVnni: Avx2, __m256i, __m256i, rows 3, offset 128;
        load(from: *const u32) -> __m256i = _mm256_loadu_si256(from.cast());
        splat(word: u32) -> __m256i = _mm256_set1_epi32(word as i32);
        sum(start: i32) -> __m256i = _mm256_set1_epi32(start);
        dot(sum: __m256i, weight: __m256i, x: __m256i) -> __m256i =
            _mm256_dpbusd_avx_epi32(sum, weight, x);
        float(sum: __m256i) -> __m256 = _mm256_cvtepi32_ps(sum);
    }

    word! {
        /// AVX2. The magnitude of the weight takes the unsigned side, its sign goes to x: two products are at
        /// most 2 * 128 * 127 = 32,512, so that vpmaddubsw cannot saturate, not even for a weight of -128.
        Int8Avx2: Avx2, __m256i, __m256i, rows 2, offset 0;
        load(from: *const u32) -> __m256i = _mm256_loadu_si256(from.cast());
        splat(word: u32) -> __m256i = _mm256_set1_epi32(word as i32);
        sum(start: i32) -> __m256i = _mm256_set1_epi32(start);
        dot(sum: __m256i, weight: __m256i, x: __m256i) -> __m256i = {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(x, weight));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        };
        float(sum: __m256i) -> __m256 = _mm256_cvtepi32_ps(sum);
    }

    word! {
        /// AVX-512 BF16.
        Bf16Avx512: Avx512, __m512, __m512i, rows 14, offset 0;
        load(from: *const u32) -> __m512i = _mm512_loadu_si512(from.cast());
        splat(word: u32) -> __m512i = _mm512_set1_epi32(word as i32);
        sum(start: i32) -> __m512 = _mm512_set1_ps(start as f32);
        dot(sum: __m512, weight: __m512i, x: __m512i) -> __m512 = {
            let bf16 = |v| std::mem::transmute::<__m512i, __m512bh>(v);
            _mm512_dpbf16_ps(sum, bf16(weight), bf16(x))
        };
        float(sum: __m512) -> __m512 = sum;
    }

    word! {
        /// AVX-512 without BF16.
        Bf16WideAvx512: Avx512, __m512, __m512i, rows 12, offset 0;
        load(from: *const u32) -> __m512i = _mm512_loadu_si512(from.cast());
        splat(word: u32) -> __m512i = _mm512_set1_epi32(word as i32);
        sum(start: i32) -> __m512 = _mm512_set1_ps(start as f32);
        dot(sum: __m512, weight: __m512i, x: __m512i) -> __m512 = {
            let low = |v| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v));
            let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let high = |v| _mm512_castsi512_ps(_mm512_and_si512(v, mask));
            _mm512_fmadd_ps(high(weight), high(x), _mm512_fmadd_ps(low(weight), low(x), sum))
        };
        float(sum: __m512) -> __m512 = sum;
    }

    word! {
        /// AVX2.
        Bf16WideAvx2: Avx2, __m256, __m256i, rows 4, offset 0;
        load(from: *const u32) -> __m256i = _mm256_loadu_si256(from.cast());
        splat(word: u32) -> __m256i = _mm256_set1_epi32(word as i32);
        sum(start: i32) -> __m256 = _mm256_set1_ps(start as f32);
        dot(sum: __m256, weight: __m256i, x: __m256i) -> __m256 = {
            let low = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v));
            let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let high = |v| _mm256_castsi256_ps(_mm256_and_si256(v, mask));
            _mm256_fmadd_ps(high(weight), high(x), _mm256_fmadd_ps(low(weight), low(x), sum))
        };
        float(sum: __m256) -> __m256 = sum;
    }
}
