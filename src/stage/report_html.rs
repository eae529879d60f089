//! The run report as one self-contained HTML page: no script, no network, light and dark.

use crate::observe::format;
use crate::observe::html::{
    Cell, bar_chart, cards, escape, interval_chart, line_chart, page, table,
};

use super::backfill::BackfillState;
use super::report::{Amounts, Outcome, RunReport};
use crate::snapshot::GateOutcome;

impl RunReport {
    /// The page of `runs/<run>/report.html`. Everything that came from outside is escaped.
    pub fn to_html(&self) -> String {
        let mut body = String::new();
        self.head(&mut body);
        self.plan_table(&mut body);
        self.executor_table(&mut body);
        self.charts(&mut body);
        self.gate_table(&mut body);
        self.backfill(&mut body);
        self.reuse_tables(&mut body);
        self.corpus_tables(&mut body);
        self.config_table(&mut body);
        page(&format!("Run {}", self.run), &body)
    }

    fn head(&self, body: &mut String) {
        let class = match self.outcome {
            Outcome::Published { .. } | Outcome::NothingToDo { .. } => "good",
            Outcome::GateRefused | Outcome::Unfinished => "bad",
            Outcome::LostTo { .. } | Outcome::Planned | Outcome::NotPublished => "warn",
        };
        body.push_str(&format!(
            "<h1>Run {}</h1>\n<p class=\"{class}\">{}</p>\n<p class=\"soft\">{} to {}, {} on {}</p>\n",
            escape(&self.run),
            escape(&self.outcome.to_string()),
            escape(&self.started_at),
            escape(&self.finished_at),
            escape(&self.program),
            escape(&self.host)
        ));
        let speed = self.tokens_per_second().map_or_else(|| "-".to_owned(), format::rate);
        body.push_str(&cards(&[
            (format::count(self.corpus.notes), "notes"),
            (format::count(self.corpus.notes_new + self.corpus.notes_changed), "new or changed"),
            (speed, "tokens/s"),
            (self.recall.map_or_else(|| "-".to_owned(), |r| format!("{:.3}", r.mean)), "recall@10"),
            (format::bytes(self.bytes_written), "written"),
            (format::seconds(self.seconds), "wall time"),
        ]));
        if !self.warnings.is_empty() {
            body.push_str("<h2>Warnings</h2>\n<ul>\n");
            for warning in &self.warnings {
                body.push_str(&format!("<li class=\"warn\">{}</li>\n", escape(warning)));
            }
            body.push_str("</ul>\n");
        }
    }

    fn plan_table(&self, body: &mut String) {
        body.push_str("<h2>Planned and actual</h2>\n");
        let mut rows = Vec::new();
        for stage in &self.stages {
            let numbers = |amounts: Option<&Amounts>| match amounts {
                Some(a) => [
                    format::count(a.texts),
                    format::count(a.tokens),
                    format::seconds(a.seconds),
                    format::bytes(a.bytes),
                ],
                None => std::array::from_fn(|_| "-".to_owned()),
            };
            for (what, amounts) in
                [("planned", stage.planned.as_ref()), ("actual", Some(&stage.actual))]
            {
                let mut row = vec![Cell::Text(stage.stage.name().into()), Cell::Text(what.into())];
                row.extend(numbers(amounts).map(Cell::Number));
                rows.push(row);
            }
        }
        let header = [
            ("Stage", false),
            ("", false),
            ("Texts", true),
            ("Tokens", true),
            ("Time", true),
            ("Bytes", true),
        ];
        body.push_str(&table(&header, &rows));
        body.push_str(&format!(
            "<p class=\"soft\">{} parts written; {} tasks done, {} found done</p>\n",
            format::count(self.parts_written),
            format::count(self.tasks_done),
            format::count(self.tasks_adopted)
        ));
    }

    fn executor_table(&self, body: &mut String) {
        if self.executors.is_empty() {
            return;
        }
        body.push_str("<h2>Executors</h2>\n");
        let speed = |speed: Option<f64>| speed.map_or_else(|| "-".to_owned(), format::rate);
        let rows: Vec<Vec<Cell>> = self
            .executors
            .iter()
            .map(|executor| {
                vec![
                    Cell::Text(executor.executor.clone()),
                    Cell::Text(executor.device.clone()),
                    Cell::Number(speed(executor.tokens_per_second)),
                    Cell::Number(format::seconds(executor.busy_seconds)),
                    Cell::Number(format::count(executor.tasks)),
                    Cell::Number(format::count(executor.retries)),
                    Cell::Number(format::count(executor.tokens)),
                    Cell::Text(if executor.straggler { "straggler".into() } else { String::new() }),
                ]
            })
            .collect();
        let header = [
            ("Executor", false),
            ("Device", false),
            ("Tokens/s", true),
            ("Busy", true),
            ("Tasks", true),
            ("Retries", true),
            ("Tokens", true),
            ("", false),
        ];
        body.push_str(&table(&header, &rows));
    }

