use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use std::path::Path;

use super::*;
use crate::observe::Silent;
use crate::tower::testing::write_tiny_model;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A loopback hub with one repo, `tiny/model`, whose files are in a folder.
#[derive(Clone)]
struct Served {
    folder: PathBuf,
    token: Option<String>,
    requests: Arc<AtomicU64>,
}

pub(crate) struct LoopbackHub {
    pub(crate) hub: Hub,
    requests: Arc<AtomicU64>,
    server: tokio::task::JoinHandle<()>,
}

impl LoopbackHub {
    pub(crate) async fn start(folder: &Path, cache: &Path, token: Option<&str>) -> Self {
        let requests = Arc::new(AtomicU64::new(0));
        let served = Served {
            folder: folder.to_owned(),
            token: token.map(str::to_owned),
            requests: requests.clone(),
        };
        let router = Router::new().fallback(serve).with_state(served);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let hub = Hub {
            cache: Cache::new(cache.to_owned()),
            endpoint: Some(endpoint),
            token: None,
            offline: false,
        };
        Self { hub, requests, server }
    }

    async fn fetch(&self, revision: Option<&str>, file: Option<&str>) -> Result<Fetched> {
        self.hub.fetch("tiny/model", revision, file, false, &silent()).await
    }
}

impl Drop for LoopbackHub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn silent() -> Arc<dyn Reporter> {
    Arc::new(Silent)
}

