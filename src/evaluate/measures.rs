//! nDCG@10, MRR@10 and recall of one ranked list, exactly as `trec_eval` counts them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One ranked list: document ids and scores, in any order.
pub type Ranking = Vec<(String, f32)>;

/// Ranked lists by query id.
pub type Run = BTreeMap<String, Ranking>;

/// The measures of one query or their means. All are in `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Measures {
    /// Normalised discounted cumulative gain of the first 10; gain = grade, discount = log2(rank + 1).
    pub ndcg_10: f64,
    /// 1 / rank of the first relevant document among the first 10, else 0.
    pub mrr_10: f64,
    /// Share of the relevant documents among the first 10.
    pub recall_10: f64,
    /// Among the first 100.
    pub recall_100: f64,
    /// Among the first 1000.
    pub recall_1000: f64,
}

impl Measures {
    /// Names and values, in table order.
    pub fn named(&self) -> [(&'static str, f64); 5] {
        [
            ("ndcg_10", self.ndcg_10),
            ("mrr_10", self.mrr_10),
            ("recall_10", self.recall_10),
            ("recall_100", self.recall_100),
            ("recall_1000", self.recall_1000),
        ]
    }

    /// Means over queries; zeros for none.
    pub fn mean<'a>(all: impl IntoIterator<Item = &'a Measures>) -> Self {
        let all: Vec<&Measures> = all.into_iter().collect();
        let count = all.len().max(1) as f64;
        let mean =
            |of: fn(&Measures) -> f64| all.iter().fold(0.0, |sum, one| sum + of(one)) / count;
        Measures {
            ndcg_10: mean(|m| m.ndcg_10),
            mrr_10: mean(|m| m.mrr_10),
            recall_10: mean(|m| m.recall_10),
            recall_100: mean(|m| m.recall_100),
            recall_1000: mean(|m| m.recall_1000),
        }
    }
}

/// The measures of one query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryMeasures {
    /// Query id.
    pub query: String,
    /// Its measures.
    #[serde(flatten)]
    pub measures: Measures,
}

/// Measures one ranked list against its judgements (document id -> grade; above 0 is relevant). Where nothing is
/// relevant every measure is 0, as in `trec_eval`.
///
/// Equal scores are ordered by document id, descending, as `trec_eval` does; NaN sorts last.
pub fn measure(ranking: &[(String, f32)], judged: &BTreeMap<String, i32>) -> Measures {
    let mut gains: Vec<i32> = judged.values().copied().filter(|grade| *grade > 0).collect();
    if gains.is_empty() {
        return Measures::default();
    }
    gains.sort_unstable_by(|a, b| b.cmp(a));
    let relevant = gains.len() as f64;
    let mut ranked: Vec<&(String, f32)> = ranking.iter().collect();
    ranked.sort_unstable_by(|a, b| rank_order(a.1, &a.0, b.1, &b.0));
    let grade = |entry: &&(String, f32)| judged.get(&entry.0).copied().unwrap_or(0).max(0);
    let grades: Vec<i32> = ranked.iter().take(1000).map(grade).collect();
    let recall = |depth: usize| {
        grades.iter().take(depth).filter(|grade| **grade > 0).count() as f64 / relevant
    };
    Measures {
        ndcg_10: dcg(&grades) / dcg(&gains),
        mrr_10: grades
            .iter()
            .take(10)
            .position(|grade| *grade > 0)
            .map_or(0.0, |at| 1.0 / (at + 1) as f64),
        recall_10: recall(10),
        recall_100: recall(100),
        recall_1000: recall(1000),
    }
}

/// Higher score first, then higher id; NaN last.
pub(super) fn rank_order(a: f32, a_id: &str, b: f32, b_id: &str) -> Ordering {
    let by_score = match (a.is_nan(), b.is_nan()) {
        // 0 and -0 are equal.
        (false, false) => b.partial_cmp(&a).unwrap_or(Ordering::Equal),
        (a_nan, b_nan) => a_nan.cmp(&b_nan),
    };
    by_score.then_with(|| b_id.cmp(a_id))
}

fn dcg(grades: &[i32]) -> f64 {
    grades.iter().take(10).zip(2u32..).map(|(g, rank)| f64::from(*g) / f64::from(rank).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(grades: &[(&str, i32)]) -> BTreeMap<String, i32> {
        grades.iter().map(|(id, grade)| ((*id).to_owned(), *grade)).collect()
    }

    #[test]
    fn worked_example() {
        let ranking = [("a", 3.0), ("b", 2.0), ("c", 1.0)].map(|(id, s)| (id.to_owned(), s));
        let got = measure(&ranking, &judged(&[("b", 2), ("c", 1), ("z", 1), ("a", 0)]));
        let dcg = 2.0 / 3f64.log2() + 1.0 / 4f64.log2();
        let ideal = 2.0 + 1.0 / 3f64.log2() + 1.0 / 4f64.log2();
        assert!((got.ndcg_10 - dcg / ideal).abs() < 1e-12);
        assert_eq!((got.mrr_10, got.recall_10), (0.5, 2.0 / 3.0));
    }

    #[test]
    fn nothing_relevant_is_0_nan_ranks_last_and_both_zeros_tie() {
        let one = [("a".to_owned(), 1.0)];
        assert_eq!(measure(&one, &judged(&[("a", 0), ("b", -1)])), Measures::default());
        let ranking = [("a".to_owned(), f32::NAN), ("b".to_owned(), -9.0)];
        assert_eq!(measure(&ranking, &judged(&[("b", 1)])).mrr_10, 1.0);
        let zeros = [("a".to_owned(), 0.0), ("b".to_owned(), -0.0)];
        assert_eq!(measure(&zeros, &judged(&[("b", 1)])).mrr_10, 1.0);
    }
}
