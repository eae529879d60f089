//! The model of a run on every device, its parameters and their optimizer.

use std::path::Path;

use candle_core::{DType, Device};

use super::input::TrainInput;
use super::options::{Method, TrainOptions};
use super::step::{Model, QueryTower, Tracked};
use crate::dataset::SplitMix64;
use crate::error::{Error, Result, ResultExt};
use crate::tower::{DecoderConfig, DeviceSpec, WeightSource, open_cuda};
use crate::train::model::adapter::Adapter;
use crate::train::model::decoder::{Decoder, NamedVar, Precision, Trainable};
use crate::train::model::student::Student;
use crate::train::optimizer::AdamW;
use crate::train::tensors::tensor_error;
use crate::types::Arithmetic;

/// Begins the names of the query side's own parameters.
pub(super) const QUERY: &str = "query:";

/// The device that a spec names.
fn open_device(spec: &DeviceSpec) -> Result<Device> {
    match spec {
        DeviceSpec::Cpu { .. } => Ok(Device::Cpu),
        DeviceSpec::Cuda(number) => open_cuda(*number),
    }
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
pub(super) fn build_all(
    input: &TrainInput<'_>,
    options: &TrainOptions,
) -> Result<(Vec<Model>, Vec<NamedVar>)> {
    check_devices(&input.devices)?;
    let (first, vars) = build(input, options, input.first_device()?)?;
    let mut replicas = vec![first];
    for device in &input.devices[1..] {
        replicas.push(build(input, options, device)?.0);
    }
    Ok((replicas, vars))
}

/// The model on one device, and its parameters by name.
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
        Decoder::load(config, weights, &options.tower, trainable, precision, &device)
    };
    let mut rng = SplitMix64::new(options.seed ^ 0x4C4F_5241);
    let mut adapt = |decoder: Decoder, method: &Method, from: Option<&Path>, cut: bool| {
        let Method::Lora(lora) = method else {
            return Ok((Tracked { decoder, adapter: None }, Vec::new()));
        };
        let adapter = Adapter::new(&decoder.config, lora, &mut rng, &device)?;
        if let Some(folder) = from {
            adapter.start_from(folder, cut)?;
        }
        let named = adapter.named();
        Ok::<_, Error>((Tracked { decoder, adapter: Some(adapter) }, named))
    };
    dimensions(input.config, options)?;
    let (decoder, mut vars) = load(input.config, input.weights, &options.method)?;
    let (document, named) = adapt(decoder, &options.method, input.adapter, false)?;
    vars.extend(named);
    let mut query = None;
    let renamed = |(name, var): NamedVar| (format!("{QUERY}{name}"), var);
    if let Some(student) = &options.query.student {
        let dimensions = dimensions(input.config, options)?;
        let (student, own) = Student::encoder(student, input.base_dir, dimensions, options.seed)
            .context(|| "query")?;
        vars.extend(own.iter().cloned().map(renamed));
        query = Some(QueryTower::Student { student, vars: own });
    } else if options.separate() {
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
        vars.extend(own.into_iter().chain(named).map(renamed));
        query = Some(QueryTower::Decoder(Box::new(side)));
    }
    let parameters = vars.iter().map(|(_, var)| var.clone()).collect();
    Ok((Model::new(document, query, parameters), vars))
}

/// Dimensions of the vectors; every cut of `loss.matryoshka` has fewer.
pub(super) fn dimensions(config: &DecoderConfig, options: &TrainOptions) -> Result<usize> {
    let whole = options.tower.dimensions.map_or(config.hidden_size, |cut| cut as usize);
    match options.loss.matryoshka.iter().find(|cut| **cut as usize >= whole) {
        None => Ok(whole),
        Some(cut) => Err(Error::config(format!(
            "loss.matryoshka has {cut}, but the vectors have {whole} dimensions; name fewer"
        ))),
    }
}

/// The optimizer, with the query side's own learning rate.
pub(super) fn optimizer(vars: Vec<NamedVar>, options: &TrainOptions) -> Result<AdamW> {
    let mut optimizer = AdamW::new(vars, options.optimizer.clone()).map_err(tensor_error)?;
    if let Some(rate) = options.query.learning_rate {
        for slot in optimizer.slots.iter_mut().filter(|slot| slot.name.starts_with(QUERY)) {
            slot.share = rate / options.optimizer.learning_rate;
        }
    }
    Ok(optimizer)
}
