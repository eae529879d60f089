//! The loop of stage 2.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Device, Result as CandleResult, Tensor};

use super::loss::{distillation_loss, score_loss};
use super::options::DistillOptions;
use crate::dataset::SplitMix64;
use crate::error::{Error, Result};
use crate::observe::{Event, Reporter, Stage};
use crate::train::checkpoint::{self, State};
use crate::train::keep;
use crate::train::model::bert::Learnt;
use crate::train::model::decoder::NamedVar;
use crate::train::model::student::{Student, StudentOptions};
use crate::train::optimizer::AdamW;
use crate::train::report::{StepRecord, TrainReport, ValidationRecord};
use crate::train::tensors::{bytes, tensor_error};
use crate::types::{Cancel, EmbeddingSpace, Embeddings, Hasher256, hash_json};

/// Opens the student for a teacher of `dimensions` and lets go of it: what is wrong with it is better known before the
/// teacher encodes for an hour.
///
/// # Errors
/// As [`distill`], about the student.
pub async fn check_student(
    options: &DistillOptions,
    base_dir: &Path,
    dimensions: usize,
    reporter: &Arc<dyn Reporter>,
) -> Result<()> {
    Student::create(&options.student, base_dir, dimensions, options.seed, reporter).await?;
    Ok(())
}

/// What is learnt: where the frozen query tower places every query.
#[derive(Debug)]
pub struct Teacher<'a> {
    /// `[queries, dimensions]`, of unit length.
    pub vectors: &'a Embeddings,
    /// The query tower's space, with the empty template: the student carries it, so that no other document tower's
    /// snapshot admits it.
    pub space: &'a EmbeddingSpace,
}

