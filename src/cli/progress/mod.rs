//! Draws the events of a run: bars, lines or JSON, on stderr.

mod bars;
mod json;
mod lines;
mod tracker;
mod view;

pub(super) use tracker::reporter;
