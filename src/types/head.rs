//! What stands between a pooled state and a vector.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A module behind the pooling, as sentence-transformers has them. Its weights are part of the weights' digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum HeadModule {
    /// A linear map and an activation.
    Dense {
        /// Elements that it takes.
        inputs: u32,
        /// Elements that it gives.
        outputs: u32,
        /// Whether it adds a bias.
        bias: bool,
        /// What comes after it.
        activation: Activation,
    },
    /// Mean 0 and variance 1, then a weight and a bias for each element.
    LayerNorm {
        /// Elements that it takes and gives.
        inputs: u32,
    },
    /// Unit length.
    Normalize,
}

/// A function of one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Nothing.
    Identity,
    /// Hyperbolic tangent.
    Tanh,
    /// Logistic function.
    Sigmoid,
    /// The element times its logistic function.
    Silu,
    /// The element times the normal distribution up to it.
    Gelu,
    /// The positive part.
    Relu,
}
