//! The metrics of a run, for Prometheus' textfile collector: written at its end, whatever the end was.

use std::path::Path;

use super::prometheus::Gauges;
use super::run::{Outcome, RunReport};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::Stage;
use crate::snapshot::GateOutcome;
use crate::store::named::{Existing, read_text, write_whole};

/// Exit code of a run that did all it was there for.
const DONE: u8 = 0;

/// Largest metrics file that is read: ours have some thousand bytes.
const MAX_FILE: u64 = 4 << 20;

/// Refuses what the metrics of a run cannot be written to later: it is read before it is replaced, and a device or pipe
/// allows neither.
///
/// # Errors
/// Usage, naming the file.
pub fn check_metrics_file(file: &Path) -> Result<()> {
    earlier(file).map(drop).map_err(|cause| {
        let message = format!("the metrics file {} cannot be used", file.display());
        Error::usage(message).with_source(cause)
    })
}

/// The metrics of the run before; none where there are none yet.
fn earlier(file: &Path) -> std::io::Result<String> {
    match read_text(file, MAX_FILE) {
        Ok(text) if !text.is_empty() && !text.contains("# HELP scalingnote_") => {
            let what =
                "it holds something else than our metrics, which would be lost; name another file";
            Err(std::io::Error::other(what))
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// Replaces `file` by the metrics of a run that ended now with `exit_code`, in one step: a collector never reads half
/// a file. `pipeline` labels every sample. What this run did not find out (the newest snapshot of a store that
/// cannot be reached, the last success) is taken over from the earlier file.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_metrics(file: &Path, pipeline: &str, report: &RunReport, exit_code: u8) -> Result<()> {
    let failed = || format!("writing metrics to {}", file.display());
    let earlier = earlier(file).or_error(ErrorKind::Resource, failed)?;
    let now = chrono::Utc::now().timestamp_millis() as f64 / 1000.0;
    let text = metrics(pipeline, report, exit_code, now, &earlier);
    replace(file, &text).or_error(ErrorKind::Resource, failed)
}

/// The text of the file. `now` is in seconds since 1970.
fn metrics(pipeline: &str, report: &RunReport, exit_code: u8, now: f64, earlier: &str) -> String {
    let mut gauges = Gauges::new(vec![("pipeline", pipeline.to_owned())]);
    health(&mut gauges, report, exit_code, now, earlier);
    snapshot(&mut gauges, report, earlier);
    work(&mut gauges, report);
    quality(&mut gauges, report, exit_code);
    gauges.text().to_owned()
}

fn health(gauges: &mut Gauges, report: &RunReport, exit_code: u8, now: f64, earlier: &str) {
    gauges.add(
        "scalingnote_last_run_timestamp_seconds",
        "When the last run ended, in seconds since 1970.",
        now,
    );
    gauges.add(
        "scalingnote_last_run_exit_code",
        "Exit code of the last run: 0 done, 1 failed, 2 configuration, 3 refused by a gate, 75 run again, 130 interrupted.",
        f64::from(exit_code),
    );
    // Whatever failed after it, the snapshot is today's.
    let is_current =
        matches!(report.outcome, Outcome::Published { .. } | Outcome::NothingToDo { .. });
    gauges.add_or_keep(
        "scalingnote_last_success_timestamp_seconds",
        "When a run last left the newest snapshot up to date, in seconds since 1970.",
        is_current.then_some(now),
        earlier,
    );
    let failures = "scalingnote_failed_runs_in_a_row";
    let before = gauges.value_in(failures, earlier).unwrap_or(0.0);
    gauges.add(
        failures,
        "Runs that ended with another exit code than 0 since the last that ended with 0.",
        if exit_code == DONE { 0.0 } else { before + 1.0 },
    );
    gauges.add(
        "scalingnote_last_run_duration_seconds",
        "Wall time of the last run.",
        report.seconds,
    );
}

fn snapshot(gauges: &mut Gauges, report: &RunReport, earlier: &str) {
    let newest = report.newest.as_ref();
    let created = newest.and_then(|newest| {
        let time = chrono::DateTime::parse_from_rfc3339(&newest.created_at).ok()?;
        Some(time.timestamp() as f64)
    });
    for (name, help, value) in [
        (
            "scalingnote_snapshot_number",
            "Number of the newest snapshot.",
            newest.map(|newest| newest.number as f64),
        ),
        (
            "scalingnote_snapshot_created_timestamp_seconds",
            "When the newest snapshot was published, in seconds since 1970.",
            created,
        ),
        (
            "scalingnote_snapshot_notes",
            "Notes of the newest snapshot.",
            newest.map(|newest| newest.notes as f64),
        ),
        (
            "scalingnote_snapshot_vectors",
            "Vectors of the newest snapshot.",
            newest.map(|newest| newest.vectors as f64),
        ),
    ] {
        gauges.add_or_keep(name, help, value, earlier);
    }
}

fn work(gauges: &mut Gauges, report: &RunReport) {
    let corpus = &report.corpus;
    gauges.add_by(
        "scalingnote_last_run_notes",
        "Notes that the last run found, by what became of them.",
        "change",
        [
            ("new", corpus.notes_new as f64),
            ("changed", corpus.notes_changed as f64),
            ("unchanged", corpus.notes_unchanged as f64),
            ("deleted", corpus.notes_deleted as f64),
            ("duplicate", corpus.duplicates as f64),
            ("rejected", corpus.rejections.total() as f64),
            ("quarantined", corpus.quarantined as f64),
        ],
    );
    let stage = |stage| report.stages.iter().find(|entry| entry.stage == stage);
    let encode = stage(Stage::Encode).map(|entry| entry.actual).unwrap_or_default();
    gauges.add_by(
        "scalingnote_last_run_texts",
        "Texts of the last run, by whether they were encoded or their vectors were stored already.",
        "source",
        [("encoded", encode.texts as f64), ("reused", report.texts_reused as f64)],
    );
    gauges.add(
        "scalingnote_last_run_tokens",
        "Tokens that the last run encoded, without padding.",
        encode.tokens as f64,
    );
    gauges.add(
        "scalingnote_last_run_tokens_per_second",
        "Speed of encoding in the last run, on all devices together.",
        report.tokens_per_second().unwrap_or(f64::NAN),
    );
    gauges.add(
        "scalingnote_last_run_padding_avoided_tokens",
        "Padding that batches of 32 neighbours would have added to the planned tokens of the last run.",
        report.padding_avoided as f64,
    );
    gauges.add(
        "scalingnote_last_run_device_busy_seconds",
        "Time that devices had a batch to compute in the last run, summed over devices.",
        report.device_busy_seconds,
    );
    gauges.add(
        "scalingnote_last_run_device_busy_ratio",
        "Share of the encode tasks' time in which a device had a batch of theirs to compute.",
        report.device_busy.unwrap_or(f64::NAN),
    );
    if let Some(share) = report.ceiling_share {
        gauges.add(
            "scalingnote_last_run_ceiling_ratio",
            "Speed of busy devices in the last run, as a share of what the tower's products alone would reach.",
            share,
        );
    }
    gauges.add_by(
        "scalingnote_last_run_stage_duration_seconds",
        "Wall time of each stage of the last run.",
        "stage",
        report.stages.iter().map(|entry| (entry.stage.name(), entry.actual.seconds)),
    );
    gauges.add_by(
        "scalingnote_last_run_written_bytes",
        "Bytes that the last run stored: embeddings by encode, indexes by build.",
        "stage",
        [Stage::Encode, Stage::Build]
            .map(|name| (name.name(), stage(name).map_or(0.0, |entry| entry.actual.bytes as f64))),
    );
}

fn quality(gauges: &mut Gauges, report: &RunReport, exit_code: u8) {
    if let Some(recall) = &report.recall {
        gauges.add_by(
            "scalingnote_last_run_recall_ratio",
            "Recall@10 of the indexes against exact search: measured mean and its 95% interval.",
            "bound",
            [("low", recall.low), ("mean", recall.mean), ("high", recall.high)],
        );
    }
    gauges.add(
        "scalingnote_recall_required_ratio",
        "Recall that the gate asks for.",
        report.recall_min.unwrap_or(f64::NAN),
    );
    if let Some(ndcg_10) = report.evaluation.as_ref().and_then(|evaluation| evaluation.ndcg_10) {
        gauges.add(
            "scalingnote_last_run_ndcg",
            "Mean nDCG@10 of the judged set of [evaluation] on what the last run built.",
            ndcg_10,
        );
    }
    let refused = exit_code == ErrorKind::GateRefused.exit_code();
    let refuses = |gate: &GateOutcome| !gate.passed && gate.overridden.is_none();
    gauges.add_by(
        "scalingnote_gate_refused",
        "1 where this gate kept the last run from publishing.",
        "gate",
        report
            .gates
            .iter()
            .map(|gate| (gate.gate.as_str(), f64::from(u8::from(refused && refuses(gate))))),
    );
}

/// Replaces the file in one step, readable by every user: the collector is another one.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    write_whole(file, text, Existing::Replace)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::run::NewestSnapshot;

    fn value(text: &str, series: &str) -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    #[test]
    fn a_failure_keeps_what_was_known_and_counts_up() {
        let good = RunReport {
            outcome: Outcome::Published { snapshot: 7 },
            padding_avoided: 11,
            newest: Some(NewestSnapshot {
                number: 7,
                created_at: "2025-01-02T00:00:00Z".to_owned(),
                notes: 10,
                vectors: 12,
            }),
            ..RunReport::default()
        };
        let first = metrics("daily", &good, 0, 1_000.0, "");
        let success = "scalingnote_last_success_timestamp_seconds{pipeline=\"daily\"}";
        let failed = "scalingnote_failed_runs_in_a_row{pipeline=\"daily\"}";
        let number = "scalingnote_snapshot_number{pipeline=\"daily\"}";
        assert_eq!((value(&first, success), value(&first, failed)), (Some(1_000.0), Some(0.0)));

        let avoided = "scalingnote_last_run_padding_avoided_tokens{pipeline=\"daily\"}";
        assert_eq!(value(&first, avoided), Some(11.0));

        let lost = RunReport::default();
        let second = metrics("daily", &lost, 75, 2_000.0, &first);
        let third = metrics("daily", &lost, 1, 3_000.0, &second);
        assert_eq!((value(&third, success), value(&third, failed)), (Some(1_000.0), Some(2.0)));
        assert_eq!(value(&third, number), Some(7.0));
        let created = "scalingnote_snapshot_created_timestamp_seconds{pipeline=\"daily\"}";
        assert_eq!(value(&third, created), Some(1_735_776_000.0));

        let idle = RunReport { outcome: Outcome::NothingToDo { snapshot: Some(7) }, ..good };
        let fourth = metrics("daily", &idle, 0, 4_000.0, &third);
        assert_eq!((value(&fourth, success), value(&fourth, failed)), (Some(4_000.0), Some(0.0)));

        let built = RunReport { outcome: Outcome::NotPublished, ..RunReport::default() };
        let fifth = metrics("daily", &built, 0, 5_000.0, &fourth);
        assert_eq!(value(&fifth, success), Some(4_000.0), "nothing was published");
    }

    #[test]
    fn an_overridden_gate_does_not_refuse() {
        let gate = |name: &str, overridden: Option<&str>| GateOutcome {
            gate: name.to_owned(),
            passed: false,
            detail: String::new(),
            overridden: overridden.map(str::to_owned),
        };
        let report = RunReport {
            gates: vec![gate("recall", None), gate("drift", Some("known"))],
            ..RunReport::default()
        };
        let text = metrics("p", &report, 3, 1.0, "");
        let refused = |name| {
            value(&text, &format!("scalingnote_gate_refused{{pipeline=\"p\",gate=\"{name}\"}}"))
        };
        assert_eq!((refused("recall"), refused("drift")), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn the_file_is_replaced_whole_and_readable() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.prom");
        write_metrics(&file, "p", &RunReport::default(), 1).unwrap();
        write_metrics(&file, "p", &RunReport::default(), 1).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(value(&text, "scalingnote_failed_runs_in_a_row{pipeline=\"p\"}"), Some(2.0));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        check_metrics_file(&file).unwrap();
        std::fs::write(folder.path().join("notes.csv"), "id,title\n1,a\n").unwrap();
        for other in ["notes.csv", "."] {
            let error = check_metrics_file(&folder.path().join(other)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{error:?}");
        }
        let missing = folder.path().join("no/such/folder.prom");
        let error = write_metrics(&missing, "p", &RunReport::default(), 0).unwrap_err();
        assert!(error.to_string().contains("folder.prom"), "{error}");
    }
}
