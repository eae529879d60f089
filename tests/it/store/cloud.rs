//! Roots on real servers (`make test-stores`) behind a proxy that breaks things: who won, what is told, what is left.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use scalingnote::error::ErrorKind;
use scalingnote::snapshot;
use scalingnote::store::{PutOutcome, Repeats, Root, StorageOptions};
use scalingnote::types::{Cancel, Digest256};

use crate::fixture::files::noise;
use crate::fixture::proxy::{Fault, Proxy, Request, weather};
use crate::fixture::support;

/// A root of the environment and the way to it.
#[derive(Clone)]
pub struct Server {
    pub uri: String,
    /// What the real server listens on.
    upstream: String,
    /// What follows the address in an endpoint.
    path: String,
}

/// The roots of the environment, whose servers are named there too.
pub fn servers() -> Vec<Server> {
    let server = |uri: String| {
        let (variable, path) = match uri.starts_with("az://") {
            true => {
                let account = std::env::var("AZURE_STORAGE_ACCOUNT_NAME").unwrap();
                ("AZURITE_BLOB_STORAGE_URL", format!("/{account}"))
            }
            false => ("AWS_ENDPOINT", String::new()),
        };
        let upstream = std::env::var(variable).unwrap();
        Server { uri: format!("{uri}/{:016x}", rand::random::<u64>()), upstream, path }
    };
    support::roots_of_the_environment().into_iter().map(server).collect()
}

impl Server {
    fn is_s3(&self) -> bool {
        self.uri.starts_with("s3://")
    }

    fn options(&self, url: &str) -> StorageOptions {
        StorageOptions {
            endpoint: Some(format!("{url}{}", self.path)),
            path_style: Some(true),
            request_timeout_seconds: Some(20),
            ..StorageOptions::default()
        }
    }

    /// The root without faults.
    pub fn clear(&self) -> Root {
        Root::open(&self.uri).unwrap()
    }

    /// A proxy by `rule` and the root behind it.
    pub async fn broken(
        &self,
        rule: impl FnMut(&Request) -> Option<Fault> + Send + 'static,
    ) -> (Proxy, Root) {
        let proxy = Proxy::start(&self.upstream, rule).await;
        let root = Root::open_with(&self.uri, &self.options(&proxy.url())).unwrap();
        (proxy, root)
    }
}

