//! The store's clock: the one that all ages are by.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::ObjectStoreExt;

use super::handle::Root;
use crate::error::{Error, Result, found};
use crate::store::key;
use crate::store::layout::{self, LeaseKind};

impl Root {
    /// The time by the store's clock: the stamp of a small object, written and removed again. A caller that decides
    /// anything by an age takes the end of it from here and its begin from another stamp of the store; machines' clocks
    /// may differ.
    ///
    /// It is asked each time: between two answers only this machine could tell how much time has passed, and it does
    /// not know of the time in which it slept or was paused.
    ///
    /// # Errors
    /// Unsupported for a root that can only be read; what the store says.
    pub async fn now(&self) -> Result<DateTime<Utc>> {
        let key = layout::lease(LeaseKind::Probe, &format!("{:016x}", rand::random::<u64>()));
        let put = self.put(&key, Bytes::from_static(b"probe")).await;
        let stamped = match put {
            Ok(_) => self.modified(&key).await,
            Err(error) => Err(error),
        };
        // Also where the put failed: it may be there all the same.
        if let Err(error) = self.delete(&key).await {
            tracing::debug!(%key, %error, "an object written to read the store's clock was left behind; gc deletes it");
        }
        stamped?.ok_or_else(|| {
            Error::unsupported(format!(
                "{} does not show what was just written; it cannot hold snapshots",
                self.uri
            ))
        })
    }

    /// When the store wrote `key`, by its own clock; `None` where it does not exist.
    pub async fn modified(&self, key: &str) -> Result<Option<DateTime<Utc>>> {
        key::check(key)?;
        let path = self.path(key);
        let looked = self.repeated("look up", key, || self.store.head(&path)).await;
        Ok(found(looked)?.map(|meta| meta.last_modified))
    }
}
