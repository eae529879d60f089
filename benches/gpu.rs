//! Measures the document tower on a device: `benches/gpu.sh` runs it beside its peers.
//!
//! usage: gpu parity DIR --model MODEL --texts TEXTS.jsonl [--device D]
//!        gpu speed DIR --shape NAME | --model MODEL [--device D] [--arithmetic A] [--budgets N,N] [--count N]
//!
//! D is `cuda:N`, `cpu`, or `tensors`: what a GPU runs, on the processor. `parity` compares the device's vectors in
//! every arithmetic that it has with the processor's in f32. `speed` encodes synthetic sequences, 256 tokens each and
//! of mixed lengths, with a model's weights or random ones of a shape; DIR gets their ids (`<set>.ids.json`), which
//! the peers encode too. Standard output has one JSON object.

#[path = "budget.rs"]
mod budget;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use scalingnote::error::Result as OurResult;
use scalingnote::observe::{Reporter, Silent};
use scalingnote::tower::{
    Decoder, DecoderConfig, DeviceSpec, Encoder, Running, Started, Tower, TowerOptions,
    WeightSource, decoder_encoder, pack,
};
use scalingnote::types::{Arithmetic, Pooling};
use serde_json::{Value, json};

use self::budget::Budget;

type Failure = Box<dyn std::error::Error>;

/// Ids stay below this: every model has so many tokens.
const IDS: u64 = 1000;

struct Arguments {
    command: String,
    folder: String,
    device: String,
    arithmetic: Arithmetic,
    model: Option<String>,
    shape: Option<String>,
    texts: Option<String>,
    budgets: Vec<u32>,
    count: usize,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut found = Arguments {
        command: String::new(),
        folder: String::new(),
        device: "cuda:0".to_owned(),
        arithmetic: Arithmetic::Bf16,
        model: None,
        shape: None,
        texts: None,
        budgets: vec![16_384, 32_768, 65_536, 131_072],
        count: 4096,
    };
    let mut given = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("a value is missing after {argument}"));
        match argument.as_str() {
            "--device" => found.device = value()?,
            "--arithmetic" => found.arithmetic = serde_json::from_value(json!(value()?))?,
            "--model" => found.model = Some(value()?),
            "--shape" => found.shape = Some(value()?),
            "--texts" => found.texts = Some(value()?),
            "--budgets" => {
                found.budgets = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            "--count" => found.count = value()?.parse()?,
            _ if found.command.is_empty() => found.command = argument,
            _ if found.folder.is_empty() => found.folder = argument,
            _ => return Err(format!("`{argument}` is one too many").into()),
        }
    }
    Ok(found)
}

/// Qwen3's published shapes, and one for a look at the bench itself.
fn shape(name: &str) -> Result<DecoderConfig, Failure> {
    let (hidden_size, intermediate_size, layers, heads, kv_heads, head_dim) = match name {
        "qwen3-0.6b" => (1024, 3072, 28, 16, 8, 128),
        "qwen3-4b" => (2560, 9728, 36, 32, 8, 128),
        "qwen3-8b" => (4096, 12288, 36, 32, 8, 128),
        "tiny" => (64, 160, 2, 4, 2, 16),
        _ => return Err(format!("no shape `{name}`: qwen3-0.6b, qwen3-4b, qwen3-8b, tiny").into()),
    };
    Ok(DecoderConfig {
        family: "qwen3".to_owned(),
        vocab_size: if name == "tiny" { IDS as usize } else { 151_936 },
        hidden_size,
        intermediate_size,
        layers,
        heads,
        kv_heads,
        head_dim,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        rope_factors: None,
        qkv_bias: false,
        qk_norm: true,
        rope_scale: 1.,
        max_positions: 512,
        causal: true,
        sliding: None,
        gemma: None,
    })
}

/// Weights without meaning, small enough for every arithmetic.
struct Random(Vec<f32>);

impl Random {
    fn new() -> Self {
        let mut state = 1u64;
        Self((0..1 << 20).map(|_| next(&mut state) as f32 / (1u64 << 31) as f32 - 1.0).collect())
    }
}

