//! One root URI and the few operations on it that the pipeline needs.
//!
//! Nothing is ever overwritten: [`Root::put_if_absent`] is the one way to decide a race, every other
//! object gets an attempt-unique name. Keys are relative to the root, use `/`, and come from [`layout`].

pub mod layout;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
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

/// The root under which everything of one pipeline is stored.
#[derive(Debug, Clone)]
pub struct Root {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    uri: String,
    local: Option<PathBuf>,
}

impl Root {
    /// Opens a `file://`, `memory://`, `s3://`, `gs://`, `az://` URI or a plain local path, which is
    /// created if missing. Credentials come from the environment.
    pub fn open(uri: &str) -> Result<Self> {
        let _ = uri;
        todo!("store helper")
    }

    /// A root over any store: for tests and fault adapters. `local` as in [`Root::local_path`].
    pub fn from_store(store: Arc<dyn ObjectStore>, uri: &str, local: Option<PathBuf>) -> Self {
        Self { store, prefix: ObjectPath::default(), uri: uri.to_owned(), local }
    }

    /// A fresh in-memory root.
    pub fn in_memory() -> Self {
        Self::from_store(Arc::new(object_store::memory::InMemory::new()), "memory://", None)
    }

    /// The URI as given, without credentials.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The store and the full path of `key` in it, for readers that want an `ObjectStore`.
    pub fn object(&self, key: &str) -> (Arc<dyn ObjectStore>, ObjectPath) {
        (Arc::clone(&self.store), self.path(key))
    }

    fn path(&self, key: &str) -> ObjectPath {
        key.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Where `key` lies on this machine, if the root is a local folder: for memory-mapping.
    pub fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.local.as_ref().map(|root| root.join(key))
    }

    /// All bytes of `key`.
    pub async fn get(&self, key: &str) -> Result<Bytes> {
        let reply = self.store.get(&self.path(key)).await.map_err(|e| self.error("get", key, e))?;
        reply.bytes().await.map_err(|e| self.error("get", key, e))
    }

    /// Size of `key`, or `None` where it does not exist.
    pub async fn size(&self, key: &str) -> Result<Option<u64>> {
        match self.store.head(&self.path(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error("head", key, e)),
        }
    }

    /// Creates `key` unless it exists; exactly one of many concurrent callers gets `Created`.
    /// Durable (fsynced) on local disk when it returns. For small objects only.
    pub async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&self.path(key), PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(PutOutcome::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(PutOutcome::AlreadyExists),
            Err(e) => Err(self.error("put-if-absent", key, e)),
        }
    }

    /// Streams a local file to `key` (an attempt-unique name) and returns its reference. Durable on
    /// local disk when it returns.
    pub async fn upload(&self, key: &str, file: &Path) -> Result<FileRef> {
        let _ = (key, file);
        todo!("store helper")
    }

    /// Stores bytes under `key` (an attempt-unique name) and returns their reference. Durable on
    /// local disk when it returns.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<FileRef> {
        let _ = (key, bytes);
        todo!("store helper")
    }

    /// Makes an object that another writer (a streaming `BufWriter`) finished durable, and returns
    /// its reference; hashes it by reading it back.
    pub async fn seal(&self, key: &str) -> Result<FileRef> {
        let _ = key;
        todo!("store helper")
    }

    /// Makes an object durable that another writer (a streaming `BufWriter`) finished: on local disk the
    /// file and its folder are fsynced, on an object store there is nothing to do.
    pub async fn sync(&self, key: &str) -> Result<()> {
        let Some(path) = self.local_path(key) else { return Ok(()) };
        let synced = tokio::task::spawn_blocking(move || {
            std::fs::File::open(&path)?.sync_all()?;
            path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
        })
        .await;
        let io = |cause: std::io::Error| {
            Error::new(crate::error::kind_of_io(&cause), format!("fsync of {key}"))
                .with_source(cause)
        };
        synced.map_err(|e| Error::internal("fsync").with_source(e))?.map_err(io)
    }

    /// A local file with exactly the bytes of `file`: the object itself where the root is local,
    /// else a download into `cache` that is reused while its size and hash fit.
    pub async fn fetch(&self, file: &FileRef, cache: &Path) -> Result<PathBuf> {
        let _ = (file, cache);
        todo!("store helper")
    }

    /// Every object whose key starts with the folder `prefix`, sorted by key.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
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
            .map_err(|e| self.error("list", prefix, e))?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Deletes `key`; a missing object is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error("delete", key, e)),
        }
    }

    fn key_of(&self, location: &ObjectPath) -> String {
        let full = location.as_ref();
        full.strip_prefix(self.prefix.as_ref()).unwrap_or(full).trim_start_matches('/').to_owned()
    }

    fn error(&self, operation: &str, key: &str, cause: object_store::Error) -> Error {
        let kind = match &cause {
            object_store::Error::NotFound { .. } => ErrorKind::NotFound,
            _ => ErrorKind::Transient,
        };
        Error::new(kind, format!("{operation} {key} in {}", self.uri)).with_source(cause)
    }
}
