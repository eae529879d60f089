//! `[query]`: how queries are encoded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stage::AdaptOptions;
use crate::tower::TowerOptions;

/// How the snapshot's readers encode queries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueryOptions {
    /// Text before every query. Default: the tower's `prompt_prefix`.
    pub prompt_prefix: Option<String>,
    /// Text after every query. Default: the tower's `prompt_suffix`.
    pub prompt_suffix: Option<String>,
    /// A query tower of its own (a distilled one). Default: the document tower encodes queries.
    pub tower: Option<TowerOptions>,
    /// Every run adapts the query tower to the corpus, within these limits, and stores it under the root. Default: it stays
    /// as its files are.
    pub adapt: Option<AdaptOptions>,
}
