//! Matrices that some models store as one (Phi-3), taken apart.

use candle_core::Tensor;

use crate::error::{ErrorKind, Result, ResultExt};
use crate::tower::{DecoderConfig, WeightSource};

/// Gives `q_proj`, `k_proj`, `v_proj`, `gate_proj` and `up_proj` out of `qkv_proj` and `gate_up_proj`. An adapter of the stored
/// matrices is merged before, in `source`.
pub(crate) struct Apart<'a> {
    pub(crate) config: &'a DecoderConfig,
    pub(crate) source: &'a dyn WeightSource,
}

impl Apart<'_> {
    /// The stored name of a matrix, its first row there, and how many rows are stored.
    fn place(&self, name: &str) -> Option<(String, usize, usize)> {
        let c = self.config;
        let (q, kv, inner) = (c.heads * c.head_dim, c.kv_heads * c.head_dim, c.intermediate_size);
        let (stem, part) = name.strip_suffix(".weight")?.rsplit_once('.')?;
        let (stored, first, rows) = match part {
            "q_proj" => ("qkv_proj", 0, q + 2 * kv),
            "k_proj" => ("qkv_proj", q, q + 2 * kv),
            "v_proj" => ("qkv_proj", q + kv, q + 2 * kv),
            "gate_proj" => ("gate_up_proj", 0, 2 * inner),
            "up_proj" => ("gate_up_proj", inner, 2 * inner),
            _ => return None,
        };
        Some((format!("{stem}.{stored}.weight"), first, rows))
    }
}

/// Rows of a stored matrix.
fn part(whole: &Tensor, stored: &str, (first, rows): (usize, usize)) -> Result<Tensor> {
    let part = whole.narrow(0, first, rows).and_then(|part| part.contiguous());
    part.or_error(ErrorKind::Internal, || format!("taking rows {first}.. out of {stored}"))
}

impl WeightSource for Apart<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let (Some((stored, first, rows)), &[wanted, width]) = (self.place(name), shape) else {
            return self.source.tensor(name, shape);
        };
        part(&self.source.tensor(&stored, &[rows, width])?, &stored, (first, wanted))
    }

    fn contains(&self, name: &str) -> bool {
        let stored = self.place(name).map(|(stored, _, _)| stored);
        self.source.contains(stored.as_deref().unwrap_or(name))
    }

    fn half(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let (Some((stored, first, rows)), &[wanted, width]) = (self.place(name), shape) else {
            return self.source.half(name, shape);
        };
        let whole = self.source.half(&stored, &[rows, width])?;
        whole.map(|whole| part(&whole, &stored, (first, wanted))).transpose()
    }

    fn q8_0(&self, name: &str, shape: &[usize; 2]) -> Result<Option<Vec<u8>>> {
        match self.place(name) {
            Some(_) => Ok(None),
            None => self.source.q8_0(name, shape),
        }
    }
}