/// The first request that `which` picks gets the fault, no other does.
fn once(
    which: impl Fn(&Request) -> bool + Send + 'static,
    fault: Fault,
) -> impl FnMut(&Request) -> Option<Fault> + Send + 'static {
    let mut fault = Some(fault);
    move |request| if which(request) { fault.take() } else { None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_knows_whether_it_won_on_roots_of_the_environment() {
    for server in servers() {
        let clear = server.clear();
        let faults = [
            Fault::DropBefore,
            Fault::DropAfter,
            Fault::busy("503 Service Unavailable", 0),
            Fault::AnswerAfter { status: "503 Service Unavailable" },
            Fault::AnswerAfter { status: "500 Internal Server Error" },
            Fault::busy("429 Too Many Requests", 0),
            Fault::status("408 Request Timeout"),
        ];
        for (at, fault) in faults.into_iter().enumerate() {
            let (proxy, root) = server.broken(once(|r| r.conditional, fault.clone())).await;
            let key = format!("won/{at}");
            let outcome = root.put_if_absent(&key, Bytes::from_static(b"mine")).await.unwrap();
            assert_eq!(outcome, PutOutcome::Created, "{}: {fault:?}", server.uri);
            assert_eq!(clear.get(&key).await.unwrap(), "mine");
            assert_eq!(proxy.faults().len(), 1, "the fault must have been injected");

            // The same where another writer was first: a lost acknowledgement of a refusal is not a victory.
            let (_proxy, root) = server.broken(once(|r| r.conditional, fault.clone())).await;
            let outcome = root.put_if_absent(&key, Bytes::from_static(b"theirs")).await.unwrap();
            assert_eq!(outcome, PutOutcome::AlreadyExists, "{}: {fault:?}", server.uri);
            assert_eq!(clear.get(&key).await.unwrap(), "mine");
        }
        // S3 says neither yes nor no beside another create that is under way: ask again.
        let busy = Fault::s3("409 Conflict", "ConditionalRequestConflict", "try again");
        let (_proxy, root) = server.broken(once(|r| r.conditional, busy)).await;
        let outcome = root.put_if_absent("won/409", Bytes::from_static(b"mine")).await.unwrap();
        assert_eq!(outcome, PutOutcome::Created, "{}", server.uri);
        // A store that says so of an object that is not there is not believed.
        let lie = Fault::status("412 Precondition Failed");
        let (_proxy, root) = server.broken(once(|r| r.conditional, lie)).await;
        let outcome = root.put_if_absent("won/412", Bytes::from_static(b"mine")).await.unwrap();
        assert_eq!(outcome, PutOutcome::Created, "{}", server.uri);
        assert_eq!(clear.get("won/412").await.unwrap(), "mine");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_in_bad_weather_has_one_winner_on_roots_of_the_environment() {
    const RACES: u64 = 40;
    const WRITERS: usize = 6;
    for server in servers() {
        let (mut won, mut failed, mut faults) = (0, 0, BTreeMap::new());
        for seed in 0..RACES {
            let key = format!("races/{seed}");
            let (proxy, root) = server.broken(weather(seed, 0.35)).await;
            let writers = (0..WRITERS).map(|writer| {
                let (root, key) = (root.clone(), key.clone());
                let bytes = Bytes::from(format!("writer {writer} of race {seed}"));
                tokio::spawn(async move { root.put_if_absent(&key, bytes).await })
            });
            let outcomes = futures::future::join_all(writers).await;
            let stored = server.clear().get(&key).await;
            let stored = stored.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let mut winners = Vec::new();
            for (writer, outcome) in outcomes.into_iter().enumerate() {
                match outcome.unwrap() {
                    Ok(PutOutcome::Created) => {
                        winners.push(format!("writer {writer} of race {seed}"))
                    }
                    Ok(PutOutcome::AlreadyExists) => {}
                    Err(error) => {
                        assert!(error.is_retryable(), "seed {seed}: {error:?}");
                        failed += 1;
                    }
                }
            }
            assert!(winners.len() <= 1, "{}, seed {seed}: {winners:?}", server.uri);
            if let Some(winner) = winners.first() {
                assert_eq!(stored.as_ref().unwrap(), winner, "{}, seed {seed}", server.uri);
                won += 1;
            }
            for (name, count) in proxy.faults() {
                *faults.entry(name).or_insert(0) += count;
            }
        }
        println!(
            "{}: {RACES} races of {WRITERS}, {won} with a winner that knows, {failed} writers gave up; {faults:?}",
            server.uri
        );
        assert!(won >= RACES * 9 / 10, "{won} of {RACES} races were decided");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_store_is_left_alone_as_long_as_it_asks_on_roots_of_the_environment() {
    for server in servers() {
        let busy = Fault::busy("503 Service Unavailable", 1);
        // A create, which is repeated by us, and a read, which the client below repeats.
        for conditional in [true, false] {
            let rule = once(move |r| r.conditional == conditional, busy.clone());
            let (proxy, root) = server.broken(rule).await;
            if conditional {
                root.put_if_absent("busy/x", Bytes::from_static(b"x")).await.unwrap();
            } else {
                root.get("busy/x").await.unwrap();
            }
            let seen = proxy.seen();
            let waited = seen[1].arrived - seen[0].arrived;
            assert!(waited >= Duration::from_secs(1), "{}: {waited:?}", server.uri);
        }
        // It gives up at once where the wait is longer than its patience, or the run is cancelled.
        let (_proxy, root) =
            server.broken(|r| r.conditional.then(|| Fault::busy("503 Slow Down", 3_600))).await;
        let error = root.put_if_absent("busy/y", Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert!(error.to_string().contains("asks to wait 3600 s"), "{error}");
        let cancel = Cancel::new();
        cancel.cancel();
        let (proxy, root) = server.broken(|_| Some(Fault::DropBefore)).await;
        let stopped =
            root.with_cancel(cancel).put_if_absent("busy/z", Bytes::from_static(b"x")).await;
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(proxy.seen().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_breaks_starts_again_on_roots_of_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big");
    let bytes = noise(21 << 20);
    std::fs::write(&path, &bytes).unwrap();
    for server in servers() {
        let part = |request: &Request| {
            request.method == "PUT"
                && (request.target.contains("partNumber=")
                    || request.target.contains("comp=block&"))
        };
        let finish = |request: &Request| {
            (request.method == "POST" && request.target.contains("uploadId="))
                || request.target.contains("comp=blocklist")
        };
        // The second part is refused for good (the client retries transient failures of parts), and the first
        // finish is carried out without an answer or breaks off before.
        let refused = Fault::status("418 I'm a teapot");
        let mut parts = 0;
        let second = move |request: &Request| {
            parts += usize::from(part(request));
            (part(request) && parts == 2).then(|| refused.clone())
        };
        let (proxy, root) = server.broken(second).await;
        let error = root.upload("big/refused", &path).await.unwrap_err();
        assert_eq!(root.size("big/refused").await.unwrap(), None, "{error}");
        if server.is_s3() {
            let aborted = proxy
                .seen()
                .iter()
                .any(|request| request.method == "DELETE" && request.target.contains("uploadId="));
            assert!(aborted, "the upload must have been aborted");
        }
        for (at, fault) in [
            Fault::DropAfter,
            Fault::DropBefore,
            Fault::AnswerAfter { status: "503 Service Unavailable" },
        ]
        .into_iter()
        .enumerate()
        {
            let key = format!("big/{at}");
            let (proxy, root) = server.broken(once(finish, fault.clone())).await;
            let file = root.upload(&key, &path).await.unwrap();
            assert_eq!((file.size, file.sha256), (21 << 20, Digest256::of(&bytes)));
            let stored = server.clear().hash(&key).await.unwrap();
            assert_eq!(stored, (file.sha256, file.size), "{}: {fault:?}", server.uri);
            assert_eq!(proxy.faults().len(), 1, "{fault:?} must have been injected");
            // What comes back broken off is read on where it stopped.
            let get = |r: &Request| r.method == "GET";
            let (proxy, root) = server.broken(once(get, Fault::Truncate)).await;
            let cache = tempfile::tempdir().unwrap();
            let fetched = root.fetch(&file, cache.path()).await.unwrap();
            assert!(std::fs::read(fetched).unwrap() == bytes);
            assert_eq!(proxy.faults()["truncated"], 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_conditional_create_is_refused_on_roots_of_the_environment() {
    for server in servers() {
        let overwrites = |r: &Request| r.conditional.then_some(Fault::Unconditional);
        let unknown = |r: &Request| {
            let answer = Fault::s3("501 Not Implemented", "NotImplemented", "If-None-Match");
            r.conditional.then_some(answer)
        };
        let (_refusing, root) = server.broken(unknown).await;
        let (_overwriting, other) = server.broken(overwrites).await;
        // Azure signs the header: a server that knows the signature knows it.
        let roots = if server.is_s3() { vec![root, other] } else { vec![root] };
        for root in roots {
            let error = snapshot::check_store(&root).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
            let text = error.to_string();
            assert!(text.contains("If-None-Match") && text.contains(&server.uri), "{text}");
            // No commit gets through either, whatever was checked before.
            let content = support::store_content(&server.clear(), &[], 1).await;
            let refused =
                snapshot::commit(&root, None, content, Vec::new(), support::provenance("run"));
            assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::Unsupported);
            assert!(server.clear().list("snapshots").await.unwrap().is_empty());
            assert!(server.clear().list("leases").await.unwrap().is_empty());
        }
        snapshot::check_store(&server.clear()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_what_to_check_on_roots_of_the_environment() {
    for server in servers() {
        let mut told = Vec::new();
        // The bucket is missing.
        let (scheme, _) = server.uri.split_once("://").unwrap();
        let missing = Root::open(&format!("{scheme}://no-such-bucket/x")).unwrap();
        let error = missing.put_if_absent("runs/a", Bytes::new()).await.unwrap_err();
        told.push((error, "no such bucket"));
        told.push((missing.list("runs").await.unwrap_err(), "no such bucket"));

        // What a real cloud answers where an emulator does not care.
        let answers = [
            ("403 Forbidden", "RequestTimeTooSkewed", "clock of this machine"),
            ("403 Forbidden", "SignatureDoesNotMatch", "secret does not fit"),
            ("403 Forbidden", "InvalidAccessKeyId", "does not know this access key"),
            ("403 Forbidden", "AccessDenied", "access was refused"),
            ("403 Forbidden", "AuthenticationFailed", "credentials were not accepted"),
            ("400 Bad Request", "AuthorizationHeaderMalformed", "storage.region"),
            ("301 Moved Permanently", "PermanentRedirect", "storage.region"),
        ];
        for (status, code, expected) in answers {
            let (_proxy, root) =
                server.broken(move |_| Some(Fault::s3(status, code, "said the store"))).await;
            told.push((root.put_if_absent("runs/a", Bytes::new()).await.unwrap_err(), expected));
            told.push((root.list("runs").await.unwrap_err(), expected));
            told.push((root.get("runs/a").await.unwrap_err(), expected));
        }
        for (error, expected) in told {
            let text = error.to_string();
            assert!(text.contains(expected), "{text} should say {expected}");
            assert_eq!(error.kind().exit_code(), 1, "{text}");
            let bucket = text.contains("://notes/") || text.contains("://no-such-bucket/");
            assert!(bucket && text.contains("runs"), "bucket and key: {text}");
            let names = if server.is_s3() { "AWS_" } else { "AZURE_" };
            assert!(text.contains(names), "{text}");
        }
        // Nobody listens there.
        let nobody =
            StorageOptions { max_retries: Some(1), ..server.options("http://127.0.0.1:9") };
        let root = Root::open_with(&server.uri, &nobody).unwrap();
        let error = root.put_if_absent("runs/a", Bytes::new()).await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        assert!(error.to_string().contains("check storage.endpoint"), "{error}");
        // Nobody answers.
        let slow = StorageOptions {
            max_retries: Some(1),
            request_timeout_seconds: Some(1),
            ..StorageOptions::default()
        };
        let (proxy, _root) = server.broken(|_| Some(Fault::Slow(Duration::from_secs(60)))).await;
        let options = StorageOptions { endpoint: server.options(&proxy.url()).endpoint, ..slow };
        let root = Root::open_with(&server.uri, &options).unwrap();
        let root = root.with_repeats(Repeats { attempts: 2, ..Repeats::CLOUD });
        let error = root.put_if_absent("runs/late", Bytes::new()).await.unwrap_err();
        assert!(error.to_string().contains("storage.request_timeout_seconds"), "{error:?}");
    }
}
