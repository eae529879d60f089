//! What a tower is asked to be: options, device, and the identity they make.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::named::check_there;
use crate::tower::files::source::{ModelSource, absolute, parse};
use crate::types::{Arithmetic, Pooling};

/// Which tower, and how its vectors are made. Everything here is identity (it becomes an
/// [`crate::types::EmbeddingSpace`]), except where the files are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TowerOptions {
    /// A `.gguf` or `.safetensors` file, a directory (`config.json`, `tokenizer.json`, one or many
    /// safetensors), a Hugging Face repo id (`org/name`, or `org/name/file.gguf`; `hf:` before it
    /// says so outright), or `fake:<dimensions>` for tests.
    pub model: String,
    /// Git revision of a Hugging Face repo.
    #[serde(default)]
    pub revision: Option<String>,
    /// A `tokenizer.json`; by default beside the weights or rebuilt from GGUF metadata.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// LoRA adapter (PEFT directory or safetensors file), merged at load.
    #[serde(default)]
    pub adapter: Option<String>,
    /// What follows the pooling, in the place of the model's own modules: a folder with `modules.json` and what it names,
    /// as sentence-transformers writes them. Default: as the model says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Which defaults hold for what is left out here.
    #[serde(default, skip_serializing_if = "Defaults::is_none")]
    pub defaults: Defaults,
    /// How token states become one vector. Default: as the model says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Text before every note. Default: none, or as the model says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_prefix: Option<String>,
    /// Text after every note; never cut off. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_suffix: Option<String>,
    /// Matryoshka cut: keep the first N dimensions. Default: all.
    #[serde(default)]
    pub dimensions: Option<u32>,
    /// Scale vectors to unit length. Default: yes, unless the model says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
    /// Longest sequence in tokens, prompt included. Default: 512, or as the model says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Class of arithmetic: f32, bf16 or int8 on the processor, f32, bf16 or f16 on CUDA. int8 keeps weights as
    /// Q8_0 blocks (those of a Q8_0 file as they are) and quantises activations by blocks of 32 as they come.
    #[serde(default = "default_arithmetic")]
    pub arithmetic: Arithmetic,
    /// Keep only the first N layers of the LLM: a smaller, faster tower to be trained. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<u32>,
    /// What a special token of the model, such as `<|im_end|>` or `[CLS]`, is where it is in a text. In a prompt it
    /// is always itself.
    #[serde(default, skip_serializing_if = "SpecialTokens::is_text")]
    pub special_tokens: SpecialTokens,
    /// Which of the model's prompts is meant where none is set.
    #[serde(skip)]
    pub side: Side,
}

/// Which defaults hold for what a tower's options leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Defaults {
    /// Nobody's: 512 tokens, no prompt, unit length. Prompt and text are tokenised apart, and of the tokenizer's files
    /// only `tokenizer.json` counts. Pooling is the model's where it names one.
    #[default]
    None,
    /// The model's own files': pooling, prompts, longest text, normalisation, and the tokens around a text. Prompt and
    /// text are tokenised as one, as its authors do.
    Model,
}

impl Defaults {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// What special tokens are where somebody wrote them into a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpecialTokens {
    /// Text like any other: no note can end itself, or hide what follows.
    #[default]
    Text,
    /// The model's control tokens, as its authors' own code takes them: for notes that were written so on purpose.
    Control,
}

impl SpecialTokens {
    fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

/// What a tower encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// Notes.
    #[default]
    Document,
    /// Queries.
    Query,
}

fn default_arithmetic() -> Arithmetic {
    Arithmetic::F32
}

impl TowerOptions {
    /// A tower of `model` with `pooling` and every other option at its default.
    pub fn new(model: impl Into<String>, pooling: Pooling) -> Self {
        Self {
            model: model.into(),
            revision: None,
            tokenizer: None,
            adapter: None,
            head: None,
            defaults: Defaults::None,
            pooling: Some(pooling),
            prompt_prefix: None,
            prompt_suffix: None,
            dimensions: None,
            normalize: None,
            max_tokens: None,
            arithmetic: default_arithmetic(),
            layers: None,
            special_tokens: SpecialTokens::Text,
            side: Side::Document,
        }
    }

    /// A tower of `model` of which its own files say the rest.
    pub fn as_the_model_says(model: impl Into<String>) -> Self {
        Self { defaults: Defaults::Model, pooling: None, ..Self::new(model, Pooling::Mean) }
    }

    /// The same tower for queries: a prompt that nobody sets is the model's for those.
    #[must_use]
    pub fn for_queries(self) -> Self {
        Self { side: Side::Query, ..self }
    }

