//! SQL as it comes from outside: its shape is checked before it is parsed, and the parser may try only so often.
//!
//! The parser is somebody else's. It backtracks where a construct may be meant in two ways, so that the time
//! for nested ones doubles with every level; it and the planner call themselves once for every level of an expression,
//! and a chain of operators has a level for each of them. Neither can be stopped from outside.

mod dialect;
mod expanded;
mod parse;
mod repeats;
mod shape;

pub(super) use expanded::expanded;
pub(super) use parse::{Refused, expression, statements, syntax};
pub(super) use repeats::{parts, parts_of_plan};
pub(super) use shape::Limits;
