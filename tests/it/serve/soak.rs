//! Honest and hostile clients against one server, and real runs that publish beside them: `SCALINGNOTE_SOAK_SECONDS`
//! long.
//!
//! No honest request may fail, and memory and open files must stay where they are once the server is warm. The crowd
//! comes and goes: more than there is room for, then few enough that each uses up its time, then nobody.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use super::hostile::{CROWD, Crowd};
use super::served::{NOTES, Place, Served, many_descriptors};
use crate::fixture::http::{Client, Reply};
use crate::fixture::program::expect;

/// Fewer places than hostile clients, so that there is always too little room.
const PLACES: usize = 200;
/// Clients that search, each over one connection that it keeps.
const SEARCHERS: usize = 4;
/// Characters of a stored column: the largest answer has 2 MB.
const FILLER: usize = 20_000;
/// Tides of the crowd; in each it has these parts of the time at these per cents of its strength.
const TIDES: u32 = 4;
const TIDE: [(f64, usize); 3] = [(0.5, 100), (0.3, 35), (0.2, 0)];
/// Tries of a request that is told to come again later.
const TRIES: usize = 10;
/// Publishes between two collections of old snapshots.
const PUBLISHES: i64 = 20;

/// What honest clients saw.
struct Seen {
    since: Instant,
    /// Milliseconds.
    searches: Mutex<Vec<f64>>,
    health: Mutex<Vec<f64>>,
    later: AtomicU64,
    /// Kept connections that were closed between two requests.
    reopened: AtomicU64,
    failed: Mutex<Vec<String>>,
}

impl Seen {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            searches: Mutex::default(),
            health: Mutex::default(),
            later: AtomicU64::default(),
            reopened: AtomicU64::default(),
            failed: Mutex::default(),
        }
    }

    fn fails(&self, what: String) {
        let after = self.since.elapsed().as_secs_f64();
        self.failed.lock().unwrap().push(format!("after {after:.1} s, {what}"));
    }
}

