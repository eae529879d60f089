//! What one system scored on one set: means, and every query for those who want to look.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::measures::{Measures, QueryMeasures, Run, measure};
use crate::dataset::Qrels;

/// One system on one set. As JSON it is the evaluation file that two runs are compared by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Name of the retrieval set.
    pub set: String,
    /// Name of the system.
    pub system: String,
    /// Queries judged.
    pub queries: usize,
    /// Those of them to which no document is relevant: 0 in every measure, as in `trec_eval`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub without_relevant: usize,
    /// Whether documents with the query's own id were left out of the rankings.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_identical_ids: bool,
    /// Means over the queries judged.
    pub mean: Measures,
    /// Mean contrastive entropy in nats, where embeddings were available.
    pub contrastive_entropy: Option<f64>,
    /// Every query, sorted by id.
    pub per_query: Vec<QueryMeasures>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Judges a run. A judged query that the run lacks counts as having found nothing.
pub fn judge(set: &str, system: &str, qrels: &Qrels, run: &Run) -> Evaluation {
    let measured = qrels.iter().map(|(query, judged)| {
        let measures = measure(run.get(query).map_or(&[][..], Vec::as_slice), judged);
        QueryMeasures { query: query.clone(), measures }
    });
    let per_query: Vec<QueryMeasures> = measured.collect();
    let nothing = |judged: &&BTreeMap<String, i32>| judged.values().all(|grade| *grade <= 0);
    Evaluation {
        set: set.to_owned(),
        system: system.to_owned(),
        queries: per_query.len(),
        without_relevant: qrels.values().filter(nothing).count(),
        ignore_identical_ids: false,
        mean: Measures::mean(per_query.iter().map(|q| &q.measures)),
        contrastive_entropy: None,
        per_query,
    }
}

/// A Markdown table, one row a system, in the order given.
pub fn markdown_table(rows: &[&Evaluation]) -> String {
    let mut table = String::from(
        "| set | system | queries | nDCG@10 | MRR@10 | R@10 | R@100 | R@1000 | entropy |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let _ = write!(table, "| {} | {} | {} |", row.set, row.system, row.queries);
        for (_, value) in row.mean.named() {
            let _ = write!(table, " {value:.4} |");
        }
        let _ = match row.contrastive_entropy {
            Some(entropy) => writeln!(table, " {entropy:.4} |"),
            None => writeln!(table, " |"),
        };
    }
    table
}
