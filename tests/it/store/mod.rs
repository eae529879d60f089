//! Stores of every kind, in good weather and bad.

mod cloud;
mod cloud_days;
mod conformance;
mod folder;
mod redirect;
mod refused;
mod streaming;
mod web;
