//! Fills in the run report as a run goes on, and stores it.

use std::collections::BTreeSet;

use super::estimate::{encode_seconds, part_bytes};
use super::lengths::length_buckets;
use super::run::{
    Amounts, ConfigSummary, CorpusCounts, NewestSnapshot, PlannedAmounts, REPORT_VERSION, Reuse,
    RunReport, StageReport, ThroughputSample, Written,
};
use crate::error::{Result, ResultExt};
use crate::observe::{Stage, Timeline};
use crate::snapshot::{self, PlannedUnder, Purged, Tombstones, host_name};
use crate::stage::{
    AdaptReceipt, BuildReceipt, BuildWork, EncodeReceipt, Kept, NoteChanges, Plan, Planned,
    RunSpec, ShardPlan,
};
use crate::store::layout::{self, ReportName};
use crate::store::{PutOutcome, Root};

/// Points of the throughput curve.
const CURVE: usize = 60;

/// Quarantined notes that the report names.
const QUARANTINE_SAMPLES: usize = 20;

impl RunReport {
    /// Of a run that begins now.
    pub(crate) fn begin(run: &str, config: ConfigSummary, recall_min: f64) -> Self {
        Self {
            version: REPORT_VERSION,
            run: run.to_owned(),
            program: format!("scalingnote {}", env!("CARGO_PKG_VERSION")),
            host: host_name(),
            started_at: chrono::Utc::now().to_rfc3339(),
            config,
            recall_min: Some(recall_min),
            ..Self::default()
        }
    }

    /// What planning found, for the run that planned.
    pub(crate) fn planned(&mut self, planned: &Planned) {
        self.planned_only(&planned.plan);
        self.newest = planned.parent.as_ref().map(NewestSnapshot::of);
        self.lengths = length_buckets(&planned.lengths);
        self.set_actual(Stage::Prepare, |amounts| amounts.seconds = planned.seconds);
    }

    /// What the plan says, for a run whose tasks ran elsewhere.
    pub(crate) fn planned_only(&mut self, plan: &Plan) {
        let mut changes = NoteChanges::default();
        plan.shards.iter().for_each(|shard| changes += shard.notes);
        let sum = |value: fn(&ShardPlan) -> u64| plan.shards.iter().map(value).sum();
        self.config.space = plan.spec.space_id.to_string();
        self.config.dimensions = plan.spec.space.dimensions;
        self.config.shards = plan.spec.shard_count;
        self.corpus = CorpusCounts {
            rows_read: plan.prepared.rows_read,
            duplicates: plan.prepared.duplicates,
            rejections: plan.prepared.rejections.clone(),
            notes: changes.new + changes.changed + changes.unchanged,
            notes_new: changes.new,
            notes_changed: changes.changed,
            notes_unchanged: changes.unchanged,
            notes_deleted: changes.deleted,
            truncated: sum(|shard| shard.texts_truncated),
            ..CorpusCounts::default()
        };
        self.reuse = Reuse {
            encoded: 0,
            from_parent: sum(|shard| shard.texts_from_parent),
            from_elsewhere: sum(|shard| shard.texts_from_elsewhere),
        };
        self.parts = plan.parts;
        self.written.prepared = sum(|shard| {
            shard.prepared.file.size + shard.located.as_ref().map_or(0, |located| located.size)
        });
        self.bytes_written = self.written.total();
        let corpus_texts: u64 = sum(|shard| shard.prepared.rows - shard.prepared.deletions);
        let texts: u64 = sum(|shard| shard.texts_to_encode);
        self.texts_reused = corpus_texts.saturating_sub(texts);
        self.padding_avoided = sum(|shard| shard.padding_avoided);
        let stage = |stage| StageReport { stage, planned: None, actual: Amounts::default() };
        let encode = PlannedAmounts {
            texts,
            tokens: sum(|shard| shard.tokens_to_encode),
            bytes: part_bytes(texts, &plan.spec),
            seconds: None,
        };
        self.stages = vec![
            stage(Stage::Prepare),
            StageReport { planned: Some(encode), ..stage(Stage::Encode) },
            stage(Stage::Build),
            stage(Stage::Publish),
        ];
    }

    /// How long encoding will take, where a device was tried: `speed` is its tokens per second.
    pub(crate) fn estimated(&mut self, spec: &RunSpec, speed: Option<f64>) {
        for planned in self.stages.iter_mut().filter_map(|entry| entry.planned.as_mut()) {
            planned.seconds = speed.map(|speed| encode_seconds(planned.tokens, speed, spec));
        }
    }

    fn set_actual(&mut self, stage: Stage, set: impl FnOnce(&mut Amounts)) {
        if let Some(entry) = self.stages.iter_mut().find(|entry| entry.stage == stage) {
            set(&mut entry.actual);
        }
    }

