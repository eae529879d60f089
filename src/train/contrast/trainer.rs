//! The loop of stage 1.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Batch, Batches};
use super::build::{build, build_all, optimizer};
use super::export::export;
use super::input::TrainInput;
use super::loss::info_nce;
use super::options::TrainOptions;
use super::step::{Model, broadcast, step};
use crate::error::{Error, Result};
use crate::observe::{Event, Reporter, Stage};
use crate::train::checkpoint::{self, State};
use crate::train::report::{StepRecord, TrainReport, ValidationRecord};
use crate::train::tensors::tensor_error;
use crate::types::Cancel;

/// Trains, writing into `output`: `checkpoint.safetensors` now and then, and at the end `adapter/` (`model/` where weights were
/// trained), beside it `query-adapter/` (`query-model/`) where the query side has parameters of its own, `report.json`
/// and `report.html`. A checkpoint found there is resumed. Cancelling writes a checkpoint and the report so far first.
///
/// # Errors
/// Config or Input for what cannot work; Conflict where `output` holds another run; Cancelled or Deadline when
/// stopped; Input where the loss is no longer finite.
pub fn train_decoder(
    input: &TrainInput<'_>,
    options: &TrainOptions,
    output: &Path,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<TrainReport> {
    options.validate()?;
    let started = Instant::now();
    let mut batches = Batches::new(input.pairs, options)?;
    let planned = options.steps.unwrap_or(batches.steps_per_epoch());
    let (replicas, vars) = build_all(input, options)?;
    let model = &replicas[0];
    let parameters = vars.iter().map(|(_, var)| var.elem_count()).sum();
    let mut optimizer = optimizer(vars, options)?;
    let run = input.digest(options)?;
    let mut state =
        checkpoint::load(output, run, &mut optimizer)?.unwrap_or_else(|| State::new(run));
    broadcast(&replicas)?;
    if let Some(fewer) = batches.fewer_negatives() {
        reporter.event(Event::Warning { message: fewer });
    }
    if state.step > 0 {
        reporter.event(Event::Info { message: format!("resuming after step {}", state.step) });
    }
    reporter.event(Event::StageStarted {
        stage: Stage::Train,
        total: planned * options.batch_pairs as u64,
        unit: "pairs",
        tokens: 0,
    });
    let held_out = batches.validation();
    let pairs = batches.training_pairs();
    let report =
        |state: &State| state.report(options.tower.model.clone(), pairs, parameters, planned);
    let mut saved = Instant::now();
    while state.step < planned {
        if let Err(stop) = cancel.check() {
            checkpoint::save(output, &state, &optimizer)?;
            report(&state).write(output)?;
            return Err(stop);
        }
        if state.is_look_due(options.validation.every) {
            validate(model, input, options, &held_out, &mut state, reporter)?;
        }
        let start = Instant::now();
        let batch = batches.batch(state.step);
        let (queries, documents) = input.tokens(&batch)?;
        let learning_rate = optimizer.learning_rate(state.step, planned);
        let result = step(
            &replicas,
            &queries,
            &documents,
            &batch.contrast,
            options.temperature,
            options.activation_tokens,
        )?;
        let norm = optimizer.step(&result.grads, planned).map_err(tensor_error)?;
        broadcast(&replicas)?;
        state.add(StepRecord {
            step: state.step,
            loss: result.loss,
            accuracy: result.accuracy,
            learning_rate,
            gradient_norm: norm,
            pairs: batch.pairs.len(),
            tokens: result.tokens,
            seconds: start.elapsed().as_secs_f64(),
        })?;
        reporter.event(Event::Progress {
            stage: Stage::Train,
            done: state.step * options.batch_pairs as u64,
            tokens: state.tokens(),
        });
        if saved.elapsed() >= Duration::from_secs(options.checkpoint_seconds) {
            checkpoint::save(output, &state, &optimizer)?;
            report(&state).write(output)?;
            saved = Instant::now();
        }
    }
    if !state.is_looked_at() {
        validate(model, input, options, &held_out, &mut state, reporter)?;
    }
    checkpoint::save(output, &state, &optimizer)?;
    export(model, &optimizer, options, input.document, output, false)?;
    let report = report(&state);
    report.write(output)?;
    reporter.event(Event::StageFinished {
        stage: Stage::Train,
        seconds: started.elapsed().as_secs_f64(),
        summary: format!(
            "{} steps, {:.2} pairs/s, last loss {:.4}",
            report.steps.len(),
            report.pairs_per_second,
            report.steps.last().map_or(0.0, |s| s.loss)
        ),
    });
    Ok(report)
}

/// Exports the adapter (or model) of a run's checkpoint as it stands, finished or not, into `target`: as f32, or as
/// f16 (`half`) at half the size.
///
/// # Errors
/// NotFound without a checkpoint; as [`train_decoder`] otherwise.
pub fn export_checkpoint(
    input: &TrainInput<'_>,
    options: &TrainOptions,
    output: &Path,
    target: &Path,
    half: bool,
) -> Result<u64> {
    let (model, vars) = build(input, options, input.first_device()?)?;
    let mut optimizer = optimizer(vars, options)?;
    let run = input.digest(options)?;
    let state = checkpoint::load(output, run, &mut optimizer)?
        .ok_or_else(|| Error::not_found(format!("no checkpoint in {}", output.display())))?;
    export(&model, &optimizer, options, input.document, target, half)?;
    Ok(state.step)
}

fn validate(
    model: &Model,
    input: &TrainInput<'_>,
    options: &TrainOptions,
    held_out: &Batch,
    state: &mut State,
    reporter: &Arc<dyn Reporter>,
) -> Result<()> {
    if held_out.pairs.is_empty() {
        return Ok(());
    }
    let (queries, documents) = input.tokens(held_out)?;
    let chunk = options.activation_tokens;
    let queries = model.encode(0, &queries, chunk)?;
    let documents = model.encode(1, &documents, chunk)?;
    let (loss, accuracy) = info_nce(&queries, &documents, &held_out.contrast, options.temperature)
        .map_err(tensor_error)?;
    let loss = loss.to_scalar::<f32>().map_err(tensor_error)?;
    reporter.event(Event::Info {
        message: format!(
            "step {}: held out loss {loss:.4}, own document first {accuracy:.3}",
            state.step
        ),
    });
    state.validation.push(ValidationRecord { step: state.step, loss, accuracy });
    Ok(())
}
