//! What `scalingnote plan` prints: what a run would do, before it does it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backfill::BackfillSummary;
use super::estimate::{encode_seconds, part_bytes};
use crate::corpus::{CorpusReading, InputFile};
use crate::index;
use crate::observe::format;
use crate::stage::{AdaptTask, Plan, Planned, SharesPlanned};
use crate::store::layout;

/// Amounts of one shard or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PlanAmounts {
    /// Notes that the newest snapshot does not hold.
    pub notes_new: u64,
    /// Notes whose text differs from the newest snapshot's.
    pub notes_changed: u64,
    /// Notes whose text is the same.
    pub notes_unchanged: u64,
    /// Notes of the newest snapshot that are deleted.
    pub notes_deleted: u64,
    /// Texts that no stored part holds and that would be encoded.
    pub texts: u64,
    /// Exact tokens of those texts, prompt included.
    pub tokens: u64,
    /// Tokens that batches of the same budget, in corpus order and padded to the longest, would cost.
    pub padded_tokens: u64,
    /// Share of `padded_tokens` that packing without padding saves, 0 to 1.
    pub padding_waste_avoided: f64,
    /// Estimated wall seconds on all devices; `None` without a calibration.
    pub seconds: Option<f64>,
    /// Bytes to be written: embeddings, indexes, ids, sidecars.
    pub bytes: u64,
    /// Memory while building the index, in bytes; for totals the largest sum that runs at once.
    pub index_memory: u64,
}

impl PlanAmounts {
    /// Sets `padding_waste_avoided` from the two token counts.
    #[must_use]
    pub fn with_waste(mut self) -> Self {
        self.padding_waste_avoided = if self.padded_tokens == 0 {
            0.0
        } else {
            1.0 - self.tokens.min(self.padded_tokens) as f64 / self.padded_tokens as f64
        };
        self
    }

    /// The sum of shards. `seconds` and `index_memory` are summed too: set them where shards run
    /// at the same time.
    pub fn sum(shards: &[ShardSummary]) -> Self {
        let mut total = Self::default();
        for ShardSummary { amounts, .. } in shards {
            total.notes_new += amounts.notes_new;
            total.notes_changed += amounts.notes_changed;
            total.notes_unchanged += amounts.notes_unchanged;
            total.notes_deleted += amounts.notes_deleted;
            total.texts += amounts.texts;
            total.tokens += amounts.tokens;
            total.padded_tokens += amounts.padded_tokens;
            total.bytes += amounts.bytes;
            total.index_memory += amounts.index_memory;
            if let Some(seconds) = amounts.seconds {
                total.seconds = Some(total.seconds.unwrap_or(0.0) + seconds);
            }
        }
        total.with_waste()
    }
}

/// One shard of the plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardSummary {
    /// Shard number.
    pub shard: u32,
    /// Its amounts.
    #[serde(flatten)]
    pub amounts: PlanAmounts,
}

/// What the adaptation of the query tower may cost, at most: whether there is anything to learn shows when the
/// notes are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdaptPlanned {
    /// Titles and sentences that are drawn.
    pub texts: u64,
    /// Steps of a whole adaptation.
    pub steps: u64,
    /// Steps that the minutes of an earlier run left; 0 where it left none.
    pub steps_left: u64,
    /// Minutes; `None` where they are not limited.
    pub minutes: Option<u32>,
}

impl AdaptPlanned {
    fn of(task: &AdaptTask) -> Self {
        let adapted = task.previous.as_ref().and_then(|tower| tower.adapted.as_ref());
        let by = task.options.digest().ok();
        // With other options it begins with all its steps.
        let same = adapted.filter(|adapted| by == Some(adapted.options));
        Self {
            texts: task.options.max_texts.into(),
            steps: task.options.steps.into(),
            steps_left: same.map_or(0, |adapted| adapted.steps_left),
            minutes: task.options.minutes,
        }
    }

    /// The seconds that it may take, where that is limited.
    fn seconds(&self) -> Option<f64> {
        self.minutes.map(|minutes| 60.0 * f64::from(minutes))
    }
}

impl fmt::Display for AdaptPlanned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (texts, steps) =
            (format::counted(self.texts, "text"), format::counted(self.steps, "step"));
        write!(f, "the query tower is adapted: at most {texts}, {steps}")?;
        if self.steps_left > 0 {
            let left = format::count(self.steps_left);
            write!(f, " (of which an earlier run left {left})")?;
        }
        match self.seconds() {
            Some(seconds) => write!(f, ", at most {}", format::seconds(seconds)),
            None => f.write_str(", as long as that takes (query.adapt.minutes limits it)"),
        }
    }
}

