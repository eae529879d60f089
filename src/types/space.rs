//! The embedding space: everything that decides what a vector means, and nothing else.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::types::{Digest256, HeadModule, hash_json};

/// Bumped by hand whenever the encoder's arithmetic changes what a vector means.
pub const ENCODER_REVISION: u32 = 1;

/// How token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The state of the last token (of prompt suffix included).
    LastToken,
    /// The mean over all token states.
    Mean,
    /// An end-of-sequence token is appended and its state taken.
    Eos,
    /// The state of the first token.
    Cls,
    /// The greatest of all token states, element by element.
    Max,
    /// The sum of all token states over the square root of their number.
    MeanSqrtLen,
    /// The mean over all token states, the n-th counted n times.
    WeightedMean,
}

impl Pooling {
    /// As options and files spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::LastToken => "last-token",
            Self::Mean => "mean",
            Self::Eos => "eos",
            Self::Cls => "cls",
            Self::Max => "max",
            Self::MeanSqrtLen => "mean-sqrt-len",
            Self::WeightedMean => "weighted-mean",
        }
    }
}

/// The class of arithmetic that computed a vector: bits differ between classes, meaning hardly does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// 32-bit floats throughout.
    F32,
    /// bfloat16 matrix products.
    Bf16,
    /// 16-bit float matrix products.
    F16,
    /// 8-bit integer matrix products with per-block scales.
    Int8,
}

/// The element type of stored embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VectorType {
    /// 4 bytes an element (the default: every reader knows it).
    #[default]
    F32,
    /// 2 bytes an element; some GPU Parquet readers cannot read it nested.
    F16,
}

/// Everything that decides what a vector means (DESIGN, decision 1).
///
/// Two vectors may be compared only if their spaces are equal. The release of this program, the
/// batch budget, the device and the SQL are provenance, not identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingSpace {
    /// SHA-256 over the weight tensors' files.
    pub weights: Digest256,
    /// SHA-256 of the LoRA adapter merged at load, if any.
    pub adapter: Option<Digest256>,
    /// SHA-256 of the tokenizer's canonical definition.
    pub tokenizer: Digest256,
    /// Text put before every rendered note.
    pub prompt_prefix: String,
    /// Text put after every rendered note, never cut off.
    pub prompt_suffix: String,
    /// SHA-256 of the text template's source.
    pub template: Digest256,
    /// How token states become one vector.
    pub pooling: Pooling,
    /// Elements of one vector, after any Matryoshka cut.
    pub dimensions: u32,
    /// Whether vectors are scaled to unit length.
    pub normalize: bool,
    /// Longest sequence in tokens, prompt included; longer notes are cut (or chunked).
    pub max_tokens: u32,
    /// Class of arithmetic.
    pub arithmetic: Arithmetic,
    /// What stands between the pooled state and the vector; absent for nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<HeadModule>,
    /// SHA-256 over the weights of these modules, where they are not the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Digest256>,
    /// Whether the prompt's prefix and the text are tokenised as one; absent where they are apart, or there is no
    /// prefix.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prompt_joined: bool,
    /// Layers kept of the model; absent for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<u32>,
    /// [`ENCODER_REVISION`] of the encoder.
    pub encoder_revision: u32,
}

impl EmbeddingSpace {
    /// The short name of this space: 16 hex digits of its canonical JSON's SHA-256.
    pub fn id(&self) -> Result<SpaceId> {
        Ok(SpaceId(hash_json(self)?.short()))
    }

    /// The fields in which two spaces differ; none where they are one.
    pub fn differing(&self, other: &Self) -> Vec<&'static str> {
        // Taken apart, so that a new field cannot be forgotten here.
        let Self {
            weights,
            adapter,
            tokenizer,
            prompt_prefix,
            prompt_suffix,
            template,
            pooling,
            dimensions,
            normalize,
            max_tokens,
            arithmetic,
            modules,
            head,
            prompt_joined,
            layers,
            encoder_revision,
        } = self;
        let fields = [
            ("weights", *weights != other.weights),
            ("adapter", *adapter != other.adapter),
            ("tokenizer", *tokenizer != other.tokenizer),
            ("prompt_prefix", *prompt_prefix != other.prompt_prefix),
            ("prompt_suffix", *prompt_suffix != other.prompt_suffix),
            ("template", *template != other.template),
            ("pooling", *pooling != other.pooling),
            ("dimensions", *dimensions != other.dimensions),
            ("normalize", *normalize != other.normalize),
            ("max_tokens", *max_tokens != other.max_tokens),
            ("arithmetic", *arithmetic != other.arithmetic),
            ("modules", *modules != other.modules),
            ("head", *head != other.head),
            ("prompt_joined", *prompt_joined != other.prompt_joined),
            ("layers", *layers != other.layers),
            ("encoder_revision", *encoder_revision != other.encoder_revision),
        ];
        fields.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }

    /// The fields that keep vectors of queries in one space from being compared with vectors of notes in the other;
    /// none where both are of one tower. Prompts, template and lengths of queries are their own affair, and so is the
    /// arithmetic, which hardly changes what a vector means.
    pub fn incomparable(&self, other: &Self) -> Vec<&'static str> {
        const OWN: [&str; 6] = [
            "prompt_prefix",
            "prompt_suffix",
            "prompt_joined",
            "template",
            "max_tokens",
            "arithmetic",
        ];
        self.differing(other).into_iter().filter(|name| !OWN.contains(name)).collect()
    }
}

/// Names an [`EmbeddingSpace`] in paths: 16 hex digits.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct SpaceId(pub String);

impl fmt::Display for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn space() -> EmbeddingSpace {
        EmbeddingSpace {
            weights: Digest256::of(b"w"),
            adapter: None,
            tokenizer: Digest256::of(b"t"),
            prompt_prefix: String::new(),
            prompt_suffix: String::new(),
            template: Digest256::of(b"{{ title }}"),
            pooling: Pooling::Mean,
            dimensions: 576,
            normalize: true,
            max_tokens: 512,
            arithmetic: Arithmetic::F32,
            modules: Vec::new(),
            head: None,
            prompt_joined: false,
            layers: None,
            encoder_revision: ENCODER_REVISION,
        }
    }

    #[test]
    fn every_field_counts() {
        let base = space().id().unwrap();
        assert_eq!(space().id().unwrap(), base);
        let other = EmbeddingSpace { pooling: Pooling::Eos, ..space() };
        assert_ne!(other.id().unwrap(), base);
        let other = EmbeddingSpace { prompt_prefix: "a".into(), ..space() };
        let another = EmbeddingSpace { prompt_suffix: "a".into(), ..space() };
        assert_ne!(other.id().unwrap(), another.id().unwrap());
        assert_eq!(other.differing(&another), ["prompt_prefix", "prompt_suffix"]);
        assert_eq!(other.incomparable(&another), [""; 0]);
        let cut = EmbeddingSpace { layers: Some(3), ..other.clone() };
        assert_eq!(cut.incomparable(&another), ["layers"]);
        assert_eq!(space().differing(&space()), [""; 0]);
        let classes = [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::F16, Arithmetic::Int8];
        let mut ids: Vec<_> =
            classes.map(|arithmetic| EmbeddingSpace { arithmetic, ..space() }.id().unwrap()).into();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), classes.len());
    }
}
