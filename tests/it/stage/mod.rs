//! What single stages make of a day's change.

mod damaged;
mod purge;
mod purge_lasts;
mod reads;
mod segments;
