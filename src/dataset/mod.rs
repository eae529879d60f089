//! Retrieval sets in BEIR layout and training pairs: what `train` learns from and `evaluate` judges on.
//!
//! A retrieval set is a folder with `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`) and
//! `qrels.tsv` (query-id, corpus-id, score; with a header). Each file may be plain, `.gz` or `.xz`.

mod file;
mod pairs;
mod set;

pub use crate::types::SplitMix64;
pub use file::read_jsonl;
pub use pairs::{Pair, PairSet, PairSource};
pub use set::{Document, Qrels, Query, RetrievalSet, RetrievalSetOptions};
