//! A store that fails on purpose, around any real store.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use scalingnote::store::Root;

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done and an error comes back.
    Before,
    /// It is done and an error comes back: the acknowledgement is lost.
    After,
    /// An object that is there is reported missing.
    NotFound,
}

type Plan = dyn FnMut(&str, &str) -> Option<Fault> + Send;

/// Asks its plan before every call, by operation (`put`, `multipart`, `get`, `delete`, `list`) and path.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<Mutex<Box<Plan>>>,
}

impl Faulty {
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        plan: impl FnMut(&str, &str) -> Option<Fault> + Send + 'static,
    ) -> Self {
        Self { inner, plan: Arc::new(Mutex::new(Box::new(plan))) }
    }

    /// Every call fails with probability `share`, before or after by the toss of a coin; the seed reproduces it.
    pub fn random(inner: Arc<dyn ObjectStore>, share: f64, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        Self::new(inner, move |_, _| {
            random
                .random_bool(share)
                .then(|| if random.random_bool(0.5) { Fault::Before } else { Fault::After })
        })
    }

    /// A root over it that shares nothing but the objects with other roots.
    pub fn root(self) -> Root {
        Root::from_store(Arc::new(self), "memory://faulty", None)
    }

    fn ask(&self, operation: &str, path: &Path) -> Option<Fault> {
        (self.plan.lock().unwrap())(operation, path.as_ref())
    }
}

fn broken(operation: &str, path: &Path) -> Error {
    let text = format!("injected: status code: 503 Slow Down ({operation} {path})");
    Error::Generic { store: "Faulty", source: text.into() }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, data: PutPayload, how: PutOptions) -> Result<PutResult> {
        let fault = self.ask("put", at);
        if fault == Some(Fault::Before) {
            return Err(broken("put", at));
        }
        let done = self.inner.put_opts(at, data, how).await?;
        if fault.is_some() { Err(broken("put", at)) } else { Ok(done) }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if self.ask("multipart", at).is_some() {
            return Err(broken("multipart", at));
        }
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        match self.ask("get", at) {
            None => self.inner.get_opts(at, options).await,
            Some(Fault::NotFound) => {
                Err(Error::NotFound { path: at.to_string(), source: "injected".into() })
            }
            Some(_) => Err(broken("get", at)),
        }
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |at: Path| {
            let this = this.clone();
            async move {
                let fault = this.ask("delete", &at);
                if fault == Some(Fault::Before) {
                    return Err(broken("delete", &at));
                }
                let one = futures::stream::iter([Ok(at.clone())]).boxed();
                let done: Vec<Path> = this.inner.delete_stream(one).try_collect().await?;
                if fault.is_some() { Err(broken("delete", &at)) } else { Ok(done[0].clone()) }
            }
        };
        paths.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let at = prefix.cloned().unwrap_or_default();
        if self.ask("list", &at).is_some() {
            return async move { Err(broken("list", &at)) }.into_stream().boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
