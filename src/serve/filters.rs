//! Filters that were evaluated already, by snapshot content and condition. Bounded; the least recently used is dropped
//! first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::search::{Passing, Snapshot};
use crate::types::{Cancel, Digest256};

/// Bytes that an entry takes beside its bits and its condition.
const OVERHEAD: usize = 256;

pub(super) struct Filters {
    /// Bytes.
    limit: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entries: HashMap<(Digest256, String), Entry>,
    bytes: usize,
    /// Counts uses, to tell which was longest ago.
    clock: u64,
}

struct Entry {
    passing: Arc<Passing>,
    bytes: usize,
    used: u64,
}

impl Filters {
    pub fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    /// The notes of a snapshot that pass a condition.
    ///
    /// # Errors
    /// As [`Snapshot::passing_unless`].
    pub fn passing(
        &self,
        snapshot: &Snapshot,
        condition: &str,
        cancel: &Cancel,
    ) -> Result<Arc<Passing>> {
        let key = (snapshot.manifest().content_hash, condition.trim().to_owned());
        if let Some(passing) = self.lock().get(&key) {
            return Ok(passing);
        }
        // Two requests may evaluate the same filter at once; that costs time, never a wrong answer.
        let passing = Arc::new(snapshot.passing_unless(condition, cancel)?);
        self.lock().put(key, Arc::clone(&passing), self.limit);
        Ok(passing)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn get(&mut self, key: &(Digest256, String)) -> Option<Arc<Passing>> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.clock;
        Some(Arc::clone(&entry.passing))
    }

    fn put(&mut self, key: (Digest256, String), passing: Arc<Passing>, limit: usize) {
        let bytes = passing.bytes() + key.1.len() + OVERHEAD;
        if bytes > limit {
            return;
        }
        let entry = Entry { passing, bytes, used: self.clock };
        self.bytes += bytes;
        if let Some(before) = self.entries.insert(key, entry) {
            self.bytes -= before.bytes;
        }
        while self.bytes > limit {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { break };
            if let Some(gone) = self.entries.remove(&key) {
                self.bytes -= gone.bytes;
            }
        }
    }
}
