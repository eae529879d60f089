//! What it takes to open a second snapshot beside the one in service.
//!
//! A comparison wants two of them. What both hold is open once: from day to day most indexes stay, so the second one costs
//! its own files and no more. It is encoded for by the tower that is loaded already; one with another tower would need that
//! tower in memory too, which is what `snapshot compare` is for.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::serving::Serving;
use crate::error::{Error, Result};
use crate::observe::format;
use crate::snapshot::{Content, Manifest, ShardContent};

/// A second snapshot that nobody has asked for in this time is let go at the next look.
const KEPT: Duration = Duration::from_secs(300);

/// The second snapshot: one at a time.
#[derive(Debug)]
pub(super) struct Second<T> {
    open: Option<(u64, Arc<T>)>,
    used: Instant,
    /// When the next one may be opened.
    again: Instant,
}

impl<T> Default for Second<T> {
    fn default() -> Self {
        let now = Instant::now();
        Self { open: None, used: now, again: now }
    }
}

impl<T> Second<T> {
    /// The one that is open, if it is number `number`.
    pub fn get(&mut self, number: u64) -> Option<Arc<T>> {
        let (_, open) = self.open.as_ref().filter(|(open, _)| *open == number)?;
        self.used = Instant::now();
        Some(Arc::clone(open))
    }

    /// Time until another may be opened. Opening takes at most a third of all time, no matter how many requests come.
    pub fn rests(&self) -> Option<Duration> {
        Some(self.again.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Keeps what was opened since `began`; nothing where that failed.
    pub fn put(&mut self, began: Instant, opened: Option<(u64, Arc<T>)>) {
        self.used = Instant::now();
        self.again = self.used + 2 * (self.used - began);
        self.open = opened;
    }

    /// Lets it go, so that there are never three.
    pub fn clear(&mut self) {
        self.open = None;
    }

    /// Lets it go where nobody asks for it any more.
    pub fn clear_unused(&mut self) {
        if self.used.elapsed() > KEPT {
            self.clear();
        }
    }
}

/// Whether a snapshot may be opened beside `before` by fetching `most` bytes.
///
/// # Errors
/// Input where not.
pub(super) fn check_cheap(before: &Serving, manifest: &Manifest, most: u64) -> Result<()> {
    let number = manifest.number;
    if before.encoder.as_ref().is_some_and(|encoder| !encoder.serves(manifest)) {
        return Err(Error::input(format!(
            "snapshot {number} has another query tower than the one in service; compare the two with `scalingnote \
             snapshot compare`"
        )));
    }
    let bytes = new_bytes(&before.snapshot.manifest().content, &manifest.content);
    if bytes > most {
        return Err(Error::input(format!(
            "opening snapshot {number} beside the one in service takes {}, and at most {} are allowed; compare the two \
             with `scalingnote snapshot compare`",
            format::bytes(bytes),
            format::bytes(most)
        )));
    }
    Ok(())
}

/// Bytes of the files that a search of `other` needs and one of `open` does not.
fn new_bytes(open: &Content, other: &Content) -> u64 {
    let shared = open.space_id == other.space_id && open.index == other.index;
    let files = |content| -> HashSet<_> {
        let shards: &[ShardContent] = content;
        shards.iter().flat_map(ShardContent::files).map(|file| (&file.path, file.size)).collect()
    };
    let known = if shared { files(&open.shards) } else { HashSet::new() };
    files(&other.shards).difference(&known).map(|(_, size)| size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_kept_and_the_next_one_has_to_wait() {
        let mut second = Second::default();
        assert!(second.get(1).is_none() && second.rests().is_none());
        let began = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        second.put(began, Some((1, Arc::new("one"))));
        assert_eq!(second.get(1).as_deref(), Some(&"one"));
        assert!(second.get(2).is_none());
        let left = second.rests().unwrap();
        assert!(left > Duration::from_secs(9) && left < Duration::from_secs(11), "{left:?}");
        second.clear_unused();
        assert!(second.get(1).is_some());
        second.used = Instant::now().checked_sub(KEPT + Duration::from_secs(1)).unwrap();
        second.clear_unused();
        assert!(second.get(1).is_none());
        second.put(Instant::now(), None);
        assert!(second.get(1).is_none() && second.rests().is_none_or(|left| left < KEPT));
    }
}
