//! The store as one process of the model sees it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};

use scalingnote::store::Root;

use super::ops::{Op, Reply};
use super::world::World;

/// Cloning shares the world. Without a process it is the test itself, which no gate stops.
#[derive(Clone)]
pub struct Seen {
    pub world: Arc<World>,
    pub process: Option<usize>,
}

impl Seen {
    pub fn root(self) -> Root {
        Root::from_store(Arc::new(self), "memory://model", None)
    }

    async fn put(&self, at: &Path, data: PutPayload, create: bool) -> Result<PutResult> {
        let op = Op::Put { key: at.to_string(), bytes: data.into(), create };
        match self.world.ask(self.process, op).await {
            Reply::Put(done) => done,
            _ => Err(mixed_up()),
        }
    }
}

fn mixed_up() -> Error {
    Error::Generic { store: "model", source: "an answer to another question".into() }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seen")
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seen")
    }
}

#[async_trait]
impl ObjectStore for Seen {
    async fn put_opts(&self, at: &Path, data: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.put(at, data, how.mode == PutMode::Create).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        _how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Parts { store: self.clone(), at: at.clone(), sent: Vec::new() }))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        match self.world.ask(self.process, Op::Get { key: at.to_string(), options }).await {
            Reply::Get(found) => found,
            _ => Err(mixed_up()),
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
                match this.world.ask(this.process, Op::Delete { key: at.to_string() }).await {
                    Reply::Delete(done) => done.map(|()| at),
                    _ => Err(mixed_up()),
                }
            }
        };
        paths.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.map(Path::to_string).unwrap_or_default());
        let listing = async move {
            match this.world.ask(this.process, Op::List { prefix }).await {
                Reply::List(listed) => listed.map(|all| futures::stream::iter(all).map(Ok)),
                _ => Err(mixed_up()),
            }
        };
        listing.try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, _prefix: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotImplemented { operation: "folders".into(), implementer: "model".into() })
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copies".into(), implementer: "model".into() })
    }
}

/// A multipart upload: seen when it is complete.
#[derive(Debug)]
struct Parts {
    store: Seen,
    at: Path,
    sent: Vec<PutPayload>,
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.sent.push(data);
        async { Ok(()) }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let whole: PutPayload = self.sent.iter().flat_map(|part| part.iter().cloned()).collect();
        self.store.put(&self.at, whole, false).await
    }

    async fn abort(&mut self) -> Result<()> {
        Ok(())
    }
}