/// What a run would do. [`fmt::Display`] is the table that `scalingnote plan` prints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlanSummary {
    /// Id of the run that the plan was made for.
    pub run: String,
    /// Where the plan is stored under the root, for `scalingnote task --plan`; `None` if it was not stored.
    pub plan_key: Option<String>,
    /// Newest snapshot, which the notes are compared with; `None` on a first run.
    pub parent: Option<u64>,
    /// Name of the embedding space.
    pub space: String,
    /// Workers that would encode.
    pub devices: Vec<String>,
    /// Tokens per second that the estimate rests on; `None` where nothing was calibrated.
    pub tokens_per_second: Option<f64>,
    /// Number of envelopes; 0 means that nothing would be published.
    pub tasks: u64,
    /// Ids of the encode tasks: they may run in any order, anywhere.
    pub encode_tasks: Vec<String>,
    /// Id of the calibration, which follows the encode tasks; absent where the scale is frozen already.
    pub calibrate_task: Option<String>,
    /// Id of the adaptation of the query tower, which follows the encode tasks; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapt_task: Option<String>,
    /// What that adaptation may cost, beside what `total` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapt: Option<AdaptPlanned>,
    /// Ids of the build tasks, which follow the calibration: any order, anywhere.
    pub build_tasks: Vec<String>,
    /// Every shard, in order.
    pub shards: Vec<ShardSummary>,
    /// All shards together.
    pub total: PlanAmounts,
    /// The plan of the tower that is to take over, where one is configured; its tasks follow the publication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<BackfillSummary>,
    /// Tables of Delta Lake and of databases, as they were read; absent where the corpus is files alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<InputFile>,
    /// How many tasks read the corpus, or why one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<CorpusReading>,
    /// What a person should know before starting the run.
    pub warnings: Vec<String>,
}

impl PlanSummary {
    /// Of a plan, with times at `speed` tokens per second on each device.
    pub(crate) fn of(planned: &Planned, speed: Option<f64>) -> Self {
        let plan = &planned.plan;
        let spec = &plan.spec;
        let dimensions = spec.space.dimensions;
        let shards = plan.shards.iter().map(|shard| {
            let rows = shard.prepared.rows;
            let (memory, built) = match shard.unchanged {
                true => (0, 0),
                false => (
                    index::estimate_memory(rows, dimensions, &spec.index),
                    index::estimate_file_bytes(rows, dimensions, &spec.index),
                ),
            };
            let amounts = PlanAmounts {
                notes_new: shard.notes.new,
                notes_changed: shard.notes.changed,
                notes_unchanged: shard.notes.unchanged,
                notes_deleted: shard.notes.deleted,
                texts: shard.texts_to_encode,
                tokens: shard.tokens_to_encode,
                padded_tokens: shard.tokens_to_encode + shard.padding_avoided,
                seconds: speed.map(|speed| encode_seconds(shard.tokens_to_encode, speed, spec)),
                bytes: part_bytes(shard.texts_to_encode, spec) + built,
                index_memory: memory,
                ..PlanAmounts::default()
            };
            ShardSummary { shard: shard.prepared.shard, amounts: amounts.with_waste() }
        });
        let shards: Vec<_> = shards.collect();
        let mut warnings = Vec::new();
        let rejected = plan.prepared.rejections.total();
        if rejected > 0 {
            let rows = format::counted(plan.prepared.rows_read, "row");
            let were = if rejected == 1 { "was" } else { "were" };
            warnings.push(format!("{} of {rows} {were} rejected", format::count(rejected)));
        }
        warnings.extend(truncation_warning(plan));
        Self {
            run: spec.run.clone(),
            plan_key: Some(Plan::key(&spec.run)),
            parent: spec.parent,
            space: spec.space_id.to_string(),
            devices: spec.encode.devices.clone(),
            tokens_per_second: speed,
            tasks: plan.tasks() as u64,
            encode_tasks: plan.encode.iter().map(|task| task.id.clone()).collect(),
            calibrate_task: plan.calibrate.as_ref().map(|task| task.id.clone()),
            adapt_task: plan.adapt.as_ref().map(|task| task.id.clone()),
            adapt: plan.adapt.as_deref().map(AdaptPlanned::of),
            build_tasks: plan.build.iter().map(|task| task.id.clone()).collect(),
            total: PlanAmounts::sum(&shards),
            shards,
            backfill: None,
            tables: plan.prepared.tables().cloned().collect(),
            reading: plan.prepared.reading.clone(),
            warnings,
        }
    }
}

