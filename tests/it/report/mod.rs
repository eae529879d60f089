//! What a run leaves to read: the page and the metrics.

mod metrics;
mod page;
mod planned;
mod truth;
