//! Models of a Hugging Face hub, through its cache: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`,
//! `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean to `huggingface_hub`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hf_hub::api::tokio::{Api, ApiBuilder, ApiError, ApiRepo, Progress};
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::{Event, Reporter};
use crate::store::named::expand;
use crate::tower::files::foreign::no_weights_in_repo;
use crate::tower::files::licence::PAGE;
use crate::tower::files::safetensors::shard_names;
use crate::tower::files::sentence::MODULES;

/// A download that brings nothing for this long has failed.
const STALLED: Duration = Duration::from_secs(120);
/// How long another process's download of one file is waited for.
const LOCKED: Duration = Duration::from_secs(3600);
/// Between two lines about one download.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How long the hub is asked where its answer is useful, but not needed.
const BRIEFLY: Duration = Duration::from_secs(5);

const INDEX: &str = "model.safetensors.index.json";
/// The branch of a repository that no revision is named of.
const MAIN: &str = "main";

/// The revision that is meant; it becomes a part of paths.
fn checked(revision: Option<&str>) -> Result<&str> {
    let revision = revision.unwrap_or(MAIN);
    if revision.is_empty() || revision.split('/').any(|part| part == ".." || part.is_empty()) {
        return Err(Error::config(format!("revision {revision:?} is not a git revision")));
    }
    Ok(revision)
}

/// Whether a revision is a commit, and no branch or tag, which may lead to other files tomorrow.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The hub and its cache, as the environment has them.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    cache: Cache,
    endpoint: Option<String>,
    token: Option<String>,
    offline: bool,
}

/// A repo whose files are in the cache.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The cache's folder of this commit.
    pub(crate) folder: PathBuf,
    /// The commit.
    pub(crate) commit: String,
}

impl Hub {
    /// Reads the environment.
    pub(crate) fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok(), std::env::home_dir())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Self> {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        // What a shell did not expand, Python's hub client does.
        let folder = |name: &str| -> Result<Option<PathBuf>> {
            let Some(value) = set(name) else { return Ok(None) };
            let path = expand(Path::new(&value), Path::new("")).context(|| name.to_owned())?;
            Ok(Some(path.into_owned()))
        };
        let cache = match (folder("HF_HUB_CACHE")?, folder("HF_HOME")?, home) {
            (Some(cache), ..) => Cache::new(cache),
            (None, Some(home), _) => Cache::new(home.join("hub")),
            (None, None, Some(home)) => Cache::new(home.join(".cache/huggingface/hub")),
            (None, None, None) => {
                return Err(Error::config("there is no home folder for downloads; set HF_HOME"));
            }
        };
        let offline = set("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_uppercase();
        Ok(Self {
            token: set("HF_TOKEN").or_else(|| cache.token()),
            cache,
            endpoint: set("HF_ENDPOINT").map(|url| url.trim_end_matches('/').to_owned()),
            offline: ["1", "ON", "YES", "TRUE"].contains(&offline.as_str()),
        })
    }

    /// The same, asking no server.
    pub(crate) fn offline(self) -> Self {
        Self { offline: true, ..self }
    }

    /// Whether the cache has a model's weights at a revision.
    pub(crate) fn holds(
        &self,
        repo: &str,
        revision: Option<&str>,
        file: Option<&str>,
    ) -> Result<bool> {
        Ok(self.cached(repo, checked(revision)?, file).is_some())
    }

    /// Sees to it that the model's files (or the one GGUF file named) are in the cache; with `card`, those too that say
    /// how its authors use it.
    ///
    /// # Errors
    /// NotFound for a repo, revision or file that does not exist; Input where the hub refuses access;
    /// Transient where it cannot be reached.
    pub(crate) async fn fetch(
        &self,
        repo: &str,
        revision: Option<&str>,
        file: Option<&str>,
        card: bool,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<Fetched> {
        let revision = checked(revision)?;
        let named =
            |commit: &str| Repo::with_revision(repo.to_owned(), RepoType::Model, commit.to_owned());
        // A commit never changes: what is in the cache is what the hub would say.
        if (self.offline || is_commit(revision))
            && let Some(fetched) = self.cached(repo, revision, file)
            // Release 0.1.0 left those files where they were: only the hub knows whether there are any.
            && (self.offline || !card || file.is_some() || fetched.folder.join(MODULES).is_file())
        {
            return Ok(fetched);
        }
        if self.offline {
            return Err(Error::not_found(format!(
                "the model cache does not hold {repo} at {revision}, and HF_HUB_OFFLINE forbids to fetch it"
            )));
        }
        let api = self.api()?;
        let info = match api.repo(named(revision)).info().await {
            Ok(info) => info,
            Err(cause) => {
                let error = explained(cause, repo, revision);
                let fallback = error.is_retryable().then(|| self.cached(repo, revision, file));
                return match fallback.flatten() {
                    None => Err(error),
                    Some(fetched) => {
                        reporter.event(Event::Warning {
                            message: format!(
                                "{error}; taking commit {} from the cache",
                                fetched.commit
                            ),
                        });
                        Ok(fetched)
                    }
                };
            }
        };
        if info.sha.is_empty() || !info.sha.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::input(format!("the hub names no commit for {repo} at {revision}")));
        }
        let there: Vec<String> =
            info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        let folder = self.home(repo).join("snapshots").join(&info.sha);
        let repo_at = api.repo(named(&info.sha));
        let download = Download { repo: repo_at, name: repo, folder: folder.clone(), reporter };
        download.all(&there, file).await?;
        // Offline, this revision then leads to this commit.
        self.cache
            .repo(named(revision))
            .create_ref(&info.sha)
            .or_error(ErrorKind::Input, || "cannot write into the model cache")?;
        Ok(Fetched { folder, commit: info.sha })
    }

    /// The commit that a revision leads to, without fetching anything: in the cache, else as the hub says within
    /// seconds.
    pub(crate) async fn commit(
        &self,
        repo: &str,
        revision: Option<&str>,
        file: Option<&str>,
    ) -> Result<Option<String>> {
        let revision = checked(revision)?;
        if let Some(fetched) = self.cached(repo, revision, file) {
            return Ok(Some(fetched.commit));
        }
        if self.offline {
            return Ok(None);
        }
        let named = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
        let api = self.api()?.repo(named);
        let answer = tokio::time::timeout(BRIEFLY, api.info()).await;
        Ok(answer.ok().and_then(Result::ok).map(|info| info.sha).filter(|sha| is_commit(sha)))
    }

    fn api(&self) -> Result<Api> {
        let mut builder = ApiBuilder::from_cache(self.cache.clone())
            .with_progress(false)
            .with_token(self.token.clone());
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        builder.build().or_error(
            ErrorKind::Config,
            || "cannot set up the Hugging Face client; check HF_ENDPOINT and HF_TOKEN",
        )
    }

    fn home(&self, repo: &str) -> PathBuf {
        self.cache.path().join(format!("models--{}", repo.replace('/', "--")))
    }

    /// The revision as the cache has it, if all of its weight files are there.
    fn cached(&self, repo: &str, revision: &str, file: Option<&str>) -> Option<Fetched> {
        let home = self.home(repo);
        let commit = match std::fs::read_to_string(home.join("refs").join(revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => revision.to_owned(),
        };
        let folder = home.join("snapshots").join(&commit);
        let complete = match file {
            Some(file) => folder.join(file).is_file(),
            None => crate::tower::files::source::files(&folder).is_ok(),
        };
        complete.then_some(Fetched { folder, commit })
    }
}

