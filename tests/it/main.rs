//! All integration tests: one binary, so that the dependencies are linked once.

mod cli;
mod config;
mod embedding;
mod evaluate;
mod index;
mod layers;
mod readme;
mod report;
mod tower_parity;
