//! What is asked of the whole: layers, contracts, privacy, hostile input, words, and the files beside the program.

mod claims;
mod cron;
mod features;
mod guarantees;
pub mod hostile;
mod kubernetes;
mod layers;
mod privacy;
pub mod readme;
mod schemas;
mod scripts;
mod words;
