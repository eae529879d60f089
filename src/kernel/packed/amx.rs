//! Matrix product of bf16 by the processor's matrix unit (Intel AMX), added up in f32.
//!
//! A tile register holds 16 rows of 64 bytes. Two tiles of rows times two tiles of columns stay in registers over
//! all of k, so an element of the result is one chain of multiply-adds, 32 along k at a time, and a row's bits do not
//! depend on its neighbours. The intrinsics are not stable in Rust, the instructions are: therefore assembly.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid, __cpuid_count, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_setzero_si512, _mm512_storeu_si512,
};
use std::sync::OnceLock;

use super::super::buffer::Buffer;
use super::super::simd::{Avx512, Simd};
use super::bf16::{pack_turned, pack_words};
use super::gemm::inverse_rms;
use super::panels::{Layout, Then, finish};

/// Rows of a tile register, and words (two bf16) of one of its rows.
const TILE: usize = 16;
/// Words of a tile register.
const WORDS: usize = TILE * TILE;
/// Rows that are multiplied together: two tiles.
const ROWS: usize = 2 * TILE;
/// Elements along k of one tile.
const STEP: usize = 2 * TILE;

/// Whether this machine has the unit and lets this process use it.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let vectors = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        vectors && has_tiles() && permitted()
    })
}

/// AMX-TILE and AMX-BF16: leaf 7, EDX, bits 24 and 22.
fn has_tiles() -> bool {
    const TILES: u32 = 1 << 24 | 1 << 22;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES == TILES
}

/// Linux keeps the tile registers (8 KiB a thread) only for processes that ask.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: this request takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Weights as panels `[panels][steps * 16][32]` of words (see [`Layout`]): a step of a panel is two tiles.
pub struct AmxWeights {
    data: Buffer,
    pub layout: Layout,
}

impl AmxWeights {
    /// Rounds and packs row-major matrices `[n_i, k]` one below the other.
    pub fn new(layout: Layout, parts: &[&[f32]]) -> Self {
        assert!(layout.lanes == TILE, "a panel is two tiles wide");
        let pairs = layout.k.div_ceil(STEP) * TILE;
        Self { data: pack_words(&layout, pairs, parts), layout }
    }

    /// The same of one matrix given as its transpose, `[k, n]`.
    pub fn turned(layout: Layout, matrix: &[f32]) -> Self {
        assert!(layout.lanes == TILE, "a panel is two tiles wide");
        let pairs = layout.k.div_ceil(STEP) * TILE;
        Self { data: pack_turned(&layout, pairs, matrix), layout }
    }
}

/// Activations as `[groups of 32 rows][steps][2 tiles]`, a tile being 16 rows of 32 elements.
#[derive(Default)]
pub struct AmxRows {
    data: Buffer,
}

