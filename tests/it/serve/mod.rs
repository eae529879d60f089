//! The service over real HTTP on loopback: answers, limits, stopping, and publishing beside it under load.

mod hostile;
mod limits;
mod page;
mod pressure;
mod served;
mod soak;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use scalingnote::config::resolve_text;
use scalingnote::error::Result;
use scalingnote::exec::{self, RunContext, RunOptions};
use scalingnote::observe::Silent;
use scalingnote::report::Outcome;
use scalingnote::search::{SnapshotWatcher, TowerChoice, WatchOptions};
use scalingnote::serve::{Limits, Server};
use scalingnote::snapshot::{self, Manifest, Protected, Retention, RollbackOutcome};
use scalingnote::store::{FileRef, Root};
use scalingnote::tower::DeviceSpec;
use scalingnote::types::Cancel;

use crate::fixture::http::Client;
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::support::provenance;

/// A corpus of notes that all carry the day's number in a stored column, published by the real pipeline.
struct Publisher {
    folder: tempfile::TempDir,
    root: Root,
}

const NOTES: i64 = 120;

impl Publisher {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        Self { root: Root::open(root.to_str().unwrap()).unwrap(), folder }
    }

    /// Publishes `day`: every note shows it, a few texts differ from day to day.
    async fn publish(&self, day: i64) -> Manifest {
        let mut lines = String::new();
        for id in 0..NOTES + day % 7 {
            let edited =
                if (id + day) % 29 == 0 { format!(" edited on day {day}") } else { String::new() };
            let body = format!("note {id} about topic {}{edited}", id % 7);
            let lang = ["en", "fr"][id as usize % 2];
            let row = json!({ "id": id, "body": body, "day": day, "lang": lang });
            lines.push_str(&format!("{row}\n"));
        }
        self.publish_notes(&lines, "body, day, lang", "stored_columns = [\"day\", \"lang\"]\n")
            .await
    }

    /// Publishes these notes; `corpus` says which of their columns are stored.
    async fn publish_notes(&self, lines: &str, columns: &str, corpus: &str) -> Manifest {
        std::fs::write(self.folder.path().join("notes.jsonl"), lines).unwrap();
        let pipeline = PipelineFile {
            columns,
            corpus,
            model: "fake:32",
            tower: "max_tokens = 32\n",
            sections: "[index]\nshards = 2\n",
            ..PipelineFile::default()
        };
        let resolved =
            resolve_text(&pipeline.text(), "serve.toml", self.folder.path(), [], &[]).unwrap();
        let context = RunContext {
            pipeline: resolved.pipeline,
            root: self.root.clone(),
            reporter: Arc::new(Silent),
            cancel: Cancel::new(),
        };
        let report = exec::run(&context, &RunOptions::default()).await.unwrap();
        assert!(matches!(report.outcome, Outcome::Published { .. }), "{:?}", report.outcome);
        snapshot::newest(&self.root).await.unwrap().unwrap()
    }
}

/// A running server.
struct Running {
    address: SocketAddr,
    watcher: Arc<SnapshotWatcher>,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<()>>,
}

async fn serve(root: &Root, cache: &Path, limits: Limits, every: Duration) -> Running {
    let tower = TowerChoice {
        model: None,
        base_dir: cache.to_owned(),
        device: DeviceSpec::Cpu { threads: 1 },
        reporter: Arc::new(Silent),
    };
    let cache = cache.join("cache");
    let options = WatchOptions { every, cache, in_place: false, tower: Some(tower), first: None };
    let mut watcher = SnapshotWatcher::new(root.clone(), options).unwrap();
    watcher.look().await.unwrap();
    watcher.start();
    let watcher = Arc::new(watcher);
    let loopback = "127.0.0.1:0".parse().unwrap();
    let server = Server::bind(loopback, Arc::clone(&watcher), limits).await.unwrap();
    let address = server.address();
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    Running { address, watcher, stop: Some(stop), ended }
}

