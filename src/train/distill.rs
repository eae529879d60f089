//! Stage 2: query-based knowledge distillation. Queries alone, no documents: the student learns to place a query
//! where the frozen LLM query tower places it, so the document vectors stay as they are.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{D, Device, Result as CandleResult, Tensor};
use candle_nn::ops::log_softmax;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bert::Learnt;
use super::checkpoint::{self, State};
use super::decoder::{NamedVar, normalize};
use super::optimizer::AdamW;
use super::options::{OptimizerOptions, ValidationOptions, temperature};
use super::report::{StepRecord, TrainReport, ValidationRecord};
use super::student::{Student, StudentOptions};
use super::tensor_error;
use crate::dataset::{PairSource, SplitMix64};
use crate::error::{Error, Result};
use crate::observe::{Event, Reporter, Stage};
use crate::tower::TowerOptions;
use crate::types::{Cancel, EmbeddingSpace, Embeddings, Hasher256, hash_json};

/// Everything that decides a distillation. With one machine type and thread count, equal options give equal losses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DistillOptions {
    /// The frozen LLM query tower, with its adapter and the query's prompt.
    pub teacher: TowerOptions,
    /// Where the queries come from; their documents are not looked at.
    pub pairs: Vec<PairSource>,
    /// What learns.
    pub student: StudentOptions,
    /// Weight of the squared distance to the teacher's vector.
    #[serde(default = "one")]
    pub mse_weight: f64,
    /// Weight of `1 - cosine` to the teacher's vector.
    #[serde(default = "one")]
    pub cosine_weight: f64,
    /// Weight of how far the student's scores are from the teacher's: both score the teacher's vectors of the whole batch,
    /// and the student's distribution over them is to be the teacher's (Kullback-Leibler divergence; Fang et al. 2021, SEED).
    /// Not in the ScalingNote paper; 30 is worth more than the paper's loss to a student that reads one corpus
    /// (benches/README.md).
    #[serde(default)]
    pub score_weight: f64,
    /// Cosines are divided by it before they become distributions.
    #[serde(default = "default_score_temperature")]
    pub score_temperature: f64,
    /// Optimizer and schedule.
    #[serde(default)]
    pub optimizer: OptimizerOptions,
    /// Queries of one step.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Steps; by default one epoch.
    #[serde(default)]
    pub steps: Option<u64>,
    /// Queries held out to watch.
    #[serde(default)]
    pub validation: ValidationOptions,
    /// Decides order, held-out queries and the initial projection.
    #[serde(default)]
    pub seed: u64,
    /// Seconds between checkpoints.
    #[serde(default = "default_checkpoint_seconds")]
    pub checkpoint_seconds: u64,
}

fn one() -> f64 {
    1.0
}

fn default_score_temperature() -> f64 {
    0.05
}

fn default_batch() -> usize {
    64
}

fn default_checkpoint_seconds() -> u64 {
    300
}

impl DistillOptions {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// Config, naming the field.
    pub fn validate(&self) -> Result<()> {
        let weights = [self.mse_weight, self.cosine_weight, self.score_weight];
        let fine = weights.iter().all(|w| w.is_finite() && *w >= 0.0);
        if !fine || weights.iter().sum::<f64>() == 0.0 {
            return Err(Error::config(
                "mse_weight, cosine_weight and score_weight must not be negative, nor all 0",
            ));
        }
        temperature(self.score_temperature, "score_temperature")?;
        self.optimizer.validate()?;
        if self.batch == 0 || self.steps == Some(0) {
            return Err(Error::config("batch and steps must be above 0"));
        }
        self.student.validate()
    }
}

/// Opens the student for a teacher of `dimensions` and lets go of it: what is wrong with it is better known before the teacher
/// encodes for an hour.
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