/// Whether a repository's file says what the model is, or is a module behind its pooling.
fn says_what_it_is(name: &str) -> bool {
    let module = |(folder, file): (&str, &str)| {
        let number = folder.split('_').next().unwrap_or_default();
        let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        numbered && ["config.json", "model.safetensors"].contains(&file)
    };
    let named = ["config.json", "tokenizer.json", "tokenizer_config.json", MODULES, PAGE];
    named.contains(&name)
        || name == "config_sentence_transformers.json"
        || (name.starts_with("sentence_") && name.ends_with("_config.json") && !name.contains('/'))
        || name.split_once('/').is_some_and(module)
}

struct Download<'a> {
    repo: ApiRepo,
    name: &'a str,
    /// The cache's folder of the commit.
    folder: PathBuf,
    reporter: &'a Arc<dyn Reporter>,
}

impl Download<'_> {
    /// Fetches what a model needs of the files that are there.
    async fn all(&self, there: &[String], file: Option<&str>) -> Result<()> {
        let has = |name: &str| there.iter().any(|file| file == name);
        let mut wanted: Vec<String> = Vec::new();
        if let Some(file) = file {
            wanted.push(file.to_owned());
        } else if has("model.safetensors") {
            wanted.push("model.safetensors".into());
        } else if has(INDEX) {
            wanted.extend(shard_names(&self.one(INDEX).await?)?);
        } else {
            let ggufs: Vec<&String> = there
                .iter()
                .filter(|name| name.ends_with(".gguf") && !name.contains('/'))
                .collect();
            match ggufs.as_slice() {
                [one] => wanted.push((*one).clone()),
                [] => return Err(no_weights_in_repo(self.name, there)),
                many => {
                    let names: Vec<&str> = many.iter().map(|name| name.as_str()).collect();
                    return Err(Error::input(format!(
                        "Hugging Face repo {0} holds several GGUF files; name one as {0}/<file>: {1}",
                        self.name,
                        names.join(", ")
                    )));
                }
            }
        }
        if let Some(missing) = wanted.iter().find(|name| !has(name)) {
            return Err(Error::not_found(format!(
                "Hugging Face repo {} holds no {missing}",
                self.name
            )));
        }
        // Small files first: a wrong architecture should not cost a download of gigabytes.
        for name in there.iter().filter(|name| says_what_it_is(name)) {
            self.one(name).await?;
        }
        for name in &wanted {
            self.one(name).await?;
        }
        Ok(())
    }

    /// A file of the commit, fetched unless the cache has it. Waits where another process fetches it.
    async fn one(&self, file: &str) -> Result<PathBuf> {
        let cached = self.folder.join(file);
        let begun = Instant::now();
        loop {
            if cached.is_file() {
                return Ok(cached);
            }
            match self.attempt(file).await? {
                Some(path) => return Ok(path),
                None if begun.elapsed() < LOCKED => {}
                None => {
                    return Err(Error::transient(format!(
                        "another process has been downloading {file} of {} for long",
                        self.name
                    )));
                }
            }
        }
    }

    /// `None` where another process holds the lock, after some seconds of waiting.
    async fn attempt(&self, file: &str) -> Result<Option<PathBuf>> {
        let watch = Watch::new(file, self.reporter);
        let download = self.repo.download_with_progress(file, watch.clone());
        let mut download = std::pin::pin!(download);
        loop {
            let tick = tokio::time::sleep(Duration::from_secs(5));
            tokio::select! {
                done = &mut download => return match done {
                    Ok(path) => Ok(Some(path)),
                    Err(ApiError::LockAcquisition(_)) => Ok(None),
                    Err(cause) => Err(explained(cause, self.name, file)),
                },
                () = tick => if watch.idle() > STALLED {
                    return Err(Error::transient(format!(
                            "downloading {file} of {} brought nothing for {} seconds",
                            self.name,
                            STALLED.as_secs()
                        ),
                    ));
                }
            }
        }
    }
}

