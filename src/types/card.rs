//! What a model is and how it is used, as its own files say it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{HeadModule, Pooling};

/// A value of a tower and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// The model's file or GGUF key that says it, `the model's page`, `default`, or `set` where the pipeline does.
    pub by: String,
}

/// What a model is and how it is used. For people: whether two vectors may be compared is the embedding space's to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelCard {
    /// A file or folder, or `hf:` and a repository.
    pub model: String,
    /// The commit of a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What kind of model it is, as its own files call it: `bert`, `qwen3`, ...
    pub family: String,
    /// What says so.
    pub family_by: String,
    /// Elements of its weights, biases and norms left out.
    pub parameters: u64,
    /// Elements of one vector.
    pub dimensions: u32,
    /// How token states become one vector.
    pub pooling: Sourced<Pooling>,
    /// What stands between the pooled state and the vector, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<HeadModule>,
    /// Whether vectors are scaled to unit length.
    pub normalize: Sourced<bool>,
    /// Text before every note, or before every query.
    pub prompt_prefix: Sourced<String>,
    /// Text after it.
    pub prompt_suffix: Sourced<String>,
    /// Longest sequence in tokens.
    pub max_tokens: Sourced<u32>,
    /// The licence that the model's authors state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<Sourced<String>>,
}

impl ModelCard {
    /// What names the modules: a GGUF has no file that lists them.
    pub fn modules_by(&self) -> &'static str {
        if self.family_by == "config.json" { "modules.json" } else { "its tensors" }
    }
}
