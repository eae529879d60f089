//! The result of an adaptation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::judge::Judged;
use crate::error::Result;
use crate::stage::plan::AdaptTask;
use crate::store::receipt::{self, Receipt};
use crate::store::{FileRef, Root, layout};
use crate::types::{Digest256, EmbeddingSpace};

/// How an adaptation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdaptOutcome {
    /// The tower learnt, and finds at least what it found before.
    Adapted,
    /// Few texts are new: the tower of the parent snapshot stays.
    Kept,
    /// It would have found less than before: the tower stays as it was.
    Refused,
    /// There is too little to learn from or to judge by: the tower stays as it was.
    TooFew,
}

/// What a person wants to know of an adaptation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptSummary {
    /// How it ended.
    pub outcome: AdaptOutcome,
    /// Titles and sentences that were drawn.
    pub texts: u64,
    /// Of those, the ones that the tower before had not read.
    pub new_texts: u64,
    /// Those that were learnt from: fewer than were drawn where `minutes` ran out.
    pub learnt: u64,
    /// Steps taken: fewer than were asked for where `minutes` ran out.
    pub steps: u64,
    /// Steps that `minutes` left untaken, for the next run.
    #[serde(default)]
    pub steps_left: u64,
    /// The limit on its time, if there was one.
    pub minutes: Option<u32>,
    /// Wall seconds.
    pub seconds: f64,
    /// What the towers find of held-out texts; of a tower that was kept, when it was adapted.
    pub judged: Option<Judged>,
}

/// A tower that was adapted, now or earlier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptedTower {
    /// SHA-256 over everything that decides its vectors.
    pub fingerprint: Digest256,
    /// How to load it, its model by the folder below the root.
    pub options: serde_json::Value,
    /// The space of the tower that it was taught by, where the snapshot's own does not say it.
    pub teacher: Option<EmbeddingSpace>,
    /// Its files.
    pub files: Vec<FileRef>,
    /// Digest of the options that it was adapted by.
    pub by: Digest256,
}

/// What an adapt task wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptReceipt {
    /// Task id.
    pub id: String,
    /// The tower to publish; absent where it is the one that the pipeline names.
    pub tower: Option<AdaptedTower>,
    /// For people.
    pub summary: AdaptSummary,
}

impl Receipt for AdaptReceipt {
    fn files(&self) -> Vec<&FileRef> {
        self.tower.iter().flat_map(|tower| &tower.files).collect()
    }
}

/// The receipt of a finished task.
///
/// # Errors
/// Transient, where the task is not finished.
pub async fn receipt(task: &AdaptTask, root: &Root) -> Result<AdaptReceipt> {
    receipt::of_finished(root, &layout::adapt_receipt(&task.id), &task.id).await
}
