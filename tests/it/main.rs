//! All integration tests: one binary, so that the dependencies are linked once.

mod checkout;
mod cli;
mod cli_run;
mod cli_train;
mod config;
mod corpus;
mod cron;
mod days;
mod embedding;
mod evaluate;
mod faults;
mod index;
mod layers;
mod readme;
mod report;
mod schemas;
mod search;
mod segments;
mod snapshot;
mod store;
mod support;
mod tower_parity;
