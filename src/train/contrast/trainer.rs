//! Stage 1 for the training loop: the batch of a step, validation and export.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::batch::{Batch, Batches};
use super::build::{build, build_all, optimizer};
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
use crate::train::report::{TrainReport, ValidationRecord};
use crate::train::tensors::{numbers, tensor_error};
use crate::train::training::{Learner, StepResult, Training};
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
    let batches = Batches::new(input.data, options)?;
    let (replicas, vars) = build_all(input, options)?;
    let parameters = vars.iter().map(|(_, var)| var.elem_count()).sum();
    let mut optimizer = optimizer(vars, options)?;
    let run = input.digest(options)?;
    let mut state = match checkpoint::load(output, run, &mut optimizer)? {
        Some(state) => state,
        None => {
            fit_query_tower(&replicas[0], input, options, &batches, cancel)?;
            State::new(run)
        }
    };
    broadcast(&replicas)?;
    for warning in batches.warnings() {
        reporter.warn(warning.clone());
    }
    let training = Training {
        stage: Stage::Train,
        unit: "pairs",
        batch: options.batch_pairs,
        planned: options.steps.unwrap_or(batches.steps_per_epoch()),
        limit: None,
        checkpoint_seconds: Some(options.checkpoint_seconds),
        watch: &options.validation,
        keep_from: 1,
        model: options.tower.model.clone(),
        pairs: batches.training_pairs(),
        parameters,
        output,
        reporter,
        cancel,
    };
    let dev = Dev::new(input.data, options, &batches);
    let at_once = options.activation_tokens;
    let mut towers = Towers { replicas, batches, dev, input, options, at_once, output, reporter };
    training.run(&mut towers, &mut optimizer, &mut state)
}

/// The towers in training, one replica per device, and their data.
struct Towers<'a> {
    replicas: Vec<Model>,
    batches: Batches<'a>,
    dev: Dev<'a>,
    input: &'a TrainInput<'a>,
    options: &'a TrainOptions,
    /// Tokens that a device takes at once.
    at_once: usize,
    output: &'a Path,
    reporter: &'a Arc<dyn Reporter>,
}

impl Learner for Towers<'_> {
    fn learn(&mut self, step_number: u64) -> Result<StepResult> {
        let (input, options) = (self.input, self.options);
        let batch = self.batches.batch(step_number);
        let (queries, documents) = input.tokens(&batch, options)?;
        let device = self.replicas[0].document.decoder.device();
        let teacher = taught(input, options, &batch, device)?;
        let objective = Objective {
            options: &options.loss,
            contrast: &batch.contrast,
            teacher: teacher.as_ref(),
        };
        let longest = queries.iter().chain(&documents).map(Vec::len).max().unwrap_or(0);
        let result = with_what_fits(&mut self.at_once, longest, self.reporter, |tokens| {
            step(&self.replicas, &queries, &documents, &objective, tokens)
        })?;
        Ok(StepResult { pairs: batch.pairs.len(), ..result })
    }

    fn updated(&self) -> Result<()> {
        broadcast(&self.replicas)
    }

    fn look(&self, step: u64) -> Result<Option<ValidationRecord>> {
        if self.dev.is_empty() {
            return Ok(None);
        }
        let seen = self.dev.look(&self.replicas[0], self.input, self.options, step)?;
        let ndcg: String = seen.ndcg.iter().map(|(name, of)| format!(" {name} {of:.3}")).collect();
        let message = format!(
            "step {}: held out loss {:.4}, nDCG@10 {:.4}:{ndcg}",
            seen.step, seen.loss, seen.score
        );
        self.reporter.event(Event::Info { message });
        Ok(Some(seen))
    }

    fn export(&self, optimizer: &AdamW) -> Result<()> {
        let document = self.input.document;
        export(&self.replicas[0], optimizer, self.options, document, self.output, false)
    }
}

/// What the teacher makes of a batch, where the loss asks for it, on the device of the loss.
fn taught(
    input: &TrainInput<'_>,
    options: &TrainOptions,
    batch: &Batch,
    device: &Device,
) -> Result<Option<Tensor>> {
    let wanted = options.loss.has_teacher_terms() || options.loss.guide_margin.is_some();
    let Some(teacher) = input.teacher.filter(|_| wanted) else { return Ok(None) };
    let [queries, documents] = batch.shown(input.data, options);
    let [queries, documents] =
        [queries, documents].map(|all| all.into_iter().map(|(_, text)| text));
    let vectors = teacher.of_batch(queries, documents)?;
    vectors.to_device(device).map(Some).map_err(tensor_error)
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
/// size: what a finished run exported, else its best look so far, or where it has not looked yet, its checkpoint.
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
    // Of a run that is done; one that goes on for more steps has taken others since.
    let done = TrainReport::read(output).filter(|report| report.steps.len() as u64 == state.step);
    let exported = done.map(|report| report.exported).unwrap_or_default();
    keep::put_again(&state.kept, &exported, &optimizer, output)?;
    export(&model, &optimizer, options, input.document, target, half)?;
    Ok(state.step)
}
