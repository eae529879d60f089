//! How long one query takes alone on one thread.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result, ResultExt};
use crate::tower::{DeviceSpec, Tower};
use crate::types::Cancel;

/// Queries encoded by every tower before the clock counts.
const WARM_UP: usize = 5;

/// Milliseconds that a tower takes for one query, tokenising included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Which tower.
    pub tower: String,
    /// Queries timed.
    pub queries: usize,
    /// Tokens of a query, prompt included, on average.
    pub mean_tokens: f64,
    /// Median.
    pub median_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
}

/// Times towers on the same queries, one query at a time on one thread of the processor. The towers take turns at each
/// query, so whatever else the machine does falls on all of them.
///
/// # Errors
/// As loading and encoding; Cancelled.
pub fn query_latency(
    towers: &[(&str, &Tower)],
    queries: &[&str],
    cancel: &Cancel,
) -> Result<Vec<Latency>> {
    // Layers that the tensor library computes use the pool they are called from.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .or_error(ErrorKind::Resource, || "starting the thread that is timed")?;
    pool.install(|| {
        let device = DeviceSpec::Cpu { threads: 1 };
        let mut encoders =
            towers.iter().map(|(_, tower)| tower.load(&device)).collect::<Result<Vec<_>>>()?;
        let mut times = vec![Vec::with_capacity(queries.len()); towers.len()];
        let mut tokens = vec![0usize; towers.len()];
        let warm_up = queries.iter().take(WARM_UP).map(|query| (query, false));
        for (query, counts) in warm_up.chain(queries.iter().map(|query| (query, true))) {
            cancel.check()?;
            for (at, ((_, tower), encoder)) in towers.iter().zip(&mut encoders).enumerate() {
                let start = Instant::now();
                let ids = tower.tokenizer().tokenize(query)?.ids;
                encoder.encode(&[&ids])?;
                let seconds = start.elapsed().as_secs_f64();
                if counts {
                    times[at].push(1e3 * seconds);
                    tokens[at] += ids.len();
                }
            }
        }
        let rows = towers.iter().zip(times).zip(tokens);
        Ok(rows.map(|(((name, _), times), tokens)| summary(name, times, tokens)).collect())
    })
}

fn summary(tower: &str, mut times: Vec<f64>, tokens: usize) -> Latency {
    times.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let rank = (share * times.len() as f64).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    };
    Latency {
        tower: tower.to_owned(),
        queries: times.len(),
        mean_tokens: tokens as f64 / times.len().max(1) as f64,
        median_ms: at(0.5),
        p95_ms: at(0.95),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let latency = summary("t", times, 1200);
        assert_eq!((latency.median_ms, latency.p95_ms, latency.mean_tokens), (50.0, 95.0, 12.0));
        let one = summary("t", vec![3.0], 4);
        assert_eq!((one.median_ms, one.p95_ms, one.queries), (3.0, 3.0, 1));
        assert_eq!(summary("t", vec![], 0).queries, 0);
    }
}
