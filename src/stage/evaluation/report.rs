//! What was asked of a build and what came of it, for the run report and the gates.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::comparison::Comparison;
use crate::observe::format::counted;

/// The queries of `[evaluation]` on what a run wanted to publish.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EvaluationReport {
    /// Name of the judged set; null where there is none, and the next four say nothing then.
    pub set: Option<String>,
    /// Its queries.
    pub queries: u64,
    /// Mean nDCG@10 over them.
    pub ndcg_10: Option<f64>,
    /// Notes that it judges as relevant.
    pub relevant: u64,
    /// Those of them that are not in the snapshot: they count as not found.
    pub missing: u64,
    /// Against the newest snapshot, query by query; null where there is none or it could not be asked.
    pub against: Option<Against>,
    /// How many first hits are other notes than the newest snapshot's; measured where the tower of notes or queries is
    /// another.
    pub first_hits: Option<FirstHits>,
    /// The same hits, as `snapshot compare` compares them.
    pub comparison: Option<Comparison>,
    /// Why the newest snapshot could not be asked, where that was tried.
    pub not_compared: Option<String>,
}

/// nDCG@10 of the newest snapshot, and how the new one differs from it over the same queries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Against {
    /// Its number.
    pub snapshot: u64,
    /// Its mean nDCG@10.
    pub ndcg_10: f64,
    /// Mean of the new score less the old one of each query.
    pub difference: f64,
    /// Lower end of the 95% interval of that mean: a paired percentile bootstrap over the queries.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// First hits by the newest snapshot's own tower, and by the new one's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FirstHits {
    /// Number of the newest snapshot.
    pub snapshot: u64,
    /// Queries asked.
    pub queries: u64,
    /// Those whose first hit is another note.
    pub changed: u64,
}

impl FirstHits {
    /// Those of a comparison with the newest snapshot.
    pub(super) fn of(comparison: &Comparison) -> Self {
        let queries = comparison.all.queries;
        let changed = (comparison.all.first_changed * queries as f64).round() as u64;
        Self { snapshot: comparison.snapshots[0], queries, changed }
    }

    /// Share of the queries whose first hit is another note.
    pub fn share(&self) -> f64 {
        if self.queries == 0 { 0.0 } else { self.changed as f64 / self.queries as f64 }
    }
}

/// One line for people.
impl fmt::Display for EvaluationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Vec::new();
        if let (Some(set), Some(ndcg_10)) = (&self.set, self.ndcg_10) {
            let queries = counted(self.queries, "query");
            said.push(format!("{queries} of {set}: nDCG@10 {ndcg_10:.4}"));
        }
        if let Some(Against { snapshot, ndcg_10, low, high, .. }) = &self.against {
            said.push(format!(
                "snapshot {snapshot} has {ndcg_10:.4} (95% interval of the difference {low:+.4} to {high:+.4})"
            ));
        }
        if self.missing > 0 {
            let Self { missing, relevant, .. } = self;
            said.push(format!("{missing} of {relevant} relevant notes are not in the snapshot"));
        }
        if let Some(hits) = &self.first_hits {
            let FirstHits { snapshot, queries, changed } = hits;
            said.push(format!(
                "{changed} of {queries} first hits are others than in snapshot {snapshot}"
            ));
        }
        if let Some(Comparison { all, k, .. }) = &self.comparison {
            said.push(format!("{:.1}% of the first {k} are the same notes", 100.0 * all.overlap));
        }
        said.extend(self.not_compared.clone());
        f.write_str(&if said.is_empty() {
            "nothing to compare".to_owned()
        } else {
            said.join("; ")
        })
    }
}
