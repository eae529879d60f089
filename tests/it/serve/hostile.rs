//! Clients that mean harm, each kind again and again; how many there are at once can be changed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

use crate::fixture::http::Client;

/// What they share.
#[derive(Clone)]
pub struct Crowd {
    pub address: SocketAddr,
    /// Most notes that an answer may have.
    pub k: i64,
    /// Per cent of the crowd that are there.
    pub there: watch::Receiver<usize>,
    /// Connections made.
    pub made: Arc<AtomicU64>,
}

/// What one of them does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Sends half a head and waits.
    HalfHead,
    /// Sends a head forever, a byte at a time.
    SlowHead,
    /// Sends a body forever, a byte at a time.
    SlowBody,
    /// Asks for much and reads nothing.
    Deaf,
    /// Reads its answer a few bytes at a time.
    Sipping,
    /// Asks once and keeps the connection.
    Idle,
    /// Goes away before it is answered.
    Gone,
    /// Sends something that is not HTTP, or not what its head says.
    Garbage,
    /// Asks under another name, as a page would through a browser.
    Rebound,
    /// Sends conditions that are small and cost much.
    Bomb,
}

/// Every kind, and how many of each at once.
pub const CROWD: [(Kind, usize); 10] = [
    (Kind::HalfHead, 90),
    (Kind::SlowHead, 20),
    (Kind::SlowBody, 20),
    (Kind::Deaf, 60),
    (Kind::Sipping, 10),
    (Kind::Idle, 30),
    (Kind::Gone, 4),
    (Kind::Garbage, 4),
    (Kind::Rebound, 4),
    (Kind::Bomb, 3),
];

/// Longest that one of them holds on before it tries again.
const HOLD: Duration = Duration::from_secs(20);

impl Crowd {
    pub fn start(&self) -> Vec<tokio::task::JoinHandle<()>> {
        let members = CROWD.iter().flat_map(|(kind, count)| {
            (0..*count).map(move |number| (*kind, number, 100 * number / count))
        });
        members
            .map(|(kind, number, rank)| tokio::spawn(self.clone().member(kind, number, rank)))
            .collect()
    }

    /// Comes and goes; there while more than `rank` per cent are.
    async fn member(mut self, kind: Kind, number: usize, rank: usize) {
        let mut random = StdRng::seed_from_u64(kind as u64 * 1_000 + number as u64);
        let mut there = self.there.clone();
        // Not all at the same moment.
        pause(&mut random, 1_000).await;
        while self.there.wait_for(|there| *there > rank).await.is_ok() {
            self.made.fetch_add(1, Ordering::Relaxed);
            // A server that closes the connection has done the right thing.
            let doing = tokio::time::timeout(HOLD, self.once(kind, &mut random));
            tokio::select! {
                _ = doing => {}
                _ = there.wait_for(|there| *there <= rank) => {}
            }
            pause(&mut random, 400).await;
        }
    }

    async fn once(&self, kind: Kind, random: &mut StdRng) -> std::io::Result<()> {
        let mut client = Client::try_connect(self.address).await?;
        match kind {
            Kind::HalfHead => {
                client.try_send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-a: ").await?;
                client.closed_after().await;
            }
            Kind::SlowHead => {
                client.try_send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-a: ").await?;
                trickle(&mut client, random).await?;
            }
            Kind::SlowBody => {
                let length = random.random_range(1_000..1_000_000);
                let head = format!(
                    "POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
                );
                client.try_send(head.as_bytes()).await?;
                client.try_send(&vec![b' '; length / 2]).await?;
                trickle(&mut client, random).await?;
            }
            Kind::Deaf => loop {
                client.try_send(self.large().as_bytes()).await?;
                pause(random, 500).await;
            },
            Kind::Sipping => {
                client.try_send(self.large().as_bytes()).await?;
                while client.sip(1_000).await? > 0 {
                    pause(random, 100).await;
                }
            }
            Kind::Idle => {
                client.try_send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
                client.try_receive().await?;
                client.closed_after().await;
            }
            Kind::Gone => client.try_send(self.large().as_bytes()).await?,
            Kind::Garbage => garbage(&mut client, random).await?,
            Kind::Rebound => {
                let head = b"GET /search?text=a&k=100 HTTP/1.1\r\nhost: evil.example\r\n\r\n";
                client.try_send(head).await?;
                assert_eq!(client.try_receive().await?.status, 421);
            }
            Kind::Bomb => {
                let asked = serde_json::json!({ "text": "a", "k": 1, "where": bomb(random) });
                let (asked, host) = (asked.to_string(), "host: localhost");
                let length = asked.len();
                let head =
                    format!("POST /search HTTP/1.1\r\n{host}\r\ncontent-length: {length}\r\n\r\n");
                client.try_send(format!("{head}{asked}").as_bytes()).await?;
                let status = client.try_receive().await?.status;
                assert!([200, 400, 503].contains(&status), "a condition is answered by {status}");
            }
        }
        Ok(())
    }

    /// Many searches, one after the other, for as much as there is.
    fn large(&self) -> String {
        let k = self.k;
        format!("GET /search?text=note+1&k={k}&exact=true HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .repeat(20)
    }
}

async fn garbage(client: &mut Client, random: &mut StdRng) -> std::io::Result<()> {
    let long = "x".repeat(200_000);
    let bytes: Vec<u8> = match random.random_range(0..8) {
        0 => (0..10_000).map(|_| random.random()).collect(),
        1 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        2 => format!("GET /search?text={long} HTTP/1.1\r\nhost: localhost\r\n\r\n").into(),
        3 => format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n").into(),
        4 => b"POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n[[[[[[[[[".to_vec(),
        5 => b"POST /search HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nffffffffff\r\n".to_vec(),
        6 => b"GET /search?text=a&where=no_such+%3D+1 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        _ => format!(
            "POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999999\r\n\r\n{long}"
        )
        .into(),
    };
    client.try_send(&bytes).await?;
    client.closed_after().await;
    Ok(())
}

/// A condition on the column `day` that is nested, chained, or repeated, some within the limits and some far beyond
/// them.
fn bomb(random: &mut StdRng) -> String {
    let times = [20, 250, 5_000][random.random_range(0..3)];
    let nested = |open: &str, close: &str| {
        let depth = times.min(1_000);
        format!("{}day{} IS NOT NULL", open.repeat(depth), close.repeat(depth))
    };
    match random.random_range(0..10) {
        0 => format!("day{} > 0", " + day".repeat(times)),
        1 => nested("CAST(", " AS BIGINT)"),
        2 => nested("CAST(", " AS VARCHAR) AS BIGINT)"),
        3 => format!("array_length(make_array(day{})) > 0", ", day".repeat(times)),
        4 => nested("(", ")"),
        5 => nested("CASE WHEN day > 0 THEN 1 ELSE ", " END"),
        6 => format!("day IN (0{})", ", 7".repeat(times)),
        7 => format!("day > 0{}", " OR day = 7".repeat(times)),
        8 => nested("coalesce(", ", 0)"),
        _ => nested("(day BETWEEN 0 AND ", ")"),
    }
}

async fn trickle(client: &mut Client, random: &mut StdRng) -> std::io::Result<()> {
    loop {
        client.try_send(b" ").await?;
        pause(random, 400).await;
    }
}

async fn pause(random: &mut StdRng, most: u64) {
    tokio::time::sleep(Duration::from_millis(random.random_range(most / 4..=most))).await;
}
