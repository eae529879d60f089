//! Which rows of which parts are live, and which parts are worth compacting.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::embedding::PartReceipt;
use crate::stage::ids::Place;

/// The parts of a plan's shards, before its compaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartsSummary {
    /// Parts that a live vector is in; those that this run writes are not among them.
    pub parts: u64,
    /// Rows in them.
    pub rows: u64,
    /// Of these, rows that a note still needs.
    pub live_rows: u64,
    /// Parts whose live rows move to new parts.
    pub compacted: u64,
}

/// The live rows of every part, one bit a row.
#[derive(Default)]
pub(crate) struct LiveRows(HashMap<String, Vec<u64>>);

impl LiveRows {
    pub fn add(&mut self, place: &Place) {
        let bits = match self.0.get_mut(&*place.part) {
            Some(bits) => bits,
            None => self.0.entry(place.part.to_string()).or_default(),
        };
        let (word, bit) = (place.row as usize / 64, place.row % 64);
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        bits[word] |= 1 << bit;
    }

    /// Adds those of other shards.
    pub fn merge(&mut self, other: Self) {
        for (part, theirs) in other.0 {
            let bits = self.0.entry(part).or_default();
            bits.resize(bits.len().max(theirs.len()), 0);
            bits.iter_mut().zip(theirs).for_each(|(own, their)| *own |= their);
        }
    }

    /// Parts of which under half the rows are live (DESIGN, decision 2), and the books. A part without a receipt among
    /// `parts` is left alone.
    pub fn sparse(&self, parts: &[PartReceipt]) -> (Vec<String>, PartsSummary) {
        let rows: BTreeMap<&str, u64> =
            parts.iter().map(|part| (part.file.path.as_str(), part.rows)).collect();
        let mut summary = PartsSummary::default();
        let mut sparse = Vec::new();
        for (part, bits) in &self.0 {
            let Some(&rows) = rows.get(part.as_str()) else { continue };
            let live: u64 = bits.iter().map(|word| u64::from(word.count_ones())).sum();
            summary.parts += 1;
            summary.rows += rows;
            summary.live_rows += live;
            if live.saturating_mul(2) < rows {
                sparse.push(part.clone());
            }
        }
        sparse.sort_unstable();
        summary.compacted = sparse.len() as u64;
        (sparse, summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedding::RECEIPT_VERSION;
    use crate::store::FileRef;
    use crate::types::{Digest256, SpaceId, VectorType};

    #[test]
    fn only_parts_with_under_half_of_their_rows_live_are_sparse() {
        let part = |name: &str, rows| PartReceipt {
            version: RECEIPT_VERSION,
            space: SpaceId("s".to_owned()),
            shard: 0,
            part: name.to_owned(),
            file: FileRef { path: name.to_owned(), size: 1, sha256: Digest256::of(b"x") },
            rows,
            tokens: 0,
            vector_type: VectorType::F32,
            dimensions: 4,
            pieces: None,
        };
        let mut live = LiveRows::default();
        let place = |part: &str, row| Place { part: part.into(), row };
        // The same row twice is one row: two notes may share a text.
        [0, 64, 64].into_iter().for_each(|row| live.add(&place("thin", row)));
        [1, 2].into_iter().for_each(|row| live.add(&place("half", row)));
        live.add(&place("unknown", 3));
        let (sparse, summary) = live.sparse(&[part("thin", 65), part("half", 4), part("dead", 9)]);
        assert_eq!(sparse, ["thin"]);
        let expected = PartsSummary { parts: 2, rows: 69, live_rows: 4, compacted: 1 };
        assert_eq!(summary, expected);
    }
}
