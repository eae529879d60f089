//! Fills in the run report as a run goes on, and stores it.

use std::sync::Arc;

use super::{Receipts, RunContext};
use crate::error::Result;
use crate::observe::{Stage, Timeline};
use crate::stage::{
    Amounts, BuildWork, ConfigSummary, CorpusCounts, EncodeReceipt, Kept, LengthHistogram,
    NewestSnapshot, NoteChanges, Outcome, Plan, Planned, Reuse, RunReport, StageReport,
    ThroughputSample, Written,
};
use crate::store::layout::{self, ReportName};
use crate::store::{PutOutcome, Root};

/// Points of the throughput curve.
const CURVE: usize = 60;

/// Reports of one run, at most; later ones are not kept.
const MOST_REPORTS: u32 = 100;

/// Quarantined notes that the report names.
const QUARANTINE_SAMPLES: usize = 20;

pub(super) fn begin(ctx: &RunContext, run: &str) -> RunReport {
    let pipeline = &ctx.pipeline;
    RunReport {
        version: crate::stage::REPORT_VERSION,
        run: run.to_owned(),
        program: format!("scalingnote {}", env!("CARGO_PKG_VERSION")),
        host: crate::snapshot::host_name(),
        started_at: chrono::Utc::now().to_rfc3339(),
        outcome: Outcome::Unfinished,
        config: ConfigSummary {
            pipeline: pipeline.base_dir.display().to_string(),
            root: ctx.root.uri().to_owned(),
            model: pipeline.tower.model.clone(),
            pooling: name(&pipeline.tower.pooling),
            max_tokens: pipeline.tower.max_tokens,
            arithmetic: name(&pipeline.tower.arithmetic),
            devices: pipeline.encode.devices.clone(),
            quantization: name(&pipeline.index.quantization),
            ..ConfigSummary::default()
        },
        recall_min: Some(pipeline.gates.recall_min),
        ..RunReport::default()
    }
}

/// The name that a unit enum has in the configuration.
fn name<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

pub(super) fn planned(report: &mut RunReport, planned: &Planned) {
    planned_only(report, &planned.plan);
    report.newest = planned.parent.as_ref().map(NewestSnapshot::of);
    let mut histogram = LengthHistogram::new();
    planned.lengths.iter().for_each(|(&length, &texts)| histogram.add(length, texts));
    report.lengths = histogram.buckets();
    set_actual(report, Stage::Prepare, |amounts| amounts.seconds = planned.seconds);
}

