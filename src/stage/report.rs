//! The run report: what was planned, what happened, and whether it was published.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backfill::{BackfillReport, BackfillState};
use super::books::{Reuse, Written};
use super::lengths::LengthBucket;
use crate::corpus::Rejections;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::index::Recall;
use crate::observe::{ExecutorProgress, Sample, Stage, format};
use crate::snapshot::{GateOutcome, Manifest};
use crate::stage::PartsSummary;

/// Version of the report format that this release writes.
pub const REPORT_VERSION: u32 = 1;

/// How a run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Outcome {
    /// The run did not end yet, or ended with an error.
    #[default]
    Unfinished,
    /// A new snapshot is the newest.
    Published {
        /// Its number.
        snapshot: u64,
    },
    /// Nothing changed: the newest snapshot stays.
    NothingToDo {
        /// Its number; `None` where there is none.
        snapshot: Option<u64>,
    },
    /// The plan was made and nothing else was asked.
    Planned,
    /// All indexes are built and nothing was published, as asked.
    NotPublished,
    /// A gate refused the snapshot.
    GateRefused,
    /// Another publisher was first.
    LostTo {
        /// The snapshot of the other.
        snapshot: u64,
    },
}

/// The newest snapshot when a run ended, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewestSnapshot {
    /// Its number.
    pub number: u64,
    /// When it was committed: RFC 3339, UTC.
    pub created_at: String,
    /// Its notes.
    pub notes: u64,
    /// Its vectors.
    pub vectors: u64,
}

impl NewestSnapshot {
    /// Of a manifest.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            number: manifest.number,
            created_at: manifest.provenance.created_at.clone(),
            notes: manifest.content.notes,
            vectors: manifest.content.vectors,
        }
    }
}

/// What was configured, as far as a reader of the report wants to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigSummary {
    /// The config file.
    pub pipeline: String,
    /// The root, without credentials.
    pub root: String,
    /// The document tower as configured.
    pub model: String,
    /// Name of the embedding space.
    pub space: String,
    /// Pooling, as in the config.
    pub pooling: String,
    /// Dimensions of a vector.
    pub dimensions: u32,
    /// Longest sequence in tokens.
    pub max_tokens: u32,
    /// Class of arithmetic, as in the config.
    pub arithmetic: String,
    /// Workers.
    pub devices: Vec<String>,
    /// Quantisation of the indexes, as in the config.
    pub quantization: String,
    /// Number of shards.
    pub shards: u32,
}

/// Notes and rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CorpusCounts {
    /// Rows that the SQL returned.
    pub rows_read: u64,
    /// Rows dropped because a newer one has the same id.
    pub duplicates: u64,
    /// Rejected rows by reason, with samples of ids.
    pub rejections: Rejections,
    /// Notes of the corpus.
    pub notes: u64,
    /// Notes that the parent snapshot did not hold.
    pub notes_new: u64,
    /// Notes whose text changed.
    pub notes_changed: u64,
    /// Notes whose text is the same.
    pub notes_unchanged: u64,
    /// Notes that went.
    pub notes_deleted: u64,
    /// Texts that were cut to fit `max_tokens`.
    pub truncated: u64,
    /// Texts that could not be encoded and were left out.
    pub quarantined: u64,
    /// Up to 20 samples: note id and reason, never text.
    pub quarantined_samples: Vec<String>,
}

/// Work of one stage, planned or done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Amounts {
    /// Texts.
    pub texts: u64,
    /// Tokens.
    pub tokens: u64,
    /// Wall seconds.
    pub seconds: f64,
    /// Bytes written.
    pub bytes: u64,
}

/// One stage: planned beside done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageReport {
    /// Which stage.
    pub stage: Stage,
    /// What the plan said, where it said something.
    pub planned: Option<Amounts>,
    /// What was done.
    pub actual: Amounts,
}

/// Speed between two moments of `encode`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ThroughputSample {
    /// Seconds since `encode` began: the end of the span.
    pub seconds: f64,
    /// Tokens encoded by then.
    pub tokens: u64,
    /// Tokens per second in the span.
    pub tokens_per_second: f64,
}

impl ThroughputSample {
    /// At most `spans` samples from the progress of a stage, each over an equal share of its time.
    pub fn from_progress(samples: &[Sample], spans: usize) -> Vec<Self> {
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
            return Vec::new();
        };
        let width = (last.seconds - first.seconds) / spans.max(1) as f64;
        let mut out: Vec<Self> = Vec::new();
        let mut from = *first;
        for (at, sample) in samples.iter().enumerate().skip(1) {
            let span = sample.seconds - from.seconds;
            let is_last = at + 1 == samples.len();
            if span <= 0.0 || (span < width && !is_last) {
                continue;
            }
            out.push(Self {
                seconds: sample.seconds,
                tokens: sample.tokens,
                tokens_per_second: sample.tokens.saturating_sub(from.tokens) as f64 / span,
            });
            from = *sample;
        }
        out
    }
}

