//! Lanes of x86 processors.

use std::arch::x86_64::*;

use super::lane::{Lane, Measure, lane};

lane! {
    /// f32 by AVX-512.
    Avx512F32: __m512i, __m512, __m512, steps 64 64, cut true, offset 0, Inner;
    sum(start: i32) -> __m512 = _mm512_set1_ps(start as f32);
    row(from: *const u8) -> __m512i = _mm512_loadu_si512(from.cast());
    query(from: *const u8) -> __m512 = _mm512_loadu_ps(from.cast());
    cut(row: __m512i, mask: __m512i) -> __m512i = _mm512_and_si512(row, mask);
    add(sum: __m512, query: __m512, row: __m512i) -> __m512 =
        _mm512_fmadd_ps(_mm512_castsi512_ps(row), query, sum);
    total(sum: __m512) -> f32 = total_ps(half_ps(sum));
    totals(sums: [__m512; 4]) -> [f32; 4] = totals_ps(sums.map(|sum| half_ps(sum)));
}

lane! {
    /// f16 by AVX-512.
    Avx512F16: __m256i, __m512, __m512, steps 32 64, cut true, offset 0, Inner;
    sum(start: i32) -> __m512 = _mm512_set1_ps(start as f32);
    row(from: *const u8) -> __m256i = _mm256_loadu_si256(from.cast());
    query(from: *const u8) -> __m512 = _mm512_loadu_ps(from.cast());
    cut(row: __m256i, mask: __m256i) -> __m256i = _mm256_and_si256(row, mask);
    add(sum: __m512, query: __m512, row: __m256i) -> __m512 =
        _mm512_fmadd_ps(_mm512_cvtph_ps(row), query, sum);
    total(sum: __m512) -> f32 = total_ps(half_ps(sum));
    totals(sums: [__m512; 4]) -> [f32; 4] = totals_ps(sums.map(|sum| half_ps(sum)));
}

lane! {
    /// bf16 by AVX-512, opened to f32.
    Avx512Bf16: __m256i, __m512, __m512, steps 32 64, cut true, offset 0, Inner;
    sum(start: i32) -> __m512 = _mm512_set1_ps(start as f32);
    row(from: *const u8) -> __m256i = _mm256_loadu_si256(from.cast());
    query(from: *const u8) -> __m512 = _mm512_loadu_ps(from.cast());
    cut(row: __m256i, mask: __m256i) -> __m256i = _mm256_and_si256(row, mask);
    add(sum: __m512, query: __m512, row: __m256i) -> __m512 = {
        let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(row));
        _mm512_fmadd_ps(_mm512_castsi512_ps(wide), query, sum)
    };
    total(sum: __m512) -> f32 = total_ps(half_ps(sum));
    totals(sums: [__m512; 4]) -> [f32; 4] = totals_ps(sums.map(|sum| half_ps(sum)));
}

lane! {
    /// 8-bit integers by AVX-512 VNNI, whose one operand is unsigned: rows are raised by 128.
    Avx512I8: __m512i, __m512i, __m512i, steps 64 64, cut false, offset 128, Cosine;
    sum(start: i32) -> __m512i = _mm512_zextsi128_si512(_mm_cvtsi32_si128(start));
    row(from: *const u8) -> __m512i = _mm512_loadu_si512(from.cast());
    query(from: *const u8) -> __m512i = _mm512_loadu_si512(from.cast());
    cut(row: __m512i, mask: __m512i) -> __m512i = _mm512_and_si512(row, mask);
    add(sum: __m512i, query: __m512i, row: __m512i) -> __m512i =
        _mm512_dpbusd_epi32(sum, _mm512_xor_si512(row, _mm512_set1_epi8(-128)), query);
    total(sum: __m512i) -> f32 = total_epi32(half_epi32(sum));
    totals(sums: [__m512i; 4]) -> [f32; 4] = totals_epi32(sums.map(|sum| half_epi32(sum)));
}

lane! {
    /// Bits by AVX-512 VPOPCNTDQ.
    Avx512B1: __m512i, __m512i, __m512i, steps 64 64, cut true, offset 0, Hamming;
    sum(start: i32) -> __m512i = _mm512_zextsi128_si512(_mm_cvtsi32_si128(start));
    row(from: *const u8) -> __m512i = _mm512_loadu_si512(from.cast());
    query(from: *const u8) -> __m512i = _mm512_loadu_si512(from.cast());
    cut(row: __m512i, mask: __m512i) -> __m512i = _mm512_and_si512(row, mask);
    add(sum: __m512i, query: __m512i, row: __m512i) -> __m512i =
        _mm512_add_epi32(sum, _mm512_popcnt_epi32(_mm512_xor_si512(query, row)));
    total(sum: __m512i) -> f32 = total_epi32(half_epi32(sum));
    totals(sums: [__m512i; 4]) -> [f32; 4] = totals_epi32(sums.map(|sum| half_epi32(sum)));
}

