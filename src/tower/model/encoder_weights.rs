//! An encoder's weights by their meaning, whatever its family calls them and whether it keeps them fused.

use crate::error::Result;
use crate::tower::model::encoder_config::{EncoderConfig, Qkv, Up};

/// Reads a tensor by its name and shape, row-major.
pub(crate) type Read<'a> = dyn Fn(&str, &[usize]) -> Result<Vec<f32>> + 'a;

/// Weight and bias of a norm.
pub(crate) type Norm = (Vec<f32>, Vec<f32>);

/// The tensors of one layer, matrices as `[out, in]`. A bias that there is not is empty.
pub(crate) struct EncoderLayer {
    /// Queries, keys and values.
    pub(crate) qkv: [Vec<f32>; 3],
    pub(crate) qkv_bias: [Vec<f32>; 3],
    pub(crate) output: Vec<f32>,
    pub(crate) output_bias: Vec<f32>,
    /// Behind attention; before it, where norms are before the halves. `None`: the states stay as they are.
    pub(crate) attention_norm: Option<Norm>,
    /// Of a gated second half.
    pub(crate) gate: Option<Vec<f32>>,
    pub(crate) up: Vec<f32>,
    pub(crate) up_bias: Vec<f32>,
    pub(crate) down: Vec<f32>,
    pub(crate) down_bias: Vec<f32>,
    pub(crate) output_norm: Norm,
}

/// Reads the weights of an encoder.
pub(crate) struct EncoderWeights<'a> {
    pub(crate) config: &'a EncoderConfig,
    /// By the family's names, without a prefix.
    pub(crate) read: &'a Read<'a>,
}

impl EncoderWeights<'_> {
    /// `[vocabulary, hidden]`
    pub(crate) fn words(&self) -> Result<Vec<f32>> {
        let c = self.config;
        self.weight(c.names.words, &[c.vocab_size, c.hidden])
    }

    /// What is added to the word of a token, by its position: `[rows, hidden]`, the token type's among it. One row
    /// where positions have no embeddings.
    pub(crate) fn positions(&self) -> Result<Vec<f32>> {
        let c = self.config;
        let mut table = match c.learned {
            Some(learned) => self.weight(c.names.positions, &[learned.rows, c.hidden])?,
            None => vec![0.; c.hidden],
        };
        if c.types > 0 {
            let types = self.weight(c.names.types, &[c.types, c.hidden])?;
            for row in table.chunks_exact_mut(c.hidden) {
                row.iter_mut().zip(&types).for_each(|(x, t)| *x += t);
            }
        }
        Ok(table)
    }

    /// The norm of the embeddings.
    pub(crate) fn norm(&self) -> Result<Norm> {
        self.norm_of(self.config.names.norm)
    }

    /// The norm behind the last layer, if there is one.
    pub(crate) fn last_norm(&self) -> Result<Option<Norm>> {
        self.config.pre_norm.then(|| self.norm_of(self.config.names.last_norm)).transpose()
    }

    /// Numbers by bucket and head, `[buckets, heads]`, if there are any.
    pub(crate) fn relative(&self) -> Result<Option<Vec<f32>>> {
        let c = self.config;
        let read = |buckets| self.weight(c.names.relative, &[buckets, c.heads]);
        c.relative.map(|relative| read(relative.buckets)).transpose()
    }

    /// The projection behind the pooling, `[rows, hidden]`, if there is one.
    pub(crate) fn projection(&self) -> Result<Option<Vec<f32>>> {
        let read = |rows| (self.read)("projection.weight", &[rows, self.config.hidden]);
        self.config.projected.map(read).transpose()
    }

    /// Layer `at`.
    pub(crate) fn layer(&self, at: usize) -> Result<EncoderLayer> {
        let c = self.config;
        let (names, hidden, inner) = (c.names, c.hidden, c.inner);
        let full = |part: &str| format!("{}.{at}.{part}", names.layer);
        let weight = |part: &str, n: usize, k: usize| self.weight(&full(part), &[n, k]);
        let bias = |has: bool, part: &str, n: usize| match has {
            true => (self.read)(&format!("{}.bias", full(part)), &[n]),
            false => Ok(Vec::new()),
        };
        let (qkv, qkv_bias) = match names.qkv {
            Qkv::Apart([q, k, v]) => {
                let matrix = |part| weight(part, hidden, hidden);
                let bias = |part| bias(c.biases.qkv, part, hidden);
                ([matrix(q)?, matrix(k)?, matrix(v)?], [bias(q)?, bias(k)?, bias(v)?])
            }
            Qkv::Fused(all) => {
                let matrix = weight(all, 3 * hidden, hidden)?;
                (parts(&matrix), parts(&bias(c.biases.qkv, all, 3 * hidden)?))
            }
        };
        let (gate, up, up_bias) = match names.up {
            Up::Plain(up) => (None, weight(up, inner, hidden)?, bias(c.biases.up, up, inner)?),
            Up::Gated { gate, up } => {
                (Some(weight(gate, inner, hidden)?), weight(up, inner, hidden)?, Vec::new())
            }
            Up::GateFirst(both) => {
                let [gate, up] = parts(&weight(both, 2 * inner, hidden)?);
                (Some(gate), up, Vec::new())
            }
            Up::GateLast(both) => {
                let [up, gate] = parts(&weight(both, 2 * inner, hidden)?);
                (Some(gate), up, Vec::new())
            }
        };
        let unchanged = c.pre_norm && at == 0;
        let attention_norm = || self.norm_of(&full(names.attention_norm));
        Ok(EncoderLayer {
            qkv,
            qkv_bias,
            output: weight(names.output, hidden, hidden)?,
            output_bias: bias(c.biases.output, names.output, hidden)?,
            attention_norm: (!unchanged).then(attention_norm).transpose()?,
            gate,
            up,
            up_bias,
            down: weight(names.down, hidden, inner)?,
            down_bias: bias(c.biases.down, names.down, hidden)?,
            output_norm: self.norm_of(&full(names.output_norm))?,
        })
    }

    fn weight(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        (self.read)(&format!("{name}.weight"), shape)
    }

    fn norm_of(&self, name: &str) -> Result<Norm> {
        let hidden = self.config.hidden;
        let bias = match self.config.norm_bias {
            true => (self.read)(&format!("{name}.bias"), &[hidden])?,
            false => vec![0.; hidden],
        };
        Ok((self.weight(name, &[hidden])?, bias))
    }
}

/// Equal parts of rows that lie one below the other.
fn parts<const N: usize>(all: &[f32]) -> [Vec<f32>; N] {
    let length = all.len() / N;
    std::array::from_fn(|at| all[at * length..][..length].to_vec())
}
