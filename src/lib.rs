//! Offline embedding and index-building pipeline with LLM document towers (ScalingNote, arXiv 2411.15766).

#![warn(missing_docs)]

// L0
pub mod error;
pub mod types;
// L1
pub mod observe;
pub mod schema;
pub mod store;
// L2
pub mod corpus;
pub mod dataset;
pub mod embedding;
pub mod index;
pub mod snapshot;
pub mod tower;
// L3
pub mod evaluate;
pub mod search;
pub mod train;
// L4
pub mod stage;
// L5
pub mod config;
// L6
pub mod exec;
// L7
pub mod cli;
