//! Whether a tower finds what the LLM finds: each held-out text must find its own note among those that were drawn.

use std::cmp::Ordering;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kernel::dot;
use crate::types::Embeddings;

/// Results that count.
const DEPTH: usize = 10;

/// How well one tower finds notes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// Share of the texts whose own note is among the first ten.
    pub hit_at_10: f64,
    /// The same, each counted by its rank (nDCG@10).
    pub ndcg_at_10: f64,
}

/// How well three towers find the notes of held-out texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// Texts asked.
    pub texts: u64,
    /// Notes searched.
    pub notes: u64,
    /// The LLM.
    pub llm: Found,
    /// The query tower before.
    pub before: Found,
    /// The query tower as it was adapted.
    pub now: Found,
}

impl Judged {
    /// Whether the tower finds as much as it did before.
    pub fn is_as_good(&self) -> bool {
        self.now.ndcg_at_10 >= self.before.ndcg_at_10
    }
}

impl Found {
    /// Row i of `queries` looks for row `own[i]` of `notes`. A note that scores the same as one's own counts as before
    /// it.
    pub(super) fn of(queries: &Embeddings, own: &[usize], notes: &Embeddings) -> Self {
        let (mut hits, mut gain) = (0u32, 0.0);
        let length = |row: &[f32]| dot(row, row).sqrt().max(f32::MIN_POSITIVE);
        let lengths: Vec<f32> = notes.rows().map(length).collect();
        for (query, own) in queries.rows().zip(own) {
            let score = |at: usize| dot(query, notes.row(at)) / lengths[at];
            let wanted = score(*own);
            // A vector that is not a number finds nothing.
            let comes_after = |at: usize| score(at).partial_cmp(&wanted) == Some(Ordering::Less);
            let others = (0..notes.len()).filter(|at| at != own);
            let before = others.filter(|at| !comes_after(*at)).count();
            if before < DEPTH {
                hits += 1;
                gain += 1.0 / (before as f64 + 2.0).log2();
            }
        }
        let count = own.len().max(1) as f64;
        Self { hit_at_10: f64::from(hits) / count, ndcg_at_10: gain / count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_to_find_its_own_note() {
        // Twelve notes on a half circle, of any length; the query points at the first.
        let mut notes = Embeddings::with_capacity(2, 12);
        for at in 0..12 {
            let angle = at as f32 * 0.2;
            notes.push(&[3.0 * angle.cos(), 3.0 * angle.sin()]);
        }
        let query = Embeddings::from_vec(2, vec![0.5, 0.0]).unwrap();
        let found = |own: usize| Found::of(&query, &[own], &notes);
        assert_eq!(found(0), Found { hit_at_10: 1.0, ndcg_at_10: 1.0 });
        assert!((found(1).ndcg_at_10 - 1.0 / 3f64.log2()).abs() < 1e-12);
        assert_eq!(found(9).hit_at_10, 1.0);
        assert_eq!(found(10), Found { hit_at_10: 0.0, ndcg_at_10: 0.0 });
        // A tower that places everything alike finds nothing, and neither does one whose vectors are not numbers.
        for lost in [[0.0, 0.0], [f32::NAN, 0.0]] {
            let query = Embeddings::from_vec(2, lost.to_vec()).unwrap();
            assert_eq!(Found::of(&query, &[0], &notes).hit_at_10, 0.0);
        }
    }
}