/// What `runs/<run>/report.json` holds; `report.html` shows the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunReport {
    /// Format version ([`REPORT_VERSION`]).
    pub version: u32,
    /// Run id.
    pub run: String,
    /// Release of this program.
    pub program: String,
    /// Host name.
    pub host: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// RFC 3339, UTC.
    pub finished_at: String,
    /// Wall seconds.
    pub seconds: f64,
    /// How it ended.
    pub outcome: Outcome,
    /// The newest snapshot at the end; `None` where there is none or it was not found out.
    pub newest: Option<NewestSnapshot>,
    /// What was configured.
    pub config: ConfigSummary,
    /// Notes and rows.
    pub corpus: CorpusCounts,
    /// Planned beside done, per stage.
    pub stages: Vec<StageReport>,
    /// Speed of `encode` over time.
    pub throughput: Vec<ThroughputSample>,
    /// Token counts of the encoded texts.
    pub lengths: Vec<LengthBucket>,
    /// Pooled recall@10 of the indexes with its 95% interval; `None` where none was measured.
    pub recall: Option<Recall>,
    /// Least recall that the gate asks for.
    pub recall_min: Option<f64>,
    /// Every gate's verdict.
    pub gates: Vec<GateOutcome>,
    /// The tower that is to take over, where one is configured. `stages` and `gates` are the day's, not its.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backfill: Option<BackfillReport>,
    /// Texts of the corpus whose vectors were stored already.
    pub texts_reused: u64,
    /// Padding in tokens that the planned texts would have had in batches of 32 neighbours.
    pub padding_avoided: u64,
    /// Embedding parts written.
    pub parts_written: u64,
    /// Bytes written under the root, by kind; plans, receipts and this report are not counted.
    pub written: Written,
    /// Bytes written under the root: the sum of `written`.
    pub bytes_written: u64,
    /// Where vectors came from.
    pub reuse: Reuse,
    /// Vectors that were inserted into an index.
    pub vectors_inserted: u64,
    /// Shards whose index was built as one.
    pub shards_rebuilt: u64,
    /// Parts that vectors were taken from, and how much of them is live.
    pub parts: PartsSummary,
    /// Tasks whose receipt was there already.
    pub tasks_adopted: u64,
    /// Tasks that this run did.
    pub tasks_done: u64,
    /// Time that devices spent encoding, in seconds, summed over devices.
    pub device_busy_seconds: f64,
    /// Share of the encode tasks' time in which their device was encoding, 0 to 1.
    pub device_busy: Option<f64>,
    /// What each executor of a cluster did; absent where this process did everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub executors: Vec<ExecutorProgress>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl RunReport {
    /// Pretty JSON with a final line feed.
    pub fn to_json(&self) -> Result<String> {
        let mut json = serde_json::to_string_pretty(self)
            .or_error(ErrorKind::Internal, || "writing the run report")?;
        json.push('\n');
        Ok(json)
    }

    /// Whether a gate refused what this run wanted to publish: the day's snapshot, or the switch after it.
    pub fn is_refused(&self) -> bool {
        let state = self.backfill.as_ref().map(|backfill| backfill.state);
        self.outcome == Outcome::GateRefused || state == Some(BackfillState::Refused)
    }

    /// Whether this run published the tower that was to take over.
    pub fn has_switched(&self) -> bool {
        let state = self.backfill.as_ref().map(|backfill| backfill.state);
        matches!(state, Some(BackfillState::Switched { .. }))
    }

    /// Tokens per second over the whole of `encode`.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let encode = self.stages.iter().find(|stage| stage.stage == Stage::Encode)?.actual;
        (encode.tokens > 0 && encode.seconds > 0.0).then(|| encode.tokens as f64 / encode.seconds)
    }
}