async fn searches(address: SocketAddr, number: usize, seen: Arc<Seen>, stop: Arc<AtomicBool>) {
    let mut connection = Kept::open(address).await;
    let (mut turn, mut newest) = (number, 0);
    while !stop.load(Ordering::Acquire) {
        turn += 1;
        let k = 1 + turn % 12;
        let text = format!("note {} about topic {}", turn % 90, turn % 7);
        let mut asked = json!({ "text": text, "k": k });
        match turn % 5 {
            0 => asked["exact"] = json!(true),
            1 => asked["where"] = json!("day > 0"),
            _ => {}
        }
        let began = Instant::now();
        match search(&mut connection, &asked.to_string(), &seen).await {
            Ok(reply) => {
                seen.searches.lock().unwrap().push(began.elapsed().as_secs_f64() * 1e3);
                // The program published day `n` as snapshot `n`.
                let answer = reply.json();
                let snapshot = answer["snapshot"].as_i64().unwrap_or(0);
                let hits = answer["hits"].as_array().map_or(&[][..], Vec::as_slice);
                let of_the_day = hits.iter().all(|hit| hit["stored"]["day"] == snapshot);
                if hits.len() != k || !of_the_day || snapshot < newest {
                    seen.fails(format!("snapshot {snapshot} after {newest}: {} hits", hits.len()));
                }
                newest = snapshot;
            }
            Err(what) => {
                seen.fails(what);
                connection = Kept::open(address).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A connection that is kept from one request to the next.
struct Kept {
    address: SocketAddr,
    client: Client,
    used: bool,
}

impl Kept {
    async fn open(address: SocketAddr) -> Self {
        Self { address, client: Client::connect(address).await, used: false }
    }

    /// One request and its answer, over a new connection where this one was closed between two requests, as every
    /// client has to.
    async fn ask(&mut self, request: &str, seen: &Seen) -> Result<Reply, String> {
        loop {
            let asking = async {
                self.client.try_send(request.as_bytes()).await?;
                self.client.try_receive().await
            };
            match tokio::time::timeout(Duration::from_secs(15), asking).await {
                Ok(Ok(reply)) => {
                    self.used = true;
                    return Ok(reply);
                }
                Ok(Err(error)) if self.used && error.kind() == ErrorKind::ConnectionAborted => {
                    seen.reopened.fetch_add(1, Ordering::Relaxed);
                    *self = Self::open(self.address).await;
                }
                Ok(Err(error)) => return Err(format!("cut off: {error}")),
                Err(_) => return Err("no answer".to_owned()),
            }
        }
    }
}

/// One search; it comes again later where it is told so.
async fn search(connection: &mut Kept, body: &str, seen: &Seen) -> Result<Reply, String> {
    let length = body.len();
    let request = format!(
        "POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    for _ in 0..TRIES {
        let reply = connection.ask(&request, seen).await?;
        match reply.status {
            200 => return Ok(reply),
            503 => seen.later.fetch_add(1, Ordering::Relaxed),
            status => return Err(format!("{status}: {}", reply.body)),
        };
        let later: u64 = reply.headers["retry-after"].parse().unwrap();
        tokio::time::sleep(Duration::from_secs(later)).await;
    }
    Err("told to come again later forever".to_owned())
}

/// What a load balancer asks: over a new connection each time.
async fn probes(address: SocketAddr, seen: Arc<Seen>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Acquire) {
        let began = Instant::now();
        let asking = async {
            let mut client = Client::try_connect(address).await?;
            client.try_send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
            client.try_receive().await
        };
        match tokio::time::timeout(Duration::from_secs(10), asking).await {
            Ok(Ok(reply)) if reply.status == 200 => {
                seen.health.lock().unwrap().push(began.elapsed().as_secs_f64() * 1e3);
            }
            other => seen.fails(format!("/healthz: {other:?}")),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn publishes(place: &Place, latest: &AtomicU64, stop: &AtomicBool) {
    let mut day = 1;
    while !stop.load(Ordering::Acquire) {
        day += 1;
        place.publish(day);
        latest.store(day as u64, Ordering::Release);
        if day % PUBLISHES == 0 {
            expect(place.folder.path(), 0, "snapshot gc pipeline.toml");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

fn told(what: &str, times: &Mutex<Vec<f64>>) -> usize {
    let mut times = times.lock().unwrap().clone();
    times.sort_by(f64::total_cmp);
    let [half, most, all] = [0.5, 0.99, 1.0].map(|part| percentile(&times, part));
    println!("{} {what}: p50 {half:.1} ms, p99 {most:.1} ms, longest {all:.0} ms", times.len());
    times.len()
}

/// What the server took, some times a second.
#[derive(Default)]
struct Taken {
    /// Bytes at most, and the least while nobody hostile was there, by tide.
    most: u64,
    quiet: Vec<u64>,
    files: usize,
}

/// Lets the crowd come and go, and looks at what the server takes.
async fn tides(served: &Served, there: &watch::Sender<usize>, seconds: u64) -> Taken {
    let mut taken = Taken::default();
    let tide = Duration::from_secs(seconds) / TIDES;
    for _ in 0..TIDES {
        for (part, strength) in TIDE {
            there.send_replace(strength);
            let (began, mut least) = (Instant::now(), u64::MAX);
            while began.elapsed() < tide.mul_f64(part) {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let memory = served.resident();
                least = least.min(memory);
                taken.most = taken.most.max(memory);
                taken.files = taken.files.max(served.descriptors());
            }
            if strength == 0 {
                taken.quiet.push(least);
            }
        }
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_clients_are_served_among_hostile_ones() {
    many_descriptors();
    let seconds = std::env::var("SCALINGNOTE_SOAK_SECONDS").ok();
    let seconds: u64 = seconds.and_then(|text| text.parse().ok()).unwrap_or(10);
    let place = Place::new(FILLER);
    place.publish(1);
    let served = place.serve("", &format!("--poll 1s --keep-alive 5s --max-connections {PLACES}"));
    served.health().await;
    let files_before = served.descriptors();
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::new()));
    let (strength, there) = watch::channel(0);
    let crowd = Crowd { address: served.address, k: NOTES, there, made: Arc::default() };
    let hostile = crowd.start();
    let mut honest: Vec<_> = (0..SEARCHERS)
        .map(|number| {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            tokio::spawn(searches(served.address, number * 31, seen, stop))
        })
        .collect();
    honest.push(tokio::spawn(probes(served.address, Arc::clone(&seen), Arc::clone(&stop))));
    let latest = AtomicU64::new(1);
    let taken = std::thread::scope(|threads| {
        threads.spawn(|| publishes(&place, &latest, &stop));
        let watched = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(tides(&served, &strength, seconds))
        });
        stop.store(true, Ordering::Release);
        watched
    });
    for client in honest {
        client.await.unwrap();
    }
    for client in hostile {
        client.abort();
        let panicked = client.await.is_err_and(|error| error.is_panic());
        assert!(!panicked, "a page that asks under another name was answered");
    }

    let latest = latest.load(Ordering::Acquire);
    served.takes_over(latest, Duration::from_secs(15)).await;
    let taken_over = served.metric("scalingnote_serve_swaps_total").await;
    let failures = served.metric("scalingnote_serve_reload_failures_total").await;
    println!(
        "{seconds} s with {} hostile clients",
        CROWD.iter().map(|(_, many)| many).sum::<usize>()
    );
    println!("{} connections of hostile clients", crowd.made.load(Ordering::Relaxed));
    println!("{latest} snapshots published, {taken_over} taken over, {failures} failures");
    let searches = told("searches", &seen.searches);
    let probes = told("probes over new connections", &seen.health);
    println!("{} times told to come again later", seen.later.load(Ordering::Relaxed));
    println!("{} kept connections closed while idle", seen.reopened.load(Ordering::Relaxed));
    let metrics = served.client().await.get("/metrics").await.body;
    for line in metrics.lines().filter(|line| {
        line.starts_with("scalingnote_serve_connections")
            || line.starts_with("scalingnote_serve_requests")
    }) {
        println!("{line}");
    }
    let quiet: Vec<u64> = taken.quiet.iter().map(|bytes| bytes >> 20).collect();
    let (warm, end, most) = (quiet[0], quiet[quiet.len() - 1], taken.most >> 20);
    println!("memory: {quiet:?} MiB after each tide, {most} MiB at most");

    // Everybody has gone.
    let began = Instant::now();
    let mut left = served.descriptors();
    while left > files_before + 8 && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        left = served.descriptors();
    }
    println!("open files: {files_before} at first, {} at most, {left} at the end", taken.files);
    let failed = seen.failed.lock().unwrap().clone();
    assert!(failed.is_empty(), "{} honest requests failed: {failed:#?}", failed.len());
    assert!(searches.min(probes) as u64 > seconds, "{searches}, {probes}");
    assert!(taken_over > 1 && failures == 0, "{taken_over}, {failures} failures");
    assert!(end <= warm + warm / 8 + 32, "memory grows from {warm} MiB to {end} MiB");
    assert!(taken.files <= files_before + PLACES + 48, "{} open files", taken.files);
    assert!(left <= files_before + 8, "{left} files stay open");
    served.terminate();
    let mut served = served;
    assert!(served.ends(Duration::from_secs(20)).success());
}
