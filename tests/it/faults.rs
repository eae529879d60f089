//! A store that fails on purpose, around any real store.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, UploadPart,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore;

use scalingnote::store::Root;

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing is done and an error comes back (503).
    Before,
    /// It is done and an error comes back: the acknowledgement is lost.
    After,
    /// An object that is there is reported missing.
    NotFound,
    /// Nothing is done: a precondition failed (412).
    Precondition,
    /// A put is done and reported as there already: the client tried again by itself after a lost acknowledgement.
    Exists,
    /// Half of the answer arrives, then the connection breaks.
    Cut,
    /// Half of the bytes lie on the disk under a staged name, as a killed process leaves them.
    Torn,
    /// It takes some milliseconds.
    Slow,
    /// It waits until [`Faulty::let_go`].
    #[allow(dead_code, reason = "for tests of what happens beside a call that waits")]
    Hold,
}

/// What random faults do to an operation. An object that is there is never denied: no store may do that.
fn random_faults(operation: &str) -> &'static [Fault] {
    use Fault::{After, Before, Cut, Exists, Precondition, Slow, Torn};
    match operation {
        "put" => &[Before, After, Precondition, Exists, Torn, Slow],
        "multipart" => &[Before, Precondition, Slow],
        "part" => &[Before, Slow],
        "complete" => &[Before, After, Precondition, Slow],
        "get" => &[Before, Precondition, Cut, Slow],
        "delete" => &[Before, After, Slow],
        _ => &[Before, Cut, Slow],
    }
}

/// How often each kind of fault was injected: `(operation, fault)`.
pub type Tally = Arc<Mutex<BTreeMap<(String, Fault), u64>>>;

type Plan = dyn FnMut(&str, &str) -> Option<Fault> + Send;

/// Asks its plan before every call, by operation (`put`, `multipart`, `part`, `complete`, `get`, `delete`, `list`) and
/// path.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<Mutex<Box<Plan>>>,
    /// Where the objects lie, if on local disk.
    folder: Option<PathBuf>,
    gate: Arc<Semaphore>,
    /// Calls that wait at the gate, or have waited.
    held: Arc<AtomicU64>,
}

impl Faulty {
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        plan: impl FnMut(&str, &str) -> Option<Fault> + Send + 'static,
    ) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let plan: Arc<Mutex<Box<Plan>>> = Arc::new(Mutex::new(Box::new(plan)));
        Self { inner, plan, folder: None, gate, held: Arc::default() }
    }

    /// Every call fails with probability `share`. What happens to a call follows from the seed, the operation, the
    /// path without its random names, and how often that was called: in whatever order threads come.
    pub fn random(inner: Arc<dyn ObjectStore>, share: f64, seed: u64, tally: Tally) -> Self {
        let mut calls: HashMap<(String, String), u64> = HashMap::new();
        Self::new(inner, move |operation, path| {
            let call = (operation.to_owned(), without_random_names(path));
            let mut hasher = DefaultHasher::new();
            (seed, &call).hash(&mut hasher);
            let times = calls.entry(call).or_default();
            *times += 1;
            times.hash(&mut hasher);
            let mut random = StdRng::seed_from_u64(hasher.finish());
            let kinds = random_faults(operation);
            let fault =
                random.random_bool(share).then(|| kinds[random.random_range(0..kinds.len())])?;
            *tally.lock().unwrap().entry((operation.to_owned(), fault)).or_default() += 1;
            Some(fault)
        })
    }

    /// Says where the inner store's objects lie, for torn writes.
    pub fn on_disk(mut self, folder: &std::path::Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Ends the wait of every [`Fault::Hold`], now and later.
    #[allow(dead_code, reason = "for tests of what happens beside a call that waits")]
    pub fn let_go(&self) {
        self.gate.add_permits(1_000_000);
    }

    /// Whether a call waits, or has waited, at [`Fault::Hold`].
    pub fn is_holding(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }

    /// A root over it that shares nothing but the objects with other roots. Uploads are cut into parts of 4 KiB.
    pub fn root(self) -> Root {
        Root::from_store(Arc::new(self), "memory://faulty", None).with_upload_part(4 << 10)
    }

    /// What happens to this call; slow ones have been slow already.
    async fn ask(&self, operation: &str, path: &Path) -> Option<Fault> {
        let fault = (self.plan.lock().unwrap())(operation, path.as_ref());
        match fault {
            Some(Fault::Slow) => {
                tokio::time::sleep(std::time::Duration::from_millis(3)).await;
                None
            }
            Some(Fault::Hold) => {
                self.held.fetch_add(1, Ordering::Release);
                self.gate.acquire().await.expect("the gate is never closed").forget();
                None
            }
            fault => fault,
        }
    }

    fn tear(&self, at: &Path, data: &PutPayload) {
        let Some(folder) = &self.folder else { return };
        let bytes: Vec<u8> = data.iter().flat_map(|piece| piece.iter().copied()).collect();
        let path = folder.join(format!("{at}#{}", rand::random::<u32>()));
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
        std::fs::write(path, &bytes[..bytes.len() / 2]).expect("half a file");
    }
}

