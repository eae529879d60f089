//! All integration tests: one binary, so that the dependencies are linked once.

mod backfill;
mod benches;
mod checkout;
mod claims;
mod cli;
mod cli_apart;
mod cli_distill;
mod cli_inputs;
mod cli_pack;
mod cli_pairs;
mod cli_run;
mod cli_train;
mod cli_train_inputs;
mod cloud;
mod cloud_days;
#[cfg(feature = "cluster")]
mod cluster;
mod config;
mod corpus;
mod cron;
mod days;
mod embedding;
mod evaluate;
mod faults;
mod full_disk;
mod hostile;
mod http;
mod index;
mod kills;
mod kubernetes;
mod layers;
mod leases;
mod metrics;
mod old_roots;
mod privacy;
mod program;
mod proxy;
mod purge;
mod readme;
mod reads;
mod report;
mod schedules;
mod schemas;
mod search;
mod search_where;
mod segments;
mod serve;
mod shared_work;
mod skewed;
mod snapshot;
mod spawned;
mod store;
mod streaming;
mod support;
mod tower_device;
mod tower_golden;
mod tower_parity;
mod towers_once;
mod watcher;
mod web;

/// It tells how much memory a damaged file makes the program ask for.
#[global_allocator]
static WATCH: hostile::targets::Watch = hostile::targets::Watch;
