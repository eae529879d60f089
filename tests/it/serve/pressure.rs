//! The real program under clients that mean harm: who behaves is answered all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::served::{NOTES, Place, Served, many_descriptors};
use crate::fixture::http::Client;

/// Opens connections with half a head each, and keeps them.
async fn half_heads(served: &Served, count: usize) -> Vec<Client> {
    let opening = async {
        let mut held = Vec::new();
        for _ in 0..count {
            let mut client = served.client().await;
            // One that was closed already has made room for another.
            let _ = client.try_send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-a: ").await;
            held.push(client);
        }
        held
    };
    tokio::time::timeout(Duration::from_secs(20), opening).await.expect("connections are taken in")
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_heads_do_not_silence_it() {
    many_descriptors();
    let place = Place::new(10);
    place.publish(1);
    let served = place.serve("", "");
    let mut kept = served.client().await;
    assert_eq!(kept.get("/healthz").await.status, 200);
    let held = half_heads(&served, 1_100).await;
    let began = Instant::now();
    served.health().await;
    let mut client = served.client().await;
    let asked = json!({ "text": "note 17 about topic 3", "k": 3 });
    assert_eq!(client.search(&asked).await.json()["hits"][0]["note_id"], 17);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(served.metric("scalingnote_serve_connections").await <= 1_024);
    let closed = "scalingnote_serve_connections_closed_total{reason=\"place\"}";
    assert!(served.metric(closed).await >= 76);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_descriptors_a_snapshot_is_taken_over_under_a_flood() {
    let place = Place::new(10);
    place.publish(1);
    let served = place.serve("ulimit -n 256;", "--poll 1s");
    let held = half_heads(&served, 400).await;
    served.health().await;
    place.publish(2);
    served.takes_over(2, Duration::from_secs(10)).await;
    assert!(served.descriptors() < 256);
    assert_eq!(served.metric("scalingnote_serve_reload_failures_total").await, 0);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_do_not_fill_the_memory() {
    many_descriptors();
    // Answers of 4 MB.
    let place = Place::new(40_000);
    place.publish(1);
    let served = place.serve("", "--timeout 60s");
    let asked = json!({ "text": "note 1 about topic 1", "k": NOTES });
    let mut honest = served.client().await;
    let length = honest.search(&asked).await.body.len();
    assert!(length > 4_000_000, "{length}");
    let before = served.resident();
    let (stop, most) = (Arc::new(AtomicBool::new(false)), &mut 0);
    let address = served.address;
    let asking = {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let mut deaf = Vec::new();
            let body = asked.to_string();
            while deaf.len() < 100 {
                let mut client = Client::connect(address).await;
                let head = format!("host: localhost\r\ncontent-length: {}", body.len());
                client.send(&format!("POST /search HTTP/1.1\r\n{head}\r\n\r\n{body}")).await;
                deaf.push(client);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            while !stop.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    let small = json!({ "text": "note 2 about topic 2", "k": 1 });
    let began = Instant::now();
    let mut answered = 0;
    while began.elapsed() < Duration::from_secs(6) {
        let reply = honest.search(&small).await;
        // The crowd computes too; it may have all seats for a moment.
        assert!([200, 503].contains(&reply.status), "{}", reply.body);
        answered += u32::from(reply.status == 200);
        *most = served.resident().max(*most);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let grown = most.saturating_sub(before) >> 20;
    // 100 answers of 4 MB are 400; 96 MiB may be held, and eight searches compute.
    println!("{grown} MiB more at most, {answered} answers");
    assert!(grown < 200, "{grown} MiB more");
    let held = served.metric("scalingnote_serve_held_bytes").await;
    assert!(held <= 96 << 20, "{held}");
    stop.store(true, Ordering::Release);
    asking.await.unwrap();
    assert!(answered > 10, "{answered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_and_other_protocols_are_turned_away() {
    let place = Place::new(10);
    place.publish(1);
    let served = place.serve("", "--allow-host search.example");
    let ask = async |headers: &str| {
        let mut client = served.client().await;
        client.send(&format!("GET /search?text=note+3&k=1 HTTP/1.1\r\n{headers}\r\n\r\n")).await;
        client.receive().await
    };
    let port = served.address.port();
    for own in ["localhost", "127.0.0.1", "[::1]", "search.example"] {
        assert_eq!(ask(&format!("host: {own}:{port}")).await.status, 200, "{own}");
    }
    let rebound = ask(&format!("host: evil.example:{port}")).await;
    assert_eq!(rebound.status, 421);
    assert!(rebound.message().contains("--allow-host"), "{}", rebound.body);
    let foreign = ask("host: localhost\r\norigin: https://evil.example").await;
    assert_eq!(foreign.status, 403);
    // A form that a page posts without asking.
    let mut client = served.client().await;
    client
        .send(
            "POST /search HTTP/1.1\r\nhost: localhost\r\norigin: null\r\ncontent-type: text/plain\r\n\
             content-length: 14\r\n\r\n{\"text\": \"a\"}\n",
        )
        .await;
    assert_eq!(client.receive().await.status, 403);
    assert_eq!(served.metric("scalingnote_serve_foreign_requests_total").await, 3);
    // HTTP/2 without being asked for it, and its settings.
    let mut client = served.client().await;
    client.try_send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut said = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), client.read_all(&mut said)).await.unwrap();
    assert!(!said.windows(3).any(|bytes| bytes == [0, 0, 4]), "a frame of settings: {said:?}");
    served.health().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_nobody_who_hangs() {
    let place = Place::new(40_000);
    place.publish(1);
    let mut served = place.serve("", "--timeout 1s");
    let held = half_heads(&served, 50).await;
    let mut slow = served.client().await;
    slow.send("POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{").await;
    let mut deaf = served.client().await;
    deaf.send(&format!("GET /search?text=note+1&k={NOTES} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
        .await;
    let mut idle = served.client().await;
    assert_eq!(idle.get("/healthz").await.status, 200);
    served.terminate();
    assert!(served.ends(Duration::from_secs(6)).success());
    drop((held, slow, deaf, idle));
}
