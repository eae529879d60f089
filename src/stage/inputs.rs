//! What tasks read: prepared notes and the rows of the parent's shards, each file once where memory allows.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::ids::{Held, IdRow, Ids};
use crate::corpus::{PreparedBatch, PreparedReader, PreparedRow, PreparedShard};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::ShardContent;
use crate::store::Root;

/// Bytes of decoded rows that are remembered, about.
const ROOM: u64 = 128 << 20;

/// Prepared notes and the parent's rows that this process has read, for the next task that needs them. What does not
/// fit is read again.
#[derive(Default)]
pub struct Inputs(Mutex<Remembered>);

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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, bytes: u64, insert: impl FnOnce(&mut Remembered)) {
        let mut remembered = self.remembered();
        if remembered.has_room(bytes) {
            remembered.bytes += bytes;
            insert(&mut remembered);
        }
    }

    /// Streams a prepared file in order, batch by batch.
    pub(crate) async fn prepared(
        &self,
        root: &Root,
        shard: &PreparedShard,
    ) -> Result<BoxStream<'_, Result<PreparedBatch>>> {
        let key = shard.file.path.clone();
        if let Some(batches) = self.remembered().prepared.get(&key).cloned() {
            return Ok(
                stream::iter((0..batches.len()).map(move |at| Ok(batches[at].clone()))).boxed()
            );
        }
        let reader = PreparedReader::open(root, shard).await?;
        let bytes = decoded(shard.file.size, shard.rows, size_of::<PreparedRow>());
        let kept = self.remembered().has_room(bytes).then(Vec::new);
        let batches = stream::try_unfold(
            (reader, kept, key),
            move |(mut reader, mut kept, key)| async move {
                let batch = reader.next().await?;
                match (&batch, &mut kept) {
                    (Some(batch), Some(kept)) => kept.push(batch.clone()),
                    (None, Some(kept)) => {
                        let batches = std::mem::take(kept).into();
                        self.remember(bytes, |all| drop(all.prepared.insert(key.clone(), batches)));
                    }
                    (_, None) => {}
                }
                Ok(batch.map(|batch| (batch, (reader, kept, key))))
            },
        );
        Ok(batches.boxed())
    }

    /// The segments of a shard of the parent, base first; none in an empty shard.
    pub(crate) async fn parent(&self, root: &Root, shard: &ShardContent) -> Result<Arc<Vec<Held>>> {
        if let Some((of, held)) = self.remembered().parents.get(&shard.shard)
            && of == shard
        {
            return Ok(Arc::clone(held));
        }
        let held = Arc::new(Held::read(root, shard).await?);
        let bytes = held.iter().map(|Held { segment, .. }| {
            decoded(segment.ids.size, segment.vectors, size_of::<IdRow>())
        });
        let entry = (shard.clone(), Arc::clone(&held));
        self.remember(bytes.sum(), |all| drop(all.parents.insert(shard.shard, entry)));
        Ok(held)
    }

    /// What counts in a shard of the parent: the live rows of all its segments, by key.
    pub(crate) async fn ids(&self, root: &Root, shard: &ShardContent) -> Result<Ids> {
        let held = self.parent(root, shard).await?;
        Ids::of_segments(&held, root, shard).await
    }
}

impl Remembered {
    fn has_room(&self, bytes: u64) -> bool {
        self.bytes.saturating_add(bytes) <= ROOM
    }
}

/// What the rows of a file take in memory, about.
fn decoded(bytes: u64, rows: u64, row: usize) -> u64 {
    bytes.saturating_mul(4).saturating_add(rows.saturating_mul(row as u64))
}

/// Whether a parent's file is missing or damaged: reason to continue without it, not to fail.
pub(crate) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt)
}
