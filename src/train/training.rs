//! The training loop of both stages: steps, validation, checkpoints, early stopping, and the export of the best parameters.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::checkpoint::{self, State};
use super::files::cannot;
use super::keep;
use super::optimizer::AdamW;
use super::options::ValidationOptions;
use super::report::{StepRecord, TrainReport, ValidationRecord};
use super::tensors::{fetch, tensor_error};
use crate::error::{Error, Result};
use crate::observe::{Event, Reporter, Stage};
use crate::types::Cancel;

/// The result of one step, before the optimizer has used it.
pub(super) struct StepResult {
    /// In the order of the parameters; `None` where the loss does not depend on one.
    pub(super) gradients: Vec<Option<Tensor>>,
    /// Without dimensions, as the accuracy: a device may still be computing them.
    pub(super) loss: Tensor,
    pub(super) accuracy: Tensor,
    pub(super) pairs: usize,
    pub(super) tokens: usize,
    /// Tokens whose forward pass ran twice because activations did not fit in memory.
    pub(super) repeated: usize,
}

/// A model, its data and its loss.
pub(super) trait Learner {
    /// Computes the gradients for the batch of a step. Parameters do not change.
    fn learn(&mut self, step: u64) -> Result<StepResult>;

    /// Called after the optimizer has changed the parameters.
    fn updated(&self) -> Result<()> {
        Ok(())
    }

    /// Validates on the held-out data after this many steps; `None` if nothing is held out.
    fn look(&self, step: u64) -> Result<Option<ValidationRecord>>;

    /// Writes the model with the optimizer's current parameters.
    fn export(&self, optimizer: &AdamW) -> Result<()>;
}

/// Where a run goes on: what it did before is not progress of this time.
#[derive(Clone, Copy)]
struct Start {
    step: u64,
    tokens: u64,
}

/// One training run.
pub(super) struct Training<'a> {
    pub(super) stage: Stage,
    /// What a batch consists of, for progress: pairs or queries.
    pub(super) unit: &'static str,
    pub(super) batch: usize,
    pub(super) planned: u64,
    /// When the run started and how long it may take.
    pub(super) limit: Option<(Instant, Duration)>,
    /// `None` for a run that is not to be resumed: it writes no checkpoint, which takes a small model as long as steps do.
    pub(super) checkpoint_seconds: Option<u64>,
    pub(super) watch: &'a ValidationOptions,
    /// Parameters from before this step are never kept.
    pub(super) keep_from: u64,
    /// For the report: the initial model, the pairs of one epoch, the trainable parameters.
    pub(super) model: String,
    pub(super) pairs: usize,
    pub(super) parameters: usize,
    pub(super) output: &'a Path,
    pub(super) reporter: &'a Arc<dyn Reporter>,
    pub(super) cancel: &'a Cancel,
}

