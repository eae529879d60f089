//! Notes that a run goes on without.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::corpus::PreparedRow;
use crate::types::TextHash;

/// A note that could not be encoded alone; the run goes on without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quarantined {
    /// Tagged note id.
    pub note_id: String,
    /// Hash of the text.
    pub text_hash: TextHash,
    /// Why; never text.
    pub reason: String,
}

impl Quarantined {
    pub(super) fn new(row: &PreparedRow, reason: &str) -> Self {
        Self {
            note_id: row.note_id.to_string(),
            text_hash: row.text_hash,
            reason: reason.to_owned(),
        }
    }
}
