//! Work beside a purge: who writes notes looks at the tombstones again after each write.
//!
//! ```text
//! writer: put -> newest tombstones other than when the work was planned? -> what holds a purged note goes, the work ends
//! purge:  commit tombstones -> list, look into everything -> delete
//! ```
//!
//! Each side writes before it looks, so one of them sees the other: an object that was put before the tombstones is found
//! by the purge, one that was put after them is taken back by who put it. A writer that dies in between leaves something
//! that the next run, gc and `purge --scan` find: see `stage::purge`.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::manifest::{Manifest, Purged, newest, numbers, read};
use crate::error::{Error, Result, found};
use crate::store::{Root, layout};
use crate::types::Digest256;

/// The tombstones of the newest snapshot, read again only where there is a newer one.
#[derive(Debug, Default)]
pub struct Tombstones(Mutex<Option<(u64, Arc<Purged>)>>);

impl Tombstones {
    /// Those of now.
    ///
    /// # Errors
    /// What the store says; Corrupt about the newest manifest.
    pub async fn newest(&self, root: &Root) -> Result<Arc<Purged>> {
        let Some(number) = numbers(root).await?.pop() else { return Ok(Arc::default()) };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((of, purged)) = known
            && of == number
        {
            return Ok(purged);
        }
        let Some(manifest) = newest(root).await? else { return Ok(Arc::default()) };
        let purged = Arc::new(manifest.purged);
        let known = Some((manifest.number, Arc::clone(&purged)));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(purged)
    }

    /// Those of now, where they are others than `planned`, the [`Purged::stamp`] of what some work was planned under.
    ///
    /// # Errors
    /// As [`Tombstones::newest`].
    pub async fn since(
        &self,
        root: &Root,
        planned: Option<Digest256>,
    ) -> Result<Option<Arc<Purged>>> {
        let purged = self.newest(root).await?;
        Ok((purged.stamp() != planned).then_some(purged))
    }
}

/// The error of work that was planned under other tombstones: it is void.
pub fn overtaken_by_purge(what: &str) -> Error {
    Error::conflict(format!(
        "notes were purged, or brought back, since {what} was planned: it may hold what was purged and is void; plan or run \
         again"
    ))
}

/// Since when all snapshots have the tombstones of `newest`, by the store's clock: what is older was looked into by the
/// purge itself. `None` where it is not known.
///
/// # Errors
/// What the store says.
pub async fn purged_since(root: &Root, newest: &Manifest) -> Result<Option<DateTime<Utc>>> {
    let stamp = newest.purged.stamp();
    let listed = root.list(layout::SNAPSHOTS).await?;
    let mut since = None;
    for object in listed.iter().rev() {
        let Some(number) = layout::manifest_number(&object.key) else { continue };
        if number != newest.number {
            let Some(older) = found(read(root, number).await)? else { continue };
            if older.purged.stamp() != stamp {
                break;
            }
        }
        since = Some(object.modified);
    }
    Ok(since)
}
