//! What single stages make of a day's change.

mod purge;
mod reads;
mod segments;
