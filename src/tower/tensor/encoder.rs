//! The encoder on candle tensors, one way through the layers for all families.

use candle_core::{DType, Device, Tensor};

use super::attention::{Attention, Scored};
use super::batch::{Batch, Planned};
use super::fault::{check_size, fault};
use super::fused::{Heads, NormKind, activated, add_norm, gated};
use super::linear::Linear;
use super::load::Loader;
use super::relative::DistanceBias;
use super::tower::TensorTower;
use super::transfer::Transfer;
use crate::error::{Error, Result};
use crate::kernel::{Isa, Window, layer_norm_rows};
use crate::tower::model::encoder_config::EncoderConfig;
use crate::tower::model::encoder_weights::{EncoderLayer, EncoderWeights, Norm};
use crate::tower::model::pool::Want;
use crate::tower::model::rope::Rope;

/// What may follow a half of a layer: its bias, weight and bias of the norm, `[3, hidden]`.
type Join = Tensor;

struct Layer {
    /// Queries, keys and values.
    qkv: Linear,
    o: Linear,
    /// Behind attention.
    attended: Join,
    up: Up,
    down: Linear,
    /// Behind the second half.
    fed: Join,
    window: Window,
}

/// Into the second half.
enum Up {
    /// With a bias.
    Plain(Linear, Tensor),
    /// Gate and up.
    Gated(Linear),
}

/// A loaded encoder on a candle device.
pub(crate) struct TensorEncoder {
    config: EncoderConfig,
    transfer: Transfer,
    attention: Attention,
    heads: Heads,
    /// `[vocabulary, hidden]`; where positions are not embedded, the norm behind is in it.
    words: Tensor,
    /// Embeddings of positions, `[rows, hidden]`, and what joins them to the words.
    positions: Option<(Tensor, Join)>,
    layers: Vec<Layer>,
    /// `[positions, head_dim]` in f32, cosines before sines; of layers that see all keys.
    angles: Tensor,
    /// Of the others.
    local_angles: Tensor,
    /// `[dimensions, hidden]` in f32.
    projection: Option<Linear>,
}

/// What is put on the device, and in which order it is joined.
struct Reader<'a> {
    loader: Loader<'a>,
    config: &'a EncoderConfig,
}

impl Reader<'_> {
    fn matrix(&self, parts: &[&[f32]], width: usize) -> Result<Tensor> {
        let values = parts.concat();
        let rows = values.len() / width;
        self.loader.numbers(values, &[rows, width], self.loader.dtype)
    }

    /// A bias that is there; `None` where all parts are empty.
    fn bias(&self, parts: &[&[f32]]) -> Result<Option<Tensor>> {
        let values = parts.concat();
        let put = |values: Vec<f32>| {
            let width = values.len();
            self.loader.numbers(values, &[width], self.loader.dtype)
        };
        (!values.is_empty()).then(|| put(values)).transpose()
    }

    fn join(&self, add: &[f32], (weight, bias): &Norm) -> Result<Join> {
        let hidden = self.config.hidden;
        let none = vec![0.; hidden];
        let add = if add.is_empty() { &none } else { add };
        self.matrix(&[add, weight, bias], hidden)
    }

    /// `next` is the norm that follows the layer.
    fn layer(&self, w: EncoderLayer, window: Window, next: &Norm) -> Result<Layer> {
        let EncoderConfig { hidden, inner, pre_norm, .. } = *self.config;
        let linear = |weights: &[f32], width: usize| {
            Ok::<_, Error>(Linear { weight: self.matrix(&[weights], width)?, bias: None })
        };
        let [q, k, v] = &w.qkv;
        let [q_bias, k_bias, v_bias] = &w.qkv_bias;
        let up = match &w.gate {
            Some(gate) => {
                Up::Gated(Linear { weight: self.matrix(&[gate, &w.up], hidden)?, bias: None })
            }
            None => {
                let bias = if w.up_bias.is_empty() { vec![0.; inner] } else { w.up_bias };
                let bias = self.loader.numbers(bias, &[inner], self.loader.dtype)?;
                Up::Plain(linear(&w.up, hidden)?, bias)
            }
        };
        // Where norms are before the halves, that of the second one follows the first.
        let between = match (&w.attention_norm, pre_norm) {
            (Some(norm), false) => norm,
            _ => &w.output_norm,
        };
        let behind = if pre_norm { next } else { &w.output_norm };
        Ok(Layer {
            qkv: Linear {
                weight: self.matrix(&[q, k, v], hidden)?,
                bias: self.bias(&[q_bias, k_bias, v_bias])?,
            },
            o: linear(&w.output, hidden)?,
            attended: self.join(&w.output_bias, between)?,
            up,
            down: linear(&w.down, inner)?,
            fed: self.join(&w.down_bias, behind)?,
            window,
        })
    }

    /// All layers.
    fn layers(&self, weights: &EncoderWeights<'_>) -> Result<Vec<Layer>> {
        let last = weights.last_norm()?.unwrap_or_default();
        let mut layers = Vec::with_capacity(self.config.layers);
        let mut following = None;
        for at in (0..self.config.layers).rev() {
            let w = weights.layer(at)?;
            let own = w.attention_norm.clone();
            let next = following.as_ref().unwrap_or(&last);
            layers.push(self.layer(w, self.config.windows[at], next)?);
            following = own;
        }
        layers.reverse();
        Ok(layers)
    }
}