lane! {
    /// Bits that choose among 8-bit integers, by a mask register and AVX-512 VNNI.
    Avx512Signs: u64, __m512i, __m512i, steps 8 64, cut false, offset 0, Signs;
    sum(start: i32) -> __m512i = _mm512_zextsi128_si512(_mm_cvtsi32_si128(start));
    row(from: *const u8) -> u64 = from.cast::<u64>().read_unaligned();
    query(from: *const u8) -> __m512i = _mm512_loadu_si512(from.cast());
    cut(row: u64, mask: u64) -> u64 = row & mask;
    add(sum: __m512i, query: __m512i, row: u64) -> __m512i =
        _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_maskz_mov_epi8(row, query));
    total(sum: __m512i) -> f32 = total_epi32(half_epi32(sum));
    totals(sums: [__m512i; 4]) -> [f32; 4] = totals_epi32(sums.map(|sum| half_epi32(sum)));
}

/// The sums of the products of two rows of 8-bit integers, and of the squares of each, in one pass.
///
/// # Safety
/// The machine has AVX2, and the rows are of one length.
#[target_feature(enable = "avx2")]
pub unsafe fn products(a: &[u8], b: &[u8]) -> [i32; 3] {
    let mut sums = [_mm256_setzero_si256(); 3];
    let (whole_a, rest_a) = a.as_chunks::<16>();
    let (whole_b, rest_b) = b.as_chunks::<16>();
    for (x, y) in whole_a.iter().zip(whole_b) {
        // SAFETY: both have 16 bytes.
        let (x, y) =
            unsafe { (_mm_loadu_si128(x.as_ptr().cast()), _mm_loadu_si128(y.as_ptr().cast())) };
        let (x, y) = (_mm256_cvtepi8_epi16(x), _mm256_cvtepi8_epi16(y));
        for (sum, (x, y)) in sums.iter_mut().zip([(x, y), (x, x), (y, y)]) {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, y));
        }
    }
    let rest = rest_a.iter().zip(rest_b).map(|(x, y)| (i32::from(*x as i8), i32::from(*y as i8)));
    let rest = rest.fold([0; 3], |[xy, xx, yy], (x, y)| [xy + x * y, xx + x * x, yy + y * y]);
    let total = |at: usize| {
        let mut lanes = [0i32; 8];
        // SAFETY: a vector has eight of them.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums[at]) }
        lanes.iter().sum::<i32>() + rest[at]
    };
    [total(0), total(1), total(2)]
}

/// The two halves added.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn half_ps(sum: __m512) -> __m256 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(sum));
        _mm256_add_ps(_mm512_castps512_ps256(sum), _mm256_castpd_ps(high))
    }
}

/// The two halves added.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn half_epi32(sum: __m512i) -> __m256i {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum)) }
}

/// Sums of eight lanes of four vectors.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn totals_ps([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    // SAFETY: the caller vouches for the instruction set; four floats are as large as the vector.
    unsafe {
        let fours = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        std::mem::transmute(_mm_add_ps(
            _mm256_castps256_ps128(fours),
            _mm256_extractf128_ps::<1>(fours),
        ))
    }
}

/// Sums of eight lanes of four vectors.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn totals_epi32([a, b, c, d]: [__m256i; 4]) -> [f32; 4] {
    // SAFETY: the caller vouches for the instruction set; four floats are as large as the vector.
    unsafe {
        let fours = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        std::mem::transmute(_mm_cvtepi32_ps(_mm_add_epi32(
            _mm256_castsi256_si128(fours),
            _mm256_extracti128_si256::<1>(fours),
        )))
    }
}

/// Sum of eight lanes.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn total_ps(sum: __m256) -> f32 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// Sum of eight lanes.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn total_epi32(sum: __m256i) -> f32 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two))) as f32
    }
}

lane! {
    /// 8-bit integers by AVX-VNNI.
    AvxVnniI8: __m256i, __m256i, __m256i, steps 32 32, cut false, offset 128, Cosine;
    sum(start: i32) -> __m256i = _mm256_zextsi128_si256(_mm_cvtsi32_si128(start));
    row(from: *const u8) -> __m256i = _mm256_loadu_si256(from.cast());
    query(from: *const u8) -> __m256i = _mm256_loadu_si256(from.cast());
    cut(row: __m256i, mask: __m256i) -> __m256i = _mm256_and_si256(row, mask);
    add(sum: __m256i, query: __m256i, row: __m256i) -> __m256i =
        _mm256_dpbusd_avx_epi32(sum, _mm256_xor_si256(row, _mm256_set1_epi8(-128)), query);
    total(sum: __m256i) -> f32 = total_epi32(sum);
    totals(sums: [__m256i; 4]) -> [f32; 4] = totals_epi32(sums);
}

