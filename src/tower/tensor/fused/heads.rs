//! Query and key heads out of one product with the values': normalised where the model does so, and rotated.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};

use super::element::{Element, by_element, elements};

/// The heads of a decoder and what is done to them.
pub(in crate::tower::tensor) struct Heads {
    pub(in crate::tower::tensor) heads: usize,
    pub(in crate::tower::tensor) kv_heads: usize,
    pub(in crate::tower::tensor) head_dim: usize,
    pub(in crate::tower::tensor) epsilon: f32,
    /// What queries are multiplied by at the end.
    pub(in crate::tower::tensor) scale: f32,
}

/// Heads by token: `q` `[tokens, heads, head_dim]`, `k` and `v` `[tokens, kv_heads, head_dim]`; `v` is a view into the
/// product, whose tokens lie apart.
pub(in crate::tower::tensor) struct Turned {
    pub(in crate::tower::tensor) q: Tensor,
    pub(in crate::tower::tensor) k: Tensor,
    pub(in crate::tower::tensor) v: Tensor,
}

impl Heads {
    fn all(&self) -> usize {
        self.heads + 2 * self.kv_heads
    }

    /// `qkv` is `[tokens, (heads + 2 kv_heads) head_dim]`, `angles` in f32 `[positions, head_dim]`, cosines before
    /// sines, `positions` `[tokens]`; `norms` in f32 `[2, head_dim]`, the queries' before the keys'.
    pub(in crate::tower::tensor) fn turn(
        &self,
        qkv: &Tensor,
        angles: &Tensor,
        positions: &Tensor,
        norms: Option<&Tensor>,
    ) -> Result<Turned> {
        let (tokens, d) = (qkv.dim(0)?, self.head_dim);
        let step = Turn { heads: self, norms };
        let both = qkv.apply_op3_no_bwd(angles, positions, &step)?;
        let part = |start: usize, heads: usize| {
            both.narrow(0, start, tokens * heads * d)?.reshape((tokens, heads, d))
        };
        let v = qkv.reshape((tokens, self.all(), d))?;
        Ok(Turned {
            q: part(0, self.heads)?,
            k: part(tokens * self.heads * d, self.kv_heads)?,
            v: v.narrow(1, self.heads + self.kv_heads, self.kv_heads)?,
        })
    }
}

/// All queries, then all keys, in one flat tensor.
struct Turn<'a> {
    heads: &'a Heads,
    norms: Option<&'a Tensor>,
}

impl Turn<'_> {
    fn tokens(&self, qkv: &Layout, angles: &Layout, positions: &Layout) -> Result<usize> {
        let (tokens, width) = qkv.shape().dims2()?;
        let (heads, d) = (self.heads, self.heads.head_dim);
        let norms = self.norms.map(Tensor::dims).unwrap_or(&[2, d]) == [2, d];
        if width != heads.all() * d
            || angles.shape().dims2()?.1 != d
            || positions.shape().dims1()? != tokens
            || !norms
            || self.norms.is_some_and(|norms| norms.dtype() != DType::F32)
        {
            bail!("{:?} is not a product of {} heads of {d}", qkv.shape(), heads.all());
        }
        Ok(tokens)
    }

    fn shape(&self, tokens: usize) -> Shape {
        Shape::from(tokens * (self.heads.heads + self.heads.kv_heads) * self.heads.head_dim)
    }

    fn on_cpu<T: Element>(
        &self,
        qkv: &[T],
        angles: &[f32],
        positions: &[u32],
        norms: Option<&[f32]>,
    ) -> CpuStorage {
        let Heads { heads, kv_heads, head_dim: d, epsilon, scale } = *self.heads;
        let tokens = positions.len();
        let mut out = vec![T::default(); tokens * (heads + kv_heads) * d];
        let (q, k) = out.split_at_mut(tokens * heads * d);
        for (token, (row, position)) in
            qkv.chunks_exact(self.heads.all() * d).zip(positions).enumerate()
        {
            let angles = &angles[*position as usize * d..][..d];
            let (of_q, of_k) = (&row[..heads * d], &row[heads * d..(heads + kv_heads) * d]);
            let (to_q, to_k) = (&mut q[token * heads * d..], &mut k[token * kv_heads * d..]);
            for (from, to) in of_q.chunks_exact(d).zip(to_q.chunks_exact_mut(d)) {
                turn(from, to, angles, norms.map(|norms| &norms[..d]), epsilon, scale);
            }
            for (from, to) in of_k.chunks_exact(d).zip(to_k.chunks_exact_mut(d)) {
                turn(from, to, angles, norms.map(|norms| &norms[d..]), epsilon, 1.);
            }
        }
        T::wrap(out)
    }
}

