//! The root itself, and what is one request: get, look up, list, delete.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::OnceCell;

use crate::error::{Error, Result, found};
use crate::store::cloud::{Attempts, Repeats, Web};
use crate::store::local::DurableLocal;
use crate::store::{Border, Keys, error, key};
use crate::types::Cancel;

/// What one request carries: the largest object sent as one put, the smallest part of a multipart upload, the bytes
/// of one read. A request has a time limit, so a file must not depend on one request.
pub(super) const PIECE: u64 = 8 << 20;
/// Largest object that [`Root::get`] takes into memory: manifests, plans, receipts.
const MAX_GET: u64 = 1 << 30;

/// The root under which everything of one pipeline is stored.
///
/// ```
/// use scalingnote::store::{PutOutcome, Root};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), scalingnote::error::Error> {
/// // A folder, `s3://bucket/prefix`, `gs://`, `az://`, and `https://` to read from.
/// let root = Root::open("memory://example")?;
/// root.put("runs/notes.txt", "first".into()).await?;
/// assert_eq!(root.get("runs/notes.txt").await?, "first");
/// // Nothing is ever overwritten, and of many who create a file one is told that it did.
/// assert!(root.put("runs/notes.txt", "second".into()).await.is_err());
/// assert_eq!(root.put_if_absent("runs/notes.txt", "second".into()).await?, PutOutcome::AlreadyExists);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Root {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The store again as a client that never retries: see [`Root::put_if_absent`].
    pub(super) creator: Arc<dyn ObjectStore>,
    pub(super) prefix: ObjectPath,
    pub(super) uri: String,
    pub(super) local: Option<PathBuf>,
    /// The store again where it is one of ours on local disk.
    pub(super) durable: Option<Arc<DurableLocal>>,
    /// The server where the root is read by plain HTTP.
    pub(super) web: Option<Web>,
    pub(super) repeats: Repeats,
    cancel: Option<Cancel>,
    keys: Arc<Keys>,
    /// Set once the store was seen to create conditionally.
    pub(super) proven: Arc<OnceCell<()>>,
    /// Largest object sent as one put, and the least size of an upload's parts.
    pub(super) upload_part: u64,
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
            upload_part: PIECE,
            repeats: Repeats::NONE,
            cancel: None,
            keys: Arc::default(),
            proven: Arc::new(OnceCell::new_with(Some(()))),
        }
    }

    /// The same root, which waits for no further attempt once `cancel` says stop. What is under way goes on.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// The same root, whose manifests are signed and checked with these keys.
    #[must_use]
    pub fn with_keys(mut self, keys: Keys) -> Self {
        self.keys = Arc::new(keys);
        self
    }

    /// What manifests are signed and checked with.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The same root with another way to repeat what failed in passing.
    #[must_use]
    pub fn with_repeats(mut self, repeats: Repeats) -> Self {
        self.repeats = repeats;
        self
    }

    /// Uploads go in parts of at least this many bytes; 8 MiB unless set. Stores want 5 MiB or more.
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

    /// Checks that this is a kind of root that can be written to. Nothing is asked of the network.
    ///
    /// # Errors
    /// Config for `http(s)://`.
    pub fn require_writable(&self) -> Result<()> {
        match self.is_read_only() {
            true => Err(Error::config(self.only_read())),
            false => Ok(()),
        }
    }

    fn only_read(&self) -> String {
        format!(
            "{} can only be read; what is written needs a folder, or s3://, gs:// or az://",
            self.uri
        )
    }

    /// The store and the full path of `key` in it, for readers that want an `ObjectStore`.
    /// An illegal key names an object that cannot exist.
    pub fn object(&self, key: &str) -> (Arc<dyn ObjectStore>, ObjectPath) {
        (Arc::clone(&self.store), self.path(key))
    }

    /// The key has been checked, so no character of it is escaped.
    pub(super) fn path(&self, key: &str) -> ObjectPath {
        key.split('/')
            .filter(|part| !part.is_empty())
            .fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Where `key` is on this machine, if the root is a local folder: for memory-mapping.
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
        let looked = self.repeated("look up", key, || self.store.head(&path)).await;
        Ok(found(looked)?.map(|meta| meta.size))
    }

    /// Deletes `key`; a missing object is fine, also where nothing may be deleted.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.check_write("delete", key)?;
        let path = self.path(key);
        let deleted = found(self.repeated("delete", key, || self.store.delete(&path)).await);
        if let Err(refused) = deleted {
            let missing = matches!(self.size(key).await, Ok(None));
            return if missing { Ok(()) } else { Err(refused) };
        }
        if let Some(border) = Border::deleted(key) {
            border.pass();
        }
        Ok(())
    }

    /// `key` is stored: a step border.
    pub(super) fn written(&self, key: &str) {
        if let Some(border) = Border::written(key) {
            border.pass();
        }
    }

    pub(super) fn check_write(&self, operation: &str, key: &str) -> Result<()> {
        key::check(key)?;
        if self.is_read_only() {
            return Err(Error::unsupported(format!(
                "cannot {operation} {key}: {}",
                self.only_read()
            )));
        }
        Ok(())
    }

    pub(super) fn error(&self, operation: &str, key: &str, cause: &object_store::Error) -> Error {
        error::from_store(operation, key, &self.uri, cause)
    }

    /// Runs `call` until it succeeds, fails for good, or no attempt is left. For requests that may be repeated
    /// whatever became of the one before.
    pub(super) async fn repeated<T, F>(
        &self,
        operation: &str,
        key: &str,
        call: impl Fn() -> F,
    ) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut attempts = self.attempts();
        loop {
            match call().await {
                Ok(value) => return Ok(value),
                Err(cause) => attempts.again(None, self.error(operation, key, &cause)).await?,
            }
        }
    }

    pub(super) fn attempts(&self) -> Attempts<'_> {
        Attempts::new(&self.repeats, self.cancel.as_ref())
    }

    /// The text of the index page that a web server shows for `folder`, as Apache, nginx (`autoindex on`) and
    /// `python3 -m http.server` make one; `None` for any other root.
    ///
    /// # Errors
    /// Unsupported where the server shows none; Transient where it cannot be reached.
    pub async fn index_page(&self, folder: &str) -> Result<Option<String>> {
        key::check(folder)?;
        match &self.web {
            Some(web) => web.index_page(folder).await.map(Some),
            None => Ok(None),
        }
    }
}
