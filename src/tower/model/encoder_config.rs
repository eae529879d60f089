//! What an encoder is, whatever its family: between its files and the engines.
//!
//! Every family is BERT with some of these parts changed: what knows of positions, where norms stand, which keys a
//! layer sees, whether the second half of a layer is gated.

use serde_json::{Value, json};

use crate::kernel::{Activation, Window};
use crate::types::Arithmetic;

/// Tokens that all threads together have in the layers, at most.
const PASS_TOKENS: usize = 4096;

/// Layers of an encoder at most.
pub(crate) const MOST_LAYERS: usize = 1 << 12;

/// Architecture of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EncoderConfig {
    /// `model_type`, as its files say it.
    pub(crate) family: String,
    /// Rows of the word embedding.
    pub(crate) vocab_size: usize,
    /// Width of a token's state.
    pub(crate) hidden: usize,
    /// Width of the second half of a layer.
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Epsilon of every norm.
    pub(crate) epsilon: f64,
    pub(crate) activation: Activation,
    /// Rows of the token type embedding, of which the first is added to every token; 0: there is none.
    pub(crate) types: usize,
    /// Embeddings of positions, if there are any.
    pub(crate) learned: Option<Learned>,
    /// Rotation of queries and keys by their positions, if it has that.
    pub(crate) rotary: Option<Rotary>,
    /// What is added to scores by distance, if anything.
    pub(crate) relative: Option<Relative>,
    /// Whether norms are before each half of a layer, one more behind the last layer, and none before the first
    /// attention.
    pub(crate) pre_norm: bool,
    /// Whether norms have biases.
    pub(crate) norm_bias: bool,
    pub(crate) biases: Biases,
    /// The keys that each layer sees.
    pub(crate) windows: Vec<Window>,
    /// Longest sequence in tokens.
    pub(crate) max_positions: usize,
    /// Rows of the matrix `projection.weight` behind the pooling, which a distilled student has.
    pub(crate) projected: Option<usize>,
    /// How its weights are called.
    pub(crate) names: &'static TensorNames,
}

/// Embeddings of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Learned {
    pub(crate) rows: usize,
    /// The row of a text's first token.
    pub(crate) offset: usize,
    /// The token that has the row before that one and is not counted.
    pub(crate) padding: Option<u32>,
}

/// Rotation of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rotary {
    /// Base of the frequencies in layers that see all keys.
    pub(crate) theta: f64,
    /// The same in layers that see a window.
    pub(crate) local_theta: f64,
    /// Factor of the NTK scaling of both; 1: none.
    pub(crate) ntk: f64,
}

/// A number for every head and bucket of distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relative {
    pub(crate) buckets: usize,
    /// Distances from here on share the last bucket.
    pub(crate) farthest: usize,
}

/// Which products have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Biases {
    /// Queries, keys and values.
    pub(crate) qkv: bool,
    /// Behind attention.
    pub(crate) output: bool,
    /// Into the second half of a layer; a gated one never has it.
    pub(crate) up: bool,
    /// Out of it.
    pub(crate) down: bool,
}

impl Biases {
    pub(crate) const ALL: Self = Self { qkv: true, output: true, up: true, down: true };
}

/// What a family calls its tensors, without `.weight` and `.bias`. What it does not have is empty.
#[derive(Debug, PartialEq)]
pub(crate) struct TensorNames {
    /// What may be before all of them.
    pub(crate) prefix: &'static str,
    pub(crate) words: &'static str,
    pub(crate) positions: &'static str,
    pub(crate) types: &'static str,
    pub(crate) norm: &'static str,
    pub(crate) last_norm: &'static str,
    /// Numbers by distance, `[buckets, heads]`.
    pub(crate) relative: &'static str,
    /// Before the number of a layer, which a full stop and one of the following names follow.
    pub(crate) layer: &'static str,
    pub(crate) qkv: Qkv,
    pub(crate) output: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) up: Up,
    pub(crate) down: &'static str,
    pub(crate) output_norm: &'static str,
}

