//! All integration tests: one binary, so that the dependencies are linked once. The folders are named after the rooms of
//! `src/`; `house` holds what is asked of the whole, `fixture` what the tests share.

mod cli;
mod config;
mod corpus;
mod embedding;
mod evaluate;
mod exec;
mod fixture;
mod house;
mod index;
mod model;
mod report;
mod search;
mod serve;
mod snapshot;
mod stage;
mod store;
mod tower;

/// It tells how much memory a damaged file makes the program ask for.
#[global_allocator]
static WATCH: house::hostile::targets::Watch = house::hostile::targets::Watch;
