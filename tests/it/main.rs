//! All integration tests: one binary, so that the dependencies are linked once.

mod cli;
mod config;
mod evaluate;
mod faults;
mod layers;
mod readme;
mod report;
mod schemas;
mod search;
mod snapshot;
mod store;
mod support;
mod tower_parity;
