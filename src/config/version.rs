//! The version of a pipeline file.

use serde::{Deserialize, Serialize};

/// The format of a pipeline file. A file keeps the meaning that its version had when it was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u32")]
pub enum PipelineVersion {
    /// That of release 0.1.0.
    V1 = 1,
    /// Has other defaults: [`crate::config::Resolved::changes`] names them.
    V2 = 2,
}

impl TryFrom<i64> for PipelineVersion {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        match number {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            _ => {
                let newer = if number > 2 { ", or take a newer scalingnote" } else { "" };
                Err(format!(
                    "version {number} is not supported; this release reads versions 1 and 2: write `version = 2`{newer}"
                ))
            }
        }
    }
}

impl From<PipelineVersion> for u32 {
    fn from(version: PipelineVersion) -> Self {
        version as Self
    }
}