/// A warning where texts are cut.
pub(crate) fn truncation_warning(plan: &Plan) -> Option<String> {
    let truncated: u64 = plan.shards.iter().map(|shard| shard.texts_truncated).sum();
    (truncated > 0).then(|| {
        let (are, them) = if truncated == 1 { ("is", "it") } else { ("are", "them") };
        format!(
            "{} {are} longer than tower.max_tokens = {} and will be cut; [chunking] keeps {them} whole",
            format::counted(truncated, "text"),
            plan.spec.tower.max_tokens()
        )
    })
}

/// What a scheduler has to know to have a corpus read in shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharesBrief {
    /// Id of the run that will be planned.
    pub run: String,
    /// Where the plan of the shares is stored under the root, for `scalingnote task --plan` and then `scalingnote plan
    /// --gathered`; `None` where one task reads the corpus: `scalingnote plan`.
    pub shares_key: Option<String>,
    /// Number of shares: tasks of the stage `prepare`.
    pub prepare_tasks: u64,
    /// Number of shards: tasks of the stage `gather`, which follow those.
    pub gather_tasks: u64,
    /// In how many shares the corpus is read, or why one task reads it.
    pub reading: CorpusReading,
}

impl SharesBrief {
    /// Of a plan of shares.
    pub fn of(run: &str, planned: &SharesPlanned) -> Self {
        let (shares_key, prepare_tasks, gather_tasks, reading) = match planned {
            SharesPlanned::One(why) => (None, 0, 0, CorpusReading::One(why.clone())),
            SharesPlanned::Shares(plan) => {
                let shares = plan.corpus.shares.len() as u32;
                let key = layout::shares_plan(run);
                let shards = plan.corpus.shard_count;
                (Some(key), shares.into(), shards.into(), CorpusReading::Shares(shares))
            }
        };
        Self { run: run.to_owned(), shares_key, prepare_tasks, gather_tasks, reading }
    }
}

/// What a scheduler has to know of a plan: as small for a million tasks as for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanBrief {
    /// Id of the run that the plan was made for.
    pub run: String,
    /// Where the plan is stored under the root, for `scalingnote task --plan`; `None` where it has no tasks.
    pub plan_key: Option<String>,
    /// Newest snapshot, which the notes are compared with; `None` on a first run.
    pub parent: Option<u64>,
    /// Number of tasks of all stages; 0 means that nothing changed.
    pub tasks: u64,
    /// Number of encode tasks.
    pub encode_tasks: u64,
    /// 1 where the scale of quantised vectors is yet to be frozen, else 0.
    pub calibrate_tasks: u64,
    /// 1 where the query tower is to be adapted, else 0.
    pub adapt_tasks: u64,
    /// Number of build tasks.
    pub build_tasks: u64,
    /// Texts to encode.
    pub texts: u64,
    /// Their exact tokens, prompt included.
    pub tokens: u64,
    /// The night's plan of the tower that is to take over, where one is configured and anything is to be done: its
    /// tasks and its publication follow this plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<Box<PlanBrief>>,
}

impl PlanBrief {
    /// Of a plan.
    pub fn of(plan: &Plan) -> Self {
        Self {
            run: plan.spec.run.clone(),
            plan_key: (plan.tasks() > 0).then(|| Plan::key(&plan.spec.run)),
            parent: plan.spec.parent,
            tasks: plan.tasks() as u64,
            encode_tasks: plan.encode.len() as u64,
            calibrate_tasks: u64::from(plan.calibrate.is_some()),
            adapt_tasks: u64::from(plan.adapt.is_some()),
            build_tasks: plan.build.len() as u64,
            texts: plan.encode.iter().map(|task| task.shard.texts_to_encode).sum(),
            tokens: plan.encode.iter().map(|task| task.shard.tokens_to_encode).sum(),
            backfill: None,
        }
    }
}

