//! All integration tests: one binary, so that the dependencies are linked once.

mod checkout;
mod cli;
mod config;
mod cron;
mod evaluate;
mod layers;
mod readme;
mod report;
mod tower_parity;