    /// What the tasks wrote. Those of `adopted` were finished before this run: what they wrote is not this run's.
    pub(crate) fn executed(
        &mut self,
        encode: &[EncodeReceipt],
        build: &[BuildReceipt],
        adapt: Option<&AdaptReceipt>,
        adopted: &BTreeSet<String>,
    ) {
        self.query_tower = adapt.map(|receipt| receipt.summary.clone());
        let all = encode;
        let encode: Vec<&EncodeReceipt> =
            encode.iter().filter(|receipt| !adopted.contains(&receipt.id)).collect();
        let built: Vec<&BuildReceipt> =
            build.iter().filter(|receipt| !adopted.contains(&receipt.id)).collect();
        let total =
            |value: fn(&EncodeReceipt) -> u64| encode.iter().map(|one| value(one)).sum::<u64>();
        self.set_actual(Stage::Encode, |amounts| {
            amounts.texts = total(|receipt| receipt.texts);
            amounts.tokens = total(|receipt| receipt.tokens);
            amounts.bytes = total(|receipt| receipt.bytes);
        });
        let mut work = BuildWork::default();
        built.iter().for_each(|receipt| work += receipt.work);
        self.vectors_inserted = work.inserted;
        self.shards_rebuilt = work.rebuilt;
        self.reuse.encoded = total(|receipt| receipt.texts);
        self.written = Written {
            prepared: self.written.prepared,
            parts: total(|receipt| receipt.bytes),
            compacted: work.copied_bytes,
            indexes: work.index_bytes,
            sidecars: work.sidecar_bytes,
            ids: work.ids_bytes,
        };
        self.bytes_written = self.written.total();
        self.set_actual(Stage::Build, |amounts| {
            amounts.texts = built.iter().map(|receipt| receipt.shard.vectors).sum();
            amounts.bytes =
                work.index_bytes + work.sidecar_bytes + work.ids_bytes + work.copied_bytes;
        });
        let quarantined: Vec<_> = all.iter().flat_map(|receipt| &receipt.quarantined).collect();
        self.corpus.quarantined = quarantined.len() as u64;
        self.corpus.quarantined_samples = quarantined
            .iter()
            .take(QUARANTINE_SAMPLES)
            .map(|note| format!("{}: {}", note.note_id, note.reason))
            .collect();
        self.parts_written = total(|receipt| receipt.parts.len() as u64);
        let all_tasks = all.len() + build.len() + usize::from(adapt.is_some());
        let adapted = adapt.is_some_and(|receipt| !adopted.contains(&receipt.id));
        self.tasks_done = (encode.len() + built.len() + usize::from(adapted)) as u64;
        self.tasks_adopted = all_tasks as u64 - self.tasks_done;
        if self.lengths.is_empty() {
            self.lengths = length_buckets(encode.iter().flat_map(|receipt| &receipt.lengths));
        }
        let busy: f64 = encode.iter().map(|receipt| receipt.busy_seconds).sum();
        let wall: f64 = encode.iter().map(|receipt| receipt.seconds).sum();
        // A sum of no floats is -0.
        self.device_busy_seconds = busy + 0.0;
        self.device_busy = (wall > 0.0).then(|| (busy / wall).min(1.0));
        let measured = || encode.iter().filter_map(|one| Some((one, one.ceiling?)));
        let at_best: f64 = measured().map(|(one, ceiling)| one.tokens as f64 / ceiling).sum();
        let taken: f64 = measured().map(|(one, _)| one.busy_seconds).sum();
        self.ceiling_share = (taken > 0.0).then(|| at_best / taken);
    }

    /// What a run that did not get through has stored all the same: tasks without a receipt have finished parts.
    pub(crate) fn interrupted(&mut self, kept: &Kept) {
        let [parts, texts, tokens, bytes] = kept.sums();
        self.set_actual(Stage::Encode, |amounts| {
            amounts.texts = texts;
            amounts.tokens = tokens;
            amounts.bytes = bytes;
        });
        self.parts_written = parts;
        self.bytes_written = self.bytes_written.max(bytes);
    }

    /// Adds times, the throughput curve and warnings.
    pub(crate) fn finish(&mut self, timeline: &Timeline) {
        for times in timeline.stages() {
            self.set_actual(times.stage, |amounts| amounts.seconds = times.seconds);
            if times.stage == Stage::Encode {
                self.throughput = ThroughputSample::from_progress(&times.samples, CURVE);
            }
        }
        self.executors = timeline.executors();
        self.warnings.extend(timeline.warnings());
        let now = chrono::Utc::now();
        if let Ok(started) = chrono::DateTime::parse_from_rfc3339(&self.started_at) {
            let elapsed = now.signed_duration_since(started).num_milliseconds();
            self.seconds = elapsed.max(0) as f64 / 1000.0;
        }
        self.finished_at = now.to_rfc3339();
    }

    fn names(&self, purged: &Purged) -> Result<bool> {
        let json = serde_json::to_value(self).context(|| "writing the run report")?;
        let mut found = BTreeSet::new();
        snapshot::purged_in(&json, purged, &mut found);
        Ok(!found.is_empty())
    }

    /// Stores the report as JSON and as a page, beside the plan. `under` is what the run began under: where notes were
    /// purged since and the report names one, it goes again.
    pub(crate) async fn store(&self, root: &Root, under: PlannedUnder) -> Result<()> {
        if root.is_read_only() {
            return Ok(());
        }
        // Nothing is overwritten: a step that a scheduler repeats leaves a report of its own each time.
        for attempt in 1..=ReportName::MOST {
            let json = layout::report(&self.run, ReportName(attempt));
            if root.put_if_absent(&json, self.to_json()?.into()).await? == PutOutcome::Created {
                let html = layout::report_page(&self.run, ReportName(attempt));
                root.put_if_absent(&html, self.to_html()?.into()).await?;
                if let Some(purged) = Tombstones::default().since(root, under).await?
                    && self.names(&purged)?
                {
                    root.delete(&html).await?;
                    root.delete(&json).await?;
                }
                return Ok(());
            }
        }
        Ok(())
    }
}
