//! What a judged set says of one snapshot.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::questions::Judged;
use crate::dataset::Query;
use crate::error::{Result, ResultExt};
use crate::evaluate::{Ranking, Run, judge};
use crate::observe::format::counted;
use crate::search::{Found, Snapshot};
use crate::snapshot::{EVALUATION, Provenance};
use crate::types::{Digest256, NoteId};

/// Scores are kept to a millionth: what a file keeps and what was measured are the same number.
const DIGITS: f64 = 1e6;

/// The rank that nDCG@10 looks at last.
pub(super) const DEPTH: usize = 10;

/// nDCG@10 of a judged set on a snapshot: what `measured.evaluation` of its manifest holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetScore {
    /// Name of the set.
    pub set: String,
    /// Names its queries and judgements.
    pub digest: Digest256,
    /// Mean over its queries.
    pub ndcg_10: f64,
    /// Notes that are judged relevant.
    pub relevant: u64,
    /// Those of them that the snapshot lacks: they count as not found.
    pub missing: u64,
    /// Of every judged query, in the order of their IDs.
    pub per_query: Vec<f64>,
}

impl SetScore {
    /// What a manifest says, where it was measured.
    pub fn told(provenance: &Provenance) -> Option<Self> {
        serde_json::from_value(provenance.measured.get(EVALUATION)?.clone()).ok()
    }

    /// The same of this very set.
    pub(super) fn told_of(judged: &Judged, provenance: &Provenance) -> Option<Self> {
        let count = judged.set.queries.len();
        Self::told(provenance)
            .filter(|score| score.digest == judged.digest && score.per_query.len() == count)
    }

    /// Judges what was found for each query of the set.
    pub(super) fn of(judged: &Judged, found: Vec<Vec<Found>>, snapshot: &Snapshot) -> Result<Self> {
        let set = &judged.set;
        let ranking = |query: &Query, found: Vec<Found>| -> Ranking {
            let named = found.into_iter().map(|found| (found.note_id.untagged(), found.score));
            named.filter(|(id, _)| set.is_candidate(query, id)).take(DEPTH).collect()
        };
        let pairs = set.queries.iter().zip(found);
        let run: Run =
            pairs.map(|(query, found)| (query.id.clone(), ranking(query, found))).collect();
        let evaluation = judge(&judged.name, "", &set.qrels, &run);
        let scores = evaluation.per_query.iter().map(|query| query.measures.ndcg_10);
        let per_query: Vec<f64> = scores.map(|score| (score * DIGITS).round() / DIGITS).collect();
        let relevant = judged.relevant();
        let mut missing = 0;
        for id in &relevant {
            missing += u64::from(!holds(snapshot, id)?);
        }
        Ok(Self {
            set: judged.name.clone(),
            digest: judged.digest,
            ndcg_10: per_query.iter().sum::<f64>() / per_query.len() as f64,
            relevant: relevant.len() as u64,
            missing,
            per_query,
        })
    }

    /// Writes it down.
    ///
    /// # Errors
    /// Internal.
    pub fn tell(&self, provenance: &mut Provenance) -> Result<()> {
        let told = serde_json::to_value(self).context(|| "writing the scores of a judged set")?;
        provenance.measured.insert(EVALUATION.to_owned(), told);
        Ok(())
    }
}

/// One line for people.
impl fmt::Display for SetScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { set, ndcg_10, relevant, missing, per_query, .. } = self;
        let queries = counted(per_query.len() as u64, "query");
        write!(f, "nDCG@10 {ndcg_10:.4} over {queries} of {set}")?;
        match missing {
            0 => Ok(()),
            _ => write!(f, "; {missing} of {relevant} relevant notes are not in it"),
        }
    }
}

/// How many notes to ask for, so that enough are left of them.
pub(super) fn depth(judged: &Judged) -> usize {
    DEPTH + usize::from(judged.set.ignore_identical_ids)
}

fn holds(snapshot: &Snapshot, id: &str) -> Result<bool> {
    let text = NoteId::Str(id.to_owned());
    match text.of_other_type() {
        Some(number) if snapshot.holds(&number)? => Ok(true),
        _ => snapshot.holds(&text),
    }
}
