//! `[evaluation]`: queries that every build is asked before it is published.
//!
//! `publish` asks them, not a task of its own: only there is the content whole (shards of the parent, rebuilt ones, the
//! query tower that is admitted), and every driver comes through it just before the commit. What is about to be
//! published is opened like any snapshot, through [`crate::snapshot::proposed`] and [`crate::search::Snapshot::of`].
//!
//! A judged set's nDCG@10 of every query stands in the manifest (`measured.evaluation`), so that the next build is
//! compared query by query without asking its parent again, whose tower may be gone. Where the parent says nothing, or was
//! measured with another set, it is searched.

mod ask;
mod comparison;
mod options;
mod questions;
mod report;
mod score;

pub use ask::EvaluationRequest;
pub(crate) use ask::{Evaluated, evaluate};
pub use comparison::{Asked, Changes, Comparison, Crosswise, Group, Scores, Worst};
pub use options::EvaluationOptions;
pub use questions::Questions;
pub use report::{Against, EvaluationReport, FirstHits};
pub use score::SetScore;
