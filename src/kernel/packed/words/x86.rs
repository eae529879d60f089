//! Words of x86 processors.

use super::super::blocks::scales;
use super::{Avx2, Avx512, BLOCK, HIGH, Quantized, Word};
use std::arch::x86_64::*;

word! {
    /// AVX-512 VNNI.
    Int8Avx512: Avx512, __m512i, __m512i, __m512i, rows 6, spread 1, parts 1, offset 128;
    load(from: *const u32) -> __m512i = _mm512_loadu_si512(from.cast());
    splat(from: *const u32, _step: usize) -> __m512i = _mm512_set1_epi32(*from as i32);
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
        let (scale, inverse) = scales(largest(top));
        let inverse = _mm512_set1_ps(inverse);
        let narrow = |v| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(v, inverse)));
        quantized(scale, _mm256_set_m128i(narrow(b), narrow(a)))
    };
}

word! {
    /// AVX-VNNI.
    Int8AvxVnni: Avx2, __m256i, __m256i, __m256i, rows 3, spread 1, parts 1, offset 128;
    load(from: *const u32) -> __m256i = _mm256_loadu_si256(from.cast());
    splat(from: *const u32, _step: usize) -> __m256i = _mm256_set1_epi32(*from as i32);
    sum(start: i32) -> __m256i = _mm256_set1_epi32(start);
    dot(sum: __m256i, weight: __m256i, x: __m256i) -> __m256i =
        _mm256_dpbusd_avx_epi32(sum, weight, x);
    float(sum: __m256i) -> __m256 = _mm256_cvtepi32_ps(sum);
    quantize(x: &[f32; BLOCK]) -> Quantized = quantize_avx2(x);
}

word! {
    /// AVX2. Opened to 16 bits: the first and third integer of every word, and the second and fourth. The instruction
    /// that takes bytes, vpmaddubsw, takes unsigned ones on one side and would need their signs dealt out row by row, by an
    /// instruction that competes with it.
    Int8Avx2: Avx2, __m256i, __m256i, __m256i, rows 6, spread 2, parts 2, offset 0;
    load(from: *const u32) -> __m256i = _mm256_loadu_si256(from.cast());
    open(from: *const u32, to: *mut f32, step: usize) -> () = {
        let word = _mm256_loadu_si256(from.cast());
        let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(word));
        _mm256_storeu_si256(to.cast(), even);
        _mm256_storeu_si256(to.add(step).cast(), _mm256_srai_epi16::<8>(word));
    };
    splat(from: *const u32, _step: usize) -> __m256i = _mm256_set1_epi32(*from as i32);
    sum(start: i32) -> __m256i = _mm256_set1_epi32(start);
    dot(sum: __m256i, weight: __m256i, x: __m256i) -> __m256i =
        _mm256_add_epi32(sum, _mm256_madd_epi16(weight, x));
    float(sum: __m256i) -> __m256 = _mm256_cvtepi32_ps(sum);
    quantize(x: &[f32; BLOCK]) -> Quantized = quantize_avx2(x);
}

word! {
    /// AVX-512 BF16.
    Bf16Avx512: Avx512, __m512, __m512i, __m512i, rows 14, spread 1, parts 1, offset 0;
    load(from: *const u32) -> __m512i = _mm512_loadu_si512(from.cast());
    splat(from: *const u32, _step: usize) -> __m512i = _mm512_set1_epi32(*from as i32);
    sum(start: i32) -> __m512 = _mm512_set1_ps(start as f32);
    dot(sum: __m512, weight: __m512i, x: __m512i) -> __m512 = {
        let bf16 = |v| std::mem::transmute::<__m512i, __m512bh>(v);
        _mm512_dpbf16_ps(sum, bf16(weight), bf16(x))
    };
    float(sum: __m512) -> __m512 = sum;
}

