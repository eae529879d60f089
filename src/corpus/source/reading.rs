//! How tables are read, beside their own options.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pinned::Pinned;
use crate::corpus::options::TypeRule;
use crate::corpus::outcome::{Position, SourceTypes};
use crate::corpus::session::{Depth, Room};
use crate::observe::Reporter;

/// How columns get their types.
pub(in crate::corpus) struct Typing<'a> {
    pub(in crate::corpus) rule: TypeRule,
    /// The types that the newest snapshot was made with.
    pub(in crate::corpus) before: Option<&'a SourceTypes>,
    pub(in crate::corpus) reporter: &'a Arc<dyn Reporter>,
    pub(in crate::corpus) room: Room,
    pub(in crate::corpus) depth: Depth,
    /// Where the history of the one table was when the newest snapshot was made, where only what changed since is to be
    /// read.
    pub(in crate::corpus) since: Option<&'a Position>,
    /// The one table that another process has found and learnt, where it has: the query names no other one.
    pub(in crate::corpus) pinned: Option<&'a Pinned<'a>>,
}

/// How one table is read.
pub(super) struct Reading<'a> {
    /// The table's place among the corpus's.
    pub(super) at: usize,
    /// What the newest snapshot was made with, by column.
    pub(super) before: Option<&'a BTreeMap<String, String>>,
    pub(super) typing: &'a Typing<'a>,
}