impl TensorEncoder {
    /// Reads all weights onto the device. `max_tokens` is the longest sequence that will come. `flash` lets attention
    /// take the fused kernels, where the program has them for this device and these heads.
    ///
    /// # Errors
    /// Unsupported for heads of odd width; whatever reading a tensor reports.
    pub(crate) fn load(
        weights: &EncoderWeights<'_>,
        device: &Device,
        dtype: DType,
        max_tokens: usize,
        flash: bool,
    ) -> Result<Self> {
        // First: from here on everything happens on the device's one stream.
        let transfer = fault(Transfer::new(device), "preparing the device")?;
        let config = weights.config;
        let (hidden, head_dim) = (config.hidden, config.head_dim());
        if !head_dim.is_multiple_of(2) {
            return Err(Error::unsupported(format!(
                "heads of {head_dim} elements are not supported on a CUDA device, an odd number; use a cpu device instead"
            )));
        }
        let loader = Loader { device, dtype };
        let reader = Reader { loader, config };
        let (mut words, norm, table) = (weights.words()?, weights.norm()?, weights.positions()?);
        let positions = match config.learned {
            Some(_) => Some((reader.matrix(&[&table], hidden)?, reader.join(&[], &norm)?)),
            None => {
                let epsilon = config.epsilon as f32;
                layer_norm_rows(Isa::best(), &mut words, &table, &norm.0, &norm.1, epsilon);
                None
            }
        };
        let [angles, local_angles] = [false, true].map(|local| {
            let frequencies = match config.rotary {
                Some(rotary) => rotary.frequencies(local, head_dim),
                // Turned by nothing at all.
                None => vec![0.; head_dim / 2],
            };
            let rows = config.learned.map_or(max_tokens, |learned| learned.rows);
            reader.loader.angles(&Rope::of(&frequencies, rows), head_dim)
        });
        let projection = weights.projection()?.map(|values| {
            let shape = [values.len() / hidden, hidden];
            let weight = reader.loader.numbers(values, &shape, DType::F32)?;
            Ok::<_, Error>(Linear { weight, bias: None })
        });
        let bias = config.relative.zip(weights.relative()?);
        let bias = bias.map(|bias| DistanceBias::new(bias, config.heads, device, dtype));
        let scored = Scored {
            heads: config.heads,
            kv_heads: config.heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            looks_ahead: true,
        };
        let attention = Attention::new(scored, bias, device, dtype, flash);
        let heads = Heads {
            heads: config.heads,
            kv_heads: config.heads,
            head_dim,
            // Of norms that these heads do not have.
            epsilon: 0.,
            scale: attention.query_scale(),
        };
        Ok(Self {
            config: config.clone(),
            transfer,
            attention,
            heads,
            words: reader.matrix(&[&words], hidden)?,
            positions,
            layers: reader.layers(weights)?,
            angles: angles?,
            local_angles: local_angles?,
            projection: projection.transpose()?,
        })
    }

    fn join(
        &self,
        x: &Tensor,
        change: &Tensor,
        join: &Join,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let (sum, normal) =
            add_norm(x, change, join, (NormKind::Layer, self.config.epsilon as f32))?;
        // The stream that the next half is added to.
        let stream = if self.config.pre_norm { sum } else { normal.clone() };
        Ok((stream, normal))
    }

    fn attend(&self, layer: &Layer, x: &Tensor, batch: &Batch) -> candle_core::Result<Tensor> {
        let qkv = layer.qkv.forward(x)?;
        let angles = match layer.window == Window::FULL {
            true => &self.angles,
            false => &self.local_angles,
        };
        let turned = self.heads.turn(&qkv, angles, &batch.positions, None)?;
        let attended = self.attention.attend(&turned, layer.window, &batch.groups)?;
        layer.o.forward(&attended.reshape((x.dim(0)?, self.config.hidden))?)
    }

    fn feed(&self, layer: &Layer, x: &Tensor) -> candle_core::Result<Tensor> {
        let activation = self.config.activation;
        let inner = match &layer.up {
            Up::Plain(up, bias) => activated(&up.forward(x)?, bias, activation)?,
            Up::Gated(both) => gated(&both.forward(x)?, activation)?,
        };
        layer.down.forward(&inner)
    }
}

impl TensorTower for TensorEncoder {
    fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    fn is_fused(&self) -> bool {
        self.attention.fused()
    }

    fn plan(&self, sequences: &[&[u32]], want: Want) -> Result<Planned> {
        let c = &self.config;
        let inner = if c.gated() { 2 * c.inner } else { c.inner };
        check_size(sequences, inner.max(3 * c.hidden))?;
        let positions = sequences.iter().flat_map(|sequence| c.position_rows(sequence));
        Ok(Planned::new(&self.attention, sequences, positions, want))
    }

    fn forward(&self, planned: Planned, words: &Tensor) -> candle_core::Result<Tensor> {
        let batch = planned.arrived(&self.attention, words)?;
        let words = self.words.index_select(&batch.ids, 0)?;
        let mut normal = match &self.positions {
            None => words,
            Some((table, join)) => {
                self.join(&words, &table.index_select(&batch.positions, 0)?, join)?.1
            }
        };
        let mut x = normal.clone();
        for layer in &self.layers {
            (x, normal) = self.join(&x, &self.attend(layer, &normal, &batch)?, &layer.attended)?;
            (x, normal) = self.join(&x, &self.feed(layer, &normal)?, &layer.fed)?;
        }
        let states = batch.wanted(&normal)?;
        match &self.projection {
            Some(projection) => projection.forward(&states),
            None => Ok(states),
        }
    }
}
