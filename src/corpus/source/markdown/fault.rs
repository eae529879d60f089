//! What is wrong with a note.

/// Lists and mappings of front matter in each other, at most.
pub(super) const DEPTH: usize = 32;
/// The most common faults.
pub(super) const PLACE: &str = "front matter";
pub(super) const TOO_DEEP: &str = "more than 32 lists and mappings deep";

/// What is wrong with a note, without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// Line of the file, from 1.
    pub(super) line: u64,
    pub(super) place: &'static str,
    pub(super) reason: &'static str,
}
