//! What tasks read: prepared notes and the rows of the parent's shards, each file once where memory allows.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ids::{Held, IdRow, Ids};
use crate::corpus::{PreparedBatch, PreparedReader, PreparedRow, PreparedShard};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::ShardContent;
use crate::store::Root;

/// Bytes of decoded rows that are remembered, about.
const ROOM: u64 = 128 << 20;

/// Prepared notes and the parent's rows that this process has read, for whoever needs them next. What does not fit is
/// read again.
#[derive(Default)]
pub struct Inputs {
    remembered: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    bytes: u64,
    /// By the file's key.
    prepared: HashMap<String, Arc<[PreparedBatch]>>,
    /// By the shard's number.
    parents: HashMap<u32, (ShardContent, Arc<Vec<Held>>)>,
}

impl Inputs {
    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a prepared file from its beginning.
    pub(crate) async fn prepared(
        &self,
        root: &Root,
        shard: &PreparedShard,
    ) -> Result<Prepared<'_>> {
        if let Some(batches) = self.remembered().prepared.get(&shard.file.path) {
            return Ok(Prepared::Remembered { batches: Arc::clone(batches), at: 0 });
        }
        let reader = Box::new(PreparedReader::open(root, shard).await?);
        let fits = self.remembered().bytes.saturating_add(bytes_of(shard)) <= ROOM;
        Ok(Prepared::File { reader, inputs: self, shard: shard.clone(), kept: fits.then(Vec::new) })
    }

    fn remember(&self, shard: &PreparedShard, batches: Vec<PreparedBatch>) {
        let mut remembered = self.remembered();
        let bytes = remembered.bytes.saturating_add(bytes_of(shard));
        if bytes <= ROOM && !remembered.prepared.contains_key(&shard.file.path) {
            remembered.bytes = bytes;
            remembered.prepared.insert(shard.file.path.clone(), batches.into());
        }
    }

    /// Nobody will read this prepared file again.
    pub(crate) fn forget(&self, shard: &PreparedShard) {
        let mut remembered = self.remembered();
        if remembered.prepared.remove(&shard.file.path).is_some() {
            remembered.bytes -= bytes_of(shard);
        }
    }

    /// The segments of a shard of the parent, base first; none in an empty shard.
    pub(crate) async fn parent(&self, root: &Root, shard: &ShardContent) -> Result<Arc<Vec<Held>>> {
        if let Some((of, held)) = self.remembered().parents.get(&shard.shard)
            && of == shard
        {
            return Ok(Arc::clone(held));
        }
        let held = Arc::new(Held::read(root, shard).await?);
        let mut remembered = self.remembered();
        let bytes = remembered.bytes.saturating_add(bytes_of_rows(shard));
        if bytes <= ROOM && !remembered.parents.contains_key(&shard.shard) {
            remembered.bytes = bytes;
            remembered.parents.insert(shard.shard, (shard.clone(), Arc::clone(&held)));
        }
        Ok(held)
    }

    /// [`Inputs::parent`] for the last who needs them.
    pub(crate) async fn take_parent(&self, root: &Root, shard: &ShardContent) -> Result<Vec<Held>> {
        let held = self.parent(root, shard).await?;
        let mut remembered = self.remembered();
        if let Some((of, _)) = remembered.parents.remove(&shard.shard) {
            remembered.bytes -= bytes_of_rows(&of);
        }
        Ok(Arc::unwrap_or_clone(held))
    }

    /// What counts in a shard of the parent: the live rows of all its segments, by key.
    pub(crate) async fn ids(&self, root: &Root, shard: &ShardContent) -> Result<Ids> {
        let held = self.parent(root, shard).await?;
        Ids::of_segments(&held, root, shard).await
    }
}

/// A prepared file as it is read.
pub(crate) enum Prepared<'a> {
    /// It was read before.
    Remembered { batches: Arc<[PreparedBatch]>, at: usize },
    /// It is read now, and kept for the next reader if it fits.
    File {
        reader: Box<PreparedReader>,
        inputs: &'a Inputs,
        shard: PreparedShard,
        kept: Option<Vec<PreparedBatch>>,
    },
}

impl Prepared<'_> {
    /// The next batch of rows together with its stored columns; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<PreparedBatch>> {
        match self {
            Self::Remembered { batches, at } => {
                *at += 1;
                Ok(batches.get(*at - 1).cloned())
            }
            Self::File { reader, inputs, shard, kept } => {
                let batch = reader.next().await?;
                match &batch {
                    Some(batch) => kept.iter_mut().for_each(|kept| kept.push(batch.clone())),
                    None => kept.take().into_iter().for_each(|kept| inputs.remember(shard, kept)),
                }
                Ok(batch)
            }
        }
    }
}

fn bytes_of(shard: &PreparedShard) -> u64 {
    decoded(shard.file.size, shard.rows, size_of::<PreparedRow>())
}

fn bytes_of_rows(shard: &ShardContent) -> u64 {
    let segments = shard.segments().into_iter();
    let bytes = segments.map(|s| decoded(s.ids.size, s.vectors, size_of::<IdRow>()));
    bytes.fold(0, u64::saturating_add)
}

/// What rows of a file take in memory, about.
fn decoded(bytes: u64, rows: u64, row: usize) -> u64 {
    bytes.saturating_mul(4).saturating_add(rows.saturating_mul(row as u64))
}

/// Whether a parent's file is missing or damaged: reason to go on without it, not to fail.
pub(crate) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt)
}
