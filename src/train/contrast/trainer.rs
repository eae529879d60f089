//! The loop of stage 1.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::batch::{Batch, Batches};
use super::build::{self, build, build_all, optimizer};
use super::dev::Dev;
use super::export::export;
use super::input::{Side, TrainInput};
use super::objective::Objective;
use super::options::TrainOptions;
use super::step::{Model, QueryTower, broadcast, step, with_what_fits};
use crate::error::{Error, Result};
use crate::observe::{Event, Reporter, Stage};
use crate::train::checkpoint::{self, State};
use crate::train::keep;
use crate::train::optimizer::AdamW;
use crate::train::report::{StepRecord, TrainReport};
use crate::train::tensors::{numbers, tensor_error};
use crate::types::Cancel;

/// Trains, writing into `output`: `checkpoint.safetensors` regularly, beside it the parameters of the best looks,
/// and at the end `adapter/` (`model/` where weights were trained), beside it `query-adapter/` (`query-model/`) where
/// the query side has parameters of its own, `report.json` and `report.html`. What is exported is the best look after a
/// step, or the mean of several; where nothing is held out, the last step. A checkpoint found there is resumed; with a
/// constant learning rate a finished run goes on where `options` ask for more steps. Cancelling writes a checkpoint and
/// the report so far first.
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
    let mut batches = Batches::new(input.data, options)?;
    let planned = options.steps.unwrap_or(batches.steps_per_epoch());
    let (replicas, vars) = build_all(input, options)?;
    let model = &replicas[0];
    let parameters = vars.iter().map(|(_, var)| var.elem_count()).sum();
    let mut optimizer = optimizer(vars, options)?;
    let run = input.digest(options)?;
    let mut state = match checkpoint::load(output, run, &mut optimizer)? {
        Some(state) => state,
        None => {
            fit_query_tower(model, input, options, &batches, cancel)?;
            State::new(run)
        }
    };
    broadcast(&replicas)?;
    let inform = |message| reporter.event(Event::Info { message });
    for warning in batches.warnings() {
        reporter.warn(warning.clone());
    }
    if state.step > 0 {
        inform(format!("resuming after step {}", state.step));
    }
    reporter.event(Event::StageStarted {
        stage: Stage::Train,
        total: planned * options.batch_pairs as u64,
        unit: "pairs",
        tokens: 0,
    });
    let dev = Dev::new(input.data, options, &batches);
    let pairs = batches.training_pairs();
    let report =
        |state: &State| state.report(options.tower.model.clone(), pairs, parameters, planned);
    let watch = &options.validation;
    let look = |state: &mut State, optimizer: &AdamW| -> Result<()> {
        if dev.is_empty() {
            return Ok(());
        }
        let seen = dev.look(model, input, options, state.step)?;
        let ndcg: String = seen.ndcg.iter().map(|(name, of)| format!(" {name} {of:.3}")).collect();
        inform(format!(
            "step {}: held out loss {:.4}, nDCG@10 {:.4}:{ndcg}",
            seen.step, seen.loss, seen.score
        ));
        keep::offer(&mut state.kept, &seen, watch.average, 1, optimizer, output)?;
        state.validation.push(seen);
        checkpoint::save(output, state, optimizer)?;
        keep::sweep(&state.kept, output)
    };
    let mut saved = Instant::now();
    let mut at_once = options.activation_tokens;
    while state.step < planned {
        if let Err(stop) = cancel.check() {
            checkpoint::save(output, &state, &optimizer)?;
            report(&state).write(output)?;
            return Err(stop);
        }
        if state.is_look_due(watch.every) {
            look(&mut state, &optimizer)?;
        }
        let since = keep::looks_since_best(&state.validation);
        if watch.patience.is_some_and(|most| since >= most) {
            inform(format!(
                "stopped after step {}: no better in the last {since} validations",
                state.step
            ));
            break;
        }
        let start = Instant::now();
        let batch = batches.batch(state.step);
        let (queries, documents) = input.tokens(&batch, options)?;
        let teacher = taught(input, options, &batch)?;
        let objective = Objective {
            options: &options.loss,
            contrast: &batch.contrast,
            teacher: teacher.as_ref(),
        };
        let learning_rate = optimizer.learning_rate(state.step, planned);
        let longest = queries.iter().chain(&documents).map(Vec::len).max().unwrap_or(0);
        let result = with_what_fits(&mut at_once, longest, reporter, |tokens| {
            step(&replicas, &queries, &documents, &objective, tokens)
        })?;
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
            repeated: result.repeated,
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
        look(&mut state, &optimizer)?;
    }
    checkpoint::save(output, &state, &optimizer)?;
    let mut report = report(&state);
    report.exported = keep::put_best(&state.kept, &optimizer, output, || {
        dev.look(model, input, options, state.step)
    })?;
    export(model, &optimizer, options, input.document, output, false)?;
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

/// What the teacher makes of a batch, where the loss asks for it.
fn taught(input: &TrainInput<'_>, options: &TrainOptions, batch: &Batch) -> Result<Option<Tensor>> {
    let wanted = options.loss.has_teacher_terms() || options.loss.guide_margin.is_some();
    let Some(teacher) = input.teacher.filter(|_| wanted) else { return Ok(None) };
    let [queries, documents] = batch.shown(input.data, options);
    let [queries, documents] =
        [queries, documents].map(|all| all.into_iter().map(|(_, text)| text));
    let vectors = teacher.of_batch(queries, documents)?;
    let device = build::open_device(input.first_device()?)?;
    vectors.to_device(&device).map(Some).map_err(tensor_error)
}

/// Puts the projection of a query side's encoder where it maps queries closest to where the document tower places them.
fn fit_query_tower(
    model: &Model,
    input: &TrainInput<'_>,
    options: &TrainOptions,
    batches: &Batches<'_>,
    cancel: &Cancel,
) -> Result<()> {
    let (Some(QueryTower::Student { student, .. }), Some(encoder)) =
        (&model.query, &options.query.student)
    else {
        return Ok(());
    };
    let pairs = &input.data.pairs.pairs;
    let shown = batches.some(encoder.fit_queries());
    let queries: Vec<&str> = shown.iter().map(|at| pairs[*at as usize].query.as_str()).collect();
    let ids: Vec<Vec<u32>> = shown
        .iter()
        .map(|at| {
            let pair = &pairs[*at as usize];
            (input.tokenize)(Side::Document, pair.source, &pair.query)
        })
        .collect::<Result<_>>()?;
    let mut targets = Vec::new();
    for some in ids.chunks(256) {
        cancel.check()?;
        targets.extend(numbers(&model.encode(1, some, options.activation_tokens)?)?);
    }
    student.fit_projection(&queries, &targets, options.batch_pairs, false, cancel)
}

/// Exports the adapter (or model) of a run, finished or not, into `target`, as f32, or as f16 (`half`) at half the
/// size: of its best look so far, or where it has not looked yet, of its checkpoint.
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
    let best = &state.kept[..state.kept.len().min(1)];
    keep::put_best(best, &optimizer, output, || {
        Err(Error::internal("the mean of one is not built"))
    })?;
    export(&model, &optimizer, options, input.document, target, half)?;
    Ok(state.step)
}
