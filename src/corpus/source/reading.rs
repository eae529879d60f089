//! How a table is read, beside its own options.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pinned::Pinned;
use crate::corpus::options::TypeRule;
use crate::corpus::outcome::Position;
use crate::corpus::session::{Depth, Room};
use crate::observe::Reporter;

/// How the columns of a table get their types.
pub(super) struct Reading<'a> {
    /// The table's place among the corpus's.
    pub(super) at: usize,
    pub(super) rule: TypeRule,
    /// What the newest snapshot was made with, by column.
    pub(super) before: Option<&'a BTreeMap<String, String>>,
    pub(super) reporter: &'a Arc<dyn Reporter>,
    pub(super) room: Room,
    pub(super) depth: Depth,
    /// Where a table's history was when the newest snapshot was made, where only what changed since is to be read.
    pub(super) since: Option<&'a Position>,
    /// What another process has found and learnt, where it has.
    pub(super) pinned: Option<&'a Pinned<'a>>,
}