impl Running {
    async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    fn ask_to_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn stop(mut self) {
        self.ask_to_stop();
        self.ended.await.unwrap().unwrap();
    }
}

const SELDOM: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread")]
async fn texts_and_vectors_are_answered_and_wrong_requests_told() {
    let publisher = Publisher::new();
    publisher.publish(1).await;
    let limits = Limits { body: 10_000, k: 50, ..Limits::default() };
    let server = serve(&publisher.root, publisher.folder.path(), limits, SELDOM).await;
    let mut client = server.client().await;

    let reply = client.search(&json!({ "text": "note 17 about topic 3", "k": 3 })).await;
    assert_eq!((reply.status, &*reply.headers["x-scalingnote-snapshot"]), (200, "1"));
    let answer = reply.json();
    assert_eq!((&answer["snapshot"], &answer["hits"][0]["note_id"]), (&json!(1), &json!(17)));
    assert_eq!(answer["hits"][0]["stored"], json!({ "day": 1, "lang": "fr" }));
    assert_eq!(
        (answer["hits"][0]["rank"].as_u64(), answer["hits"].as_array().unwrap().len()),
        (Some(1), 3)
    );
    assert_eq!(answer["query_tower"].as_str().unwrap().len(), 64);
    let got = client.get("/search?text=note+17+about+topic+3&k=3").await;
    assert_eq!(got.json(), answer, "GET and POST answer the same");
    let exact =
        client.search(&json!({ "text": "note 17 about topic 3", "k": 3, "exact": true })).await;
    assert_eq!(exact.json()["hits"][0], answer["hits"][0]);

    let mut vector = vec![0.0; 32];
    vector[3] = 2.5;
    let by_vector = client.search(&json!({ "vector": vector })).await.json();
    assert_eq!(
        (&by_vector["query_tower"], by_vector["hits"].as_array().unwrap().len()),
        (&Value::Null, 10)
    );

    for _ in 0..2 {
        let asked = json!({ "text": "note 17 about topic 3", "k": 50, "where": "lang = 'en'" });
        let hits = client.search(&asked).await.json()["hits"].clone();
        let hits = hits.as_array().unwrap();
        assert_eq!(hits.len(), 50);
        assert!(hits.iter().all(|hit| hit["stored"]["lang"] == "en"));
    }

    for (body, status, says) in [
        ("{", 400, "JSON"),
        (r#"{"text": "a", "vector": [1]}"#, 400, "either"),
        (r#"{"text": "  "}"#, 400, "empty"),
        (r#"{"text": "a", "k": 51}"#, 400, "between 1 and 50"),
        (r#"{"vector": [1, 2]}"#, 400, "dimensions"),
        (r#"{"vector": [1e39]}"#, 400, ""),
        (r#"{"text": "a", "where": "langs = 'en'"}"#, 400, "did you mean `lang`"),
        (r#"{"text": "a", "where": "random() > 0.5"}"#, 400, "another value"),
        (r#"{"text": "a", "limit": 3}"#, 400, "limit"),
    ] {
        let reply = client.post("/search", body).await;
        assert_eq!(reply.status, status, "{body}: {}", reply.body);
        assert!(reply.message().contains(says), "{body}: {}", reply.body);
    }
    assert_eq!(client.get("/nothing").await.status, 404);
    assert_eq!(client.post("/healthz", "").await.status, 405);
    let health = client.get("/healthz").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("ready")));
    assert_eq!(
        (&health.json()["snapshot"], &health.json()["notes"]),
        (&json!(1), &json!(NOTES + 1))
    );
    assert!(health.json()["age_seconds"].as_f64().unwrap() < 600.0);
    let metrics = client.get("/metrics").await.body;
    for line in [
        "scalingnote_serve_ready 1",
        "scalingnote_serve_snapshot 1",
        "scalingnote_serve_open_snapshots 1",
        "scalingnote_serve_requests_total{outcome=\"answered\"} 6",
        "scalingnote_serve_requests_total{outcome=\"bad_request\"} 9",
        "scalingnote_serve_request_seconds_count 6",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    // The body is not read once its length is known to be too much; the connection may close then.
    let large = client.post("/search", &"x".repeat(10_001)).await;
    assert_eq!(large.status, 413);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_snapshot_too_many_searches_and_slow_ones_are_told_apart() {
    let publisher = Publisher::new();
    let server = serve(&publisher.root, publisher.folder.path(), Limits::default(), SELDOM).await;
    let mut client = server.client().await;
    assert_eq!(client.get("/healthz").await.status, 503);
    let reply = client.search(&json!({ "text": "a" })).await;
    assert_eq!((reply.status, &*reply.headers["retry-after"]), (503, "5"));
    // The first snapshot makes it ready.
    publisher.publish(1).await;
    assert!(server.watcher.look().await.unwrap());
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(client.search(&json!({ "text": "a" })).await.status, 200);
    server.stop().await;

    let limits = Limits { searches: 0, ..Limits::default() };
    let server = serve(&publisher.root, publisher.folder.path(), limits, SELDOM).await;
    let reply = server.client().await.search(&json!({ "text": "a" })).await;
    assert_eq!((reply.status, &*reply.headers["retry-after"]), (503, "1"));
    server.stop().await;

    // A body that does not end is a request that takes too long.
    let limits = Limits { timeout: Duration::from_millis(50), ..Limits::default() };
    let server = serve(&publisher.root, publisher.folder.path(), limits, SELDOM).await;
    let mut slow = server.client().await;
    slow.send("POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{").await;
    assert_eq!(slow.receive().await.status, 408);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hostile_conditions_beside_honest_ones_stop_nobody() {
    let publisher = Publisher::new();
    publisher.publish(1).await;
    // As many as there are hostile clients, and a little room.
    let limits = Limits { searches: 12, ..Limits::default() };
    let server = serve(&publisher.root, publisher.folder.path(), limits, SELDOM).await;
    let nested = |open: &str, middle: &str, close: &str, depth: usize| {
        format!("{}{middle}{}", open.repeat(depth), close.repeat(depth))
    };
    let hostile = [
        nested("day + ", "day", "", 718) + " > 1",
        nested("CAST(", "day", " AS BIGINT)", 50) + " > 1",
        nested("CAST(", "day day", " AS BIGINT)", 30) + " > 1",
        nested("(", "true", " BETWEEN false AND true)", 30),
        format!("array_length(make_array({})) > 3", vec!["body"; 2_000].join(",")),
        nested("coalesce(", "day", ", 1)", 30) + " > 1",
        nested("lang = ", "lang", "", 100_000),
        "regexp_like(lang, '((\\w{90}){90}){90}')".to_owned(),
    ];
    let mut clients = Vec::new();
    for condition in hostile {
        let mut client = server.client().await;
        clients.push(tokio::spawn(async move {
            for _ in 0..5 {
                let reply = client.search(&json!({ "text": "a", "where": condition })).await;
                assert_eq!(reply.status, 400, "{}", reply.body);
                assert!(
                    reply.message().contains("filter") || reply.message().contains("expression"),
                    "{}",
                    reply.body
                );
            }
        }));
    }
    let mut honest = server.client().await;
    for day in 0..20 {
        let condition = format!("lang = 'fr' AND day <> {}", day + 2);
        let asked = json!({ "text": "note 17 about topic 3", "k": 1, "where": condition });
        let reply = honest.search(&asked).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(reply.json()["hits"][0]["note_id"], 17);
    }
    for client in clients {
        client.await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_requests_in_flight_finish() {
    let publisher = Publisher::new();
    publisher.publish(1).await;
    let mut server =
        serve(&publisher.root, publisher.folder.path(), Limits::default(), SELDOM).await;
    let mut slow = server.client().await;
    let idle = server.client().await;
    let body = json!({ "text": "note 5 about topic 5", "k": 1 }).to_string();
    let (first, rest) = body.split_at(10);
    let length = body.len();
    slow.send(&format!(
        "POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{first}"
    ))
    .await;
    // In flight for sure once the server has counted it.
    let mut other = server.client().await;
    while !other.get("/metrics").await.body.contains("requests_in_flight 1\n") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.ask_to_stop();
    while tokio::net::TcpStream::connect(server.address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!server.ended.is_finished(), "a request is in flight");
    slow.send(rest).await;
    let reply = slow.receive().await;
    assert_eq!((reply.status, &reply.json()["hits"][0]["note_id"]), (200, &json!(5)));
    server.ended.await.unwrap().unwrap();
    drop((idle, other));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_ends_does_not_hold_up_a_stop() {
    let publisher = Publisher::new();
    publisher.publish(1).await;
    let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
    let server = serve(&publisher.root, publisher.folder.path(), limits, SELDOM).await;
    let mut slow = server.client().await;
    slow.send("POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{").await;
    server.stop().await;
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    answers: AtomicU64,
    snapshots: Mutex<BTreeSet<u64>>,
    wrong: Mutex<Vec<String>>,
}

/// Asks again and again, each time something else, until told to stop. An answer that names snapshot `n` must hold notes
/// of `n` only, and all that were asked for.
async fn ask(
    address: SocketAddr,
    number: u64,
    days: Arc<Mutex<BTreeMap<u64, i64>>>,
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
) {
    let mut client = Client::connect(address).await;
    let mut turn = number;
    while !stop.load(Ordering::Acquire) {
        turn += 1;
        let mut asked =
            json!({ "text": format!("note {} about topic {}", turn % 120, turn % 7), "k": 12 });
        match turn % 4 {
            0 => asked["exact"] = json!(true),
            1 => asked["where"] = json!("lang = 'en' AND day > 0"),
            _ => {}
        }
        let reply = client.search(&asked).await;
        let wrong = |what: String| seen.wrong.lock().unwrap().push(what);
        if reply.status != 200 {
            wrong(format!("{}: {}", reply.status, reply.body));
            continue;
        }
        seen.answers.fetch_add(1, Ordering::Relaxed);
        let answer = reply.json();
        let snapshot = answer["snapshot"].as_u64().unwrap();
        seen.snapshots.lock().unwrap().insert(snapshot);
        let day = days.lock().unwrap().get(&snapshot).copied();
        let hits = answer["hits"].as_array().unwrap();
        let shown: BTreeSet<i64> =
            hits.iter().map(|hit| hit["stored"]["day"].as_i64().unwrap()).collect();
        let largest = hits.iter().filter_map(|hit| hit["note_id"].as_i64()).max().unwrap();
        // A snapshot may be in service a moment before the publisher has noted its day.
        if day.is_some_and(|day| shown != BTreeSet::from([day]) || largest >= NOTES + day % 7)
            || shown.len() != 1
            || hits.len() != 12
        {
            wrong(format!(
                "snapshot {snapshot} of day {day:?} answers with {shown:?}, {} hits",
                hits.len()
            ));
        }
    }
}

/// Names of the files below a folder that this process has mapped.
fn mapped(folder: &Path) -> BTreeSet<String> {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return BTreeSet::new() };
    let prefix = format!("{}/", folder.display());
    maps.lines()
        .filter_map(|line| line.split_once(&prefix).map(|(_, key)| key.to_owned()))
        .map(|key| key.trim_end_matches(" (deleted)").rsplit('/').next().unwrap().to_owned())
        .collect()
}

/// 20 publishes (`SCALINGNOTE_SERVE_PUBLISHES`) and one rollback, a gc after each, while clients search.
#[tokio::test(flavor = "multi_thread")]
async fn publishing_beside_queries_is_never_noticed() {
    let publishes: i64 = std::env::var("SCALINGNOTE_SERVE_PUBLISHES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20);
    let publisher = Publisher::new();
    let days = Arc::new(Mutex::new(BTreeMap::new()));
    let first = publisher.publish(1).await;
    days.lock().unwrap().insert(first.number, 1);
    let every = Duration::from_millis(10);
    // Every client may have one search going on.
    let limits = Limits { searches: 8, ..Limits::default() };
    let server = serve(&publisher.root, publisher.folder.path(), limits, every).await;
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (days, seen, stop) = (Arc::clone(&days), Arc::clone(&seen), Arc::clone(&stop));
            tokio::spawn(ask(server.address, number * 31, days, seen, stop))
        })
        .collect();
    let root = &publisher.root;
    let taken_over = async |number: u64| {
        for _ in 0..3_000 {
            if server.watcher.status().number == Some(number) {
                return;
            }
            tokio::time::sleep(every).await;
        }
        panic!("snapshot {number} is not taken over: {:?}", server.watcher.status());
    };
    let retention = Retention { snapshots: 2, grace_hours: 0, runs_days: 0 };
    let mut newest = first;
    for day in 2..=publishes {
        let before = newest.number;
        newest = publisher.publish(day).await;
        days.lock().unwrap().insert(newest.number, day);
        taken_over(newest.number).await;
        let now = chrono::Utc::now() + chrono::TimeDelta::hours(1);
        snapshot::gc(root, &retention, now, false, &Protected::default()).await.unwrap();
        // A reader's lease may keep one more for a moment.
        let kept = snapshot::numbers(root).await.unwrap();
        assert!(kept.len() <= 4 && kept.ends_with(&[before, newest.number]), "{kept:?}");
    }
    let back_to = newest.number - 1;
    let outcome = snapshot::rollback(root, back_to, provenance("rollback")).await.unwrap();
    let RollbackOutcome::Committed(back) = outcome else { panic!("{outcome:?}") };
    let day = days.lock().unwrap()[&back_to];
    days.lock().unwrap().insert(back.number, day);
    taken_over(back.number).await;
    // Whatever is asked from here on is answered by the rollback.
    let mut client = server.client().await;
    assert_eq!(client.search(&json!({ "text": "note 3" })).await.json()["snapshot"], back.number);
    stop.store(true, Ordering::Release);
    for client in clients {
        client.await.unwrap();
    }

    let wrong = seen.wrong.lock().unwrap().clone();
    assert!(wrong.is_empty(), "{} wrong answers, the first: {}", wrong.len(), wrong[0]);
    let answers = seen.answers.load(Ordering::Relaxed);
    let snapshots = seen.snapshots.lock().unwrap().clone();
    println!(
        "{publishes} publishes and a rollback: {answers} answers from {} snapshots, none wrong",
        snapshots.len()
    );
    assert!(answers > 100 && snapshots.len() as i64 > publishes / 2, "{answers}, {snapshots:?}");
    let status = server.watcher.status();
    assert_eq!((status.open, status.failures), (1, 0), "{status:?}");
    assert_eq!(status.swaps as i64, publishes + 1);
    // Memory is back to one snapshot: nothing is mapped that it does not name.
    let current: BTreeSet<String> = back.content.files().map(FileRef::cached_name).collect();
    assert_eq!(mapped(root.local_folder().unwrap()), BTreeSet::new(), "copies are mapped");
    let mapped = mapped(&publisher.folder.path().join("cache"));
    assert!(mapped.is_subset(&current), "mapped beside it: {:?}", mapped.difference(&current));
    if cfg!(target_os = "linux") {
        assert!(!mapped.is_empty(), "the check looks at the right folder");
    }
    drop(client);
    server.stop().await;
}
