//! The loop of stage 1.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};

use super::adapter::Adapter;
use super::batch::{Batch, Batches};
use super::checkpoint::{self, State};
use super::decoder::{Decoder, NamedVar, Precision, Trainable};
use super::export::export;
use super::loss::info_nce;
use super::optimizer::AdamW;
use super::options::{Method, TrainOptions};
use super::report::{StepRecord, TrainReport, ValidationRecord};
use super::step::{Model, Side as Tracked, broadcast, step};
use super::tensor_error;
use crate::dataset::{PairSet, SplitMix64};
use crate::error::{Error, Result};
use crate::observe::{Event, Reporter, Stage};
use crate::tower::{DecoderConfig, DeviceSpec, Tower, WeightSource, open_cuda};
use crate::types::{Arithmetic, Cancel, Digest256};

/// Which tower a text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The query tower.
    Query,
    /// The document tower.
    Document,
}

/// Begins the names of the query side's own parameters.
pub(super) const QUERY: &str = "query:";

/// Turns a text of a side into token ids, prompt included.
pub type Tokenize<'a> = dyn Fn(Side, &str) -> Result<Vec<u32>> + Sync + 'a;

/// The model and the data of a run.
pub struct TrainInput<'a> {
    /// Architecture.
    pub config: &'a DecoderConfig,
    /// Weights to start from.
    pub weights: &'a dyn WeightSource,
    /// Weights that a query side of its own starts from.
    pub query_weights: &'a dyn WeightSource,
    /// The pairs.
    pub pairs: &'a PairSet,
    /// Tokenizer of both sides.
    pub tokenize: &'a Tokenize<'a>,
    /// A LoRA adapter (PEFT folder) to train further; `weights` are without it.
    pub adapter: Option<&'a Path>,
    /// The same for a query side of its own.
    pub query_adapter: Option<&'a Path>,
    /// The document tower: its space, with what is trained here, goes with a query side of its own.
    pub document: Option<&'a Tower>,
    /// Names what all of this is read from, beside pairs and options: towers, tokenizers, adapters.
    pub origin: Digest256,
    /// Where to compute: one device, or several that share every batch. Parameters and optimizer live on the first.
    pub devices: Vec<DeviceSpec>,
}

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
    let run = run_digest(input, options)?;
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
    let mut saved = Instant::now();
    while state.step < planned {
        if let Err(stop) = cancel.check() {
            checkpoint::save(output, &state, &optimizer)?;
            report(&batches, options, planned, parameters, &state).write(output)?;
            return Err(stop);
        }
        if options.validation.every > 0
            && state.step.is_multiple_of(options.validation.every)
            && state.validation.last().is_none_or(|v| v.step != state.step)
        {
            validate(model, input, options, &held_out, &mut state, reporter)?;
        }
        let start = Instant::now();
        let batch = batches.batch(state.step);
        let (queries, documents) = tokens(input, &batch)?;
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
        if !(result.loss.is_finite() && norm.is_finite()) {
            return Err(Error::input(format!(
                "the loss is no longer finite at step {}; lower optimizer.learning_rate and start from another output",
                state.step
            )));
        }
        let seconds = start.elapsed().as_secs_f64();
        state.steps.push(StepRecord {
            step: state.step,
            loss: result.loss,
            accuracy: result.accuracy,
            learning_rate,
            gradient_norm: norm,
            pairs: batch.pairs.len(),
            tokens: result.tokens,
            seconds,
        });
        state.step += 1;
        state.seconds += seconds;
        reporter.event(Event::Progress {
            stage: Stage::Train,
            done: state.step * options.batch_pairs as u64,
            tokens: state.steps.iter().map(|s| s.tokens as u64).sum(),
        });
        if saved.elapsed() >= Duration::from_secs(options.checkpoint_seconds) {
            checkpoint::save(output, &state, &optimizer)?;
            report(&batches, options, planned, parameters, &state).write(output)?;
            saved = Instant::now();
        }
    }
    if state.validation.last().is_none_or(|v| v.step != state.step) {
        validate(model, input, options, &held_out, &mut state, reporter)?;
    }
    checkpoint::save(output, &state, &optimizer)?;
    export(model, &optimizer, options, input.document, output, false)?;
    let report = report(&batches, options, planned, parameters, &state);
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
    let (model, vars) = build(input, options, first_device(input)?)?;
    let mut optimizer = optimizer(vars, options)?;
    let run = run_digest(input, options)?;
    let state = checkpoint::load(output, run, &mut optimizer)?
        .ok_or_else(|| Error::not_found(format!("no checkpoint in {}", output.display())))?;
    export(&model, &optimizer, options, input.document, target, half)?;
    Ok(state.step)
}

