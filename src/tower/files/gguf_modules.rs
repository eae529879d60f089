//! Modules behind the pooling that a GGUF file carries.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::tower::WeightSource;
use crate::tower::files::gguf::Gguf;
use crate::tower::files::sentence::ModuleFile;
use crate::tower::files::weights::{GgufWeights, missing, wrong_shape};
use crate::types::{Activation, HeadModule};

/// In the order in which llama.cpp computes them: EmbeddingGemma's, where the converter was asked for them.
const DENSE: [&str; 2] = ["dense_2.weight", "dense_3.weight"];

/// The weight of one dense layer, which has no bias.
struct Dense(Tensor);

impl WeightSource for Dense {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        match name {
            "linear.weight" if self.0.dims() == shape => Ok(self.0.clone()),
            "linear.weight" => Err(wrong_shape(name, self.0.dims(), shape)),
            _ => Err(missing(name)),
        }
    }

    fn contains(&self, name: &str) -> bool {
        name == "linear.weight"
    }
}

/// The dense layers of a file, in order; none in most.
///
/// # Errors
/// Corrupt for one that is not a matrix.
pub(crate) fn read(gguf: &Gguf) -> Result<Vec<ModuleFile>> {
    let mut modules = Vec::new();
    for name in DENSE.into_iter().filter(|name| gguf.tensors.contains_key(*name)) {
        let weight = GgufWeights::raw(gguf, name)?;
        let &[rows, width] = weight.dims() else {
            return Err(Error::corrupt(format!(
                "{name} of {} is not a matrix",
                gguf.path.display()
            )));
        };
        let module = HeadModule::Dense {
            inputs: width as u32,
            outputs: rows as u32,
            bias: false,
            activation: Activation::Identity,
        };
        modules.push(ModuleFile {
            module,
            weights: Some(Box::new(Dense(weight))),
            // Part of the file that is hashed as it is.
            files: Vec::new(),
        });
    }
    Ok(modules)
}