/// Distils `teacher` (its row i belongs to `texts[i]`) into a student, writing into `output`: `checkpoint.safetensors` now
/// and then, at the end `student/`, `report.json` and `report.html`, where "own document first" stands for the mean
/// cosine to the teacher. A checkpoint found there is resumed; cancelling writes one first.
///
/// # Errors
/// As [`train_decoder`](super::train_decoder).
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
    let (teacher, space) = (teacher.vectors, teacher.space);
    if texts.len() != teacher.len() {
        return Err(Error::input(format!(
            "{} queries but {} teacher vectors",
            texts.len(),
            teacher.len()
        )));
    }
    let (mut student, vars) =
        Student::create(&options.student, base_dir, teacher.dimensions(), options.seed, reporter)
            .await?;
    let parameters = vars.iter().map(|(_, var)| var.elem_count()).sum();
    let mut hasher = Hasher256::new();
    let same = DistillOptions { checkpoint_seconds: 0, ..options.clone() };
    hasher.field(hash_json(&same)?.0);
    for (text, row) in texts.iter().zip(teacher.rows()) {
        let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
        hasher.field(text).field(bytes);
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
    let planned = options.steps.unwrap_or(per_epoch);
    let mut state = match resumed {
        Some(state) => state,
        None => {
            let first = &order[..order.len().min(options.student.fit_queries())];
            let queries: Vec<&str> = first.iter().map(|at| texts[*at].as_str()).collect();
            let targets: Vec<f32> = first.iter().flat_map(|at| teacher.row(*at)).copied().collect();
            student.fit_projection(&queries, &targets, options.batch, cancel)?;
            State::new(run)
        }
    };
    let job = Job { student: &student, texts, teacher, options };
    let started = Instant::now();
    let total = planned * options.batch as u64;
    let (stage, unit) = (Stage::Distill, "queries");
    reporter.event(Event::StageStarted { stage, total, unit, tokens: 0 });
    let mut saved = Instant::now();
    let mut epoch = None;
    let mut shuffled = Vec::new();
    while state.step < planned {
        if let Err(stop) = cancel.check() {
            checkpoint::save(output, &state, &optimizer)?;
            return Err(stop);
        }
        if options.validation.every > 0
            && state.step.is_multiple_of(options.validation.every)
            && state.validation.last().is_none_or(|v| v.step != state.step)
        {
            job.validate(&held_out, &mut state, reporter)?;
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
        if !(learnt.loss.is_finite() && norm.is_finite()) {
            return Err(Error::input(format!(
                "the loss is no longer finite at step {}; lower optimizer.learning_rate and start from another output",
                state.step
            )));
        }
        let seconds = start.elapsed().as_secs_f64();
        state.steps.push(StepRecord {
            step: state.step,
            loss: learnt.loss,
            accuracy: learnt.measure,
            learning_rate,
            gradient_norm: norm,
            pairs: batch.len(),
            tokens,
            seconds,
        });
        state.step += 1;
        state.seconds += seconds;
        reporter.event(Event::Progress {
            stage: Stage::Distill,
            done: state.step * options.batch as u64,
            tokens: state.steps.iter().map(|s| s.tokens as u64).sum(),
        });
        if saved.elapsed() >= Duration::from_secs(options.checkpoint_seconds) {
            checkpoint::save(output, &state, &optimizer)?;
            saved = Instant::now();
        }
    }
    if state.validation.last().is_none_or(|v| v.step != state.step) {
        job.validate(&held_out, &mut state, reporter)?;
    }
    checkpoint::save(output, &state, &optimizer)?;
    student.export(&output.join("student"), &vars, space)?;
    let per_second = |f: fn(&StepRecord) -> usize| {
        state.steps.iter().map(f).sum::<usize>() as f64 / state.seconds.max(1e-9)
    };
    let report = TrainReport {
        model: match &options.student {
            StudentOptions::Bert { path, .. } => path.display().to_string(),
            StudentOptions::Decoder { tower, .. } => tower.model.clone(),
        },
        training_pairs: order.len(),
        parameters,
        planned_steps: planned,
        seconds: state.seconds,
        pairs_per_second: per_second(|s| s.pairs),
        tokens_per_second: per_second(|s| s.tokens),
        steps: state.steps.clone(),
        validation: state.validation.clone(),
    };
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
            let scores = score_loss(vectors, &own, targets, self.options.score_temperature)?;
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
        state: &mut State,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<()> {
        if held_out.is_empty() {
            return Ok(());
        }
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
            message: format!("step {}: held out loss {loss:.4}, cosine {cosine:.4}", state.step),
        });
        state.validation.push(ValidationRecord { step: state.step, loss, accuracy: cosine });
        Ok(())
    }
}

/// `mse_weight * mean |s - t|^2 + cosine_weight * mean (1 - cos(s, t))`, and the mean cosine.
fn distillation_loss(
    student: &Tensor,
    teacher: &Tensor,
    mse_weight: f64,
    cosine_weight: f64,
) -> CandleResult<(Tensor, f32)> {
    let square = (student - teacher)?.sqr()?.sum(1)?.mean(0)?;
    let cosine = (normalize(student)? * normalize(teacher)?)?.sum(1)?.mean(0)?;
    let value = cosine.to_scalar::<f32>()?;
    let loss = ((square * mse_weight)? + ((1.0 - cosine)? * cosine_weight)?)?;
    Ok((loss, value))
}

/// `mean KL(p || q)`: p and q are how `teacher` and `student`, `[n, dimensions]`, each spread over `others`,
/// `[m, dimensions]`, by the softmax of their cosines to them over the temperature.
fn score_loss(
    student: &Tensor,
    teacher: &Tensor,
    others: &Tensor,
    temperature: f64,
) -> CandleResult<Tensor> {
    let spread = |rows: &Tensor| {
        let scores = (normalize(rows)?.matmul(&others.t()?)? / temperature)?;
        log_softmax(&scores, D::Minus1)
    };
    let (wanted, given) = (spread(teacher)?, spread(student)?);
    (wanted.exp()? * (wanted - given)?)?.sum(1)?.mean(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_compared_as_distributions() {
        let t = |v: Vec<f32>, n| Tensor::from_vec(v, (n, 2), &Device::Cpu).unwrap();
        let teacher = t(vec![1., 0.], 1);
        let others = t(vec![1., 0., 0., 1.], 2);
        let of = |student: Vec<f32>| {
            let loss = score_loss(&t(student, 1), &teacher, &others, 1.0).unwrap();
            loss.to_scalar::<f32>().unwrap()
        };
        // A student's length does not count.
        assert!(of(vec![3., 0.]).abs() < 1e-6);
        // Scores turned round: (e - 1) / (e + 1) * 1.
        let e = 1f32.exp();
        assert!((of(vec![0., 2.]) - (e - 1.0) / (e + 1.0)).abs() < 1e-6);
    }

    #[test]
    fn the_loss_is_the_papers() {
        let t = |v: Vec<f32>| Tensor::from_vec(v, (2, 2), &Device::Cpu).unwrap();
        let (student, teacher) = (t(vec![2., 0., 0., 1.]), t(vec![1., 0., 1., 0.]));
        let (loss, cosine) = distillation_loss(&student, &teacher, 2.0, 3.0).unwrap();
        // Squared distances 1 and 2; cosines 1 and 0.
        assert!((loss.to_scalar::<f32>().unwrap() - (2.0 * 1.5 + 3.0 * 0.5)).abs() < 1e-6);
        assert!((cosine - 0.5).abs() < 1e-6);
    }
}