/// Names a run by all that decides its losses: options, what it starts from, pairs.
fn run_digest(input: &TrainInput<'_>, options: &TrainOptions) -> Result<Digest256> {
    let mut hasher = crate::types::Hasher256::new();
    hasher.field(options.digest()?.0).field(input.origin.0);
    let PairSet { pairs, documents, .. } = input.pairs;
    for pair in pairs {
        hasher.field(&pair.query).field(&documents[pair.document as usize]);
        hasher.field(pair.weight.to_le_bytes()).field(pair.negatives.len().to_le_bytes());
        for negative in &pair.negatives {
            hasher.field(&documents[*negative as usize]);
        }
    }
    Ok(hasher.finish())
}

/// The device that a spec names.
pub(super) fn open_device(spec: &DeviceSpec) -> Result<Device> {
    match spec {
        DeviceSpec::Cpu { .. } => Ok(Device::Cpu),
        DeviceSpec::Cuda(number) => open_cuda(*number),
    }
}

fn first_device<'a>(input: &'a TrainInput<'_>) -> Result<&'a DeviceSpec> {
    input.devices.first().ok_or_else(|| Error::config("training needs a device"))
}

/// Refuses devices that cannot share a batch.
fn check_devices(devices: &[DeviceSpec]) -> Result<()> {
    let is_gpu = |device: &DeviceSpec| matches!(device, DeviceSpec::Cuda(_));
    // Equal options give equal losses on one type of machine; a mixture would be a type of its own.
    if devices.iter().any(is_gpu) && !devices.iter().all(is_gpu) {
        return Err(Error::config("training computes on processors or on GPUs, not on both"));
    }
    for (at, device) in devices.iter().enumerate() {
        if let DeviceSpec::Cuda(number) = device
            && devices[..at].contains(device)
        {
            return Err(Error::config(format!("device cuda:{number} is given twice")));
        }
    }
    Ok(())
}

/// The same model on every device, and the parameters of the first.
fn build_all(
    input: &TrainInput<'_>,
    options: &TrainOptions,
) -> Result<(Vec<Model>, Vec<NamedVar>)> {
    check_devices(&input.devices)?;
    let (first, vars) = build(input, options, first_device(input)?)?;
    let mut replicas = vec![first];
    for device in &input.devices[1..] {
        replicas.push(build(input, options, device)?.0);
    }
    Ok((replicas, vars))
}

