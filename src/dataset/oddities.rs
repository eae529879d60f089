//! What a retrieval set should not have and is read without, counted by kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Kinds of oddities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Oddity {
    /// A judgement of a document that the corpus lacks. It stays, as in `trec_eval`: if relevant, it counts as not
    /// found.
    AbsentDocument,
    /// A judgement of a query that is not among the queries; it is left out.
    AbsentQuery,
    /// A judged query without a text; it is left out with its judgements.
    QueryWithoutText,
    /// A judgement that says the same again.
    RepeatedJudgement,
    /// A document that is there before, with the same id, title and text.
    RepeatedDocument,
    /// A query that is there before, with the same id and text.
    RepeatedQuery,
}

impl Oddity {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::AbsentDocument => (
                "judgements of documents that the corpus lacks",
                "where relevant they count as not found, as in trec_eval",
            ),
            Self::AbsentQuery => ("judgements of queries that are not there", "left out"),
            Self::QueryWithoutText => ("judged queries without a text", "left out"),
            Self::RepeatedJudgement => ("judgements that repeat another", "counted once"),
            Self::RepeatedDocument => ("documents that repeat another", "counted once"),
            Self::RepeatedQuery => ("queries that repeat another", "counted once"),
        }
    }
}

/// How many oddities of one kind there are, and where the first ones are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// How many.
    pub count: usize,
    /// Where: file, line, and id where the line alone does not tell. At most [`Found::SHOWN`].
    pub first: Vec<String>,
}

impl Found {
    /// How many places are kept.
    pub const SHOWN: usize = 3;
}

/// The oddities of a set, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Oddities(BTreeMap<Oddity, Found>);

impl Oddities {
    /// Counts one.
    pub(super) fn add(&mut self, kind: Oddity, place: impl FnOnce() -> String) {
        let found = self.0.entry(kind).or_default();
        found.count += 1;
        if found.first.len() < Found::SHOWN {
            found.first.push(place());
        }
    }

    /// Whether the set has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was found of one kind.
    pub fn of(&self, kind: Oddity) -> Found {
        self.0.get(&kind).cloned().unwrap_or_default()
    }

    /// A line for people for each kind.
    pub fn lines(&self) -> Vec<String> {
        let line = |(kind, found): (&Oddity, &Found)| {
            let (what, then) = kind.words();
            let more = if found.count > found.first.len() { ", ..." } else { "" };
            format!("{what}: {} ({}{more}); {then}", found.count, found.first.join(", "))
        };
        self.0.iter().map(line).collect()
    }

    /// # Errors
    /// Input where there is any, with what [`Oddities::lines`] says.
    pub fn refuse(&self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let what = self.0.iter().map(|(kind, found)| {
            format!("{}: {} ({})", kind.words().0, found.count, found.first.join(", "))
        });
        Err(Error::input(format!(
            "{}; correct the set, or leave --strict out to go on",
            what.collect::<Vec<_>>().join("; ")
        )))
    }
}
