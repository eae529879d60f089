//! A store in memory with a clock of its own: wrong by years, or moved on by a test.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::TimeDelta;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use scalingnote::store::Root;

/// Cloning shares the objects and the clock.
#[derive(Clone)]
pub struct Skewed {
    inner: Arc<InMemory>,
    /// Seconds ahead of this machine's clock.
    ahead: Arc<AtomicI64>,
    /// What the clock was ahead when an object was written.
    written: Arc<Mutex<HashMap<Path, i64>>>,
}

impl Skewed {
    pub fn new(ahead: TimeDelta) -> Self {
        let ahead = Arc::new(AtomicI64::new(ahead.num_seconds()));
        Self { inner: Arc::new(InMemory::new()), ahead, written: Arc::default() }
    }

    /// Lets the store's time pass.
    pub fn pass(&self, time: TimeDelta) {
        self.ahead.fetch_add(time.num_seconds(), Ordering::SeqCst);
    }

    pub fn root(&self) -> Root {
        Root::from_store(Arc::new(self.clone()), "memory://skewed", None)
    }

    fn stamp(&self, at: &Path) {
        self.written.lock().unwrap().insert(at.clone(), self.ahead.load(Ordering::SeqCst));
    }

    fn as_stored(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let ahead = self.written.lock().unwrap().get(&meta.location).copied().unwrap_or_default();
        meta.last_modified += TimeDelta::seconds(ahead);
        meta
    }
}

impl fmt::Debug for Skewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Skewed")
    }
}

impl fmt::Display for Skewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Skewed")
    }
}

#[async_trait]
impl ObjectStore for Skewed {
    async fn put_opts(&self, at: &Path, data: PutPayload, how: PutOptions) -> Result<PutResult> {
        let done = self.inner.put_opts(at, data, how).await?;
        self.stamp(at);
        Ok(done)
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.stamp(at);
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.inner.get_opts(at, options).await?;
        found.meta = self.as_stored(found.meta);
        Ok(found)
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        let listing = self.inner.list(prefix);
        listing.map(move |meta| meta.map(|meta| this.as_stored(meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.stamp(to);
        Ok(())
    }
}
