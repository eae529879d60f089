//! How an index is built.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file::format::MAX_CONNECTIVITY;
use crate::error::{Error, Result};
use crate::kernel::distance::Element;

/// Element type inside the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit integers with our calibrated scale.
    #[default]
    I8,
    /// One sign bit an element, Hamming distance.
    B1,
    /// One sign bit an element after centring and a rotation; the query keeps its numbers.
    B1r,
}

impl Quantization {
    /// Whether an element is one bit.
    pub fn is_of_bits(self) -> bool {
        matches!(self, Self::B1 | Self::B1r)
    }

    /// What is stored, in the kernels' words.
    pub(super) fn element(self) -> Element {
        match self {
            Self::F32 => Element::F32,
            Self::F16 => Element::F16,
            Self::Bf16 => Element::Bf16,
            Self::I8 => Element::I8,
            Self::B1 | Self::B1r => Element::B1,
        }
    }

    /// How a walk measures what is stored.
    pub(super) fn measured(self) -> Element {
        match self {
            Self::B1r => Element::Signs,
            other => other.element(),
        }
    }

    /// By which codes our own builder links the graph: signs alone would choose worse neighbours.
    pub(super) fn linked(self) -> Self {
        match self {
            Self::B1r => Self::I8,
            other => other,
        }
    }
}

/// What builds the graph. Either file is one that usearch opens, searches and is asked about before it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Builder {
    /// The usearch library, as release 0.1.0 did.
    #[default]
    Usearch,
    /// This program: the same algorithm, faster, every vector reachable by construction.
    Scalingnote,
}

impl Builder {
    /// Absent where options are hashed or stored, so that those of earlier releases keep their names.
    pub fn is_usearch(&self) -> bool {
        *self == Self::Usearch
    }
}

/// How an index is built. Every field is identity: it is hashed into the index's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IndexOptions {
    /// Element type inside the index.
    pub quantization: Quantization,
    /// Links per node (HNSW M); twice as many in the base level.
    pub connectivity: usize,
    /// Candidates while building (efConstruction).
    pub expansion_add: usize,
    /// Candidates while searching (ef).
    pub expansion_search: usize,
    /// Candidates per asked result that the f16 sidecar rescores at most; 0 switches rescoring off.
    pub rescore: usize,
    /// What builds the graph; absent: usearch.
    #[serde(skip_serializing_if = "Builder::is_usearch")]
    pub builder: Builder,
}

impl Default for IndexOptions {
    fn default() -> Self {
        Self {
            quantization: Quantization::I8,
            connectivity: 16,
            expansion_add: 128,
            expansion_search: 64,
            rescore: 8,
            builder: Builder::Usearch,
        }
    }
}

impl IndexOptions {
    /// 16 hex digits that name these options in paths.
    pub fn id(&self) -> Result<String> {
        Ok(crate::types::hash_json(self)?.short())
    }

    /// Refuses what usearch cannot build or no machine should try.
    ///
    /// # Errors
    /// Config, naming the field and its range.
    pub fn check(&self) -> Result<()> {
        let ranges = [
            ("connectivity", self.connectivity, 2, MAX_CONNECTIVITY),
            ("expansion_add", self.expansion_add, 1, 65_536),
            ("expansion_search", self.expansion_search, 1, 65_536),
            ("rescore", self.rescore, 0, 1_024),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(Error::config(format!(
                    "index.{name} is {value}; it must lie between {low} and {high}"
                )));
            }
        }
        Ok(())
    }
}