impl Training<'_> {
    /// Runs the remaining steps, then exports the parameters that validated best, or the mean of the best few, or those of
    /// the last step if nothing is held out. When cancelled, writes a checkpoint and the report so far before returning.
    ///
    /// # Errors
    /// Whatever the learner returns; Cancelled or Deadline if stopped; Input if the loss is no longer finite.
    pub(super) fn run(
        mut self,
        learner: &mut impl Learner,
        optimizer: &mut AdamW,
        state: &mut State,
    ) -> Result<TrainReport> {
        let started = Instant::now();
        std::fs::create_dir_all(self.output).map_err(cannot("write", self.output))?;
        if state.step > 0 {
            self.inform(format!("resuming after step {}", state.step));
        }
        let (stage, unit) = (self.stage, self.unit);
        let start = Start { step: state.step, tokens: state.tokens() };
        let total = self.expected(start);
        self.reporter.event(Event::StageStarted { stage, total, unit, tokens: 0 });
        self.tell_limit(start);
        let mut saved = Instant::now();
        loop {
            self.shorten(state, start);
            if state.step >= self.planned {
                break;
            }
            if let Err(stop) = self.cancel.check() {
                self.save(state, optimizer)?;
                return Err(stop);
            }
            if state.is_look_due(self.watch.every) {
                self.look(learner, state, optimizer)?;
            }
            if self.has_settled(state) {
                break;
            }
            self.step(learner, optimizer, state, start)?;
            let is_due = |seconds| saved.elapsed() >= Duration::from_secs(seconds);
            if self.checkpoint_seconds.is_some_and(is_due) {
                self.save(state, optimizer)?;
                saved = Instant::now();
            }
        }
        if !state.is_looked_at() {
            self.look(learner, state, optimizer)?;
        }
        self.checkpoint(state, optimizer)?;
        let mut report = self.report(state);
        report.exported = keep::put_best(&state.kept, optimizer, self.output, || {
            learner.look(state.step)?.ok_or_else(|| Error::internal("a look was kept before"))
        })?;
        learner.export(optimizer)?;
        report.write(self.output)?;
        let last = report.steps.last().map_or(0.0, |step| step.loss);
        let seen = report.validation.last().map(|seen| format!(", held out {:.4}", seen.loss));
        let summary = format!(
            "{} steps, {:.2} {unit}/s, last loss {last:.4}{}",
            report.steps.len(),
            report.pairs_per_second,
            seen.unwrap_or_default()
        );
        let seconds = started.elapsed().as_secs_f64();
        self.reporter.event(Event::StageFinished { stage, seconds, summary });
        Ok(report)
    }

    fn step(
        &self,
        learner: &mut impl Learner,
        optimizer: &mut AdamW,
        state: &mut State,
        start: Start,
    ) -> Result<()> {
        let began = Instant::now();
        let learnt = learner.learn(state.step)?;
        let learning_rate = optimizer.learning_rate(state.step, self.planned);
        let norm = optimizer.step(&learnt.gradients, self.planned).map_err(tensor_error)?;
        learner.updated()?;
        // Only here is a device waited for: while it computes, the processor has queued all of the step. Whether the loss
        // is a number is known only now; what came of it is not written yet.
        let found = fetch([&learnt.loss, &learnt.accuracy, &norm]).map_err(tensor_error)?;
        let [loss, accuracy, gradient_norm] = found;
        state.add(StepRecord {
            step: state.step,
            loss: loss as f32,
            accuracy: accuracy as f32,
            learning_rate,
            gradient_norm,
            pairs: learnt.pairs,
            tokens: learnt.tokens,
            repeated: learnt.repeated,
            seconds: began.elapsed().as_secs_f64(),
        })?;
        self.reporter.event(Event::Progress {
            stage: self.stage,
            done: (state.step - start.step) * self.batch as u64,
            tokens: state.tokens() - start.tokens,
        });
        Ok(())
    }

    /// What is left to do at the start, in units.
    fn expected(&self, start: Start) -> u64 {
        self.planned.saturating_sub(start.step) * self.batch as u64
    }

    /// Reduces the planned steps to what fits into the time limit at the pace so far. The learning-rate schedule follows
    /// the planned steps, so they only ever go down.
    fn shorten(&mut self, state: &State, start: Start) {
        let Some((began, limit)) = self.limit else { return };
        let spent = began.elapsed();
        // The first steps are slower than the rest because they touch all memory for the first time.
        if state.step < 4 && spent < limit {
            return;
        }
        let left = limit.saturating_sub(spent).as_secs_f64();
        // Leave time for the last validation.
        let more = 0.95 * left * state.step as f64 / state.seconds.max(1e-9);
        let fitting = state.step.saturating_add(more as u64);
        if fitting < self.planned {
            self.planned = fitting;
            self.tell_limit(start);
        }
    }

    /// Tells how much is expected within the time limit, if there is one.
    fn tell_limit(&self, start: Start) {
        let Some((began, limit)) = self.limit else { return };
        let seconds = limit.saturating_sub(began.elapsed()).as_secs_f64();
        let (stage, total) = (self.stage, self.expected(start));
        self.reporter.event(Event::Limited { stage, total, seconds });
    }

    fn look(&self, learner: &impl Learner, state: &mut State, optimizer: &AdamW) -> Result<()> {
        let Some(seen) = learner.look(state.step)? else { return Ok(()) };
        if !seen.loss.is_finite() {
            return Err(checkpoint::diverged("the held-out loss", state.step));
        }
        let (most, output) = (self.watch.average, self.output);
        keep::offer(&mut state.kept, &seen, most, self.keep_from, optimizer, output)?;
        state.validation.push(seen);
        self.checkpoint(state, optimizer)?;
        keep::sweep(&state.kept, output)
    }

    /// Whether validation has not improved for as many times as `patience` allows.
    fn has_settled(&self, state: &State) -> bool {
        let since = keep::looks_since_best(&state.validation);
        let settled = self.watch.patience.is_some_and(|most| since >= most);
        if settled {
            self.inform(format!(
                "stopped after step {}: no better in the last {since} validations",
                state.step
            ));
        }
        settled
    }

    fn save(&self, state: &State, optimizer: &AdamW) -> Result<()> {
        self.checkpoint(state, optimizer)?;
        self.report(state).write(self.output)
    }

    fn checkpoint(&self, state: &State, optimizer: &AdamW) -> Result<()> {
        match self.checkpoint_seconds {
            Some(_) => checkpoint::save(self.output, state, optimizer),
            None => checkpoint::check_all(state, optimizer),
        }
    }

    fn report(&self, state: &State) -> TrainReport {
        state.report(self.model.clone(), self.pairs, self.parameters, self.planned)
    }

    fn inform(&self, message: String) {
        self.reporter.event(Event::Info { message });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{Device, Var};

    use super::*;
    use crate::error::ErrorKind;
    use crate::observe::Recorder;
    use crate::train::options::OptimizerOptions;
    use crate::train::tests_support::silent;
    use crate::types::Digest256;

    /// Has no number for a loss from its second step on.
    struct Breaks;

    impl Learner for Breaks {
        fn learn(&mut self, step: u64) -> Result<StepResult> {
            let loss = if step == 0 { 1f32 } else { f32::NAN };
            let scalar = |value: f32| Tensor::new(value, &Device::Cpu).map_err(tensor_error);
            // f64 has no fused kernel, and stands for a device.
            let gradient = Tensor::new(&[f64::from(loss)], &Device::Cpu).map_err(tensor_error)?;
            let (pairs, tokens, repeated) = (1, 1, 0);
            let (loss, accuracy, gradients) = (scalar(loss)?, scalar(0.0)?, vec![Some(gradient)]);
            Ok(StepResult { gradients, loss, accuracy, pairs, tokens, repeated })
        }

        fn look(&self, _: u64) -> Result<Option<ValidationRecord>> {
            Ok(None)
        }

        fn export(&self, _: &AdamW) -> Result<()> {
            Err(Error::internal("a broken run exports nothing"))
        }
    }

    /// Learns nothing, five milliseconds a step.
    struct Steady;

    impl Learner for Steady {
        fn learn(&mut self, _: u64) -> Result<StepResult> {
            std::thread::sleep(Duration::from_millis(5));
            let scalar = |value: f32| Tensor::new(value, &Device::Cpu).map_err(tensor_error);
            let gradient = Tensor::new(&[0f32], &Device::Cpu).map_err(tensor_error)?;
            let (pairs, tokens, repeated) = (1, 1, 0);
            let (loss, accuracy, gradients) = (scalar(1.0)?, scalar(0.0)?, vec![Some(gradient)]);
            Ok(StepResult { gradients, loss, accuracy, pairs, tokens, repeated })
        }

        fn look(&self, _: u64) -> Result<Option<ValidationRecord>> {
            Ok(None)
        }

        fn export(&self, _: &AdamW) -> Result<()> {
            Ok(())
        }
    }

    /// Its parameters are numbers, its vectors are not.
    struct Blind;

    impl Learner for Blind {
        fn learn(&mut self, step: u64) -> Result<StepResult> {
            Steady.learn(step)
        }

        fn look(&self, step: u64) -> Result<Option<ValidationRecord>> {
            let (loss, score) = if step == 0 { (1.0, 0.5) } else { (f32::NAN, 1.0) };
            let (accuracy, ndcg) = (0.0, BTreeMap::new());
            Ok(Some(ValidationRecord { step, loss, accuracy, score, ndcg }))
        }

        fn export(&self, _: &AdamW) -> Result<()> {
            Err(Error::internal("a broken run exports nothing"))
        }
    }

    fn training<'a>(
        planned: u64,
        limit: Option<Duration>,
        output: &'a Path,
        (watch, reporter, cancel): &'a (ValidationOptions, Arc<dyn Reporter>, Cancel),
    ) -> Training<'a> {
        Training {
            stage: Stage::Distill,
            unit: "queries",
            batch: 2,
            planned,
            limit: limit.map(|limit| (Instant::now(), limit)),
            checkpoint_seconds: None,
            watch,
            keep_from: 0,
            model: String::new(),
            pairs: 1,
            parameters: 1,
            output,
            reporter,
            cancel,
        }
    }

    fn steady_optimizer() -> AdamW {
        let var = Var::from_vec(vec![1f32], 1, &Device::Cpu).unwrap();
        AdamW::new(vec![("w".into(), var)], OptimizerOptions::default()).unwrap()
    }

    #[test]
    fn a_tower_whose_vectors_are_not_numbers_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let watch = ValidationOptions { every: 2, ..ValidationOptions::default() };
        let around = (watch, silent(), Cancel::new());
        let run = Digest256::of(b"blind");
        let error = Training {
            checkpoint_seconds: Some(0),
            keep_from: 1,
            ..training(3, None, dir.path(), &around)
        }
        .run(&mut Blind, &mut steady_optimizer(), &mut State::new(run))
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(
            error.to_string().contains("held-out loss is no longer finite after 2 steps"),
            "{error}"
        );
        // What was written reads, and holds nothing of it.
        let state = checkpoint::load(dir.path(), run, &mut steady_optimizer()).unwrap().unwrap();
        assert_eq!((state.step, state.validation.len(), state.kept.len()), (2, 1, 0));
    }

    #[test]
    fn what_time_leaves_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let told = Arc::new(Recorder::default());
        let around =
            (ValidationOptions::default(), told.clone() as Arc<dyn Reporter>, Cancel::new());
        let limit = Some(Duration::from_millis(200));
        let training = training(1_000_000, limit, dir.path(), &around);
        let mut state = State::new(Digest256::of(b"steady"));
        let report = training.run(&mut Steady, &mut steady_optimizer(), &mut state).unwrap();
        let limits: Vec<(u64, f64)> = told
            .events()
            .into_iter()
            .filter_map(|(_, event)| match event {
                Event::Limited { total, seconds, .. } => Some((total, seconds)),
                _ => None,
            })
            .collect();
        assert_eq!(limits[0].0, 2_000_000, "{limits:?}");
        assert!(limits.is_sorted_by(|a, b| a.0 >= b.0 && a.1 >= b.1), "{limits:?}");
        assert!(limits.iter().all(|(_, seconds)| *seconds <= 0.2), "{limits:?}");
        let last = limits.last().unwrap().0;
        assert_eq!(last, 2 * report.steps.len() as u64, "what was expected at last was done");
    }

    #[test]
    fn a_run_that_goes_on_counts_only_what_it_does_itself() {
        let dir = tempfile::tempdir().unwrap();
        let told = Arc::new(Recorder::default());
        let around =
            (ValidationOptions::default(), told.clone() as Arc<dyn Reporter>, Cancel::new());
        let (mut adam, mut state) = (steady_optimizer(), State::new(Digest256::of(b"steady")));
        for planned in [2, 5] {
            training(planned, None, dir.path(), &around)
                .run(&mut Steady, &mut adam, &mut state)
                .unwrap();
        }
        let counts: Vec<(u64, u64)> = told
            .events()
            .into_iter()
            .filter_map(|(_, event)| match event {
                Event::StageStarted { total, .. } => Some((total, 0)),
                Event::Progress { done, tokens, .. } => Some((done, tokens)),
                _ => None,
            })
            .collect();
        let expected = [(4, 0), (2, 1), (4, 2), (6, 0), (2, 1), (4, 2), (6, 3)];
        assert_eq!(counts, expected, "units and tokens: those of a start, then those of each step");
    }

    /// A device changes the parameters before the loss is known; none of that gets into a file.
    #[test]
    fn a_loss_that_is_not_a_number_ends_the_run_and_is_not_written() {
        let adam = |var: &Var| {
            let options = OptimizerOptions { warmup_steps: 0, ..OptimizerOptions::default() };
            AdamW::new(vec![("w".into(), var.clone())], options).unwrap()
        };
        let dir = tempfile::tempdir().unwrap();
        let var = Var::from_vec(vec![1f64], 1, &Device::Cpu).unwrap();
        let around = (ValidationOptions::default(), silent(), Cancel::new());
        let training =
            Training { checkpoint_seconds: Some(0), ..training(3, None, dir.path(), &around) };
        let run = Digest256::of(b"breaks");
        let error = training.run(&mut Breaks, &mut adam(&var), &mut State::new(run)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(var.to_vec1::<f64>().unwrap()[0].is_nan());
        // What was written is the step before.
        let stored = Var::from_vec(vec![0f32], 1, &Device::Cpu).unwrap();
        let state = checkpoint::load(dir.path(), run, &mut adam(&stored)).unwrap().unwrap();
        let value = stored.to_vec1::<f32>().unwrap()[0];
        assert!(state.step == 1 && value < 1.0 && value > 0.9, "{} {value}", state.step);
    }
}
