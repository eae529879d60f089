//! Products of narrow numbers: every 32-bit lane is a word of four 8-bit integers or two bf16, which neighbour
//! each other along k. One type per instruction set and element.

#[cfg(target_arch = "x86_64")]
use super::super::simd::{Avx2, Avx512};
use super::super::simd::{Isa, Portable, Simd, kernel, lanes};
use super::blocks::{BLOCK, Quantized, quantize};

/// The second bf16 of a word as the f32 that it is.
pub const HIGH: u32 = 0xffff_0000;

/// Vectors of words, and their multiply-add.
///
/// A machine without instructions for words multiplies wider numbers: activations are packed wide, `SPREAD` words for one, and
/// the words of the weights are opened, by `load` in registers, or (`PARTS` is 2) by `open` in memory, once for all rows: then
/// `load`, `splat` and `dot` take one part of a word.
///
/// # Safety
/// All functions may only be called below [`Words::run`]; `load` needs as many valid words at the pointer as
/// `S` has lanes, `splat` needs `SPREAD / PARTS` of them, `step` apart, `open` needs room for two vectors, `step` apart.
#[allow(clippy::missing_safety_doc)] // said once, for all of them, above
pub trait Word: Copy {
    /// f32 vectors with as many lanes.
    type S: Simd;
    /// Sums of products.
    type Sum: Copy;
    /// A vector of words of the weights, or of a part of them.
    type V: Copy;
    /// A word of the activations, or a part of it, in all lanes.
    type X: Copy;
    /// Rows of a register tile.
    const ROWS: usize;
    /// Words that one word of the activations is packed into: 1 or 2.
    const SPREAD: usize;
    /// Words that a word of the weights is opened into before it is multiplied: 1, as it lies, or 2.
    const PARTS: usize;
    /// What every 8-bit weight is raised by before it is packed, for instructions that take unsigned ones.
    const OFFSET: u8;
    unsafe fn load(from: *const u32) -> Self::V;
    unsafe fn splat(from: *const u32, step: usize) -> Self::X;
    /// Opens a vector of words where `PARTS` is 2.
    #[inline(always)]
    unsafe fn open(_from: *const u32, _to: *mut f32, _step: usize) {
        unreachable!("words of one part are read as they lie")
    }
    /// What a word of the activations is packed into where `PARTS` is 1: the first `SPREAD` of these.
    #[inline(always)]
    unsafe fn spread(word: u32) -> [u32; 2] {
        [word, 0]
    }
    /// All lanes begin with this.
    unsafe fn sum(start: i32) -> Self::Sum;
    /// sum + the products of the elements of every lane. 8-bit `x` lies within -127..=127.
    unsafe fn dot(sum: Self::Sum, weight: Self::V, x: Self::X) -> Self::Sum;
    /// The sums as floats.
    unsafe fn float(sum: Self::Sum) -> <Self::S as Simd>::V;
    /// [`quantize`], bit for bit where all elements are finite.
    #[inline(always)]
    unsafe fn quantize(x: &[f32; BLOCK]) -> Quantized {
        quantize(x)
    }
}

/// A computation over words that can be compiled for every instruction set.
pub trait WordKernel {
    /// The body; implementations are `inline(always)`.
    fn run<W: Word>(self);
}