/// What the plan says, for a run whose tasks ran elsewhere.
pub(super) fn planned_only(report: &mut RunReport, plan: &Plan) {
    let mut changes = NoteChanges::default();
    plan.shards.iter().for_each(|shard| changes += shard.notes);
    let sum = |value: fn(&crate::stage::ShardPlan) -> u64| plan.shards.iter().map(value).sum();
    report.config.space = plan.spec.space_id.to_string();
    report.config.dimensions = plan.spec.space.dimensions;
    report.config.shards = plan.spec.shard_count;
    report.corpus = CorpusCounts {
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
    report.reuse = Reuse {
        encoded: 0,
        from_parent: sum(|shard| shard.texts_from_parent),
        from_elsewhere: sum(|shard| shard.texts_from_elsewhere),
    };
    report.parts = plan.parts;
    report.written.prepared = sum(|shard| {
        shard.prepared.file.size + shard.located.as_ref().map_or(0, |located| located.size)
    });
    report.bytes_written = report.written.total();
    let corpus_texts: u64 = sum(|shard| shard.prepared.rows - shard.prepared.deletions);
    let vector = u64::from(plan.spec.space.dimensions) * 4;
    let texts: u64 = sum(|shard| shard.texts_to_encode);
    report.texts_reused = corpus_texts.saturating_sub(texts);
    report.padding_avoided = sum(|shard| shard.padding_avoided);
    report.stages = vec![
        stage(Stage::Prepare, None),
        stage(
            Stage::Encode,
            Some(Amounts {
                texts,
                tokens: sum(|shard| shard.tokens_to_encode),
                bytes: texts * vector,
                seconds: 0.0,
            }),
        ),
        stage(Stage::Build, None),
        stage(Stage::Publish, None),
    ];
}

fn stage(stage: Stage, planned: Option<Amounts>) -> StageReport {
    StageReport { stage, planned, actual: Amounts::default() }
}

fn set_actual(report: &mut RunReport, stage: Stage, set: impl FnOnce(&mut Amounts)) {
    if let Some(entry) = report.stages.iter_mut().find(|entry| entry.stage == stage) {
        set(&mut entry.actual);
    }
}

pub(super) fn executed(report: &mut RunReport, receipts: &Receipts) {
    let total = |value: fn(&EncodeReceipt) -> u64| receipts.encode.iter().map(value).sum::<u64>();
    set_actual(report, Stage::Encode, |amounts| {
        amounts.texts = total(|receipt| receipt.texts);
        amounts.tokens = total(|receipt| receipt.tokens);
        amounts.bytes = total(|receipt| receipt.bytes);
    });
    let mut work = BuildWork::default();
    receipts.build.iter().for_each(|receipt| work += receipt.work);
    report.vectors_inserted = work.inserted;
    report.shards_rebuilt = work.rebuilt;
    report.reuse.encoded = total(|receipt| receipt.texts);
    report.written = Written {
        prepared: report.written.prepared,
        parts: total(|receipt| receipt.bytes),
        compacted: work.copied_bytes,
        indexes: work.index_bytes,
        sidecars: work.sidecar_bytes,
        ids: work.ids_bytes,
    };
    report.bytes_written = report.written.total();
    set_actual(report, Stage::Build, |amounts| {
        amounts.texts = receipts.build.iter().map(|receipt| receipt.shard.vectors).sum();
        amounts.bytes = work.index_bytes + work.sidecar_bytes + work.ids_bytes + work.copied_bytes;
    });
    let quarantined: Vec<_> =
        receipts.encode.iter().flat_map(|receipt| &receipt.quarantined).collect();
    report.corpus.quarantined = quarantined.len() as u64;
    report.corpus.quarantined_samples = quarantined
        .iter()
        .take(QUARANTINE_SAMPLES)
        .map(|note| format!("{}: {}", note.note_id, note.reason))
        .collect();
    report.parts_written = total(|receipt| receipt.parts.len() as u64);
    report.tasks_done = (receipts.encode.len() + receipts.build.len()) as u64;
    if report.lengths.is_empty() {
        let mut histogram = LengthHistogram::new();
        for receipt in &receipts.encode {
            receipt.lengths.iter().for_each(|(&length, &texts)| histogram.add(length, texts));
        }
        report.lengths = histogram.buckets();
    }
    let busy: f64 = receipts.encode.iter().map(|receipt| receipt.busy_seconds).sum();
    let wall: f64 = receipts.encode.iter().map(|receipt| receipt.seconds).sum();
    // A sum of no floats is -0.
    report.device_busy_seconds = busy + 0.0;
    report.device_busy = (wall > 0.0).then(|| (busy / wall).min(1.0));
}

/// What a run that did not get through has stored all the same: tasks without a receipt have finished parts.
pub(super) fn interrupted(report: &mut RunReport, kept: &Kept) {
    set_actual(report, Stage::Encode, |amounts| {
        amounts.texts = kept.texts();
        amounts.tokens = kept.tokens();
        amounts.bytes = kept.bytes();
    });
    report.parts_written = kept.parts();
    report.bytes_written = report.bytes_written.max(kept.bytes());
}

/// Adds times, the throughput curve and warnings.
pub(super) fn finish(report: &mut RunReport, timeline: &Arc<Timeline>) {
    for times in timeline.stages() {
        set_actual(report, times.stage, |amounts| amounts.seconds = times.seconds);
        if times.stage == Stage::Encode {
            report.throughput = ThroughputSample::from_progress(&times.samples, CURVE);
        }
    }
    report.executors = timeline.executors();
    report.warnings.extend(timeline.warnings());
    let now = chrono::Utc::now();
    if let Ok(started) = chrono::DateTime::parse_from_rfc3339(&report.started_at) {
        let elapsed = now.signed_duration_since(started).num_milliseconds();
        report.seconds = elapsed.max(0) as f64 / 1000.0;
    }
    report.finished_at = now.to_rfc3339();
}

/// Stores the report as JSON and as a page, beside the plan.
pub(super) async fn store(root: &Root, report: &RunReport) -> Result<()> {
    if root.is_read_only() {
        return Ok(());
    }
    // Nothing is overwritten: a step that a scheduler repeats leaves a report of its own each time.
    for attempt in 1..=MOST_REPORTS {
        let json = layout::report(&report.run, ReportName(attempt));
        if root.put_if_absent(&json, report.to_json()?.into()).await? == PutOutcome::Created {
            let html = layout::report_page(&report.run, ReportName(attempt));
            root.put_if_absent(&html, report.to_html().into()).await?;
            return Ok(());
        }
    }
    Ok(())
}
