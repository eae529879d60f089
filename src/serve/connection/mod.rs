//! Connections: how many there are, what each is at, and which has to go when another needs its place.

mod descriptors;
mod drive;
mod held;
mod listener;
mod phase;
mod table;
mod watched;

pub(crate) use descriptors::raise as raise_descriptors;
pub(super) use drive::drive;
pub(super) use listener::Listener;
pub(super) use phase::Reason;
pub(super) use table::{Connections, Counts, Holding, Place};
