//! What some models do to a pooled state before it is a vector: the modules behind sentence-transformers' `Pooling`.

use candle_core::cpu::erf::erf_f32;

use crate::error::{Error, Result};
use crate::kernel::dot;
use crate::tower::WeightSource;
use crate::tower::model::layer_weights::floats;
use crate::tower::model::pool::normalize;
use crate::types::{Activation, HeadModule};

/// Epsilon of PyTorch's LayerNorm.
const EPSILON: f32 = 1e-5;

/// The modules in their order, each with its weights. None at all changes nothing.
#[derive(Default)]
pub(crate) struct Head {
    steps: Vec<Step>,
}

enum Step {
    Dense { weight: Vec<f32>, bias: Option<Vec<f32>>, outputs: usize, activation: Activation },
    LayerNorm { weight: Vec<f32>, bias: Vec<f32> },
    Normalize,
}

impl Head {
    /// Reads the weights of modules that take states of `width` elements; `weights` is each module's own file.
    ///
    /// # Errors
    /// Input where a module does not take what the one before it gives, or a tensor is missing or of another shape.
    pub(crate) fn load(
        modules: &[HeadModule],
        weights: &[Option<&dyn WeightSource>],
        width: usize,
    ) -> Result<Self> {
        let mut steps = Vec::with_capacity(modules.len());
        let mut width = width;
        for (module, weights) in modules.iter().zip(weights) {
            let file = || weights.ok_or_else(|| Error::internal("a module has no weight file"));
            let takes = |inputs: u32| match inputs as usize == width {
                true => Ok(inputs as usize),
                false => Err(Error::input(format!(
                    "a module takes {inputs} elements, but what is before it gives {width}"
                ))),
            };
            steps.push(match module {
                HeadModule::Dense { inputs, outputs, bias, activation } => {
                    let (inputs, rows) = (takes(*inputs)?, *outputs as usize);
                    let weight = floats(file()?, "linear.weight", &[rows, inputs])?;
                    let bias = bias.then(|| floats(file()?, "linear.bias", &[rows])).transpose()?;
                    width = rows;
                    Step::Dense { weight, bias, outputs: rows, activation: *activation }
                }
                HeadModule::LayerNorm { inputs } => {
                    let inputs = takes(*inputs)?;
                    Step::LayerNorm {
                        weight: floats(file()?, "norm.weight", &[inputs])?,
                        bias: floats(file()?, "norm.bias", &[inputs])?,
                    }
                }
                HeadModule::Normalize => Step::Normalize,
            });
        }
        Ok(Self { steps })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The vector of a state.
    pub(crate) fn apply(&self, state: &[f32]) -> Vec<f32> {
        let mut row = state.to_vec();
        for step in &self.steps {
            match step {
                Step::Dense { weight, bias, outputs, activation } => {
                    let mut next = bias.clone().unwrap_or_else(|| vec![0.; *outputs]);
                    for (to, weights) in next.iter_mut().zip(weight.chunks_exact(row.len())) {
                        *to = activate(*activation, *to + dot(weights, &row));
                    }
                    row = next;
                }
                Step::LayerNorm { weight, bias } => layer_norm(&mut row, weight, bias),
                Step::Normalize => normalize(&mut row),
            }
        }
        row
    }
}

fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Identity => x,
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => 1. / (1. + (-x).exp()),
        Activation::Silu => x / (1. + (-x).exp()),
        Activation::Gelu => x * 0.5 * (1. + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::Relu => x.max(0.),
    }
}

fn layer_norm(row: &mut [f32], weight: &[f32], bias: &[f32]) {
    let count = row.len() as f32;
    let mean = row.iter().sum::<f32>() / count;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count;
    let scale = 1. / (variance + EPSILON).sqrt();
    for ((x, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
        *x = (*x - mean) * scale * weight + bias;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    struct Known(Vec<(&'static str, Vec<f32>)>);

    impl WeightSource for Known {
        fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
            let found = self.0.iter().find(|(known, _)| *known == name);
            let (_, data) = found.ok_or_else(|| Error::input(format!("no {name}")))?;
            Ok(Tensor::from_vec(data.clone(), shape, &Device::Cpu).unwrap())
        }

        fn contains(&self, name: &str) -> bool {
            self.0.iter().any(|(known, _)| *known == name)
        }
    }

    fn dense(inputs: u32, outputs: u32, bias: bool, activation: Activation) -> HeadModule {
        HeadModule::Dense { inputs, outputs, bias, activation }
    }

    #[test]
    fn modules_follow_each_other() {
        let first = Known(vec![
            ("linear.weight", vec![1., 0., 0., 1., 1., 1.]),
            ("linear.bias", vec![0., 1., -10.]),
        ]);
        let norm = Known(vec![("norm.weight", vec![1., 2., 3.]), ("norm.bias", vec![0., 0., 0.5])]);
        let modules = [
            dense(2, 3, true, Activation::Relu),
            HeadModule::LayerNorm { inputs: 3 },
            HeadModule::Normalize,
        ];
        let files: [Option<&dyn WeightSource>; 3] = [Some(&first), Some(&norm), None];
        let head = Head::load(&modules, &files, 2).unwrap();
        // (2, 4, 0) -> mean 2, deviation sqrt(8 / 3) -> (0, 2.4495, -3.6742 + 0.5), scaled to unit length.
        let row = head.apply(&[2., 3.]);
        let expected = [0., 2.449_48, -3.174_23].map(|x: f32| x / 4.009_44);
        assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{row:?}");

        let error = Head::load(&modules, &files, 3).err().unwrap().to_string();
        assert!(error.contains("takes 2 elements") && error.contains("gives 3"), "{error}");
        let none = Head::load(&[], &[], 4).unwrap();
        assert!(none.is_empty());
        assert_eq!(none.apply(&[1., 2.]), [1., 2.]);
    }

    #[test]
    fn activations_are_pytorchs() {
        // torch 2: tanh, sigmoid, silu, gelu (erf) and relu of 0.5 and -2.
        for (activation, at_half, at_minus_two) in [
            (Activation::Identity, 0.5, -2.),
            (Activation::Tanh, 0.462_117, -0.964_028),
            (Activation::Sigmoid, 0.622_459, 0.119_203),
            (Activation::Silu, 0.311_230, -0.238_406),
            (Activation::Gelu, 0.345_731, -0.045_500),
            (Activation::Relu, 0.5, 0.),
        ] {
            let (a, b) = (activate(activation, 0.5), activate(activation, -2.));
            assert!(
                (a - at_half).abs() < 2e-6 && (b - at_minus_two).abs() < 2e-6,
                "{activation:?}"
            );
        }
    }
}