impl fmt::Display for PlanSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEADER: &str =
            "shard new changed unchanged deleted texts tokens saved time writes memory";
        let row = |name: String, amounts: &PlanAmounts| {
            vec![
                name,
                format::count(amounts.notes_new),
                format::count(amounts.notes_changed),
                format::count(amounts.notes_unchanged),
                format::count(amounts.notes_deleted),
                format::count(amounts.texts),
                format::count(amounts.tokens),
                format::share(amounts.padding_waste_avoided),
                amounts.seconds.map_or_else(|| "-".to_owned(), format::seconds),
                format::bytes(amounts.bytes),
                format::bytes(amounts.index_memory),
            ]
        };
        let mut rows: Vec<_> =
            self.shards.iter().map(|shard| row(shard.shard.to_string(), &shard.amounts)).collect();
        let adapting = self.adapt.as_ref().and_then(AdaptPlanned::seconds).unwrap_or(0.0);
        let seconds = self.total.seconds.map(|seconds| seconds + adapting);
        rows.push(row("all".to_owned(), &PlanAmounts { seconds, ..self.total }));
        match self.parent {
            Some(parent) => writeln!(f, "run {} against snapshot {parent}", self.run)?,
            None => writeln!(f, "run {}, the first: there is no snapshot yet", self.run)?,
        }
        let header: Vec<&str> = HEADER.split(' ').collect();
        f.write_str(&format::table(&header, &[true; 11], &rows))?;
        for InputFile { table, uri, read, .. } in &self.tables {
            writeln!(f, "table {table}: {} ({uri})", read.as_deref().unwrap_or_default())?;
        }
        if let Some(reading) = &self.reading {
            writeln!(f, "{reading}")?;
        }
        if let Some(adapt) = &self.adapt {
            let counted = match (self.total.seconds, adapt.minutes) {
                (Some(_), Some(_)) => ", which the time of all counts",
                _ => "",
            };
            writeln!(f, "{adapt}{counted}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        if let Some(backfill) = &self.backfill {
            backfill.fmt(f)?;
        }
        if self.tasks == 0 {
            return writeln!(f, "nothing to do: 0 tasks");
        }
        let devices = self.devices.join(", ");
        write!(f, "{} on {devices}", format::counted(self.tasks, "task"))?;
        if let Some(speed) = self.tokens_per_second {
            write!(f, ", calibrated at {} tokens/s", format::rate(speed))?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> PlanSummary {
        let amounts = PlanAmounts {
            notes_new: 1_200,
            texts: 1_200,
            tokens: 90_000,
            padded_tokens: 120_000,
            seconds: Some(100.0),
            bytes: 3 << 20,
            index_memory: 5 << 20,
            ..PlanAmounts::default()
        };
        let shards = vec![
            ShardSummary { shard: 0, amounts: amounts.with_waste() },
            ShardSummary { shard: 1, amounts: amounts.with_waste() },
        ];
        PlanSummary {
            run: "r".into(),
            tasks: 6,
            devices: vec!["cpu".into()],
            tokens_per_second: Some(1_800.4),
            total: PlanAmounts::sum(&shards),
            shards,
            ..PlanSummary::default()
        }
    }

    #[test]
    fn totals_weigh_the_waste_by_tokens() {
        let total = summary().total;
        assert_eq!((total.notes_new, total.tokens, total.seconds), (2_400, 180_000, Some(200.0)));
        assert!((total.padding_waste_avoided - 0.25).abs() < 1e-12);
        assert_eq!(PlanAmounts::sum(&[]).padding_waste_avoided, 0.0);
    }

    #[test]
    fn the_adaptation_is_a_line_and_counts() {
        let adapt = AdaptPlanned { texts: 4_096, steps: 100, steps_left: 12, minutes: Some(2) };
        let planned = PlanSummary { adapt: Some(adapt), ..summary() };
        let text = planned.to_string();
        let said = "the query tower is adapted: at most 4,096 texts, 100 steps (of which an earlier run left 12), at \
                    most 2m 00s, which the time of all counts\n";
        assert!(text.contains(said), "{text}");
        let all = text.lines().find(|line| line.trim_start().starts_with("all")).unwrap();
        assert!(all.contains("5m 20s"), "200 seconds to encode and 120 to adapt: {text}");
        let free = AdaptPlanned { minutes: None, steps_left: 0, ..adapt };
        let text = PlanSummary { adapt: Some(free), ..summary() }.to_string();
        assert!(text.contains("100 steps, as long as that takes (query.adapt.minutes"), "{text}");
        assert!(text.contains("3m 20s"), "{text}");
        assert!(!summary().to_string().contains("query tower"));
    }

    #[test]
    fn the_table_lines_up() {
        let text = summary().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].len(), lines[2].len());
        assert_eq!(lines[2].len(), lines[4].len());
        assert!(lines[4].contains("180,000") && lines[4].contains("25.0%"), "{text}");
        assert!(text.ends_with("6 tasks on cpu, calibrated at 1,800 tokens/s\n"), "{text}");
        let idle = PlanSummary { tasks: 0, ..summary() };
        assert!(idle.to_string().ends_with("nothing to do: 0 tasks\n"));
        let json = serde_json::to_value(&idle).unwrap();
        assert_eq!(json["tasks"], 0);
        assert_eq!(json["shards"][1]["tokens"], 90_000, "amounts are beside the shard number");
        assert_eq!(serde_json::from_value::<PlanSummary>(json).unwrap(), idle);
    }
}
