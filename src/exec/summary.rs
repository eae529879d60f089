//! `scalingnote plan`: the plan in numbers, with times from a short calibration.

use std::time::Instant;

use crate::config::Pipeline;
use crate::corpus::PreparedReader;
use crate::error::Result;
use crate::index;
use crate::stage::{
    Plan, PlanAmounts, PlanSummary, Planned, ShardSummary, TaskEnv, Worker, encode_sample,
};
use crate::types::VectorType;

/// Texts that the calibration encodes, at most; their time is not kept.
const CALIBRATION_TEXTS: usize = 32;

/// Bytes of a part's row beside its vector: text hash, note id, counts.
const PART_ROW: u64 = 48;

/// Tokens per second of this device on the first texts of the plan; `None` where nothing is to be encoded.
pub(super) async fn calibrate_speed(
    plan: &Plan,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<Option<f64>> {
    let Some(task) = plan.encode.first() else { return Ok(None) };
    let mut reader = PreparedReader::open(&env.root, &task.shard.prepared).await?;
    let mut texts = Vec::new();
    while let Some(batch) = reader.next().await? {
        texts.extend(batch.rows.into_iter().filter(|row| !row.deleted).map(|row| row.text));
        if texts.len() >= CALIBRATION_TEXTS {
            break;
        }
    }
    texts.truncate(CALIBRATION_TEXTS);
    // Once to load the weights and touch their pages, once to measure.
    encode_sample(&plan.spec, texts.iter().take(1).cloned().collect(), worker, env).await?;
    let started = Instant::now();
    let tokens = encode_sample(&plan.spec, texts, worker, env).await?;
    let seconds = started.elapsed().as_secs_f64();
    Ok((tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds))
}

/// The numbers of a plan.
pub(super) fn summarise(
    planned: &Planned,
    pipeline: &Pipeline,
    speed: Option<f64>,
) -> Result<PlanSummary> {
    let plan = &planned.plan;
    let devices = pipeline.encode.devices.len().max(1) as f64;
    let element = match plan.spec.encode.vector_type {
        VectorType::F32 => 4,
        VectorType::F16 => 2,
    };
    let dimensions = u64::from(plan.spec.space.dimensions);
    let shards: Vec<ShardSummary> = plan
        .shards
        .iter()
        .map(|shard| {
            let memory = match shard.unchanged {
                true => 0,
                false => index::estimate_memory(
                    shard.prepared.rows,
                    plan.spec.space.dimensions,
                    &plan.spec.index,
                ),
            };
            let built = match shard.unchanged {
                true => 0,
                false => index::estimate_file_bytes(
                    shard.prepared.rows,
                    plan.spec.space.dimensions,
                    &plan.spec.index,
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
                seconds: speed.map(|speed| shard.tokens_to_encode as f64 / speed / devices),
                bytes: shard.texts_to_encode * (dimensions * element + PART_ROW) + built,
                index_memory: memory,
                ..PlanAmounts::default()
            };
            ShardSummary { shard: shard.prepared.shard, amounts: amounts.with_waste() }
        })
        .collect();
    let mut warnings = Vec::new();
    let rejected = plan.prepared.rejections.total();
    if rejected > 0 {
        warnings.push(format!("{rejected} of {} rows were rejected", plan.prepared.rows_read));
    }
    warnings.extend(truncated(plan));
    Ok(PlanSummary {
        run: plan.spec.run.clone(),
        plan_key: Some(Plan::key(&plan.spec.run)),
        parent: plan.spec.parent,
        space: plan.spec.space_id.to_string(),
        devices: pipeline.encode.devices.clone(),
        tokens_per_second: speed,
        tasks: plan.tasks() as u64,
        encode_tasks: plan.encode.iter().map(|task| task.id.clone()).collect(),
        calibrate_task: plan.calibrate.as_ref().map(|task| task.id.clone()),
        build_tasks: plan.build.iter().map(|task| task.id.clone()).collect(),
        total: PlanAmounts::sum(&shards),
        shards,
        backfill: None,
        warnings,
    })
}

/// A warning where texts are cut.
pub(super) fn truncated(plan: &Plan) -> Option<String> {
    let truncated: u64 = plan.shards.iter().map(|shard| shard.texts_truncated).sum();
    (truncated > 0).then(|| {
        format!(
            "{truncated} texts are longer than tower.max_tokens = {} and will be cut; [chunking] keeps them whole",
            plan.spec.tower.max_tokens
        )
    })
}