word! {
    /// AVX-512 without BF16: opened to f32, the first number of every word and the second.
    Bf16WideAvx512: Avx512, __m512, (__m512, __m512), (__m512, __m512), rows 12, spread 2, parts 1, offset 0;
    load(from: *const u32) -> (__m512, __m512) = {
        let word = _mm512_loadu_si512(from.cast());
        let high = _mm512_and_si512(word, _mm512_set1_epi32(HIGH as i32));
        (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(word)), _mm512_castsi512_ps(high))
    };
    spread(word: u32) -> [u32; 2] = [word << 16, word & HIGH];
    splat(from: *const u32, step: usize) -> (__m512, __m512) = {
        let from = from.cast::<f32>();
        (_mm512_set1_ps(*from), _mm512_set1_ps(*from.add(step)))
    };
    sum(start: i32) -> __m512 = _mm512_set1_ps(start as f32);
    dot(sum: __m512, weight: (__m512, __m512), x: (__m512, __m512)) -> __m512 =
        _mm512_fmadd_ps(weight.1, x.1, _mm512_fmadd_ps(weight.0, x.0, sum));
    float(sum: __m512) -> __m512 = sum;
}

word! {
    /// AVX2, likewise, but in memory: the rows of activations that the registers hold are the same as in f32.
    Bf16WideAvx2: Avx2, __m256, __m256, __m256, rows 6, spread 2, parts 2, offset 0;
    load(from: *const u32) -> __m256 = _mm256_loadu_ps(from.cast());
    open(from: *const u32, to: *mut f32, step: usize) -> () = {
        let word = _mm256_loadu_si256(from.cast());
        _mm256_storeu_si256(to.cast(), _mm256_slli_epi32::<16>(word));
        let high = _mm256_and_si256(word, _mm256_set1_epi32(HIGH as i32));
        _mm256_storeu_si256(to.add(step).cast(), high);
    };
    splat(from: *const u32, _step: usize) -> __m256 = _mm256_set1_ps(*from.cast());
    sum(start: i32) -> __m256 = _mm256_set1_ps(start as f32);
    dot(sum: __m256, weight: __m256, x: __m256) -> __m256 = _mm256_fmadd_ps(weight, x, sum);
    float(sum: __m256) -> __m256 = sum;
}

/// The largest of 8 magnitudes, given as the bits of floats.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn largest(top: __m256i) -> f32 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let top = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256::<1>(top));
        let top = _mm_max_epi32(top, _mm_shuffle_epi32::<0b01_00_11_10>(top));
        let top = _mm_max_epi32(top, _mm_shuffle_epi32::<0b10_11_00_01>(top));
        f32::from_bits(_mm_cvtsi128_si32(top) as u32)
    }
}

/// A block from its integers.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn quantized(scale: f32, whole: __m256i) -> Quantized {
    let mut quants = [0i8; BLOCK];
    // SAFETY: the caller vouches for the instruction set; the array takes one vector.
    let sum = unsafe {
        _mm256_storeu_si256(quants.as_mut_ptr().cast(), whole);
        // Raised by 128 to be unsigned, for the instruction that adds up bytes.
        let raised = _mm256_xor_si256(whole, _mm256_set1_epi8(-128));
        let sums = _mm256_sad_epu8(raised, _mm256_setzero_si256());
        let sums = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        _mm_cvtsi128_si32(sums) + _mm_extract_epi32::<2>(sums) - 128 * BLOCK as i32
    };
    Quantized { scale, quants, sum }
}

/// [`super::quantize`] by AVX2.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn quantize_avx2(x: &[f32; BLOCK]) -> Quantized {
    // SAFETY: the caller vouches for the instruction set; four vectors are a block.
    unsafe {
        let part = |at: usize| _mm256_loadu_ps(x.as_ptr().add(8 * at));
        // As integers, so that NaN counts as the largest.
        let bits = _mm256_set1_epi32(i32::MAX);
        let magnitude = |at| _mm256_and_si256(_mm256_castps_si256(part(at)), bits);
        let top = _mm256_max_epi32(
            _mm256_max_epi32(magnitude(0), magnitude(1)),
            _mm256_max_epi32(magnitude(2), magnitude(3)),
        );
        let (scale, inverse) = scales(largest(top));
        let inverse = _mm256_set1_ps(inverse);
        let whole = |at| _mm256_cvtps_epi32(_mm256_mul_ps(part(at), inverse));
        // Packing goes by halves of vectors, which leaves fours of integers out of order.
        let packed = _mm256_packs_epi16(
            _mm256_packs_epi32(whole(0), whole(1)),
            _mm256_packs_epi32(whole(2), whole(3)),
        );
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        quantized(scale, _mm256_permutevar8x32_epi32(packed, order))
    }
}