/// What the real hub answers to the requests of `hf-hub`: repo info, and files by range with commit and etag.
async fn serve(State(served): State<Served>, uri: Uri, headers: HeaderMap) -> Response {
    served.requests.fetch_add(1, Ordering::Relaxed);
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(token) = &served.token
        && given != Some(&format!("Bearer {token}"))
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let path = uri.path();
    if let Some(revision) = path.strip_prefix("/api/models/tiny/model/revision/") {
        if ![COMMIT, "main", "v1"].contains(&revision) {
            return StatusCode::NOT_FOUND.into_response();
        }
        let mut names: Vec<_> = std::fs::read_dir(&served.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let siblings: Vec<_> =
            names.iter().map(|name| serde_json::json!({"rfilename": name})).collect();
        return axum::Json(serde_json::json!({"sha": COMMIT, "siblings": siblings}))
            .into_response();
    }
    let name = path.strip_prefix(&format!("/tiny/model/resolve/{COMMIT}/"));
    let Some(bytes) = name.and_then(|name| std::fs::read(served.folder.join(name)).ok()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers.get(header::RANGE).unwrap().to_str().unwrap();
    let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let from: usize = from.parse().unwrap();
    let to = to.parse::<usize>().unwrap().min(bytes.len() - 1);
    let content = format!("bytes {from}-{to}/{}", bytes.len());
    (
        StatusCode::PARTIAL_CONTENT,
        [
            ("x-repo-commit".to_owned(), COMMIT.to_owned()),
            ("etag".to_owned(), format!("\"{}\"", crate::types::Digest256::of(&bytes))),
            ("content-range".to_owned(), content),
        ],
        bytes[from..=to].to_vec(),
    )
        .into_response()
}

#[tokio::test]
async fn a_sharded_repo_is_fetched_once() {
    let (remote, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tiny_model(remote.path(), true);
    let mut loopback = LoopbackHub::start(remote.path(), cache.path(), None).await;
    let fetched = loopback.fetch(None, None).await.unwrap();
    assert_eq!(fetched.commit, COMMIT);
    for name in ["config.json", "tokenizer.json", INDEX, "model-00002-of-00002.safetensors"] {
        let there = std::fs::read(fetched.folder.join(name)).unwrap();
        assert_eq!(there, std::fs::read(remote.path().join(name)).unwrap(), "{name}");
    }
    // The branch asks again which commit it is, and fetches no file twice.
    let before = loopback.requests.load(Ordering::Relaxed);
    loopback.fetch(None, None).await.unwrap();
    assert_eq!(loopback.requests.load(Ordering::Relaxed), before + 1);
    // A commit in the cache needs no hub, and neither does a known branch offline.
    loopback.fetch(Some(COMMIT), None).await.unwrap();
    assert_eq!(loopback.requests.load(Ordering::Relaxed), before + 1);
    loopback.hub.offline = true;
    assert_eq!(loopback.fetch(None, None).await.unwrap().folder, fetched.folder);
    let error = loopback.fetch(Some("v1"), None).await.unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    // What a model is at is in the cache, or else the hub says it, and no file is fetched for that.
    loopback.hub.offline = false;
    let commit = async |loopback: &LoopbackHub, revision, file| {
        loopback.hub.commit("tiny/model", revision, file).await.unwrap()
    };
    let before = loopback.requests.load(Ordering::Relaxed);
    assert_eq!(commit(&loopback, None, None).await.as_deref(), Some(COMMIT));
    assert_eq!(loopback.requests.load(Ordering::Relaxed), before);
    assert_eq!(commit(&loopback, Some("v1"), None).await.as_deref(), Some(COMMIT));
    assert_eq!(loopback.requests.load(Ordering::Relaxed), before + 1);
    assert_eq!(commit(&loopback, Some("v9"), None).await, None);
    loopback.hub.offline = true;
    assert_eq!(commit(&loopback, Some("v1"), None).await, None);
    // A hub that is gone is no obstacle either, where the cache knows the branch.
    loopback.hub.offline = false;
    loopback.hub.endpoint = Some("http://127.0.0.1:1".into());
    assert_eq!(loopback.fetch(None, None).await.unwrap().folder, fetched.folder);
    let error = loopback.fetch(Some("v1"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let (remote, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tiny_model(remote.path(), false);
    let mut loopback = LoopbackHub::start(remote.path(), cache.path(), Some("secret")).await;
    let error = loopback.fetch(None, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    loopback.hub.token = Some("secret".into());
    let error = loopback.fetch(Some("v9"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = loopback.fetch(Some("../../x"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let error = loopback.fetch(None, Some("absent.gguf")).await.unwrap_err();
    assert!(error.to_string().contains("absent.gguf"), "{error}");
    assert!(loopback.fetch(Some("v1"), None).await.is_ok());
    std::fs::remove_file(remote.path().join("model.safetensors")).unwrap();
    for name in ["a.gguf", "b.gguf"] {
        std::fs::write(remote.path().join(name), b"GGUF").unwrap();
    }
    let error = loopback.fetch(None, None).await.unwrap_err();
    assert!(error.to_string().contains("a.gguf, b.gguf"), "{error}");
    assert!(loopback.fetch(None, Some("b.gguf")).await.unwrap().folder.join("b.gguf").is_file());
}

#[tokio::test]
async fn an_index_of_a_repo_cannot_name_foreign_files() {
    let (remote, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tiny_model(remote.path(), true);
    std::fs::write(
        remote.path().join(INDEX),
        r#"{"weight_map": {"a": "../../../etc/passwd.safetensors"}}"#,
    )
    .unwrap();
    let loopback = LoopbackHub::start(remote.path(), cache.path(), None).await;
    let error = loopback.fetch(None, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn variables_mean_what_they_mean_elsewhere() {
    let hub = |pairs: &[(&str, &str)], home: Option<&str>| {
        let get = |name: &str| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Hub::from_variables(get, home.map(PathBuf::from))
    };
    let found = hub(&[], Some("/home/x")).unwrap();
    assert_eq!(found.cache.path(), Path::new("/home/x/.cache/huggingface/hub"));
    assert!(!found.offline && found.endpoint.is_none());
    let home = std::env::var("HOME").expect("tests run with a home folder");
    let found = hub(&[("HF_HOME", "~/hf")], None).unwrap();
    assert_eq!(found.cache.path(), &Path::new(&home).join("hf/hub"));
    assert!(hub(&[("HF_HUB_CACHE", "~bob/hf")], None).is_err());
    let found = hub(
        &[
            ("HF_HOME", "/data/hf"),
            ("HF_ENDPOINT", "https://mirror.example/"),
            ("HF_TOKEN", "t"),
            ("HF_HUB_OFFLINE", "1"),
        ],
        None,
    )
    .unwrap();
    assert_eq!(found.cache.path(), Path::new("/data/hf/hub"));
    assert_eq!(found.endpoint.as_deref(), Some("https://mirror.example"));
    assert_eq!((found.token.as_deref(), found.offline), (Some("t"), true));
    let found = hub(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/data/hf")], None).unwrap();
    assert_eq!(found.cache.path(), Path::new("/c"));
    assert!(hub(&[], None).is_err());
}
