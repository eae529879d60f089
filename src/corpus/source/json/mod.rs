//! JSON lines, and what else is in files that end so: lists of objects, objects over several lines.
//!
//! A first pass ([`learn()`]) finds the fields, the kinds of their values and the rows that cannot be read; every later
//! one ([`read()`]) makes record batches of the others. Both see the same [rows](records), whatever is in them.

mod layout;
mod learn;
#[cfg(test)]
mod oracle;
mod read;
mod records;
mod scan;
mod value;

pub(super) use learn::{learn, learn_start};
pub(super) use read::read;
