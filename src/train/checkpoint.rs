//! Checkpoints: one safetensors file with parameters, moments and the state of the run, replaced atomically.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use super::files::{Stored, cannot, serialize};
use super::keep::Kept;
use super::optimizer::AdamW;
use super::report::{StepRecord, TrainReport, ValidationRecord};
use super::tensors::{bytes, numbers, tensor_error};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::format;
use crate::store::named::read_whole;
use crate::types::{Digest256, Hasher256};

const FILE: &str = "checkpoint.safetensors";
/// 2: names the digest of its tensors.
const FORMAT: u32 = 2;

/// State of a run beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) format: u32,
    /// Of the options and the data.
    pub(super) run: Digest256,
    /// Of the tensors, as [`save`] found them.
    #[serde(default)]
    pub(super) tensors: Option<Digest256>,
    /// Steps taken.
    pub(super) step: u64,
    pub(super) seconds: f64,
    pub(super) steps: Vec<StepRecord>,
    pub(super) validation: Vec<ValidationRecord>,
    /// Looks whose parameters are beside the checkpoint, the best first.
    #[serde(default)]
    pub(super) kept: Vec<Kept>,
}

impl State {
    pub(super) fn new(run: Digest256) -> Self {
        Self {
            format: FORMAT,
            run,
            tensors: None,
            step: 0,
            seconds: 0.0,
            steps: Vec::new(),
            validation: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Whether the held-out part is to be looked at before the next step: `every` that many steps, and once.
    pub(super) fn is_look_due(&self, every: u64) -> bool {
        every > 0 && self.step.is_multiple_of(every) && !self.is_looked_at()
    }

    /// Whether the held-out part has been looked at since the last step.
    pub(super) fn is_looked_at(&self) -> bool {
        self.validation.last().is_some_and(|look| look.step == self.step)
    }

    /// Adds the step that was taken.
    ///
    /// # Errors
    /// Input where its loss or its gradient is not finite.
    pub(super) fn add(&mut self, record: StepRecord) -> Result<()> {
        if !(record.loss.is_finite() && record.gradient_norm.is_finite()) {
            return Err(diverged("the loss", self.step));
        }
        self.step += 1;
        self.seconds += record.seconds;
        self.steps.push(record);
        Ok(())
    }

    /// Tokens of all steps.
    pub(super) fn tokens(&self) -> u64 {
        self.steps.iter().map(|step| step.tokens as u64).sum()
    }

    /// The report of the run so far.
    pub(super) fn report(
        &self,
        model: String,
        training_pairs: usize,
        parameters: usize,
        planned_steps: u64,
    ) -> TrainReport {
        let per_second = |of: fn(&StepRecord) -> usize| {
            self.steps.iter().map(of).sum::<usize>() as f64 / self.seconds.max(1e-9)
        };
        TrainReport {
            model,
            training_pairs,
            parameters,
            planned_steps,
            seconds: self.seconds,
            pairs_per_second: per_second(|step| step.pairs),
            tokens_per_second: per_second(|step| step.tokens),
            steps: self.steps.clone(),
            validation: self.validation.clone(),
            exported: Vec::new(),
        }
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Writes the checkpoint of `directory`; a crash leaves the old or the new one whole.
///
/// # Errors
/// Input, if a parameter is NaN or infinite: an existing checkpoint is kept. About writing otherwise.
pub(super) fn save(directory: &Path, state: &State, optimizer: &AdamW) -> Result<()> {
    let path = path(directory);
    let io = cannot("write", &path);
    let mut stored: Vec<(String, Stored)> = Vec::new();
    let mut hasher = Hasher256::new();
    for slot in &optimizer.slots {
        let parts =
            [("value", slot.var.as_tensor()), ("first", &slot.first), ("second", &slot.second)];
        for (part, tensor) in parts {
            let values = numbers(tensor)?;
            check(&values, &slot.name, state)?;
            let data = bytes(&values);
            hasher.field(&data);
            let name = format!("{part}.{}", slot.name);
            stored.push((name, (Dtype::F32, tensor.dims().to_vec(), data)));
        }
    }
    let state = State { tensors: Some(hasher.finish()), ..state.clone() };
    let text = serde_json::to_string(&state).context(|| "checkpoint state")?;
    let metadata = HashMap::from([("state".to_owned(), text)]);
    let data = serialize(stored.iter().map(|(name, tensor)| (name, tensor)), Some(metadata))
        .context(|| "checkpoint")?;
    fs::create_dir_all(directory).map_err(io)?;
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(io)?;
    file.write_all(&data).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(&path).map_err(|e| io(e.error))?;
    fs::File::open(directory).and_then(|d| d.sync_all()).map_err(io)
}

/// Checks parameters as [`save`] does, without writing anything.
///
/// # Errors
/// Input, if a parameter is NaN or infinite.
pub(super) fn check_all(state: &State, optimizer: &AdamW) -> Result<()> {
    let mut slots = optimizer.slots.iter();
    slots.try_for_each(|slot| check(&numbers(slot.var.as_tensor())?, &slot.name, state))
}

fn check(values: &[f32], name: &str, state: &State) -> Result<()> {
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(diverged(name, state.step)),
    }
}

/// The error of a run in which `what` became NaN or infinite.
pub(super) fn diverged(what: &str, steps: u64) -> Error {
    Error::input(format!(
        "{what} is no longer finite after {}; lower optimizer.learning_rate and start again with a new output folder",
        format::counted(steps, "step")
    ))
}

/// Loads the checkpoint of `directory` into `optimizer`, if there is one.
///
/// # Errors
/// Conflict, if it belongs to another run or to another version of the program; Corrupt, if it does not read.
pub(super) fn load(
    directory: &Path,
    run: Digest256,
    optimizer: &mut AdamW,
) -> Result<Option<State>> {
    let path = path(directory);
    let data = match read_whole(&path, u64::MAX) {
        Ok(data) => data,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cannot("read", &path)(e)),
    };
    let corrupt = || format!("checkpoint {} is damaged; delete it to start again", path.display());
    let (_, header) = SafeTensors::read_metadata(&data).or_error(ErrorKind::Corrupt, corrupt)?;
    let text = header
        .metadata()
        .as_ref()
        .and_then(|m| m.get("state"))
        .ok_or_else(|| Error::corrupt(corrupt()))?;
    let state: State = serde_json::from_str(text).or_error(ErrorKind::Corrupt, corrupt)?;
    if state.format != FORMAT || state.run != run {
        return Err(Error::conflict(format!(
            "{} belongs to a run with another recipe, other pairs, another number of steps (it has taken {}), or \
             another model or adapter to start from (or to another version of this program); choose another output or \
             delete it",
            path.display(),
            format::counted(state.step, "step")
        )));
    }
    let tensors = SafeTensors::deserialize(&data).or_error(ErrorKind::Corrupt, corrupt)?;
    let mut seen = Hasher256::new();
    for slot in &mut optimizer.slots {
        let mut read = |part: &str| -> Result<Tensor> {
            let view = tensors
                .tensor(&format!("{part}.{}", slot.name))
                .or_error(ErrorKind::Corrupt, corrupt)?;
            seen.field(view.data());
            if view.dtype() != Dtype::F32 || view.shape() != slot.var.dims() {
                return Err(Error::corrupt(corrupt()));
            }
            let values: Vec<f32> = view
                .data()
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            Tensor::from_vec(values, slot.var.shape(), slot.var.device()).map_err(tensor_error)
        };
        let value = read("value")?;
        (slot.first, slot.second) = (read("first")?, read("second")?);
        slot.var.set(&value).map_err(tensor_error)?;
    }
    if state.tensors != Some(seen.finish()) {
        return Err(Error::corrupt(corrupt()));
    }
    optimizer.steps = state.step;
    Ok(Some(state))
}
