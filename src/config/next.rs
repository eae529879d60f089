//! `[next]`: a tower that is to take over, and what its back-fill may cost.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::query::QueryOptions;
use crate::stage::ChunkingOptions;
use crate::tower::TowerOptions;

/// A tower that takes over without an outage. Every run first publishes with `[tower]` as always; what is left of
/// its time or budget then encodes notes with this one. Once all are encoded, indexed and through the gates, this
/// tower is published; from then on `[tower]` is idle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NextOptions {
    /// The document tower that is to take over.
    pub tower: TowerOptions,
    /// Its text template. Default: `corpus.template`.
    #[serde(default)]
    pub template: Option<String>,
    /// How it cuts long notes. Default: `[chunking]`.
    #[serde(default)]
    pub chunking: Option<ChunkingOptions>,
    /// How its queries are encoded. Default: by the tower itself, with its own prompt.
    #[serde(default)]
    pub query: QueryOptions,
    /// Tokens that one run may encode for it. Default: as many as the time allows.
    #[serde(default)]
    pub tokens_per_run: Option<u64>,
    /// Minutes that one run may spend on encoding for it. Default: until the run's deadline.
    #[serde(default)]
    pub minutes_per_run: Option<u32>,
}