/// `runs/20261123T075000Z-4f2a9c1e/plan.json` -> `runs/*/plan.json`, `leases/commit-0123456789abcdef.json` ->
/// `leases/commit-*`: what differs between two executions of one seed.
fn without_random_names(path: &str) -> String {
    let segment = |segment: &str| {
        let is_run = segment.len() == 25 && segment.get(8..9) == Some("T");
        if is_run { "*".to_owned() } else { segment.to_owned() }
    };
    let path = path.split('/').map(segment).collect::<Vec<_>>().join("/");
    match path.strip_prefix("leases/").and_then(|name| name.split_once('-')) {
        Some((kind, _)) => format!("leases/{kind}-*"),
        None => path,
    }
}

fn error_of(fault: Fault, operation: &str, path: &Path) -> Error {
    match fault {
        Fault::NotFound => Error::NotFound { path: path.to_string(), source: "injected".into() },
        Fault::Exists => Error::AlreadyExists { path: path.to_string(), source: "injected".into() },
        Fault::Precondition => {
            Error::Precondition { path: path.to_string(), source: "injected".into() }
        }
        _ => broken(operation, path),
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
        let fault = self.ask("put", at).await;
        match fault {
            None => self.inner.put_opts(at, data, how).await,
            Some(Fault::After) => {
                self.inner.put_opts(at, data, how).await?;
                Err(broken("put", at))
            }
            Some(Fault::Exists) => {
                let creates = how.mode == PutMode::Create;
                let done = self.inner.put_opts(at, data, how).await?;
                if creates { Err(error_of(Fault::Exists, "put", at)) } else { Ok(done) }
            }
            Some(fault) => {
                if fault == Fault::Torn {
                    self.tear(at, &data);
                }
                Err(error_of(fault, "put", at))
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if let Some(fault) = self.ask("multipart", at).await {
            return Err(error_of(fault, "multipart", at));
        }
        let inner = self.inner.put_multipart_opts(at, how).await?;
        Ok(Box::new(FaultyUpload { inner, store: self.clone(), at: at.clone() }))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        match self.ask("get", at).await {
            None => self.inner.get_opts(at, options).await,
            Some(Fault::Cut) => {
                let head = options.head;
                let mut whole = self.inner.get_opts(at, options).await?;
                if head {
                    return Err(broken("get", at));
                }
                let (meta, range) = (whole.meta.clone(), whole.range.clone());
                let attributes = std::mem::take(&mut whole.attributes);
                let bytes = whole.bytes().await?;
                let half = bytes.slice(..bytes.len() / 2);
                let pieces = [Ok(half), Err(broken("get", at))];
                let payload = GetResultPayload::Stream(futures::stream::iter(pieces).boxed());
                Ok(GetResult { payload, meta, range, attributes })
            }
            Some(fault) => Err(error_of(fault, "get", at)),
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
                let fault = this.ask("delete", &at).await;
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
        let this = self.clone();
        let listing = async move {
            let fault = this.ask("list", &at).await;
            let all = this.inner.list(Some(&at)).try_collect::<Vec<_>>();
            let mut entries: Vec<Result<ObjectMeta>> = match fault {
                None => all.await?.into_iter().map(Ok).collect(),
                Some(Fault::Cut) => {
                    let all = all.await?;
                    let half = all.len() / 2;
                    all.into_iter().take(half).map(Ok).collect()
                }
                Some(_) => Vec::new(),
            };
            if let Some(fault) = fault {
                entries.push(Err(error_of(fault, "list", &at)));
            }
            Ok::<_, Error>(futures::stream::iter(entries))
        };
        listing.try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    store: Faulty,
    at: Path,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, at) = (self.store.clone(), self.at.clone());
        let part = self.inner.put_part(data);
        async move {
            match store.ask("part", &at).await {
                None => part.await,
                Some(fault) => Err(error_of(fault, "part", &at)),
            }
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        match self.store.ask("complete", &self.at).await {
            None => self.inner.complete().await,
            Some(Fault::After) => {
                self.inner.complete().await?;
                Err(broken("complete", &self.at))
            }
            Some(fault) => Err(error_of(fault, "complete", &self.at)),
        }
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
