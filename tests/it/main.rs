//! All integration tests: one binary, so that the dependencies are linked once.
mod tower_parity;

mod cli;
mod config;
mod report;
