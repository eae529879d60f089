//! Stage 2 for the training loop: the batch of a step, validation and export.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Result as CandleResult, Tensor};

use super::loss::{distillation_loss, score_loss, search_loss};
use super::options::DistillOptions;
use crate::dataset::SplitMix64;
use crate::error::{Error, Result};
use crate::observe::{Event, Reporter, Stage};
use crate::train::checkpoint::{self, State};
use crate::train::model::decoder::{NamedVar, normalize};
use crate::train::model::student::{Student, StudentOptions};
use crate::train::optimizer::AdamW;
use crate::train::report::{TrainReport, ValidationRecord};
use crate::train::tensors::{bytes, fetch, tensor_error};
use crate::train::training::{Learner, StepResult, Training};
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
    /// The documents that are searched: the student is to score them as the teacher does. Without them it is the batch's
    /// other queries that both score.
    pub documents: Option<Documents<'a>>,
    /// The query tower's space, with the empty template: the student carries it, so that no other document tower's
    /// snapshot admits it.
    pub space: &'a EmbeddingSpace,
}

/// What is searched.
#[derive(Debug, Clone, Copy)]
pub struct Documents<'a> {
    /// `[documents, dimensions]`, of any length.
    pub vectors: &'a Embeddings,
    /// The row of the document that each query is from, where it is one of them.
    pub own: &'a [Option<usize>],
    /// Weight of `-log` of the share that a query's own document has of the student's scores (contrastive refinement).
    pub own_weight: f64,
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
    let Teacher { vectors: teacher, documents, space } = *teacher;
    let documents_fit = documents.is_none_or(|documents| {
        let Documents { vectors, own, .. } = documents;
        let fits = |own: &usize| *own < vectors.len();
        own.len() == texts.len() && own.iter().flatten().all(fits)
    });
    if !documents_fit {
        return Err(Error::internal("every query needs its own document, or none"));
    }
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
    let mut same = DistillOptions { checkpoint_seconds: Some(0), ..options.clone() };
    same.optimizer.of_a_run(&mut same.steps);
    hasher.field(hash_json(&same)?.0);
    for (text, row) in texts.iter().zip(teacher.rows()) {
        hasher.field(text).field(bytes(row));
    }
    if let Some(Documents { vectors, own, own_weight }) = documents {
        hasher.field(bytes(vectors.as_slice())).field(hash_json(&(own, own_weight))?.0);
    }
    let documents = documents.map(Searched::of).transpose().map_err(tensor_error)?;
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
    let refit = options.student.refit_queries();
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
    let training = Training {
        stage: Stage::Distill,
        unit: "queries",
        batch: options.batch,
        planned: options.steps.unwrap_or(per_epoch),
        limit: options.limit.map(|limit| (began, limit)),
        checkpoint_seconds: options.checkpoint_seconds,
        watch: &options.validation,
        // A refitted projection is kept even if no step improves on it.
        keep_from: u64::from(refit == 0),
        model: match &options.student {
            StudentOptions::Bert { path, .. } => path.display().to_string(),
            StudentOptions::Decoder { tower, .. } => tower.model.clone(),
        },
        pairs: order.len(),
        parameters,
        output,
        reporter,
        cancel,
    };
    let epoch = Epoch { number: 0, order: shuffled(&order, options.seed, 0) };
    let mut pupil = Pupil {
        student,
        vars,
        texts,
        teacher,
        documents,
        space,
        options,
        order,
        held_out,
        epoch,
        output,
        reporter,
    };
    training.run(&mut pupil, &mut optimizer, &mut state)
}

/// The student in training, and its queries.
struct Pupil<'a> {
    student: Student,
    vars: Vec<NamedVar>,
    texts: &'a [String],
    teacher: &'a Embeddings,
    documents: Option<Searched<'a>>,
    space: &'a EmbeddingSpace,
    options: &'a DistillOptions,
    /// Positions of the queries to learn from.
    order: Vec<usize>,
    held_out: Vec<usize>,
    epoch: Epoch,
    output: &'a Path,
    reporter: &'a Arc<dyn Reporter>,
}

/// The documents, their vectors `[documents, dimensions]` of unit length.
struct Searched<'a> {
    vectors: Tensor,
    documents: Documents<'a>,
}

impl<'a> Searched<'a> {
    fn of(documents: Documents<'a>) -> CandleResult<Self> {
        let rows = documents.vectors;
        let shape = (rows.len(), rows.dimensions());
        let vectors = normalize(&Tensor::from_slice(rows.as_slice(), shape, &Device::Cpu)?)?;
        Ok(Self { vectors, documents })
    }
}

