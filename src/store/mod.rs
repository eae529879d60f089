//! One root URI and the few operations on it that the pipeline needs.
//!
//! Nothing is ever overwritten: [`Root::put_if_absent`] is the one way to decide a race, every other
//! object gets an attempt-unique name. Keys are relative to the root, use `/`, and come from [`layout`].

mod advice;
pub mod border;
mod cloud;
mod create;
mod durable;
mod error;
pub mod key;
pub mod layout;
mod listen;
mod open;
mod parquet;
mod ranges;
pub mod receipt;
mod repeat;
mod staged;
mod transfer;
mod upload;
mod web;

pub use border::Border;
pub use durable::DurableLocal;
pub use error::{kind_of_foreign, unreadable};
pub use open::{StorageOptions, open_store};
pub use parquet::ParquetObject;
pub use repeat::Repeats;
pub use staged::Swept;
pub use transfer::hash_file;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::error::{Error, ErrorKind, Result};
use crate::types::{Cancel, Digest256};

/// What a put-if-absent found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// This call created the object.
    Created,
    /// The object was there already and is unchanged.
    AlreadyExists,
}

/// A stored object: where it is and what its bytes must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Key below the root, e.g. `indexes/6f0c…/00017/3a….usearch`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the bytes.
    pub sha256: Digest256,
}

/// One row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Key below the root.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// Last modification as the store says.
    pub modified: chrono::DateTime<chrono::Utc>,
}

/// Largest object that [`Root::get`] takes into memory: manifests, plans, receipts.
const MAX_GET: u64 = 1 << 30;

/// The root under which everything of one pipeline is stored.
#[derive(Clone)]
pub struct Root {
    store: Arc<dyn ObjectStore>,
    /// The store again as a client that never repeats by itself: see [`Root::put_if_absent`].
    creator: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    uri: String,
    local: Option<PathBuf>,
    /// The store again where it is one of ours on local disk.
    durable: Option<Arc<DurableLocal>>,
    /// The server where the root is read by plain HTTP.
    web: Option<web::Web>,
    repeats: Repeats,
    cancel: Option<Cancel>,
    /// Set once the store was seen to create conditionally.
    proven: Arc<OnceCell<()>>,
    /// Largest object sent as one put, and the least size of an upload's parts.
    upload_part: u64,
}

/// Only the URI: a store's own form may hold credentials or whole objects.
impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Root").field(&self.uri).finish()
    }
}

impl Root {
    /// A root over any store: for tests and fault adapters. `local` as in [`Root::local_path`].
    pub fn from_store(store: Arc<dyn ObjectStore>, uri: &str, local: Option<PathBuf>) -> Self {
        Self {
            creator: Arc::clone(&store),
            store,
            prefix: ObjectPath::default(),
            uri: uri.to_owned(),
            local,
            durable: None,
            web: None,
            upload_part: transfer::PIECE,
            repeats: Repeats::NONE,
            cancel: None,
            proven: Arc::new(OnceCell::new_with(Some(()))),
        }
    }

    /// The same root, which waits for no further attempt once `cancel` says stop. What is under way goes on.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// The same root with another way to repeat what failed in passing.
    #[must_use]
    pub fn with_repeats(mut self, repeats: Repeats) -> Self {
        self.repeats = repeats;
        self
    }

    /// Uploads go in parts of at least so many bytes; 8 MiB unless set. Stores want 5 MiB or more.
    #[must_use]
    pub fn with_upload_part(mut self, bytes: u64) -> Self {
        self.upload_part = bytes.max(1);
        self
    }

    /// A fresh in-memory root.
    pub fn in_memory() -> Self {
        Self::from_store(Arc::new(object_store::memory::InMemory::new()), "memory://", None)
    }

    /// The URI as given (a local path as its `file://` form), without credentials.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// True for `http(s)://`: such a root can be searched, not published to.
    pub fn is_read_only(&self) -> bool {
        self.web.is_some()
    }

    /// The store and the full path of `key` in it, for readers that want an `ObjectStore`.
    /// An illegal key names an object that cannot exist.
    pub fn object(&self, key: &str) -> (Arc<dyn ObjectStore>, ObjectPath) {
        (Arc::clone(&self.store), self.path(key))
    }

    fn path(&self, key: &str) -> ObjectPath {
        open::join(&self.prefix, key)
    }

    /// Where `key` lies on this machine, if the root is a local folder: for memory-mapping.
    /// `None` for an illegal key too.
    pub fn local_path(&self, key: &str) -> Option<PathBuf> {
        key::check(key).ok()?;
        self.local.as_ref().map(|root| root.join(key))
    }

    /// The local folder of this root, if it is one.
    pub fn local_folder(&self) -> Option<&std::path::Path> {
        self.local.as_deref()
    }

    /// All bytes of `key`, which is a small object (a manifest, a receipt).
    ///
    /// # Errors
    /// NotFound; Corrupt for an object above 1 GiB, which is none of those.
    pub async fn get(&self, key: &str) -> Result<Bytes> {
        key::check(key)?;
        let path = self.path(key);
        let read = || async {
            let reply = self.store.get(&path).await?;
            match reply.meta.size {
                size if size > MAX_GET => Ok(Err(size)),
                _ => reply.bytes().await.map(Ok),
            }
        };
        self.repeated("get", key, read).await?.map_err(|size| {
            Error::corrupt(format!(
                "{key} in {} has {size} bytes: too large for what it should be",
                self.uri
            ))
        })
    }

    /// The bytes `range` of `key`.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        key::check(key)?;
        let path = self.path(key);
        self.repeated("get a range of", key, || self.store.get_range(&path, range.clone())).await
    }

    /// Size of `key`, or `None` where it does not exist.
    pub async fn size(&self, key: &str) -> Result<Option<u64>> {
        key::check(key)?;
        let path = self.path(key);
        match self.repeated("look up", key, || self.store.head(&path)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every object whose key starts with the folder `prefix` (empty: every object), sorted by key.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        if !prefix.is_empty() {
            key::check(prefix)?;
        }
        let full = self.path(prefix);
        // A web server that does not list says so at once: no use in asking again.
        let store = if self.is_read_only() { &self.creator } else { &self.store };
        let listing = || async {
            let listed = store.list(Some(&full)).map_ok(|meta| Listed {
                key: self.key_of(&meta.location),
                size: meta.size,
                modified: meta.last_modified,
            });
            listed.try_collect::<Vec<_>>().await
        };
        let mut found = self.repeated("list", prefix, listing).await?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Deletes `key`; a missing object is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.check_write("delete", key)?;
        let path = self.path(key);
        match self.repeated("delete", key, || self.store.delete(&path)).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => {
                if let Some(border) = Border::deleted(key) {
                    border.pass();
                }
                Ok(())
            }
        }
    }

    /// `key` is stored: a step border.
    fn written(&self, key: &str) {
        if let Some(border) = Border::written(key) {
            border.pass();
        }
    }

    fn check_write(&self, operation: &str, key: &str) -> Result<()> {
        key::check(key)?;
        if self.is_read_only() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("cannot {operation} {key}: {} can only be read", self.uri),
            ));
        }
        Ok(())
    }

    fn key_of(&self, location: &ObjectPath) -> String {
        let full = location.as_ref();
        full.strip_prefix(self.prefix.as_ref()).unwrap_or(full).trim_start_matches('/').to_owned()
    }

    fn error(&self, operation: &str, key: &str, cause: &object_store::Error) -> Error {
        error::from_store(operation, key, &self.uri, cause)
    }
}