pub(super) fn build(
    input: &TrainInput<'_>,
    options: &TrainOptions,
    spec: &DeviceSpec,
) -> Result<(Model, Vec<NamedVar>)> {
    let device = open_device(spec)?;
    let precision = match (options.tower.arithmetic, spec) {
        (Arithmetic::F32, _) => Precision::F32,
        (Arithmetic::Bf16, DeviceSpec::Cuda(_)) => Precision { dtype: DType::BF16, packed: false },
        (Arithmetic::Bf16, DeviceSpec::Cpu { .. }) => Precision { dtype: DType::F32, packed: true },
        (other, _) => {
            return Err(Error::config(format!(
                "training computes in f32 or bf16, not {other:?}; set tower.arithmetic"
            )));
        }
    };
    let load = |config: &DecoderConfig, weights: &dyn WeightSource, method: &Method| {
        let trainable = match method {
            Method::Full(full) if full.embeddings => Trainable::All,
            Method::Full(_) => Trainable::Layers,
            Method::Lora(_) => Trainable::None,
        };
        let tower = &options.tower;
        Decoder::load(
            config,
            weights,
            tower.pooling,
            tower.dimensions,
            trainable,
            precision,
            &device,
        )
    };
    let mut rng = SplitMix64::new(options.seed ^ 0x4C4F_5241);
    let mut adapt = |decoder: Decoder, method: &Method, from: Option<&Path>, cut: bool| {
        let Method::Lora(lora) = method else {
            return Ok((Tracked::new(decoder, None), Vec::new()));
        };
        let adapter = Adapter::new(&decoder.config, lora, &mut rng, &device)?;
        if let Some(folder) = from {
            adapter.start_from(folder, cut)?;
        }
        let named = adapter.named();
        Ok::<_, Error>((Tracked::new(decoder, Some(adapter)), named))
    };
    let (decoder, mut vars) = load(input.config, input.weights, &options.method)?;
    let (document, named) = adapt(decoder, &options.method, input.adapter, false)?;
    vars.extend(named);
    let mut query = None;
    if options.separate() {
        let layers = options.query.layers.map_or(input.config.layers, |layers| layers as usize);
        if !(1..=input.config.layers).contains(&layers) {
            return Err(Error::config(format!(
                "query.layers is {layers}, but the document tower has {}",
                input.config.layers
            )));
        }
        let method = options.query_method();
        let (decoder, own) = match (&options.method, method) {
            // Frozen weights serve both sides.
            (Method::Lora(_), Method::Lora(_)) => (document.decoder.first_layers(layers), vec![]),
            _ => {
                let config = DecoderConfig { layers, ..input.config.clone() };
                load(&config, input.query_weights, method)?
            }
        };
        let cut = layers < input.config.layers;
        let (side, named) = adapt(decoder, method, input.query_adapter, cut)?;
        let renamed = own.into_iter().chain(named);
        vars.extend(renamed.map(|(name, var)| (format!("{QUERY}{name}"), var)));
        query = Some(side);
    }
    let parameters = vars.iter().map(|(_, var)| var.clone()).collect();
    Ok((Model::new(document, query, parameters), vars))
}

/// The optimizer, with the query side's own learning rate.
fn optimizer(vars: Vec<NamedVar>, options: &TrainOptions) -> Result<AdamW> {
    let mut optimizer = AdamW::new(vars, options.optimizer.clone()).map_err(tensor_error)?;
    if let Some(rate) = options.query.learning_rate {
        for slot in optimizer.slots.iter_mut().filter(|slot| slot.name.starts_with(QUERY)) {
            slot.share = rate / options.optimizer.learning_rate;
        }
    }
    Ok(optimizer)
}

/// Token ids of several texts.
type Sequences = Vec<Vec<u32>>;

/// Token ids of a batch: queries, then documents.
fn tokens(input: &TrainInput<'_>, batch: &Batch) -> Result<(Sequences, Sequences)> {
    let queries = batch
        .pairs
        .iter()
        .map(|at| (input.tokenize)(Side::Query, &input.pairs.pairs[*at as usize].query))
        .collect::<Result<_>>()?;
    let documents = batch
        .documents
        .iter()
        .map(|at| (input.tokenize)(Side::Document, &input.pairs.documents[*at as usize]))
        .collect::<Result<_>>()?;
    Ok((queries, documents))
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
    let (queries, documents) = tokens(input, held_out)?;
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

fn report(
    batches: &Batches<'_>,
    options: &TrainOptions,
    planned: u64,
    parameters: usize,
    state: &State,
) -> TrainReport {
    let seconds = state.seconds.max(1e-9);
    let sum = |f: fn(&StepRecord) -> usize| state.steps.iter().map(f).sum::<usize>() as f64;
    TrainReport {
        model: options.tower.model.clone(),
        training_pairs: batches.training_pairs(),
        parameters,
        planned_steps: planned,
        seconds: state.seconds,
        pairs_per_second: sum(|s| s.pairs) / seconds,
        tokens_per_second: sum(|s| s.tokens) / seconds,
        steps: state.steps.clone(),
        validation: state.validation.clone(),
    }
}