/// The order of an epoch.
struct Epoch {
    number: u64,
    order: Vec<usize>,
}

fn shuffled(order: &[usize], seed: u64, epoch: u64) -> Vec<usize> {
    let mut order = order.to_vec();
    SplitMix64::new(seed.wrapping_add(epoch)).shuffle(&mut order);
    order
}

impl Learner for Pupil<'_> {
    fn learn(&mut self, step: u64) -> Result<StepResult> {
        let size = self.options.batch;
        let per_epoch = (self.order.len() / size) as u64;
        let (number, at) = (step / per_epoch, (step % per_epoch) as usize);
        if self.epoch.number != number {
            self.epoch = Epoch { number, order: shuffled(&self.order, self.options.seed, number) };
        }
        let at = &self.epoch.order[at * size..(at + 1) * size];
        let ids = self.tokenize(at)?;
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let targets = self.targets(at).map_err(tensor_error)?;
        let part = |vectors: &Tensor, range: Range<usize>| {
            let share = range.len() as f64 / at.len() as f64;
            let (loss, cosine) = self.loss(vectors, &targets, at, range)?;
            Ok(((loss * share)?, (cosine * share)?))
        };
        let learnt = self.student.gradients(&ids, &self.vars, &part)?;
        Ok(StepResult {
            gradients: learnt.gradients,
            loss: learnt.loss,
            accuracy: learnt.measure,
            pairs: at.len(),
            tokens: ids.iter().map(|ids| ids.len()).sum(),
            repeated: 0,
        })
    }

    fn look(&self, step: u64) -> Result<Option<ValidationRecord>> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        let (mut loss, mut cosine) = (0.0, 0.0);
        for chunk in self.held_out.chunks(self.options.batch) {
            let ids = self.tokenize(chunk)?;
            let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
            let vectors = self.student.forward(&ids)?;
            let judged = self
                .targets(chunk)
                .and_then(|targets| self.loss(&vectors, &targets, chunk, 0..chunk.len()));
            let judged = judged.and_then(|(loss, cosine)| fetch([&loss, &cosine]));
            let [l, c] = judged.map_err(tensor_error)?.map(|number| number as f32);
            let share = chunk.len() as f32 / self.held_out.len() as f32;
            loss += l * share;
            cosine += c * share;
        }
        self.reporter.event(Event::Info {
            message: format!("step {step}: held out loss {loss:.4}, cosine {cosine:.4}"),
        });
        let (score, ndcg) = (-f64::from(loss), BTreeMap::new());
        Ok(Some(ValidationRecord { step, loss, accuracy: cosine, score, ndcg }))
    }

    fn export(&self, _: &AdamW) -> Result<()> {
        self.student.export(&self.output.join("student"), &self.vars, Some(self.space))
    }
}

impl Pupil<'_> {
    /// The tokens of the texts at these positions.
    fn tokenize(&self, at: &[usize]) -> Result<Vec<Vec<u32>>> {
        at.iter().map(|at| self.student.tokenize(&self.texts[*at])).collect()
    }

    /// The teacher's vectors `[texts, dimensions]` of the texts at these positions.
    fn targets(&self, at: &[usize]) -> CandleResult<Tensor> {
        let rows: Vec<f32> = at.iter().flat_map(|at| self.teacher.row(*at)).copied().collect();
        Tensor::from_vec(rows, (at.len(), self.teacher.dimensions()), &Device::Cpu)
    }

    /// Loss and mean cosine of `vectors` of some of a batch's texts: of those at these `rows` of `at`, and of `targets`.
    fn loss(
        &self,
        vectors: &Tensor,
        targets: &Tensor,
        at: &[usize],
        rows: Range<usize>,
    ) -> CandleResult<(Tensor, Tensor)> {
        let DistillOptions { mse_weight, cosine_weight, score_weight, .. } = self.options;
        let temperature = self.options.score_temperature;
        let own = targets.narrow(0, rows.start, rows.len())?;
        let (loss, cosine) = distillation_loss(vectors, &own, *mse_weight, *cosine_weight)?;
        let more = match &self.documents {
            Some(Searched {
                vectors: documents,
                documents: Documents { own: all, own_weight, .. },
            }) => {
                let from: Vec<Option<usize>> = at[rows].iter().map(|at| all[*at]).collect();
                let weights = (*score_weight, *own_weight);
                search_loss(vectors, &own, documents, &from, weights, temperature)?
            }
            None if *score_weight > 0.0 => {
                let scores = score_loss(vectors, &own, targets, rows.start, temperature)?;
                (scores * *score_weight)?
            }
            None => return Ok((loss, cosine)),
        };
        Ok(((loss + more)?, cosine))
    }
}