impl AmxRows {
    /// Rounds and packs `m` rows of `x` (`[m, k]`), RMS-normalised first where `norm` gives weight and epsilon.
    pub fn prepare(&mut self, x: &[f32], m: usize, k: usize, norm: Option<(&[f32], f32)>) {
        assert!(available() && x.len() >= m * k, "rows to be packed");
        // SAFETY: the features were found.
        unsafe { pack_rows(&x[..m * k], k, norm, &mut self.data) }
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512bf16,avx2,fma")]
fn pack_rows(x: &[f32], k: usize, norm: Option<(&[f32], f32)>, to: &mut Buffer) {
    let steps = k.div_ceil(STEP);
    let group_len = steps * 2 * WORDS;
    to.reserve((x.len() / k).div_ceil(ROWS) * group_len);
    for (at, row) in x.chunks_exact(k).enumerate() {
        let scale = norm.map(|(_, eps)| _mm512_set1_ps(inverse_rms::<Avx512>(row, eps)));
        let weight = norm.map_or(&[][..], |(weight, _)| weight);
        let first = at / ROWS * group_len + at % ROWS * TILE;
        for step in 0..steps {
            let (mut values, mut factors) = ([0f32; STEP], [0f32; STEP]);
            let from = step * STEP;
            let (values, factors) = match row.get(from..from + STEP) {
                Some(whole) => (whole, weight.get(from..from + STEP).unwrap_or(&factors)),
                None => {
                    let rest = &row[from..];
                    values[..rest.len()].copy_from_slice(rest);
                    if let Some(rest) = weight.get(from..k) {
                        factors[..rest.len()].copy_from_slice(rest);
                    }
                    (&values[..], &factors[..])
                }
            };
            let to = &mut to[first + step * 2 * WORDS..][..TILE];
            // SAFETY: values and factors have STEP elements, `to` has one vector.
            unsafe {
                let mut low = _mm512_loadu_ps(values.as_ptr());
                let mut high = _mm512_loadu_ps(values.as_ptr().add(TILE));
                if let Some(scale) = scale {
                    let weights = factors.as_ptr();
                    low = _mm512_mul_ps(_mm512_mul_ps(low, scale), _mm512_loadu_ps(weights));
                    let weights = _mm512_loadu_ps(weights.add(TILE));
                    high = _mm512_mul_ps(_mm512_mul_ps(high, scale), weights);
                }
                let words =
                    std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(to.as_mut_ptr().cast(), words);
            }
        }
    }
    // Rows that fill up the last group: their products are never read, but must not be slow or trap.
    let rows = x.len() / k;
    for at in rows..rows.next_multiple_of(ROWS) {
        for step in 0..steps {
            let to = &mut to[at / ROWS * group_len + at % ROWS * TILE + step * 2 * WORDS..][..TILE];
            // SAFETY: one whole vector.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_setzero_si512()) }
        }
    }
}

/// c = a b for packed a and b; `c` is `[m, n]`. For gate and up: c = f(a gate) * (a up).
pub fn multiply(a: &AmxRows, m: usize, b: &AmxWeights, c: &mut [f32], then: Then) {
    let steps = b.layout.k.div_ceil(STEP);
    assert!(available() && c.len() >= m * b.layout.n, "shapes of a packed product");
    assert!(a.data.len() >= m.div_ceil(ROWS) * steps * 2 * WORDS, "rows of a packed product");
    // SAFETY: the features were found, the asserts bound a and c.
    unsafe { products(&a.data, m, b, c, then) }
}

/// Bytes 1: palette 1. From 16 on bytes of a row, from 48 on rows, of every register.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

const CONFIGURATION: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut at = 0;
    while at < 8 {
        bytes[16 + 2 * at] = 4 * TILE as u8;
        bytes[48 + at] = TILE as u8;
        at += 1;
    }
    Configuration(bytes)
};

/// Panels whose sums are kept until all are there: then the result is written in long runs. Written panel by panel, 128
/// bytes in each of 32 rows, it costs as much time as the products.
const TOGETHER: usize = 8;

/// Sums of 32 rows and 32 columns, for several panels.
#[repr(C, align(64))]
struct Sums([[f32; ROWS * ROWS]; TOGETHER]);

/// # Safety
/// `a` holds `m` rows packed for b's k, `c` has `m` rows of b's n; [`available`].
#[target_feature(enable = "avx512f,avx512dq,avx512bf16,avx2,fma")]
unsafe fn products(a: &[f32], m: usize, b: &AmxWeights, c: &mut [f32], then: Then) {
    let layout = &b.layout;
    let steps = layout.k.div_ceil(STEP);
    let panel_len = steps * 2 * WORDS;
    let mut sums = Sums([[0.; ROWS * ROWS]; TOGETHER]);
    // SAFETY: the unit is there; the registers are this function's until it releases them. `sums` has 32 rows of 32 for
    // each panel, every tile of a and b lies inside its buffer, and c has `count` rows from `row` on.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &CONFIGURATION, options(nostack, preserves_flags));
        for (group, weights) in b.data.chunks(TOGETHER * panel_len).enumerate() {
            for row in (0..m).step_by(ROWS) {
                let count = ROWS.min(m - row);
                let a = a.as_ptr().add(row / ROWS * panel_len);
                let panels = weights.chunks_exact(panel_len).zip(&mut sums.0);
                for (weights, sums) in panels {
                    if count > TILE {
                        two_by_two(steps, a, weights.as_ptr(), sums.as_mut_ptr());
                    } else {
                        one_by_two(steps, a, weights.as_ptr(), sums.as_mut_ptr());
                    }
                }
                for i in 0..count {
                    let c = c.as_mut_ptr().add((row + i) * layout.n);
                    for (p, sums) in sums.0[..weights.len() / panel_len].iter().enumerate() {
                        let target = layout.target(group * TOGETHER + p, then);
                        let sums = sums.as_ptr().add(i * ROWS);
                        let sums = [[Avx512::load(sums), Avx512::load(sums.add(TILE))]];
                        finish::<Avx512, 1>(&sums, c.add(target.column), &target);
                    }
                }
            }
        }
        asm!("tilerelease", options(nomem, nostack, preserves_flags));
    }
}

/// 32 rows times a panel.
///
/// # Safety
/// The configuration is loaded; a and b hold `steps` steps (at least one), c 32 rows of 32.
#[inline(always)]
unsafe fn two_by_two(steps: usize, a: *const f32, b: *const f32, c: *mut f32) {
    // SAFETY: the caller vouches for the memory; all registers written are named.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{b} + {wide}*1]",
            "tileloadd tmm4, [{a} + {narrow}*1]",
            "tileloadd tmm7, [{b} + {wide}*1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{a} + {narrow}*1 + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 2048",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {wide}*1], tmm0",
            "tilestored [{c} + {wide}*1 + 64], tmm1",
            "tilestored [{c} + {wide}*1 + 2048], tmm2",
            "tilestored [{c} + {wide}*1 + 2112], tmm3",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            steps = inout(reg) steps => _,
            c = in(reg) c,
            wide = in(reg) 2 * 4 * TILE,
            narrow = in(reg) 4 * TILE,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Up to 16 rows times a panel: the second tile of rows is left out.