lane! {
    /// f32 by AVX2.
    Avx2F32: __m256i, __m256, __m256, steps 32 32, cut true, offset 0, Inner;
    sum(start: i32) -> __m256 = _mm256_set1_ps(start as f32);
    row(from: *const u8) -> __m256i = _mm256_loadu_si256(from.cast());
    query(from: *const u8) -> __m256 = _mm256_loadu_ps(from.cast());
    cut(row: __m256i, mask: __m256i) -> __m256i = _mm256_and_si256(row, mask);
    add(sum: __m256, query: __m256, row: __m256i) -> __m256 =
        _mm256_fmadd_ps(_mm256_castsi256_ps(row), query, sum);
    total(sum: __m256) -> f32 = total_ps(sum);
    totals(sums: [__m256; 4]) -> [f32; 4] = totals_ps(sums);
}

lane! {
    /// f16 by AVX2 and F16C.
    Avx2F16: __m128i, __m256, __m256, steps 16 32, cut true, offset 0, Inner;
    sum(start: i32) -> __m256 = _mm256_set1_ps(start as f32);
    row(from: *const u8) -> __m128i = _mm_loadu_si128(from.cast());
    query(from: *const u8) -> __m256 = _mm256_loadu_ps(from.cast());
    cut(row: __m128i, mask: __m128i) -> __m128i = _mm_and_si128(row, mask);
    add(sum: __m256, query: __m256, row: __m128i) -> __m256 =
        _mm256_fmadd_ps(_mm256_cvtph_ps(row), query, sum);
    total(sum: __m256) -> f32 = total_ps(sum);
    totals(sums: [__m256; 4]) -> [f32; 4] = totals_ps(sums);
}

lane! {
    /// bf16 by AVX2, opened to f32.
    Avx2Bf16: __m128i, __m256, __m256, steps 16 32, cut true, offset 0, Inner;
    sum(start: i32) -> __m256 = _mm256_set1_ps(start as f32);
    row(from: *const u8) -> __m128i = _mm_loadu_si128(from.cast());
    query(from: *const u8) -> __m256 = _mm256_loadu_ps(from.cast());
    cut(row: __m128i, mask: __m128i) -> __m128i = _mm_and_si128(row, mask);
    add(sum: __m256, query: __m256, row: __m128i) -> __m256 = {
        let wide = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(row));
        _mm256_fmadd_ps(_mm256_castsi256_ps(wide), query, sum)
    };
    total(sum: __m256) -> f32 = total_ps(sum);
    totals(sums: [__m256; 4]) -> [f32; 4] = totals_ps(sums);
}

lane! {
    /// 8-bit integers by AVX2. vpmaddubsw takes unsigned bytes on one side: the row's signs move to the query. Two products
    /// of at most 128 * 127 fit 16 bits.
    Avx2I8: __m256i, __m256i, __m256i, steps 32 32, cut false, offset 0, Cosine;
    sum(start: i32) -> __m256i = _mm256_zextsi128_si256(_mm_cvtsi32_si128(start));
    row(from: *const u8) -> __m256i = _mm256_loadu_si256(from.cast());
    query(from: *const u8) -> __m256i = _mm256_loadu_si256(from.cast());
    cut(row: __m256i, mask: __m256i) -> __m256i = _mm256_and_si256(row, mask);
    add(sum: __m256i, query: __m256i, row: __m256i) -> __m256i = {
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(row), _mm256_sign_epi8(query, row));
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    };
    total(sum: __m256i) -> f32 = total_epi32(sum);
    totals(sums: [__m256i; 4]) -> [f32; 4] = totals_epi32(sums);
}

lane! {
    /// Bits that choose among 8-bit integers: every byte of a vector compares its own bit with the one that the sign of
    /// its number asks for, and sizes are added up where they agree. That is the sum over set bits plus the sizes of all
    /// numbers below 0, which the sum starts below 0 by.
    Avx2Signs: __m256i, [__m256i; 2], __m256i, steps 4 32, cut false, offset 1, Signs;
    sum(start: i32) -> __m256i = _mm256_zextsi128_si256(_mm_cvtsi32_si128(start));
    row(from: *const u8) -> __m256i = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
    query(from: *const u8) -> [__m256i; 2] = {
        let numbers = _mm256_loadu_si256(from.cast());
        let above = _mm256_cmpgt_epi8(numbers, _mm256_setzero_si256());
        [_mm256_and_si256(above, own_bits()), _mm256_abs_epi8(numbers)]
    };
    cut(row: __m256i, mask: __m256i) -> __m256i = _mm256_and_si256(row, mask);
    add(sum: __m256i, query: [__m256i; 2], row: __m256i) -> __m256i = {
        let [wanted, sizes] = query;
        let byte = _mm256_setr_epi64x(
            0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303,
        );
        let found = _mm256_and_si256(_mm256_shuffle_epi8(row, byte), own_bits());
        let agreed = _mm256_and_si256(_mm256_cmpeq_epi8(found, wanted), sizes);
        _mm256_add_epi32(sum, _mm256_sad_epu8(agreed, _mm256_setzero_si256()))
    };
    total(sum: __m256i) -> f32 = total_epi32(sum);
    totals(sums: [__m256i; 4]) -> [f32; 4] = totals_epi32(sums);
}

/// In every byte of eight the bit that stands for it.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn own_bits() -> __m256i {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64) }
}
