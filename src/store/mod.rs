//! One root URI and the few operations on it that the pipeline needs.
//!
//! Nothing is ever overwritten: [`Root::put_if_absent`] is the one way to decide a race, every other
//! object gets an attempt-unique name. Keys are relative to the root, use `/`, and come from [`layout`].

pub mod border;
mod durable;
mod error;
pub mod key;
pub mod layout;
mod open;
mod parquet;
mod staged;
mod transfer;

pub use border::Border;
pub use durable::DurableLocal;
pub use error::kind_of_foreign;
pub use open::StorageOptions;
pub use parquet::ParquetObject;
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

use crate::error::{Error, ErrorKind, Result};
use crate::types::Digest256;

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
    prefix: ObjectPath,
    uri: String,
    local: Option<PathBuf>,
    /// The store again where it is one of ours on local disk.
    durable: Option<Arc<DurableLocal>>,
    read_only: bool,
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
            store,
            prefix: ObjectPath::default(),
            uri: uri.to_owned(),
            local,
            durable: None,
            read_only: false,
            upload_part: transfer::PART,
        }
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
        self.read_only
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
        let failed = |cause: object_store::Error| self.error("get", key, &cause);
        let reply = self.store.get(&self.path(key)).await.map_err(failed)?;
        if reply.meta.size > MAX_GET {
            return Err(Error::corrupt(format!(
                "{key} in {} has {} bytes: too large for what it should be",
                self.uri, reply.meta.size
            )));
        }
        reply.bytes().await.map_err(failed)
    }

    /// The bytes `range` of `key`.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        key::check(key)?;
        let read = self.store.get_range(&self.path(key), range).await;
        read.map_err(|e| self.error("get range", key, &e))
    }

    /// Size of `key`, or `None` where it does not exist.
    pub async fn size(&self, key: &str) -> Result<Option<u64>> {
        key::check(key)?;
        match self.store.head(&self.path(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error("head", key, &e)),
        }
    }

    /// Every object whose key starts with the folder `prefix` (empty: every object), sorted by key.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        if !prefix.is_empty() {
            key::check(prefix)?;
        }
        let full = self.path(prefix);
        let mut found: Vec<Listed> = self
            .store
            .list(Some(&full))
            .map_ok(|meta| Listed {
                key: self.key_of(&meta.location),
                size: meta.size,
                modified: meta.last_modified,
            })
            .try_collect()
            .await
            .map_err(|e| self.error("list", prefix, &e))?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Deletes `key`; a missing object is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.check_write("delete", key)?;
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {
                if let Some(border) = Border::deleted(key) {
                    border.pass();
                }
                Ok(())
            }
            Err(e) => Err(self.error("delete", key, &e)),
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
        if self.read_only {
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