    fn charts(&self, body: &mut String) {
        body.push_str("<h2>Lengths of encoded texts, in tokens</h2>\n");
        if self.lengths.is_empty() {
            body.push_str("<p class=\"soft\">No text was encoded.</p>\n");
        } else {
            let mut from = 0u64;
            let bars: Vec<_> = self
                .lengths
                .iter()
                .map(|bucket| {
                    let tip = format!(
                        "{from} to {} tokens: {} texts",
                        bucket.up_to,
                        format::count(bucket.texts)
                    );
                    from = u64::from(bucket.up_to) + 1;
                    (format!("\u{2264}{}", bucket.up_to), bucket.texts, tip)
                })
                .collect();
            body.push_str(&bar_chart("Histogram of text lengths in tokens", &bars));
        }
        body.push_str("<h2>Throughput, in tokens/s</h2>\n");
        if self.throughput.is_empty() {
            body.push_str("<p class=\"soft\">Nothing was measured.</p>\n");
        } else {
            let points: Vec<_> =
                self.throughput.iter().map(|s| (s.seconds, s.tokens_per_second)).collect();
            body.push_str(&line_chart("Tokens per second over time", &points));
        }
        body.push_str("<h2>Recall</h2>\n");
        match &self.recall {
            Some(recall) => {
                body.push_str(&format!(
                    "<p>recall@{} {:.4}, 95% interval {:.4} to {:.4} over {} queries</p>\n",
                    recall.k, recall.mean, recall.low, recall.high, recall.queries
                ));
                body.push_str(&interval_chart(
                    "Recall with its 95% interval",
                    recall.low,
                    recall.mean,
                    recall.high,
                    self.recall_min,
                ));
            }
            None => body.push_str("<p class=\"soft\">Nothing was measured.</p>\n"),
        }
    }

    fn gate_table(&self, body: &mut String) {
        body.push_str("<h2>Gates</h2>\n");
        if self.gates.is_empty() {
            body.push_str("<p class=\"soft\">No gate was asked.</p>\n");
            return;
        }
        gates(&self.gates, body);
    }

    /// The tower that is to take over.
    fn backfill(&self, body: &mut String) {
        let Some(backfill) = &self.backfill else { return };
        let class = match backfill.state {
            BackfillState::Switched { .. } => "good",
            BackfillState::Growing => "soft",
            BackfillState::RolledBack => "warn",
            BackfillState::Refused => "bad",
        };
        body.push_str(&format!(
            "<h2>Next tower</h2>\n<p class=\"{class}\">{}</p>\n",
            escape(&backfill.to_string())
        ));
        if let Some(refusal) = &backfill.refusal {
            body.push_str(&format!("<p class=\"bad\">{}</p>\n", escape(refusal)));
        }
        let counts = [
            ("texts", format::count(backfill.texts)),
            ("texts stored", format::count(backfill.texts_stored)),
            ("tokens missing", format::count(backfill.tokens_missing)),
            ("tokens encoded by this run", format::count(backfill.tokens_encoded)),
            ("time", format::seconds(backfill.seconds)),
        ];
        let rows: Vec<_> = counts
            .into_iter()
            .map(|(name, value)| vec![Cell::Text(name.into()), Cell::Number(value)])
            .collect();
        body.push_str(&table(&[("What", false), ("Amount", true)], &rows));
        if !backfill.gates.is_empty() {
            gates(&backfill.gates, body);
        }
    }

