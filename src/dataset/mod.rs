//! Retrieval sets in BEIR layout and training pairs: what `train` learns from and `evaluate` judges on.
//!
//! A retrieval set is a folder with `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`) and
//! `qrels.tsv` (query-id, corpus-id, score; header optional; or TREC's four columns). Each file may be plain, `.gz` or
//! `.xz`. What public sets have that they should not have is counted ([`Oddities`]), not refused.

mod answers;
mod file;
mod oddities;
mod pairs;
mod qrels;
mod queries;
mod set;
mod texts;

pub use crate::types::SplitMix64;
pub use answers::normalized;
pub use oddities::{Found, Oddities, Oddity};
pub use pairs::{Pair, PairSet, PairSource};
pub use qrels::Qrels;
pub use queries::read_queries;
pub use set::{Document, Query, RetrievalSet, RetrievalSetOptions};
pub use texts::{TextSet, TextSource};