impl WeightSource for Random {
    fn tensor(&self, name: &str, shape: &[usize]) -> OurResult<Tensor> {
        let (norm, count) = (shape.len() == 1, shape.iter().product());
        let spread = 1.0 / (shape[shape.len() - 1] as f32).sqrt();
        let start = name.bytes().fold(7usize, |at, byte| at.wrapping_mul(31) + usize::from(byte));
        let values = self.0.iter().cycle().skip(start % self.0.len()).take(count);
        let data: Vec<f32> = values.map(|x| if norm { 1.0 } else { x * spread }).collect();
        Tensor::from_vec(data, shape, &Device::Cpu).map_err(|error| {
            scalingnote::error::Error::internal(format!("random weights {name}: {error}"))
        })
    }

    fn contains(&self, _: &str) -> bool {
        true
    }
}

/// 31 random bits.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn device(name: &str) -> Result<DeviceSpec, Failure> {
    match name.strip_prefix("cuda:") {
        Some(number) => Ok(DeviceSpec::Cuda(number.parse()?)),
        None if name == "cpu" => Ok(DeviceSpec::Cpu { threads: 0 }),
        None => Err(format!("no device `{name}`").into()),
    }
}

fn load(
    name: &str,
    config: &DecoderConfig,
    weights: &dyn WeightSource,
    arithmetic: Arithmetic,
) -> Result<Box<dyn Encoder>, Failure> {
    let longest = config.max_positions.min(512);
    let decoder = match name {
        "tensors" => Decoder::load_on_tensors(config, weights, arithmetic, longest)?,
        _ => Decoder::load(config, weights, &device(name)?, arithmetic, longest)?,
    };
    Ok(decoder_encoder(decoder, Pooling::Mean, None, true))
}

fn resolve(model: &str) -> Result<Tower, Failure> {
    let options = TowerOptions::new(model, Pooling::Mean);
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(Tower::resolve(&options, Path::new("."), &reporter))?)
}

/// Vectors by sequence. The next batch is handed over before this one's are asked for, as the encode stage does.
fn encode(
    encoder: &mut dyn Encoder,
    sequences: &[Vec<u32>],
    budget: u32,
) -> Result<Vec<Vec<f32>>, Failure> {
    let lengths: Vec<u32> = sequences.iter().map(|ids| ids.len() as u32).collect();
    let mut vectors = vec![Vec::new(); sequences.len()];
    let mut running: Option<(Vec<usize>, Box<dyn Running>)> = None;
    for batch in pack(&lengths, budget) {
        let ids: Vec<&[u32]> = batch.iter().map(|at| sequences[*at].as_slice()).collect();
        let done = match encoder.start(&ids)? {
            Started::Done(rows) => Some((batch, rows)),
            Started::Running(next) => match running.replace((batch, next)) {
                Some((batch, running)) => Some((batch, running.finish()?)),
                None => None,
            },
        };
        if let Some((batch, rows)) = done {
            batch.iter().zip(rows.rows()).for_each(|(at, row)| vectors[*at] = row.to_vec());
        }
    }
    if let Some((batch, running)) = running {
        let rows = running.finish()?;
        batch.iter().zip(rows.rows()).for_each(|(at, row)| vectors[*at] = row.to_vec());
    }
    Ok(vectors)
}

fn parity(arguments: &Arguments) -> Result<Value, Failure> {
    let model = arguments.model.as_deref().ok_or("parity needs --model")?;
    let tower = resolve(model)?;
    let (config, weights) = tower.config().zip(tower.weights()).ok_or("a decoder is needed")?;
    let mut sequences = Vec::new();
    let texts = arguments.texts.as_deref().ok_or("parity needs --texts")?;
    for line in std::fs::read_to_string(texts)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        sequences.push(tower.tokenizer().tokenize(line["text"].as_str().ok_or("no text")?)?.ids);
    }
    let exact = encode(&mut *load("cpu", config, weights, Arithmetic::F32)?, &sequences, 8192)?;
    let mut found = serde_json::Map::new();
    for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::F16] {
        let name = serde_json::to_value(arithmetic)?;
        let name = name.as_str().ok_or("arithmetic")?.to_owned();
        // The processor's own kernels and its tensors lack one each.
        let mut encoder = match load(&arguments.device, config, weights, arithmetic) {
            Ok(encoder) => encoder,
            Err(error) => {
                found.insert(name, json!({ "skipped": error.to_string() }));
                continue;
            }
        };
        match encode(&mut *encoder, &sequences, 8192) {
            Ok(vectors) => {
                let cosines: Vec<f32> = vectors
                    .iter()
                    .zip(&exact)
                    .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum())
                    .collect();
                let least = cosines.iter().copied().fold(f32::INFINITY, f32::min);
                let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
                found.insert(name, json!({ "cosine_min": least, "cosine_mean": mean }));
            }
            Err(error) => drop(found.insert(name, json!({ "skipped": error.to_string() }))),
        }
    }
    Ok(json!({ "texts": sequences.len(), "device": arguments.device, "to_cpu_f32": found }))
}

