//! What follows the product into the second half of a layer: `f(gate) * up` of one that holds both, or `f(up + bias)`.

use candle_core::cpu::erf::erf_f32;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::element::{Element, by_element, elements};
use crate::kernel::Activation;

struct Gated(Activation);
struct Activated(Activation);

/// `[rows, 2 m]`, gate before up, to `[rows, m]`.
pub(in crate::tower::tensor) fn gated(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    gate_up.apply_op1_no_bwd(&Gated(activation))
}

/// `f(up + bias)`: `[rows, m]` and `[m]` to `[rows, m]`.
pub(in crate::tower::tensor) fn activated(
    up: &Tensor,
    bias: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    up.apply_op2_no_bwd(bias, &Activated(activation))
}

/// The activation's number in `kernels.cu`.
#[cfg(any(feature = "cuda", test))]
pub(super) fn number(activation: Activation) -> u32 {
    match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::Gelu => 2,
        Activation::Relu => 3,
    }
}

fn halves(layout: &Layout) -> Result<(usize, usize)> {
    let (rows, width) = layout.shape().dims2()?;
    if width % 2 != 0 {
        candle_core::bail!("{width} columns are no gate and as wide an up");
    }
    Ok((rows, width / 2))
}

fn apply(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x / (1. + (-x).exp()),
        // x times the logistic function of twice the tangent's argument.
        Activation::GeluTanh => x / (1. + (-1.595_769 * (x + 0.044_715 * x * x * x)).exp()),
        Activation::Gelu => x * 0.5 * (1. + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::Relu => x.max(0.),
    }
}

fn on_cpu<T: Element>(
    activation: Activation,
    storage: &CpuStorage,
    layout: &Layout,
) -> Result<CpuStorage> {
    let f = |x| apply(activation, x);
    let (rows, width) = halves(layout)?;
    let mut out = Vec::with_capacity(rows * width);
    for row in elements::<T>(storage, layout)?.chunks_exact((2 * width).max(1)) {
        let (gate, up) = row.split_at(width);
        out.extend(gate.iter().zip(up).map(|(gate, up)| T::rounded(f(gate.read()) * up.read())));
    }
    Ok(T::wrap(out))
}

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = Shape::from(halves(layout)?);
        Ok((by_element!(storage, on_cpu(self.0, storage, layout))?, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let (rows, width) = halves(layout)?;
        let out = super::launch::gated((storage, layout), rows, width, number(self.0))?;
        Ok((out, Shape::from((rows, width))))
    }
}

fn biased(up: &Layout, bias: &Layout) -> Result<(usize, usize)> {
    let (rows, width) = up.shape().dims2()?;
    if bias.dims() != [width] {
        candle_core::bail!("{:?} cannot be the bias of {:?}", bias.shape(), up.shape());
    }
    Ok((rows, width))
}

impl CustomOp2 for Activated {
    fn name(&self) -> &'static str {
        "activated"
    }

    fn cpu_fwd(
        &self,
        up: &CpuStorage,
        up_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn typed<T: Element>(
            activation: Activation,
            up: (&CpuStorage, &Layout),
            bias: (&CpuStorage, &Layout),
        ) -> Result<CpuStorage> {
            let (up, bias) = (elements::<T>(up.0, up.1)?, elements::<T>(bias.0, bias.1)?);
            let rows = up.chunks_exact(bias.len().max(1)).flat_map(|row| row.iter().zip(bias));
            let value = |(x, b): (&T, &T)| T::rounded(apply(activation, x.read() + b.read()));
            Ok(T::wrap(rows.map(value).collect()))
        }
        let shape = Shape::from(biased(up_layout, bias_layout)?);
        Ok((by_element!(up, typed(self.0, (up, up_layout), (bias, bias_layout)))?, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        up: &candle_core::CudaStorage,
        up_layout: &Layout,
        bias: &candle_core::CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let (rows, width) = biased(up_layout, bias_layout)?;
        let inputs = [(up, up_layout), (bias, bias_layout)];
        let out = super::launch::activated(inputs, rows, width, number(self.0))?;
        Ok((out, Shape::from((rows, width))))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn it_is_the_composed_formula() {
        let x = Tensor::randn(0f32, 2., (7, 2 * 13), &Device::Cpu).unwrap();
        type Composed = fn(&Tensor) -> Result<Tensor>;
        let activations: [(Activation, Composed); 4] = [
            (Activation::Silu, Tensor::silu),
            (Activation::GeluTanh, Tensor::gelu),
            (Activation::Gelu, Tensor::gelu_erf),
            (Activation::Relu, Tensor::relu),
        ];
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
            let x = x.to_dtype(dtype).unwrap();
            let wide = x.to_dtype(DType::F32).unwrap();
            let (gate, up) = (wide.narrow(1, 0, 13).unwrap(), wide.narrow(1, 13, 13).unwrap());
            for (activation, composed) in activations {
                let expected = (composed(&gate).unwrap() * &up).unwrap();
                let found = gated(&x, activation).unwrap();
                assert_eq!((found.dtype(), found.dims()), (dtype, &[7, 13][..]));
                crate::tower::testing::close(&found, &expected, tolerance);

                let bias = up.get(0).unwrap().to_dtype(dtype).unwrap();
                let sum = gate.broadcast_add(&bias.to_dtype(DType::F32).unwrap()).unwrap();
                let gate = gate.contiguous().unwrap().to_dtype(dtype).unwrap();
                let found = activated(&gate, &bias, activation).unwrap();
                assert_eq!((found.dtype(), found.dims()), (dtype, &[7, 13][..]));
                crate::tower::testing::close(&found, &composed(&sum).unwrap(), tolerance);
            }
        }
        let odd = x.narrow(1, 0, 25).unwrap().contiguous().unwrap();
        assert!(gated(&odd, Activation::Silu).is_err());
        assert!(activated(&x, &odd.get(0).unwrap(), Activation::Silu).is_err());
    }
}
