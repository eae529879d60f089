//! Stores of every kind, in good weather and bad.

pub mod cloud;
mod cloud_days;
pub mod conformance;
mod streaming;
mod web;