/// Which multiply-add of words this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// 8-bit: vpdpbusd, 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Int8Avx512,
    /// 8-bit: vpdpbusd, 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Int8AvxVnni,
    /// 8-bit, opened to 16: vpmaddwd, 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Int8Avx2,
    /// 8-bit, 4 lanes, in plain Rust.
    Int8Portable,
    /// bf16: vdpbf16ps, 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Bf16Avx512,
    /// bf16, opened to f32, 16 lanes.
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
    pub fn int8(isa: Isa) -> Vec<Self> {
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
    pub fn bf16(isa: Isa) -> Vec<Self> {
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
    pub fn lanes(self) -> usize {
        kernel! {
            fn ask<'a, W: Word>(words: Words, lanes: &'a mut usize) {
                *lanes = W::S::LANES;
            }
        }
        let mut lanes = 0;
        ask(self, &mut lanes);
        lanes
    }

    /// See [`Word::OFFSET`].
    pub fn offset(self) -> u8 {
        kernel! {
            fn ask<'a, W: Word>(words: Words, offset: &'a mut u8) {
                *offset = W::OFFSET;
            }
        }
        let mut offset = 0;
        ask(self, &mut offset);
        offset
    }

    /// Runs a kernel with these words.
    pub fn run<K: WordKernel>(self, kernel: K) {
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

/// Opens whole rows of a panel's words: each becomes two, one behind the other.
///
/// # Safety
/// Below [`Words::run`], for words of two parts.
#[inline(always)]
pub unsafe fn open_rows<'a, W: Word>(words: &[f32], panel: usize, to: &'a mut [f32]) -> &'a [f32] {
    assert!(panel == 2 * W::S::LANES && to.len() >= 2 * words.len(), "room for opened words");
    for (row, to) in words.chunks_exact(panel).zip(to.chunks_exact_mut(2 * panel)) {
        for lane in [0, W::S::LANES] {
            // SAFETY: two vectors are a row, four are two rows.
            unsafe { W::open(row.as_ptr().add(lane).cast(), to.as_mut_ptr().add(lane), panel) }
        }
    }
    &to[..2 * words.len()]
}

// SAFETY of all calls below: the trait's contract names the instruction set and the valid pointers.
macro_rules! word {
    (
        $(#[$doc:meta])* $name:ident: $s:ty, $sum:ty, $v:ty, $x:ty, rows $rows:literal, spread $spread:literal,
        parts $parts:literal, offset $offset:literal;
        $($function:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name;

        impl Word for $name {
            type S = $s;
            type Sum = $sum;
            type V = $v;
            type X = $x;
            const ROWS: usize = $rows;
            const SPREAD: usize = $spread;
            const PARTS: usize = $parts;
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
    /// 8-bit integers, 4 lanes.
    Int8Portable: Portable, [i32; 4], [u32; 4], [u32; 4], rows 4, spread 1, parts 1, offset 0;
    load(from: *const u32) -> [u32; 4] = from.cast::<[u32; 4]>().read_unaligned();
    splat(from: *const u32, _step: usize) -> [u32; 4] = [*from; 4];
    sum(start: i32) -> [i32; 4] = [start; 4];
    dot(sum: [i32; 4], weight: [u32; 4], x: [u32; 4]) -> [i32; 4] = lanes!(|i| {
        let (w, x) = (weight[i].to_ne_bytes(), x[i].to_ne_bytes());
        let product = |j: usize| i32::from(w[j] as i8) * i32::from(x[j] as i8);
        sum[i] + product(0) + product(1) + product(2) + product(3)
    });
    float(sum: [i32; 4]) -> [f32; 4] = lanes!(|i| sum[i] as f32);
}

word! {
    /// bf16, 4 lanes.
    Bf16Portable: Portable, [f32; 4], [u32; 4], [u32; 4], rows 4, spread 1, parts 1, offset 0;
    load(from: *const u32) -> [u32; 4] = from.cast::<[u32; 4]>().read_unaligned();
    splat(from: *const u32, _step: usize) -> [u32; 4] = [*from; 4];
    sum(start: i32) -> [f32; 4] = [start as f32; 4];
    dot(sum: [f32; 4], weight: [u32; 4], x: [u32; 4]) -> [f32; 4] = {
        let low = |v: [u32; 4]| lanes!(|i| f32::from_bits(v[i] << 16));
        let high = |v: [u32; 4]| lanes!(|i| f32::from_bits(v[i] & 0xffff_0000));
        Portable::fma(high(weight), high(x), Portable::fma(low(weight), low(x), sum))
    };
    float(sum: [f32; 4]) -> [f32; 4] = sum;
}

#[cfg(target_arch = "x86_64")]
mod x86;