fn speed(arguments: &Arguments) -> Result<Value, Failure> {
    let (begun, step) = (Instant::now(), Budget::new());
    let tower = arguments.model.as_deref().map(resolve).transpose()?;
    let random = Random::new();
    let (config, weights, name): (DecoderConfig, &dyn WeightSource, &str) =
        match (&tower, &arguments.shape) {
            (Some(tower), _) => {
                let (config, weights) =
                    tower.config().zip(tower.weights()).ok_or("a decoder is needed")?;
                (config.clone(), weights, "model")
            }
            (None, Some(name)) => (shape(name)?, &random, name),
            (None, None) => return Err("speed needs --model or --shape".into()),
        };
    let mut encoder = load(&arguments.device, &config, weights, arguments.arithmetic)?;
    let load_s = begun.elapsed().as_secs_f64();
    let width = config.head_dim * (config.heads + config.kv_heads);
    let linear = config.layers * config.hidden_size * (2 * width + 3 * config.intermediate_size);
    let mut sets = Vec::new();
    for set in ["256", "mixed"] {
        let mut state = 3;
        let sequences: Vec<Vec<u32>> = (0..arguments.count)
            .map(|_| {
                // Mixed: most notes short, some at the limit; 181 tokens in the mean.
                let at = next(&mut state) as f64 / (1u64 << 31) as f64;
                let length = if set == "256" { 256 } else { 16 + (496.0 * at * at) as usize };
                (0..length).map(|_| (next(&mut state) % IDS) as u32).collect()
            })
            .collect();
        let ids = serde_json::to_vec(&sequences)?;
        std::fs::write(Path::new(&arguments.folder).join(format!("{set}.ids.json")), ids)?;
        let tokens: usize = sequences.iter().map(Vec::len).sum();
        let mut tried = serde_json::Map::new();
        let mut best = (0.0, 0);
        for &budget in &arguments.budgets {
            // Once to warm up: kernels are loaded and memory is reserved on first use.
            let some = &sequences[..sequences.len().min(2 * budget as usize / 256 + 1)];
            let warmed = Instant::now();
            let outcome = encode(&mut *encoder, some, budget).and_then(|_| {
                let share = some.iter().map(Vec::len).sum::<usize>() as f64 / tokens as f64;
                let (expected, left) = (warmed.elapsed().as_secs_f64() / share, step.left());
                if expected > left {
                    let what = format!("{set} at {budget}: some {expected:.0} s expected");
                    eprintln!("cut: {what}, {left:.0} s are left for it");
                    return Err(what.into());
                }
                let begun = Instant::now();
                encode(&mut *encoder, &sequences, budget)?;
                Ok(tokens as f64 / begun.elapsed().as_secs_f64())
            });
            match outcome {
                Ok(rate) => {
                    tried.insert(budget.to_string(), json!(rate));
                    if rate > best.0 {
                        best = (rate, budget);
                    }
                }
                Err(error) => drop(tried.insert(budget.to_string(), json!(error.to_string()))),
            }
        }
        sets.push(json!({
            "set": set, "texts": sequences.len(), "tokens": tokens, "tokens_per_s": best.0,
            "batch": best.1, "by_batch": tried,
        }));
    }
    Ok(json!({
        "runner": "ours", "shape": name, "device": arguments.device,
        "arithmetic": arguments.arithmetic, "flash_attn": cfg!(feature = "flash-attn"),
        "load_s": load_s, "linear_parameters": linear, "sets": sets,
    }))
}

fn main() -> Result<(), Failure> {
    let arguments = arguments()?;
    let report = match arguments.command.as_str() {
        "parity" => parity(&arguments)?,
        "speed" => speed(&arguments)?,
        _ => return Err("usage: gpu parity|speed DIR ...".into()),
    };
    println!("{report}");
    Ok(())
}
