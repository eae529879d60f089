//! What `[evaluation]` of a pipeline says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Queries that every build is asked before it is published: a judged set, whose nDCG@10 stands in the manifest and in
/// the report, and queries for the gate `top1-change`. The machine that plans and the one that publishes read them;
/// those that only run tasks do not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationOptions {
    /// A folder in BEIR layout: `queries.jsonl` (`_id`, `text`) and judgements (query, note, grade), plain, .gz or .xz.
    /// Its documents are the notes: a `corpus.jsonl` in it is not read.
    pub set: Option<String>,
    /// File of the judgements inside `set`.
    pub qrels: String,
    /// Take the note with the query's own ID out of its ranking, as BEIR does.
    pub ignore_identical_ids: bool,
    /// The queries of the gate `top1-change`: JSON lines of `_id` and `text` (.jsonl), or a query a line. Default: those
    /// of `set`.
    pub queries: Option<String>,
    /// A stored column: where the tower is another, the report compares by its values too, of the first hit before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Where the queries are encoded: `cpu`, `cpu:4` or `cuda:0`. Default: the first of `encode.devices`.
    pub device: Option<String>,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        Self {
            set: None,
            qrels: "qrels.tsv".to_owned(),
            ignore_identical_ids: false,
            queries: None,
            by: None,
            device: None,
        }
    }
}
