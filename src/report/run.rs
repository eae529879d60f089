//! The run report: what was planned, what happened, and whether it was published.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backfill::{BackfillReport, BackfillState};
use super::lengths::LengthBucket;
use crate::corpus::Rejections;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::index::Recall;
use crate::observe::{ExecutorProgress, Sample, Stage};
use crate::snapshot::{GateOutcome, Manifest};
use crate::stage::{AdaptSummary, EvaluationReport, PartsSummary};

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
    /// Notes that were deleted.
    pub notes_deleted: u64,
    /// Texts that were cut to fit `max_tokens`.
    pub truncated: u64,
    /// Texts that could not be encoded and were left out.
    pub quarantined: u64,
    /// Up to 20 samples: note id and reason, never text.
    pub quarantined_samples: Vec<String>,
}

/// Work of one stage as the plan has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedAmounts {
    /// Texts.
    pub texts: u64,
    /// Exact tokens.
    pub tokens: u64,
    /// Estimated wall seconds on all devices, from a short trial on the first; `None` where there was no trial: nothing
    /// is to be encoded, or other processes do it.
    pub seconds: Option<f64>,
    /// Bytes to be written.
    pub bytes: u64,
}

/// Work of one stage as it was done.
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
    pub planned: Option<PlannedAmounts>,
    /// What was done.
    pub actual: Amounts,
}

/// Distinct texts by where their vectors came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Reuse {
    /// Encoded by this run.
    pub encoded: u64,
    /// The parent snapshot's shard has them.
    pub from_parent: u64,
    /// They are in parts of other shards, other days or runs that did not finish.
    pub from_elsewhere: u64,
}

/// Bytes written under the root, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Written {
    /// Prepared notes and lists of where vectors are; gone after retention.
    pub prepared: u64,
    /// Newly encoded vectors.
    pub parts: u64,
    /// Vectors copied by compaction.
    pub compacted: u64,
    /// usearch files.
    pub indexes: u64,
    /// f16 sidecars.
    pub sidecars: u64,
    /// ids files and lists of removed keys.
    pub ids: u64,
}

impl Written {
    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.prepared + self.parts + self.compacted + self.indexes + self.sidecars + self.ids
    }
}

/// Speed between two moments of `encode`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ThroughputSample {
    /// Seconds since `encode` began: the end of the span.
    pub seconds: f64,
    /// Tokens encoded until then.
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
    /// What the queries of `[evaluation]` found; absent without them, and where there was nothing new to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationReport>,
    /// How the query tower was adapted to the corpus; absent where it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_tower: Option<AdaptSummary>,
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
    /// Time that devices had a batch to compute, in seconds, summed over devices: on a GPU by its own clock, from the
    /// beginning of a batch to its end.
    pub device_busy_seconds: f64,
    /// Share of the encode tasks' time in which a device had a batch of theirs to compute, 0 to 1.
    pub device_busy: Option<f64>,
    /// Speed while devices had a batch to compute, as a share of what they would reach if they did nothing but the
    /// tower's products with weights; absent where no device was measured (processors are not).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling_share: Option<f64>,
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

    /// What to tell where the report of it could not be stored: what is published stays so.
    pub(crate) fn without_report(self) -> String {
        let published = match self {
            Self::Published { snapshot } => format!("snapshot {snapshot} is published, but "),
            _ => String::new(),
        };
        format!("{published}the run's report could not be stored")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