/// Distils `teacher` (its row i belongs to `texts[i]`) into a student, writing into `output`: `checkpoint.safetensors`
/// regularly, at the end `student/`, `report.json` and `report.html`, where "own document first" stands for the mean
/// cosine to the teacher. A checkpoint found there is resumed; cancelling writes one first.
///
/// # Errors
/// As [`train_decoder`](crate::train::train_decoder).
pub async fn distill(
    texts: &[String],
    teacher: &Teacher<'_>,
    options: &DistillOptions,
    base_dir: &Path,
    output: &Path,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<TrainReport> {
    options.validate()?;
    let began = Instant::now();
    let (teacher, space) = (teacher.vectors, teacher.space);
    if texts.len() != teacher.len() {
        return Err(Error::input(format!(
            "{} queries but {} teacher vectors",
            texts.len(),
            teacher.len()
        )));
    }
    let (student, vars) =
        Student::create(&options.student, base_dir, teacher.dimensions(), options.seed, reporter)
            .await?;
    let parameters = vars.iter().map(|(_, var)| var.elem_count()).sum();
    let mut hasher = Hasher256::new();
    let mut same = DistillOptions { checkpoint_seconds: 0, ..options.clone() };
    same.optimizer.of_a_run(&mut same.steps);
    hasher.field(hash_json(&same)?.0);
    for (text, row) in texts.iter().zip(teacher.rows()) {
        hasher.field(text).field(bytes(row));
    }
    student.starts_from(&vars, &mut hasher)?;
    let run = hasher.finish();
    let mut optimizer =
        AdamW::new(vars.clone(), options.optimizer.clone()).map_err(tensor_error)?;
    let resumed = checkpoint::load(output, run, &mut optimizer)?;

    let mut order: Vec<usize> = (0..texts.len()).collect();
    SplitMix64::new(options.seed ^ 0x4845_4C44).shuffle(&mut order);
    let held_out = order.split_off(order.len().saturating_sub(options.validation.pairs));
    let per_epoch = (order.len() / options.batch) as u64;
    if per_epoch == 0 {
        return Err(Error::config(format!(
            "{} queries (after {} held out) do not fill a batch of {}",
            order.len(),
            held_out.len(),
            options.batch
        )));
    }
    let mut planned = options.steps.unwrap_or(per_epoch);
    let refit = options.student.refit_queries();
    // A refitted projection is worth keeping before any step.
    let keep_from = u64::from(refit == 0);
    let mut state = match resumed {
        Some(state) => state,
        None => {
            let most = options.student.fit_queries().max(refit);
            let first = &order[..order.len().min(most)];
            let queries: Vec<&str> = first.iter().map(|at| texts[*at].as_str()).collect();
            let targets: Vec<f32> = first.iter().flat_map(|at| teacher.row(*at)).copied().collect();
            student.fit_projection(&queries, &targets, options.batch, refit > 0, cancel)?;
            State::new(run)
        }
    };
    let job = Job { student: &student, texts, teacher, options };
    let started = Instant::now();
    let total = planned * options.batch as u64;
    let (stage, unit) = (Stage::Distill, "queries");
    reporter.event(Event::StageStarted { stage, total, unit, tokens: 0 });
    let look = |state: &mut State, optimizer: &AdamW| -> Result<()> {
        if held_out.is_empty() {
            return Ok(());
        }
        let seen = job.validate(&held_out, state.step, reporter)?;
        let most = options.validation.average;
        keep::offer(&mut state.kept, &seen, most, keep_from, optimizer, output)?;
        state.validation.push(seen);
        checkpoint::save(output, state, optimizer)?;
        keep::sweep(&state.kept, output)
    };
    let mut saved = Instant::now();
    let mut epoch = None;
    let mut shuffled = Vec::new();
    while state.step < planned {
        if let Some(limit) = options.limit {
            // The first steps are no measure: they touch all memory.
            if state.step >= 4 || began.elapsed() >= limit {
                planned = planned.min(affordable(&state, began.elapsed(), limit));
            }
            if state.step >= planned {
                break;
            }
        }
        if let Err(stop) = cancel.check() {
            checkpoint::save(output, &state, &optimizer)?;
            return Err(stop);
        }
        if state.is_look_due(options.validation.every) {
            look(&mut state, &optimizer)?;
        }
        let since = keep::looks_since_best(&state.validation);
        if options.validation.patience.is_some_and(|most| since >= most) {
            let message = format!(
                "stopped after step {}: no better in the last {since} validations",
                state.step
            );
            reporter.event(Event::Info { message });
            break;
        }
        let (now, at) = (state.step / per_epoch, (state.step % per_epoch) as usize);
        if epoch != Some(now) {
            shuffled.clone_from(&order);
            SplitMix64::new(options.seed.wrapping_add(now)).shuffle(&mut shuffled);
            epoch = Some(now);
        }
        let start = Instant::now();
        let batch = &shuffled[at * options.batch..(at + 1) * options.batch];
        let (learnt, tokens) = job.learn(batch, &vars)?;
        let learning_rate = optimizer.learning_rate(state.step, planned);
        let norm = optimizer.step(&learnt.gradients, planned).map_err(tensor_error)?;
        state.add(StepRecord {
            step: state.step,
            loss: learnt.loss,
            accuracy: learnt.measure,
            learning_rate,
            gradient_norm: norm,
            pairs: batch.len(),
            tokens,
            repeated: 0,
            seconds: start.elapsed().as_secs_f64(),
        })?;
        reporter.event(Event::Progress {
            stage: Stage::Distill,
            done: state.step * options.batch as u64,
            tokens: state.tokens(),
        });
        if saved.elapsed() >= Duration::from_secs(options.checkpoint_seconds) {
            checkpoint::save(output, &state, &optimizer)?;
            saved = Instant::now();
        }
    }
    if !state.is_looked_at() {
        look(&mut state, &optimizer)?;
    }
    checkpoint::save(output, &state, &optimizer)?;
    let judge = || job.validate(&held_out, state.step, reporter);
    let exported = keep::put_best(&state.kept, &optimizer, output, judge)?;
    student.export(&output.join("student"), &vars, Some(space))?;
    let model = match &options.student {
        StudentOptions::Bert { path, .. } => path.display().to_string(),
        StudentOptions::Decoder { tower, .. } => tower.model.clone(),
    };
    let mut report = state.report(model, order.len(), parameters, planned);
    report.exported = exported;
    report.write(output)?;
    reporter.event(Event::StageFinished {
        stage: Stage::Distill,
        seconds: started.elapsed().as_secs_f64(),
        summary: format!(
            "{planned} steps, {:.1} queries/s, held out cosine {:.4}",
            report.pairs_per_second,
            state.validation.last().map_or(0.0, |v| v.accuracy)
        ),
    });
    Ok(report)
}

/// Steps that fit into `limit`, of which `spent` is gone, at the pace of the steps so far. The learning rate follows
/// the number of steps, so it is reported early and only ever falls.
fn affordable(state: &State, spent: Duration, limit: Duration) -> u64 {
    let left = limit.saturating_sub(spent).as_secs_f64();
    // The look at the end takes its time, too.
    state.step + (0.95 * left * state.step as f64 / state.seconds.max(1e-9)) as u64
}

struct Job<'a> {
    student: &'a Student,
    texts: &'a [String],
    teacher: &'a Embeddings,
    options: &'a DistillOptions,
}

