//! Clients that keep a server waiting, and limits that are made small so that nobody waits for them.

use std::time::{Duration, Instant};

use serde_json::json;

use scalingnote::serve::Limits;

use super::{Publisher, Running, SELDOM, serve};
use crate::fixture::http::Client;

const SOON: Duration = Duration::from_millis(300);
/// No test waits this long for what happens soon.
const LATE: Duration = Duration::from_secs(8);

async fn served(limits: Limits) -> (Publisher, Running) {
    let publisher = Publisher::new();
    publisher.publish(1).await;
    let server = serve(&publisher.root, publisher.folder.path(), limits, SELDOM).await;
    (publisher, server)
}

async fn closed(server: &Running, reason: &str) -> u64 {
    let text = server.client().await.get("/metrics").await.body;
    let name = format!("scalingnote_serve_connections_closed_total{{reason=\"{reason}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("{name}is not in\n{text}")).parse().unwrap()
}

/// Sends a byte every now and then until the server closes the connection.
async fn trickle(client: &mut Client, bytes: &[u8]) -> Duration {
    let began = Instant::now();
    for byte in bytes.iter().cycle() {
        if client.try_send(&[*byte]).await.is_err() || began.elapsed() > LATE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_that_do_not_end_are_given_up() {
    let (_publisher, server) =
        served(Limits { head: SOON, timeout: SOON, ..Limits::default() }).await;
    let mut silent = server.client().await;
    let mut half = server.client().await;
    half.send("GET /healthz HTTP/1.1\r\nhost: loc").await;
    let mut slow = server.client().await;
    slow.send("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ").await;
    let (silent, half, slow) =
        tokio::join!(silent.closed_after(), half.closed_after(), trickle(&mut slow, b"x"));
    for took in [silent, half, slow] {
        assert!(took >= SOON / 2 && took < LATE, "{took:?}");
    }
    assert_eq!(closed(&server, "head_timeout").await, 3);

    // The client of a slow body is told so.
    let mut slow = server.client().await;
    slow.send("POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n").await;
    assert!(trickle(&mut slow, b" ").await < LATE);
    let mut stuck = server.client().await;
    stuck
        .send("POST /search HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let reply = stuck.receive().await;
    assert_eq!(reply.status, 408);
    assert!(reply.message().contains("0.3 s"), "{}", reply.body);
    assert!(stuck.closed_after().await < LATE);
    let metrics = server.client().await.get("/metrics").await.body;
    assert!(metrics.contains("requests_total{outcome=\"timeout\"} 2\n"), "{metrics}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let (_publisher, server) = served(Limits { idle: SOON, head: SOON, ..Limits::default() }).await;
    let mut busy = server.client().await;
    let mut idle = server.client().await;
    assert_eq!(idle.get("/healthz").await.status, 200);
    let idle = tokio::spawn(async move { idle.closed_after().await });
    let began = Instant::now();
    while began.elapsed() < 4 * SOON {
        assert_eq!(busy.get("/healthz").await.status, 200);
        assert_eq!(busy.search(&json!({ "text": "note 3", "k": 1 })).await.status, 200);
        tokio::time::sleep(SOON / 4).await;
    }
    let took = idle.await.unwrap();
    assert!(took >= SOON / 2 && took < LATE, "{took:?}");
    assert_eq!(closed(&server, "idle_timeout").await, 1);
    assert_eq!(closed(&server, "head_timeout").await, 0);
    server.stop().await;
}

/// Requests one after the other, for far more than sockets hold.
fn many_searches(count: usize) -> String {
    "GET /search?text=note+1+about+topic+1&k=120&exact=true HTTP/1.1\r\nhost: localhost\r\n\r\n"
        .repeat(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_given_up() {
    let (_publisher, server) = served(Limits { unread: SOON, ..Limits::default() }).await;
    let mut deaf = server.client().await;
    // 10 kB each; the sockets of both sides hold some megabytes at most.
    let asking = async {
        loop {
            if deaf.try_send(many_searches(100).as_bytes()).await.is_err() {
                break;
            }
        }
    };
    tokio::time::timeout(4 * LATE, asking).await.expect("the connection is closed");
    assert_eq!(closed(&server, "unread").await, 1);
    let answered = server.client().await.search(&json!({ "text": "note 3", "k": 1 })).await;
    assert_eq!(answered.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_hang_give_their_memory_to_others() {
    let limits = Limits { held: 300_000, body: 100_000, ..Limits::default() };
    let (_publisher, server) = served(limits).await;
    let mut honest = server.client().await;
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut slow = server.client().await;
        slow.send("POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 95000\r\n\r\n")
            .await;
        // Those before it may have been closed by now, and so may it.
        let _ = slow.try_send(&[b' '; 90_000]).await;
        held.push(slow);
        assert_eq!(honest.search(&json!({ "text": "note 3", "k": 40 })).await.status, 200);
        // Nobody is closed at once.
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    let text = honest.get("/metrics").await.body;
    let bytes = text.lines().find_map(|line| line.strip_prefix("scalingnote_serve_held_bytes "));
    assert!(bytes.unwrap().parse::<u64>().unwrap() <= 300_000, "{text}");
    assert!(closed(&server, "memory").await > 5);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_and_crowds_are_told() {
    let limits = Limits { answer: 4_000, searches: 1, ..Limits::default() };
    let (_publisher, server) = served(limits).await;
    let mut client = server.client().await;
    let reply = client.search(&json!({ "text": "note 3", "k": 120 })).await;
    assert_eq!(reply.status, 400);
    assert!(reply.message().contains("4000 bytes; ask for a smaller `k`"), "{}", reply.body);
    // A crowd waits for its turn: there is one seat, and room for eight to wait.
    let crowd: Vec<_> = (0..8)
        .map(|number| {
            let address = server.address;
            tokio::spawn(async move {
                let asked = json!({ "text": format!("note {number}"), "k": 3, "exact": true });
                Client::connect(address).await.search(&asked).await.status
            })
        })
        .collect();
    for client in crowd {
        assert_eq!(client.await.unwrap(), 200);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_connection_takes_the_place_of_one_that_waits() {
    let (_publisher, server) = served(Limits { connections: 8, ..Limits::default() }).await;
    let mut kept = server.client().await;
    assert_eq!(kept.get("/healthz").await.status, 200);
    for _ in 0..40 {
        let mut half = server.client().await;
        half.send("GET /healthz HTTP/1.1\r\n").await;
        let mut honest = server.client().await;
        assert_eq!(honest.get("/healthz").await.status, 200);
        // It was used a moment ago, so others go first.
        assert_eq!(kept.get("/healthz").await.status, 200);
        std::mem::forget(half);
    }
    assert!(closed(&server, "place").await > 20);
    server.stop().await;
}
