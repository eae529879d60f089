//! Counters of the service, as Prometheus text (exposition format 0.0.4).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::connection::{Counts, Reason};
use crate::search::{Serving, WatchStatus};
use crate::snapshot::Manifest;

/// How a request to `/search` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    BadRequest,
    TooLarge,
    Busy,
    NoSnapshot,
    Timeout,
    Failed,
}

impl Outcome {
    /// In the order of the variants.
    const NAMES: [&str; 7] =
        ["answered", "bad_request", "too_large", "busy", "no_snapshot", "timeout", "failed"];
}

/// Upper ends of the latency buckets in seconds.
const BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Default)]
pub(super) struct Metrics {
    outcomes: [AtomicU64; Outcome::NAMES.len()],
    /// Answered requests by bucket, not yet summed up; the last is above all.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    microseconds: AtomicU64,
    in_flight: AtomicU64,
    foreign: AtomicU64,
    /// Requests for the page.
    pages: [AtomicU64; Outcome::NAMES.len()],
}

/// Counts a request as in flight until it is dropped, however the request ends.
pub(super) struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub fn in_flight(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(&self.in_flight)
    }

    pub fn count(&self, outcome: Outcome, took: Duration) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
        if outcome == Outcome::Answered {
            let bucket = BUCKETS.partition_point(|end| *end < took.as_secs_f64());
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.microseconds.fetch_add(micros, Ordering::Relaxed);
        }
    }

    /// Counts a request for the page.
    pub fn count_page(&self, outcome: Outcome) {
        self.pages[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request for another host's name, or from another site's page.
    pub fn count_foreign(&self) {
        self.foreign.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything as text. Gauges of a snapshot are absent while none is in service.
    pub fn render(
        &self,
        status: &WatchStatus,
        serving: Option<&Serving>,
        connections: &Counts,
    ) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "# HELP scalingnote_{name} {help}\n# TYPE scalingnote_{name} {kind}"
            );
            for (labels, value) in samples {
                let _ = writeln!(text, "scalingnote_{name}{labels} {value}");
            }
        };
        let one = |value: String| vec![(String::new(), value)];
        let ready = u8::from(serving.is_some());
        let help = "1 while a snapshot is in service.";
        family("serve_ready", "gauge", help, &one(ready.to_string()));
        if let Some(manifest) = serving.map(|serving| serving.snapshot.manifest()) {
            let number = one(manifest.number.to_string());
            family("serve_snapshot", "gauge", "Number of the snapshot in service.", &number);
            let notes = one(manifest.content.notes.to_string());
            family("serve_notes", "gauge", "Notes of the snapshot in service.", &notes);
            if let Some(age) = age(manifest) {
                let help = "Seconds since the snapshot in service was committed.";
                family("serve_snapshot_age_seconds", "gauge", help, &one(format!("{age:.1}")));
            }
        }
        let help = "Snapshots held open, by readers of an older one too.";
        family("serve_open_snapshots", "gauge", help, &one(status.open.to_string()));
        let help = "Snapshots put into service.";
        family("serve_swaps_total", "counter", help, &one(status.swaps.to_string()));
        let help = "Looks for a newer snapshot that failed, and newer snapshots not taken over.";
        family("serve_reload_failures_total", "counter", help, &one(status.failures.to_string()));
        let failing = u8::from(status.failure.is_some());
        let help = "1 while the last look failed or the newest snapshot is not taken over.";
        family("serve_reload_failing", "gauge", help, &one(failing.to_string()));
        if let Some(looked) = status.looked {
            let help = "Seconds since a look for a newer snapshot last succeeded.";
            let ago = one(format!("{:.1}", looked.elapsed().as_secs_f64()));
            family("serve_last_look_seconds", "gauge", help, &ago);
        }
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let by_outcome = |counts: &[AtomicU64]| -> Vec<_> {
            let outcomes = Outcome::NAMES.iter().zip(counts);
            let labelled = |name: &str| format!("{{outcome=\"{name}\"}}");
            outcomes.map(|(name, count)| (labelled(name), read(count).to_string())).collect()
        };
        let help = "Requests to /search by outcome.";
        family("serve_requests_total", "counter", help, &by_outcome(&self.outcomes));
        let help = "Requests for the page at / by outcome.";
        family("serve_page_requests_total", "counter", help, &by_outcome(&self.pages));
        let in_flight = one(read(&self.in_flight).to_string());
        family(
            "serve_requests_in_flight",
            "gauge",
            "Requests to /search and / in progress.",
            &in_flight,
        );
        let foreign = one(read(&self.foreign).to_string());
        let help = "Requests refused for their Host or Origin.";
        family("serve_foreign_requests_total", "counter", help, &foreign);
        let Counts { open, held, accepted, closed } = connections;
        family("serve_connections", "gauge", "Open connections.", &one(open.to_string()));
        let help = "Connections taken in.";
        family("serve_connections_total", "counter", help, &one(accepted.to_string()));
        let reasons = Reason::NAMES.iter().zip(closed);
        let reasons: Vec<_> = reasons
            .map(|(name, count)| (format!("{{reason=\"{name}\"}}"), count.to_string()))
            .collect();
        let help = "Connections that the server closed on a client that kept it waiting.";
        family("serve_connections_closed_total", "counter", help, &reasons);
        let help = "Bytes of requests and answers in memory.";
        family("serve_held_bytes", "gauge", help, &one(held.to_string()));
        let mut below = 0;
        let mut samples = Vec::with_capacity(BUCKETS.len() + 1);
        let ends = BUCKETS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (end, count) in ends.zip(&self.buckets) {
            below += read(count);
            samples.push((format!("_bucket{{le=\"{end}\"}}"), below.to_string()));
        }
        let seconds = read(&self.microseconds) as f64 / 1e6;
        samples.push(("_sum".to_owned(), format!("{seconds:.6}")));
        samples.push(("_count".to_owned(), below.to_string()));
        let help = "Time to answer, of the requests that were answered.";
        family("serve_request_seconds", "histogram", help, &samples);
        text
    }
}