/// Reports a download periodically, and knows when it last moved.
#[derive(Clone)]
struct Watch(Arc<Watched>);

struct Watched {
    file: String,
    reporter: Arc<dyn Reporter>,
    began: Instant,
    total: AtomicU64,
    done: AtomicU64,
    /// Milliseconds since `began`.
    moved: AtomicU64,
    told: AtomicU64,
}

impl Watch {
    fn new(file: &str, reporter: &Arc<dyn Reporter>) -> Self {
        Self(Arc::new(Watched {
            file: file.to_owned(),
            reporter: reporter.clone(),
            began: Instant::now(),
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }))
    }

    fn now(&self) -> u64 {
        self.0.began.elapsed().as_millis() as u64
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.0.moved.load(Ordering::Relaxed)))
    }

    fn tell(&self, message: String) {
        self.0.reporter.event(Event::Info { message });
    }
}

impl Progress for Watch {
    async fn init(&mut self, size: usize, _: &str) {
        self.0.total.store(size as u64, Ordering::Relaxed);
        self.0.moved.store(self.now(), Ordering::Relaxed);
        if size >= 1 << 20 {
            self.tell(format!("downloading {} ({} MiB)", self.0.file, size >> 20));
        }
    }

    async fn update(&mut self, size: usize) {
        let now = self.now();
        let done = self.0.done.fetch_add(size as u64, Ordering::Relaxed) + size as u64;
        self.0.moved.store(now, Ordering::Relaxed);
        if now.saturating_sub(self.0.told.load(Ordering::Relaxed)) > TOLD_EVERY.as_millis() as u64 {
            self.0.told.store(now, Ordering::Relaxed);
            let percent = 100 * done / self.0.total.load(Ordering::Relaxed).max(1);
            self.tell(format!("downloading {}: {} MiB, {percent}%", self.0.file, done >> 20));
        }
    }

    async fn finish(&mut self) {}
}

fn explained(cause: ApiError, repo: &str, what: &str) -> Error {
    let status = match &cause {
        ApiError::RequestError(request) => request.status().map(|status| status.as_u16()),
        _ => None,
    };
    let no_hub = match &cause {
        ApiError::RequestError(request) => request.is_decode(),
        ApiError::MissingHeader(_) | ApiError::InvalidHeader(_) | ApiError::ParseIntError(_) => {
            true
        }
        _ => false,
    };
    let (kind, message) = match (status, &cause) {
        _ if no_hub => (
            ErrorKind::Input,
            format!("the server's answer for {repo} ({what}) is not a hub's; check HF_ENDPOINT"),
        ),
        (Some(401 | 403), _) => (
            ErrorKind::Input,
            format!(
                "Hugging Face refuses access to {repo} ({what}): it does not exist, or is private or \
                 gated; accept its terms there and set HF_TOKEN"
            ),
        ),
        (Some(404), _) => (
            ErrorKind::NotFound,
            format!("Hugging Face has no {repo} with {what}; check name and revision"),
        ),
        (Some(status), _) if status < 500 && status != 429 => {
            (ErrorKind::Input, format!("Hugging Face answered {status} for {repo} ({what})"))
        }
        (_, ApiError::IoError(_)) => (
            ErrorKind::Resource,
            format!(
                "cannot write {what} of {repo} into the model cache; check HF_HOME and its disk"
            ),
        ),
        _ => (
            ErrorKind::Transient,
            format!(
                "Hugging Face cannot be reached for {repo} ({what}), and no file or directory has that name; try again, \
                 or fetch the model yourself and name its directory"
            ),
        ),
    };
    Error::new(kind, message).with_source(cause)
}

#[cfg(test)]
pub(crate) mod tests;
