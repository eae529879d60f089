//! Wrong decisions, one at a time: what a process is told wrongly makes the real code decide as if a rule were missing
//! from it. A search that cannot find what follows would prove nothing.

/// What one process is told wrongly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lie {
    /// A create of a name that is there succeeds and replaces it: a bucket that ignores conditions.
    Overwrites,
    /// Leases whose names start so are not listed: as if nobody looked for them.
    Blind(&'static str),
    /// What is below this folder looks days older than it is: as if there were no grace time and no heartbeat.
    Ages(&'static str),
    /// What was there once is said to be there by a look at its size: as if nobody looked again before publishing.
    StillThere,
    /// What it has created itself in this folder is not there when it reads it back: as if nobody looked after an
    /// error.
    Deaf(&'static str),
    /// Nothing is deleted, and no error says so.
    Keeps,
    /// A manifest loses its tombstones on the way: as if a purge left none.
    ForgetsPurged,
}

impl Lie {
    pub fn hides(&self, key: &str) -> bool {
        matches!(self, Self::Blind(prefix) if key.starts_with(prefix))
    }

    /// By how many seconds a key looks older.
    pub fn ages(&self, key: &str) -> i64 {
        match self {
            Self::Ages(folder) if key.starts_with(folder) => 30 * 24 * 3600,
            _ => 0,
        }
    }
}