impl Outcome {
    /// Whether the newest snapshot was found to be up to date.
    pub fn is_nothing(self) -> bool {
        matches!(self, Self::NothingToDo { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished => f.write_str("not finished"),
            Self::Published { snapshot } => write!(f, "published snapshot {snapshot}"),
            Self::NothingToDo { snapshot: Some(snapshot) } => {
                write!(f, "nothing to do: snapshot {snapshot} is up to date")
            }
            Self::NothingToDo { snapshot: None } => f.write_str("nothing to do"),
            Self::Planned => f.write_str("planned only"),
            Self::NotPublished => f.write_str("built, not published as asked"),
            Self::GateRefused => f.write_str("refused by a gate"),
            Self::LostTo { snapshot } => {
                write!(f, "another publisher was first with snapshot {snapshot}")
            }
        }
    }
}

/// The few lines that `scalingnote run` prints at the end.
impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let corpus = &self.corpus;
        writeln!(f, "{}", self.outcome)?;
        writeln!(
            f,
            "  notes    {} ({} new, {} changed, {} unchanged, {} deleted)",
            format::count(corpus.notes),
            format::count(corpus.notes_new),
            format::count(corpus.notes_changed),
            format::count(corpus.notes_unchanged),
            format::count(corpus.notes_deleted)
        )?;
        let left_out = corpus.rejections.total() + corpus.duplicates + corpus.quarantined;
        if left_out > 0 {
            writeln!(
                f,
                "  left out {} rejected, {} duplicates, {} quarantined",
                format::count(corpus.rejections.total()),
                format::count(corpus.duplicates),
                format::count(corpus.quarantined)
            )?;
        }
        if let Some(encode) = self.stages.iter().find(|stage| stage.stage == Stage::Encode) {
            write!(
                f,
                "  encoded  {} texts, {} tokens in {}",
                format::count(encode.actual.texts),
                format::count(encode.actual.tokens),
                format::seconds(encode.actual.seconds)
            )?;
            match self.tokens_per_second() {
                Some(speed) => writeln!(f, " ({} tokens/s)", format::rate(speed))?,
                None => writeln!(f)?,
            }
        }
        for executor in &self.executors {
            writeln!(f, "  executor {executor}")?;
        }
        let reused = self.reuse.from_parent + self.reuse.from_elsewhere;
        if reused > 0 {
            writeln!(
                f,
                "  reused   {} vectors; {} inserted, {} shards rebuilt",
                format::count(reused),
                format::count(self.vectors_inserted),
                format::count(self.shards_rebuilt)
            )?;
        }
        if let Some(recall) = &self.recall {
            writeln!(
                f,
                "  recall   {:.3} at {} (95% interval {:.3} to {:.3}, {} queries)",
                recall.mean, recall.k, recall.low, recall.high, recall.queries
            )?;
        }
        let failed = |gates: &[GateOutcome], f: &mut fmt::Formatter<'_>| {
            for gate in gates.iter().filter(|gate| !gate.passed) {
                let mark = if gate.overridden.is_some() { "overridden" } else { "REFUSED" };
                writeln!(f, "  gate     {} {mark}: {}", gate.gate, gate.detail)?;
            }
            Ok(())
        };
        failed(&self.gates, f)?;
        if let Some(backfill) = &self.backfill {
            writeln!(f, "  next     {backfill}")?;
            failed(&backfill.gates, f)?;
        }
        writeln!(
            f,
            "  wrote    {} in {}",
            format::bytes(self.bytes_written),
            format::seconds(self.seconds)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::LengthHistogram;

    #[test]
    fn histogram_buckets_hold_their_lengths() {
        let mut histogram = LengthHistogram::new();
        for tokens in [0, 1, 16, 17, 128, 129, 192, 193, 512, 513, u32::MAX] {
            histogram.add(tokens, 1);
        }
        let mut small = LengthHistogram::new();
        small.add(40, 2);
        small.add(300, 1);
        let ends: Vec<u32> = small.buckets().iter().map(|bucket| bucket.up_to).collect();
        assert_eq!(ends, [16, 32, 64, 128, 192, 256, 384]);
        histogram.merge(&small);
        let buckets = histogram.buckets();
        assert_eq!(buckets.iter().map(|bucket| bucket.texts).sum::<u64>(), 14);
        assert_eq!(buckets[0], LengthBucket { up_to: 16, texts: 3 });
        assert_eq!(buckets.last().map(|bucket| bucket.up_to), Some(u32::MAX));
        assert!(buckets.windows(2).all(|pair| pair[0].up_to < pair[1].up_to));
        assert!(LengthHistogram::new().buckets().is_empty());
    }

    #[test]
    fn throughput_adds_up_to_the_tokens() {
        let samples: Vec<Sample> = (0..=100u64)
            .map(|at| Sample { seconds: at as f64, done: at, tokens: at * at })
            .collect();
        let spans = ThroughputSample::from_progress(&samples, 10);
        assert_eq!(spans.len(), 10);
        let total: f64 = spans.iter().map(|span| span.tokens_per_second * 10.0).sum();
        assert!((total - 10_000.0).abs() < 1e-6, "{total}");
        assert!(spans[0].tokens_per_second < spans[9].tokens_per_second);
        assert!(ThroughputSample::from_progress(&samples[..1], 10).is_empty());
        assert!(ThroughputSample::from_progress(&[], 10).is_empty());
    }

    #[test]
    fn the_summary_names_what_matters() {
        let report = RunReport {
            outcome: Outcome::NothingToDo { snapshot: Some(4) },
            gates: vec![GateOutcome {
                gate: "recall".into(),
                passed: false,
                detail: "0.91, at least 0.95".into(),
                overridden: None,
            }],
            ..RunReport::default()
        };
        let text = report.to_string();
        assert!(text.starts_with("nothing to do: snapshot 4 is up to date\n"), "{text}");
        assert!(text.contains("recall REFUSED: 0.91"), "{text}");
        let back: RunReport = serde_json::from_str(&report.to_json().unwrap()).unwrap();
        assert_eq!(back, report);
    }
}
