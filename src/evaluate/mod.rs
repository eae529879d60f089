//! Judging retrieval: exact search over embeddings, the usual measures, BM25 for scale, and intervals.
//!
//! Measures and their ties follow `trec_eval`, so that figures can be set beside published ones.

mod analyse;
mod bm25;
mod bootstrap;
mod entropy;
mod exact;
mod indexed;
mod latency;
mod measures;
mod porter;
mod report;
mod towers;
mod trec;

pub use analyse::analyse_english;
pub use bm25::{Bm25, Bm25Options};
pub use bootstrap::{BootstrapOptions, Comparison, Paired, check_same_queries, compare, paired};
pub use entropy::{EntropyOptions, contrastive_entropy};
pub use exact::exact_search;
pub use indexed::evaluate_indexed;
pub use latency::{Latency, query_latency};
pub use measures::{Measures, QueryMeasures, Ranking, Run, measure};
pub use report::{Evaluation, judge, markdown_table};
pub use towers::{EvaluateOptions, evaluate_bm25, evaluate_embeddings};
pub use trec::trec_run;
