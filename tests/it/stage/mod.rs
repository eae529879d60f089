//! What single stages make of a day's change.

mod purge;
mod purge_lasts;
mod reads;
mod segments;