impl Job<'_> {
    /// The tokens of the texts at these positions.
    fn tokenize(&self, at: &[usize]) -> Result<Vec<Vec<u32>>> {
        at.iter().map(|at| self.student.tokenize(&self.texts[*at])).collect()
    }

    /// The teacher's vectors `[texts, dimensions]` of the texts at these positions.
    fn targets(&self, at: &[usize]) -> CandleResult<Tensor> {
        let rows: Vec<f32> = at.iter().flat_map(|at| self.teacher.row(*at)).copied().collect();
        Tensor::from_vec(rows, (at.len(), self.teacher.dimensions()), &Device::Cpu)
    }

    /// Loss and mean cosine of `vectors` of some of a batch's texts: those whose targets are these rows of `targets`.
    fn loss(
        &self,
        vectors: &Tensor,
        targets: &Tensor,
        rows: Range<usize>,
    ) -> CandleResult<(Tensor, f32)> {
        let DistillOptions { mse_weight, cosine_weight, score_weight, .. } = self.options;
        let own = targets.narrow(0, rows.start, rows.len())?;
        let (mut loss, cosine) = distillation_loss(vectors, &own, *mse_weight, *cosine_weight)?;
        if *score_weight > 0.0 {
            let temperature = self.options.score_temperature;
            let scores = score_loss(vectors, &own, targets, rows.start, temperature)?;
            loss = (loss + (scores * *score_weight)?)?;
        }
        Ok((loss, cosine))
    }

    /// Gradients, loss and mean cosine of the texts at these positions, and their tokens.
    fn learn(&self, at: &[usize], vars: &[NamedVar]) -> Result<(Learnt, usize)> {
        let ids = self.tokenize(at)?;
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let targets = self.targets(at).map_err(tensor_error)?;
        let part = |vectors: &Tensor, range: Range<usize>| {
            let share = range.len() as f64 / at.len() as f64;
            let (loss, cosine) = self.loss(vectors, &targets, range)?;
            Ok(((loss * share)?, cosine * share as f32))
        };
        let learnt = self.student.gradients(&ids, vars, &part)?;
        Ok((learnt, ids.iter().map(|ids| ids.len()).sum()))
    }

    fn validate(
        &self,
        held_out: &[usize],
        step: u64,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<ValidationRecord> {
        let (mut loss, mut cosine) = (0.0, 0.0);
        for chunk in held_out.chunks(self.options.batch) {
            let ids = self.tokenize(chunk)?;
            let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
            let vectors = self.student.forward(&ids)?;
            let judged = self
                .targets(chunk)
                .and_then(|targets| self.loss(&vectors, &targets, 0..chunk.len()));
            let judged = judged.and_then(|(loss, cosine)| Ok((loss.to_scalar::<f32>()?, cosine)));
            let (l, c) = judged.map_err(tensor_error)?;
            let share = chunk.len() as f32 / held_out.len() as f32;
            loss += l * share;
            cosine += c * share;
        }
        reporter.event(Event::Info {
            message: format!("step {step}: held out loss {loss:.4}, cosine {cosine:.4}"),
        });
        let (score, ndcg) = (-f64::from(loss), BTreeMap::new());
        Ok(ValidationRecord { step, loss, accuracy: cosine, score, ndcg })
    }
}