/// One head of one token.
fn turn<T: Element>(
    from: &[T],
    to: &mut [T],
    angles: &[f32],
    norm: Option<&[f32]>,
    epsilon: f32,
    scale: f32,
) {
    let (d, half) = (from.len(), from.len() / 2);
    let normal = norm.map(|weight| {
        let square: f32 = from.iter().map(|x| x.read() * x.read()).sum();
        (weight, (square / d as f32 + epsilon).sqrt().recip())
    });
    let value = |at: usize| match normal {
        Some((weight, normal)) => from[at].read() * normal * weight[at],
        None => from[at].read(),
    };
    for at in 0..half {
        let (a, b, cos, sin) = (value(at), value(at + half), angles[at], angles[half + at]);
        to[at] = T::rounded((a * cos - b * sin) * scale);
        to[half + at] = T::rounded((b * cos + a * sin) * scale);
    }
}

impl CustomOp3 for Turn<'_> {
    fn name(&self) -> &'static str {
        "turn-heads"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        angles: &CpuStorage,
        angles_layout: &Layout,
        positions: &CpuStorage,
        positions_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let tokens = self.tokens(qkv_layout, angles_layout, positions_layout)?;
        let angles = elements::<f32>(angles, angles_layout)?;
        let (start, end) = super::element::range(positions_layout)?;
        let positions = &positions.as_slice::<u32>()?[start..end];
        let norms = self.norms.map(Tensor::flatten_all).transpose()?;
        let norms = norms.map(|norms| norms.to_vec1::<f32>()).transpose()?;
        let typed = || {
            fn typed<T: Element>(
                step: &Turn<'_>,
                (qkv, layout): (&CpuStorage, &Layout),
                (angles, positions, norms): (&[f32], &[u32], Option<&[f32]>),
            ) -> Result<CpuStorage> {
                Ok(step.on_cpu(elements::<T>(qkv, layout)?, angles, positions, norms))
            }
            let tables = (angles, positions, norms.as_deref());
            by_element!(qkv, typed(self, (qkv, qkv_layout), tables))
        };
        Ok((typed()?, self.shape(tokens)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        qkv: &candle_core::CudaStorage,
        qkv_layout: &Layout,
        angles: &candle_core::CudaStorage,
        angles_layout: &Layout,
        positions: &candle_core::CudaStorage,
        positions_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let tokens = self.tokens(qkv_layout, angles_layout, positions_layout)?;
        let tables = ((angles, angles_layout), (positions, positions_layout));
        let Heads { heads, kv_heads, head_dim, epsilon, scale } = *self.heads;
        let (sizes, factors) = ([heads, kv_heads, head_dim], [epsilon, scale]);
        let qkv = (qkv, qkv_layout);
        let out = super::launch::turn(sizes, factors, qkv, tables, self.norms, tokens)?;
        Ok((out, self.shape(tokens)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_nn::ops::rms_norm;
    use candle_nn::rotary_emb::rope_thd;

    use super::*;
    use crate::tower::testing::close;

    #[test]
    fn heads_are_normalised_rotated_and_scaled() {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim: 6, epsilon: 1e-6, scale: 0.25 };
        let random =
            |mean, shape: &[usize]| Tensor::randn(mean, 1f32, shape, &Device::Cpu).unwrap();
        let (qkv, norms) = (random(0., &[5, 8 * 6]), random(1., &[2, 6]));
        let turns = random(0., &[9, 3]);
        let (cos, sin) = (turns.cos().unwrap(), turns.sin().unwrap());
        let angles = Tensor::cat(&[&cos, &sin], 1).unwrap();
        let positions = Tensor::new(&[0u32, 1, 8, 0, 3], &Device::Cpu).unwrap();
        let of = |table: &Tensor| table.index_select(&positions, 0).unwrap();
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 6e-3), (DType::BF16, 5e-2)] {
            let qkv = qkv.to_dtype(dtype).unwrap();
            for norms in [None, Some(&norms)] {
                let found = heads.turn(&qkv, &angles, &positions, norms).unwrap();
                let wide = qkv.to_dtype(DType::F32).unwrap().reshape((5, 8, 6)).unwrap();
                let one = |start: usize, count: usize, norm: usize, scale: f64| {
                    let mut x = wide.narrow(1, start, count).unwrap().contiguous().unwrap();
                    if let Some(norms) = norms {
                        let weight = norms.get(norm).unwrap();
                        x = rms_norm(&x, &weight.contiguous().unwrap(), 1e-6).unwrap();
                    }
                    let x = rope_thd(&x.unsqueeze(0).unwrap(), &of(&cos), &of(&sin)).unwrap();
                    (x.squeeze(0).unwrap() * scale).unwrap()
                };
                close(&found.q, &one(0, 4, 0, 0.25), tolerance);
                close(&found.k, &one(4, 2, 1, 1.), tolerance);
                close(&found.v, &wide.narrow(1, 6, 2).unwrap(), 0.);
            }
        }
        assert!(heads.turn(&qkv, &cos, &positions, None).is_err());
    }
}