///
/// # Safety
/// As [`two_by_two`].
#[inline(always)]
unsafe fn one_by_two(steps: usize, a: *const f32, b: *const f32, c: *mut f32) {
    // SAFETY: the caller vouches for the memory; all registers written are named.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm6, [{b} + {wide}*1]",
            "tileloadd tmm4, [{a} + {narrow}*1]",
            "tileloadd tmm7, [{b} + {wide}*1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, 2048",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {wide}*1], tmm0",
            "tilestored [{c} + {wide}*1 + 64], tmm1",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            steps = inout(reg) steps => _,
            c = in(reg) c,
            wide = in(reg) 2 * 4 * TILE,
            narrow = in(reg) 4 * TILE,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::super::panels::tests::{any_gate, exact as gated, noise};
    use super::*;

    proptest! {
        #[test]
        fn products_of_rounded_numbers(
            m in 1usize..75, n in 1usize..70, k in 1usize..140, seed in any::<u64>(), gate in any_gate(),
            add in any::<bool>(),
        ) {
            if !available() {
                println!("skipped: this machine has no matrix unit");
                return Ok(());
            }
            let mut value = noise(seed);
            let weights: Vec<f32> = (0..n * k).map(|_| value()).collect();
            let up: Vec<f32> = (0..n * k).map(|_| value()).collect();
            let x: Vec<f32> = (0..m * k).map(|_| value()).collect();
            let round = |x: f32| f64::from(bf16::from_f32(x).to_f32());
            let exact = |weights: &[f32], row: usize, column: usize| -> f64 {
                let pairs = x[row * k..][..k].iter().zip(&weights[column * k..][..k]);
                pairs.map(|(x, w)| round(*x) * round(*w)).sum()
            };
            let layout = Layout { k, n, lanes: TILE, gate };
            let parts: &[&[f32]] = if gate.is_some() { &[&weights, &up] } else { &[&weights] };
            let b = AmxWeights::new(layout, parts);
            let mut a = AmxRows::default();
            // A longer product before: its leftovers must not show.
            a.prepare(&vec![9.; 80 * 145], 80, 145, None);
            a.prepare(&x, m, k, None);
            let then = if add && gate.is_none() { Then::Add } else { Then::Store };
            let mut c = vec![3f32; m * n];
            multiply(&a, m, &b, &mut c, then);
            for (at, c) in c.iter().enumerate() {
                let product = exact(&weights, at / n, at % n);
                let expected = if let Some(gate) = gate {
                    gated(gate, product) * exact(&up, at / n, at % n)
                } else if then == Then::Add {
                    product + 3.
                } else {
                    product
                };
                prop_assert!((f64::from(*c) - expected).abs() < 4e-5, "{} and {}", c, expected);
            }
            // A row alone has the same bits.
            let row = m / 2;
            let mut alone = vec![3f32; n];
            a.prepare(&x[row * k..][..k], 1, k, None);
            multiply(&a, 1, &b, &mut alone, then);
            prop_assert_eq!(&alone[..], &c[row * n..][..n]);
        }
    }

    #[test]
    fn rows_are_normalised_as_by_the_vector_kernels() {
        if !available() {
            println!("skipped: this machine has no matrix unit");
            return;
        }
        let (m, n, k) = (5, 3, 70);
        let x: Vec<f32> = (0..m * k).map(|i| ((i * 37 % 101) as f32 - 50.) / 7.).collect();
        let weight: Vec<f32> = (0..k).map(|i| 1. + i as f32 / 50.).collect();
        let b: Vec<f32> = (0..n * k).map(|i| ((i * 31 % 89) as f32 - 44.) / 60.).collect();
        let packed = AmxWeights::new(Layout { k, n, lanes: TILE, gate: None }, &[&b]);
        let mut a = AmxRows::default();
        a.prepare(&x, m, k, Some((&weight, 1e-5)));
        let mut c = vec![0f32; m * n];
        multiply(&a, m, &packed, &mut c, Then::Store);
        let round = |x: f32| bf16::from_f32(x).to_f32();
        for (at, c) in c.iter().enumerate() {
            let row = &x[at / n * k..][..k];
            let scale = 1. / (row.iter().map(|x| x * x).sum::<f32>() / k as f32 + 1e-5).sqrt();
            let normal = row.iter().zip(&weight).map(|(x, w)| round(x * scale * w));
            let exact: f32 = normal.zip(&b[at % n * k..][..k]).map(|(x, w)| x * round(*w)).sum();
            // A value near the middle of two bf16 may round either way.
            assert!((c - exact).abs() < 2e-2, "{c} and {exact}");
        }
    }
}