    /// What was taken over and what was written.
    fn reuse_tables(&self, body: &mut String) {
        let reuse = &self.reuse;
        let all = reuse.encoded + reuse.from_parent + reuse.from_elsewhere;
        let share = |part: u64, whole: u64| match whole {
            0 => "-".to_owned(),
            _ => format!("{:.1}%", 100.0 * part as f64 / whole as f64),
        };
        body.push_str("<h2>Reuse</h2>\n");
        let rows: Vec<_> = [
            ("texts encoded", reuse.encoded, share(reuse.encoded, all)),
            (
                "vectors taken from the parent snapshot",
                reuse.from_parent,
                share(reuse.from_parent, all),
            ),
            ("vectors found elsewhere", reuse.from_elsewhere, share(reuse.from_elsewhere, all)),
            (
                "vectors inserted into an index",
                self.vectors_inserted,
                share(self.vectors_inserted, all),
            ),
            ("shards rebuilt as one", self.shards_rebuilt, String::new()),
            ("rows in the parts taken from", self.parts.rows, String::new()),
            ("of these live", self.parts.live_rows, share(self.parts.live_rows, self.parts.rows)),
            (
                "parts compacted",
                self.parts.compacted,
                share(self.parts.compacted, self.parts.parts),
            ),
        ]
        .into_iter()
        .map(|(name, count, share)| {
            vec![Cell::Text(name.into()), Cell::Number(format::count(count)), Cell::Number(share)]
        })
        .collect();
        body.push_str(&table(&[("What", false), ("Count", true), ("Share", true)], &rows));
        body.push_str("<h2>Bytes written</h2>\n");
        let written = &self.written;
        let rows: Vec<_> = [
            ("prepared notes", written.prepared),
            ("encoded vectors", written.parts),
            ("compacted vectors", written.compacted),
            ("indexes", written.indexes),
            ("sidecars", written.sidecars),
            ("ids", written.ids),
        ]
        .into_iter()
        .map(|(name, bytes)| vec![Cell::Text(name.into()), Cell::Number(format::bytes(bytes))])
        .collect();
        body.push_str(&table(&[("Kind", false), ("Bytes", true)], &rows));
    }

    fn corpus_tables(&self, body: &mut String) {
        let corpus = &self.corpus;
        body.push_str("<h2>Corpus</h2>\n");
        let counts = [
            ("rows read", corpus.rows_read),
            ("duplicates dropped", corpus.duplicates),
            ("rejected", corpus.rejections.total()),
            ("notes", corpus.notes),
            ("new", corpus.notes_new),
            ("changed", corpus.notes_changed),
            ("unchanged", corpus.notes_unchanged),
            ("deleted", corpus.notes_deleted),
            ("truncated", corpus.truncated),
            ("quarantined", corpus.quarantined),
        ];
        let mut rows: Vec<_> = counts
            .iter()
            .map(|(name, count)| {
                vec![Cell::Text((*name).into()), Cell::Number(format::count(*count))]
            })
            .collect();
        for (reason, count) in &corpus.rejections.by_reason {
            rows.push(vec![
                Cell::Text(format!("rejected: {reason}")),
                Cell::Number(format::count(*count)),
            ]);
        }
        body.push_str(&table(&[("What", false), ("Count", true)], &rows));
        let samples: Vec<_> = corpus
            .rejections
            .samples
            .iter()
            .chain(&corpus.quarantined_samples)
            .map(|sample| vec![Cell::Text(sample.clone())])
            .collect();
        if !samples.is_empty() {
            body.push_str("<h2>Samples of what was left out</h2>\n");
            body.push_str(&table(&[("Note and reason", false)], &samples));
        }
    }

    fn config_table(&self, body: &mut String) {
        let config = &self.config;
        body.push_str("<h2>Configuration</h2>\n");
        let rows: Vec<_> = [
            ("pipeline", config.pipeline.clone()),
            ("root", config.root.clone()),
            ("model", config.model.clone()),
            ("embedding space", config.space.clone()),
            ("pooling", config.pooling.clone()),
            ("dimensions", config.dimensions.to_string()),
            ("max tokens", config.max_tokens.to_string()),
            ("arithmetic", config.arithmetic.clone()),
            ("devices", config.devices.join(", ")),
            ("quantization", config.quantization.clone()),
            ("shards", config.shards.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| vec![Cell::Text(name.into()), Cell::Text(value)])
        .collect();
        body.push_str(&table(&[("Key", false), ("Value", false)], &rows));
    }
}

fn gates(gates: &[GateOutcome], body: &mut String) {
    let rows: Vec<_> = gates
        .iter()
        .map(|gate| {
            let verdict = match (gate.passed, &gate.overridden) {
                (true, _) => Cell::Verdict("good", "passed".into()),
                (false, Some(_)) => Cell::Verdict("warn", "overridden".into()),
                (false, None) => Cell::Verdict("bad", "refused".into()),
            };
            let reason = gate.overridden.clone().unwrap_or_default();
            vec![
                Cell::Text(gate.gate.clone()),
                verdict,
                Cell::Text(gate.detail.clone()),
                Cell::Text(reason),
            ]
        })
        .collect();
    let header =
        [("Gate", false), ("Verdict", false), ("Measured", false), ("Reason of override", false)];
    body.push_str(&table(&header, &rows));
}