/// Seconds since a snapshot was committed, if its manifest says when.
pub(super) fn age(manifest: &Manifest) -> Option<f64> {
    let created = chrono::DateTime::parse_from_rfc3339(&manifest.provenance.created_at).ok()?;
    let age = chrono::Utc::now() - created.to_utc();
    Some((age.num_milliseconds() as f64 / 1e3).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_buckets_add_up() {
        let metrics = Metrics::default();
        for millis in [1, 3, 3, 700, 60_000] {
            metrics.count(Outcome::Answered, Duration::from_millis(millis));
        }
        metrics.count(Outcome::Busy, Duration::from_millis(1));
        let flying = metrics.in_flight();
        let status = WatchStatus { open: 2, failures: 3, ..WatchStatus::default() };
        metrics.count_foreign();
        metrics.count_page(Outcome::NoSnapshot);
        let connections =
            Counts { open: 7, held: 70, accepted: 700, closed: [0, 0, 1, 2, 0, 0, 0] };
        let text = metrics.render(&status, None, &connections);
        drop(flying);
        for line in [
            "scalingnote_serve_ready 0",
            "scalingnote_serve_open_snapshots 2",
            "scalingnote_serve_reload_failures_total 3",
            "scalingnote_serve_requests_total{outcome=\"answered\"} 5",
            "scalingnote_serve_requests_total{outcome=\"busy\"} 1",
            "scalingnote_serve_page_requests_total{outcome=\"no_snapshot\"} 1",
            "scalingnote_serve_requests_in_flight 1",
            "scalingnote_serve_foreign_requests_total 1",
            "scalingnote_serve_connections 7",
            "scalingnote_serve_connections_total 700",
            "scalingnote_serve_connections_closed_total{reason=\"unread\"} 1",
            "scalingnote_serve_connections_closed_total{reason=\"place\"} 2",
            "scalingnote_serve_held_bytes 70",
            "scalingnote_serve_request_seconds_bucket{le=\"0.001\"} 1",
            "scalingnote_serve_request_seconds_bucket{le=\"0.005\"} 3",
            "scalingnote_serve_request_seconds_bucket{le=\"1\"} 4",
            "scalingnote_serve_request_seconds_bucket{le=\"+Inf\"} 5",
            "scalingnote_serve_request_seconds_sum 60.707000",
            "scalingnote_serve_request_seconds_count 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("serve_snapshot "), "no number without a snapshot");
        assert!(metrics.render(&status, None, &Counts::default()).contains("in_flight 0"));
    }
}
