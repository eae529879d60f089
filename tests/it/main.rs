//! All integration tests: one binary, so that the dependencies are linked once.

mod backfill;
mod checkout;
mod cli;
mod cli_distill;
mod cli_run;
mod cli_train;
mod cloud;
mod config;
mod corpus;
mod cron;
mod days;
mod embedding;
mod evaluate;
mod faults;
mod hostile;
mod index;
mod layers;
mod privacy;
mod proxy;
mod purge;
mod readme;
mod report;
mod schemas;
mod search;
mod snapshot;
mod store;
mod support;
mod tower_parity;

/// Every test binary of its own allocator would do; this one tells how much a damaged file makes the program ask for.
#[global_allocator]
static WATCH: hostile::targets::Watch = hostile::targets::Watch;