    /// Whether `found` may have come of these options once a model was asked for what they leave out.
    pub fn leads_to(&self, found: &Self) -> bool {
        let filled = Self {
            pooling: self.pooling.or(found.pooling),
            prompt_prefix: self.prompt_prefix.clone().or_else(|| found.prompt_prefix.clone()),
            prompt_suffix: self.prompt_suffix.clone().or_else(|| found.prompt_suffix.clone()),
            max_tokens: self.max_tokens.or(found.max_tokens),
            normalize: self.normalize.or(found.normalize),
            side: found.side,
            ..self.clone()
        };
        filled == *found
    }

    /// How token states become one vector, as far as it is known: of a resolved tower, always.
    pub fn pooling(&self) -> Pooling {
        self.pooling.unwrap_or(Pooling::Mean)
    }

    /// Text before every note.
    pub fn prompt_prefix(&self) -> &str {
        self.prompt_prefix.as_deref().unwrap_or_default()
    }

    /// Text after every note.
    pub fn prompt_suffix(&self) -> &str {
        self.prompt_suffix.as_deref().unwrap_or_default()
    }

    /// Whether vectors are scaled to unit length.
    pub fn normalize(&self) -> bool {
        self.normalize.unwrap_or(true)
    }

    /// Longest sequence in tokens.
    pub fn max_tokens(&self) -> u32 {
        self.max_tokens.unwrap_or(512)
    }

    /// Looks, without opening one, whether the files that it names are on this machine; false where they are on a hub,
    /// which is not asked.
    ///
    /// # Errors
    /// NotFound, naming the file; Config where it is not a path at all.
    pub fn check_files(&self, base_dir: &Path) -> Result<bool> {
        if let Some((key, error)) = self.missing_files(base_dir).into_iter().next() {
            // The model's error says itself what it is about.
            let error = match key {
                "model" => error,
                key => Error::new(error.kind(), format!("{key}: {}", error.message())),
            };
            return Err(error.of_key(key));
        }
        Ok(!matches!(parse(&self.model, base_dir)?, ModelSource::Hub { .. }))
    }

    /// The same, with all that is wrong, by the option.
    pub fn missing_files(&self, base_dir: &Path) -> Vec<(&'static str, Error)> {
        let model = parse(&self.model, base_dir).map(drop);
        let places =
            [("adapter", &self.adapter), ("head", &self.head), ("tokenizer", &self.tokenizer)];
        let places = places.into_iter().filter_map(|(key, place)| {
            let place = place.as_ref()?;
            Some((key, absolute(place, base_dir).and_then(|path| check_there(&path))))
        });
        let all = std::iter::once(("model", model)).chain(places);
        all.filter_map(|(key, there)| Some((key, there.err()?))).collect()
    }
}

/// Where a worker computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceSpec {
    /// This machine's processor with this many threads (0: all).
    Cpu {
        /// Threads; 0 for all.
        threads: usize,
    },
    /// A CUDA device by number (feature `cuda`).
    Cuda(usize),
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { threads: 0 } => f.write_str("cpu"),
            Self::Cpu { threads } => write!(f, "cpu:{threads}"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = Error;

    /// `cpu` (all threads), `cpu:<threads>` or `cuda:<number>`.
    fn from_str(text: &str) -> Result<Self> {
        if text == "cpu" {
            return Ok(Self::Cpu { threads: 0 });
        }
        let number = |prefix| text.strip_prefix(prefix)?.parse::<usize>().ok();
        let threads = number("cpu:").filter(|threads| (1..=4096).contains(threads));
        let cpu = threads.map(|threads| Self::Cpu { threads });
        cpu.or_else(|| number("cuda:").map(Self::Cuda)).ok_or_else(|| {
            Error::config(format!(
                "`{text}` is neither `cpu`, `cpu:<threads>` nor `cuda:<number>`, e.g. cuda:0"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse_or_say_how() {
        assert_eq!("cpu".parse::<DeviceSpec>().unwrap(), DeviceSpec::Cpu { threads: 0 });
        assert_eq!("cpu:4".parse::<DeviceSpec>().unwrap(), DeviceSpec::Cpu { threads: 4 });
        assert_eq!("cuda:3".parse::<DeviceSpec>().unwrap(), DeviceSpec::Cuda(3));
        for wrong in ["", "gpu", "cuda", "cuda:", "cuda:-1", "CPU", "cpu:", "cpu:0", "cpu:x"] {
            assert!(wrong.parse::<DeviceSpec>().is_err(), "{wrong}");
        }
    }
}
