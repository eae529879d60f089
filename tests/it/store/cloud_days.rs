//! Days in the life of a corpus on real servers (`make test-stores`) in bad weather: whatever breaks on the way, a
//! reader sees whole snapshots, and in the end those of a run without faults.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use scalingnote::report::Outcome;
use scalingnote::snapshot::{self, Manifest};
use scalingnote::store::Root;

use super::cloud::{Server, servers};
use crate::fixture::days::{Corpus, seen};
use crate::fixture::proxy::weather;
use crate::fixture::support::env_number;

const DAYS: u32 = 3;

#[derive(Default)]
struct Tally {
    runs: u32,
    stopped: u32,
    requests: usize,
    faults: BTreeMap<String, u64>,
}

async fn days(server: &Server, seed: u64, tally: &mut Tally) {
    let mut random = StdRng::seed_from_u64(seed);
    let (clear, reference) = (server.clear(), Root::in_memory());
    let cache = tempfile::tempdir().unwrap();
    let mut corpus = Corpus::new(40);
    let mut published: BTreeMap<u64, Manifest> = BTreeMap::new();
    for day in 0..DAYS {
        corpus.live_a_day(&mut random);
        corpus.run(&reference, &[]).await.unwrap();
        for attempt in 1.. {
            // Ever fewer faults, so that every schedule ends.
            let (proxy, root) =
                server.broken(weather(random.random(), 0.25 / f64::from(attempt))).await;
            let outcome = corpus.run(&root, &[]).await;
            tally.runs += 1;
            tally.requests += proxy.seen().len();
            for (name, count) in proxy.faults() {
                *tally.faults.entry(name).or_default() += count;
            }
            if let Some(newest) = snapshot::newest(&clear).await.unwrap() {
                let problems = snapshot::verify_hashes(&clear, &newest, &|_| {}).await.unwrap();
                assert!(problems.is_empty(), "seed {seed}, day {day}: {problems:?}");
                published.entry(newest.number).or_insert(newest);
            }
            for (number, manifest) in &published {
                let now = snapshot::read(&clear, *number).await.unwrap();
                assert_eq!(now, *manifest, "seed {seed}, day {day}: snapshot {number} changed");
            }
            match outcome {
                Ok(report) => {
                    assert_ne!(
                        report.outcome,
                        Outcome::GateRefused,
                        "seed {seed}: {:?}",
                        report.gates
                    );
                    break;
                }
                Err(error) => {
                    tally.stopped += 1;
                    assert!(error.is_retryable(), "seed {seed}, day {day}: {error:?}");
                }
            }
        }
        let ours = snapshot::newest(&clear).await.unwrap().unwrap();
        let expected = snapshot::newest(&reference).await.unwrap().unwrap();
        assert_eq!(
            seen(&clear, &ours, cache.path()).await,
            seen(&reference, &expected, cache.path()).await,
            "{}, seed {seed}, day {day}",
            server.uri
        );
    }
}

/// Runs `SCALINGNOTE_PROXY_SCHEDULES` seeded schedules (3 by default) a server, from `SCALINGNOTE_FAULT_SEED` (0).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_in_bad_weather_end_as_in_fair_weather_on_roots_of_the_environment() {
    let first = env_number("SCALINGNOTE_FAULT_SEED", 0);
    let count = env_number("SCALINGNOTE_PROXY_SCHEDULES", 3);
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for seed in first..first + count {
        for server in servers() {
            let (scheme, _) = server.uri.split_once("://").unwrap();
            days(&server, seed, tallies.entry(scheme.to_owned()).or_default()).await;
        }
    }
    for (scheme, tally) in tallies {
        println!(
            "{scheme}: {count} schedules of {DAYS} days from seed {first}: {} runs, {} stopped by a fault, \
             {} requests, {} faults: {:?}",
            tally.runs,
            tally.stopped,
            tally.requests,
            tally.faults.values().sum::<u64>(),
            tally.faults
        );
        assert!(tally.faults.len() >= 6, "every kind of weather must have come");
    }
}
