//! What one system scored on one set: means, and every query for those who want to look.

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
    /// Queries left out, because no document is relevant to them.
    pub skipped: usize,
    /// Means over the queries judged.
    pub mean: Measures,
    /// Mean contrastive entropy in nats, where embeddings were at hand.
    pub contrastive_entropy: Option<f64>,
    /// Every query, sorted by id.
    pub per_query: Vec<QueryMeasures>,
}

/// Judges a run. A judged query that the run lacks counts as having found nothing.
pub fn judge(set: &str, system: &str, qrels: &Qrels, run: &Run) -> Evaluation {
    let mut per_query = Vec::new();
    let mut skipped = 0;
    for (query, judged) in qrels {
        match measure(run.get(query).map_or(&[][..], Vec::as_slice), judged) {
            Some(measures) => per_query.push(QueryMeasures { query: query.clone(), measures }),
            None => skipped += 1,
        }
    }
    Evaluation {
        set: set.to_owned(),
        system: system.to_owned(),
        queries: per_query.len(),
        skipped,
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