/// Projections of queries, keys and values.
#[derive(Debug, PartialEq)]
pub(crate) enum Qkv {
    Apart([&'static str; 3]),
    /// One matrix, one below the other.
    Fused(&'static str),
}

/// Projection into the second half of a layer.
#[derive(Debug, PartialEq)]
pub(crate) enum Up {
    /// `activation(up)`
    Plain(&'static str),
    /// `activation(gate) * up`
    Gated { gate: &'static str, up: &'static str },
    /// The same, the gate's rows above the others.
    GateFirst(&'static str),
    /// The same, the gate's rows below the others.
    GateLast(&'static str),
}

/// Layers that see all keys; of an impossible number of them [`MOST_LAYERS`].
pub(crate) fn all_keys(layers: usize) -> Vec<Window> {
    vec![Window::FULL; layers.min(MOST_LAYERS)]
}

impl EncoderConfig {
    /// Width of a head.
    pub(crate) fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Whether the second half of a layer is gated.
    pub(crate) fn gated(&self) -> bool {
        !matches!(self.names.up, Up::Plain(_))
    }

    /// Elements of a vector before any cut.
    pub(crate) fn dimensions(&self) -> usize {
        self.projected.unwrap_or(self.hidden)
    }

    /// Begins the digest of its weights.
    pub(crate) fn kind(&self) -> &'static str {
        if self.family == "bert" { "scalingnote bert 1" } else { "scalingnote encoder 1" }
    }

    /// What of the configuration decides a vector.
    pub(crate) fn canonical(&self) -> Value {
        let activation = match self.activation {
            Activation::Gelu => "Gelu",
            Activation::GeluTanh => "GeluApproximate",
            Activation::Relu => "Relu",
            Activation::Silu => "Silu",
        };
        // The first family of all; its identities are older than the parts by which the others differ from it.
        if self.family == "bert" {
            return json!({
                "vocab_size": self.vocab_size, "hidden_size": self.hidden,
                "layers": self.layers, "heads": self.heads,
                "intermediate_size": self.inner, "epsilon": self.epsilon,
                "activation": activation, "types": self.types,
                "positions": self.max_positions, "projection": self.projected,
            });
        }
        let learned = self.learned.map(|l| json!([l.rows, l.offset, l.padding]));
        let rotary = self.rotary.map(|r| [r.theta, r.local_theta, r.ntk].map(f64::to_bits));
        let seen = |keys: usize| (keys != usize::MAX).then_some(keys);
        let windows = self.windows.iter().map(|window| [seen(window.before), seen(window.after)]);
        let Biases { qkv, output, up, down } = self.biases;
        json!({
            "family": self.family, "vocab_size": self.vocab_size, "hidden_size": self.hidden,
            "layers": self.layers, "heads": self.heads, "intermediate_size": self.inner,
            "epsilon": self.epsilon.to_bits(), "activation": activation, "gated": self.gated(),
            "types": self.types, "learned": learned, "rotary": rotary,
            "relative": self.relative.map(|r| [r.buckets, r.farthest]),
            "pre_norm": self.pre_norm, "norm_bias": self.norm_bias,
            "biases": [qkv, output, up, down], "windows": windows.collect::<Vec<_>>(),
            "projection": self.projected,
        })
    }

    /// Elements of a layer's matrices.
    fn layer(&self) -> usize {
        let inner = if self.gated() { 3 } else { 2 };
        4 * self.hidden * self.hidden + inner * self.hidden * self.inner
    }

    /// Elements of the tables.
    fn tables(&self) -> usize {
        let positions = self.learned.map_or(0, |learned| learned.rows);
        (self.vocab_size + positions) * self.hidden
    }

    /// Elements of its weights, biases and norms left out.
    pub(crate) fn parameters(&self) -> u64 {
        (self.products() + self.tables()) as u64
    }

    /// Multiply-adds of a token with the weights of all layers.
    pub(crate) fn products(&self) -> usize {
        self.layers * self.layer()
    }

    /// Multiply-adds of a sequence in all layers.
    pub(crate) fn cost(&self, length: usize) -> u64 {
        let keys = self.windows.iter().map(|window| window.most(length)).sum::<usize>();
        (length * (self.products() + 2 * keys * self.hidden)) as u64
    }

    /// The row of every token of a sequence in a table of positions: as they are counted where positions are embedded,
    /// else its place.
    pub(crate) fn position_rows(&self, sequence: &[u32]) -> impl Iterator<Item = u32> {
        let learned = self.learned;
        sequence.iter().enumerate().scan(0, move |counted, (at, id)| {
            let Some(learned) = learned else { return Some(at as u32) };
            if learned.padding == Some(*id) {
                return Some(learned.offset as u32 - 1);
            }
            *counted += 1;
            Some((learned.offset + *counted - 1) as u32)
        })
    }

    /// Bytes of the loaded weights and of the activations of `tokens` tokens.
    pub(crate) fn memory(&self, tokens: usize, arithmetic: Arithmetic) -> u64 {
        // Halves of a byte: int8 carries a scale every block.
        let width = match arithmetic {
            Arithmetic::F32 => 8,
            Arithmetic::Bf16 | Arithmetic::F16 => 4,
            Arithmetic::Int8 => 3,
        };
        let activations = tokens.min(PASS_TOKENS) * (8 * self.hidden + 2 * self.inner);
        let floats = self.tables() + activations;
        (self.products() * width / 2 + 4 * floats) as u64
    }
}

impl Rotary {
    /// Angles that a position more turns each pair of a head's elements by, in layers with a window and in others.
    pub(crate) fn frequencies(&self, local: bool, head_dim: usize) -> Vec<f32> {
        let theta = if local { self.local_theta } else { self.theta };
        let scale = self.ntk.powf(2. / head_dim as f64);
        let one = |pair: usize| {
            let exponent = 2. * pair as f64 / head_dim as f64;
            (1. / (theta * self.ntk).powf(exponent) / scale) as f32
        };
        (0..head_dim / 2).map(one).collect()
    }
}

impl Relative {
    /// The bucket of a key that stands `distance` behind its query, negative before it: as T5 has them. Half of the
    /// buckets are for keys behind; within a half, near distances have one each, and the others grow by a factor.
    pub(crate) fn bucket(&self, distance: isize) -> usize {
        let half = self.buckets / 2;
        let base = if distance > 0 { half } else { 0 };
        let (distance, exact) = (distance.unsigned_abs(), half / 2);
        if distance < exact {
            return base + distance;
        }
        // In f32 as the reference computes it: the borders are where its rounding puts them.
        let steps = (half - exact) as f32;
        let whole = (self.farthest as f64 / exact as f64).ln() as f32;
        let far = (distance as f32 / exact as f32).ln() / whole * steps;
        base + (exact + far as usize).min(half - 1)
    }
}
