//! A linear layer: packed weights of one format, and the activations they take.

use super::super::buffer::Buffer;
use super::super::elementary::Activation;
use super::super::simd::Isa;
use super::super::transpose::transposed;
#[cfg(target_arch = "x86_64")]
use super::amx::{self, AmxRows, AmxWeights};
use super::bf16::{self, Bf16Rows, Bf16Weights};
use super::blocks::Blocks;
use super::gemm::{self, Packed, Rows};
use super::int8::{self, Int8Rows, Int8Weights};
use super::panels::{Layout, Then};
use super::words::Words;

/// How weights are kept and multiplied on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 32-bit floats.
    F32(Isa),
    /// bf16, by the processor's matrix unit.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// bf16, by vectors.
    Bf16(Words),
    /// Blocks of 8-bit integers.
    Int8(Words),
}

impl Format {
    /// Those of bf16 within an instruction set, best first.
    pub fn bf16(isa: Isa) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 && amx::available() {
            found.push(Self::Amx);
        }
        found.extend(Words::bf16(isa).into_iter().map(Self::Bf16));
        found
    }

    /// The best of [`Format::bf16`].
    pub fn best_bf16(isa: Isa) -> Self {
        Self::bf16(isa).first().copied().unwrap_or(Self::Bf16(Words::Bf16Portable))
    }

    /// Those of 8-bit integers within an instruction set, best first.
    pub fn int8(isa: Isa) -> Vec<Self> {
        Words::int8(isa).into_iter().map(Self::Int8).collect()
    }

    /// Tokens that a thread takes through the layers at once: enough to use each weight often, few enough for the
    /// activations to stay near the second-level cache. The matrix unit is through with a weight sooner.
    pub fn group_tokens(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => 768,
            _ => 384,
        }
    }

    fn lanes(self) -> usize {
        match self {
            Self::F32(isa) => isa.lanes(),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Isa::Avx512.lanes(),
            Self::Bf16(words) | Self::Int8(words) => words.lanes(),
        }
    }

    /// A weight matrix `[n, k]` from its numbers.
    pub fn matrix(self, floats: Vec<f32>, k: usize) -> Matrix {
        match self {
            Self::Int8(_) => Matrix::Blocks(Blocks::quantize(&floats, k)),
            _ => Matrix::Floats(floats),
        }
    }
}

/// A weight matrix `[n, k]` as read.
pub enum Matrix {
    /// `[n, k]`
    Floats(Vec<f32>),
    /// Quantised.
    Blocks(Blocks),
}

impl Matrix {
    fn floats(&self) -> &[f32] {
        match self {
            Self::Floats(floats) => floats,
            Self::Blocks(_) => &[],
        }
    }

    fn blocks(&self) -> Option<&Blocks> {
        match self {
            Self::Floats(_) => None,
            Self::Blocks(blocks) => Some(blocks),
        }
    }
}

/// Weights of one layer (or of several that share their input), packed for this machine.
pub enum Linear {
    /// 32-bit floats.
    F32(Packed),
    /// bf16 in tiles of the matrix unit, activations rounded to it.
    #[cfg(target_arch = "x86_64")]
    Amx(AmxWeights),
    /// bf16, activations rounded to it.
    Bf16(Bf16Weights),
    /// Blocks of 8-bit integers, activations quantised as they come.
    Int8(Int8Weights),
}

/// Packed activations, and partial sums or opened weights, reused by all layers of a worker.
#[derive(Default)]
pub struct Activations {
    rows: Rows,
    scratch: Buffer,
    #[cfg(target_arch = "x86_64")]
    amx: AmxRows,
    bf16: Bf16Rows,
    int8: Int8Rows,
}

impl Linear {
    /// Matrices that share their input, `n` rows in all, one below the other.
    pub fn stack(format: Format, parts: &[&Matrix], n: usize, k: usize) -> Self {
        Self::pack(format, parts, Layout { k, n, lanes: format.lanes(), gate: None })
    }

    /// One matrix given as its transpose, `[k, n]`.
    pub fn turned(format: Format, matrix: &[f32], n: usize, k: usize) -> Self {
        let layout = Layout { k, n, lanes: format.lanes(), gate: None };
        match format {
            #[cfg(target_arch = "x86_64")]
            Format::Amx => Self::Amx(AmxWeights::turned(layout, matrix)),
            Format::Bf16(words) => Self::Bf16(Bf16Weights::turned(words, layout, matrix)),
            Format::F32(_) => Self::F32(Packed::new(layout, &[&transposed(matrix, k, n)])),
            Format::Int8(words) => {
                let blocks = Blocks::quantize(&transposed(matrix, k, n), k);
                Self::Int8(Int8Weights::new(words, layout, &[&blocks]))
            }
        }
    }

    /// Gate and up projection, `[n, k]` each, whose product is `function(gate) * up`.
    pub fn gate_up(
        format: Format,
        function: Activation,
        [gate, up]: [&Matrix; 2],
        n: usize,
        k: usize,
    ) -> Self {
        let layout = Layout { k, n, lanes: format.lanes(), gate: Some(function) };
        Self::pack(format, &[gate, up], layout)
    }

    fn pack(format: Format, parts: &[&Matrix], layout: Layout) -> Self {
        let floats: Vec<&[f32]> = parts.iter().map(|part| part.floats()).collect();
        let blocks: Vec<&Blocks> = parts.iter().filter_map(|part| part.blocks()).collect();
        match format {
            Format::F32(_) => Self::F32(Packed::new(layout, &floats)),
            #[cfg(target_arch = "x86_64")]
            Format::Amx => Self::Amx(AmxWeights::new(layout, &floats)),
            Format::Bf16(words) => Self::Bf16(Bf16Weights::new(words, layout, &floats)),
            Format::Int8(words) => Self::Int8(Int8Weights::new(words, layout, &blocks)),
        }
    }

    /// Takes `m` rows of input, RMS-normalised first where `norm` gives weight and epsilon.
    pub fn prepare(
        &self,
        isa: Isa,
        x: &[f32],
        m: usize,
        norm: Option<(&[f32], f32)>,
        to: &mut Activations,
    ) {
        match self {
            Self::F32(b) => gemm::pack_rows(isa, x, m, b.layout.k, norm, &mut to.rows),
            #[cfg(target_arch = "x86_64")]
            Self::Amx(b) => to.amx.prepare(x, m, b.layout.k, norm),
            Self::Bf16(b) => bf16::round_rows(b.words, x, m, b.layout.k, norm, &mut to.bf16),
            Self::Int8(b) => int8::quantize_rows(b.words, x, m, b.layout.k, norm, &mut to.int8),
        }
    }

    /// Multiplies the rows prepared last (for this layer or one of the same input) into `c`, `[m, n]`.
    pub fn apply(&self, isa: Isa, from: &mut Activations, m: usize, c: &mut [f32], then: Then) {
        match self {
            Self::F32(b) => gemm::multiply(isa, &from.rows, m, b, c, then, &mut from.scratch),
            #[cfg(target_arch = "x86_64")]
            Self::Amx(b) => amx::multiply(&from.amx, m, b, c, then),
            Self::Bf16(b) => bf16::multiply(b.words, &from.bf16, m, b, c, then, &mut from.scratch),
            Self::Int8(b) => int8::multiply(b.words, &from.int8, m, b, c, then, &mut from.scratch),
        }
    }
}
