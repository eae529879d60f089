//! What a finished task wrote.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The answer of `scalingnote task`: which task, and whether this attempt or an earlier one counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskReceipt {
    /// Task id, as the plan names it.
    pub task: String,
    /// True where an earlier attempt's receipt was found and adopted: nothing was done.
    pub adopted: bool,
    /// The receipt itself, as stored under the root.
    pub receipt: serde_json::Value,
}
