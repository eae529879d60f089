//! `scalingnote tower`: what was understood of a model, before anything is built on it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::app::App;
use super::args::{device, duration, place, pooling, resolve};
use crate::config::word;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::format;
use crate::tower::{DeviceSpec, Tower, TowerOptions};
use crate::types::{Digest256, HeadModule, ModelCard, Pooling, Sourced};

/// Texts of one batch, and the words of each.
const TEXTS: usize = 16;
const WORDS: usize = 100;
/// What the vector that is shown is of.
const SAMPLE: &str = "The quick brown fox jumps over the lazy dog.";
/// Its elements that the table shows; the JSON has all.
const SHOWN: usize = 6;

/// Show how a model is interpreted, and try it out
///
/// Shows the pooling, prompts, longest text and normalisation, each with the file that specifies
/// it; then how fast the model encodes on this machine, and the first elements of one vector, to
/// compare with what the model's authors get.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote tower sentence-transformers/all-MiniLM-L6-v2
  scalingnote tower models/bge-small --query
  scalingnote tower llm.gguf --pooling last-token --adapter run/adapter
  scalingnote tower packed --pooling mean --tokenizer student/tokenizer.json
  scalingnote tower pipelines/quickstart.toml --json

MODEL can be anything that `model` in [tower] can be; it is then set up as its own files and the
flags say. For a pipeline file, its [tower] is shown, or with --query whatever encodes its queries.")]
pub(crate) struct TowerArgs {
    /// A model file, a folder, a Hugging Face repository, or a pipeline file.
    #[arg(value_parser = place::text())]
    model: String,
    /// Show how it encodes queries.
    #[arg(long)]
    query: bool,
    /// How to pool token states into one vector, if the model's files do not say.
    #[arg(long, value_parser = pooling::parse)]
    pooling: Option<Pooling>,
    /// The model's tokenizer.json, if it is elsewhere: a packed student comes without one.
    #[arg(long, value_name = "FILE", value_parser = place::text())]
    tokenizer: Option<String>,
    /// LoRA adapter to merge: a PEFT folder or a safetensors file.
    #[arg(long, value_name = "PATH", value_parser = place::text())]
    adapter: Option<String>,
    /// Folder of modules to apply after the pooling, as written by `whiten`.
    #[arg(long, value_name = "DIR", value_parser = place::text())]
    head: Option<String>,
    /// Text whose vector to show.
    #[arg(long, value_name = "TEXT", default_value = SAMPLE)]
    text: String,
    /// Device to compute on: cpu, cpu:<threads>, or cuda:<number> (if built with feature cuda).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    device: DeviceSpec,
    /// How long to measure its speed; 0s shows only the vector.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration::parse)]
    trial: Duration,
    /// Load no weights; show only what the files say.
    #[arg(long, conflicts_with = "trial")]
    no_trial: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(args: TowerArgs, app: &App) -> Result<()> {
    let (options, base_dir) = options(&args)?;
    let tower = Tower::resolve(&options, &base_dir, &app.reporter).await;
    let tower = tower.map_err(|error| with_flag(error, &args))?;
    let mut found = described(&tower)?;
    let card = tower.card();
    if !args.no_trial {
        let (device, text, trial) = (args.device.clone(), args.text.clone(), args.trial);
        let tried = tokio::task::spawn_blocking(move || tried(&tower, &device, &text, trial));
        found["trial"] = tried.await.or_error(ErrorKind::Internal, || "trying the tower")??;
    }
    app.answer(args.json, &found, |found| table(found, &card))
}

/// Names the flag where a model that is named alone does not say its pooling.
fn with_flag(error: Error, args: &TowerArgs) -> Error {
    let is_unknown = error.message().starts_with("`pooling` is not set");
    match is_unknown && !is_pipeline(&args.model) {
        true => Error::usage(format!("{error}; name it with --pooling")),
        false => error,
    }
}

fn is_pipeline(model: &str) -> bool {
    !model.contains("://") && model.ends_with(".toml")
}

/// The tower meant, and where its relative paths start.
fn options(args: &TowerArgs) -> Result<(TowerOptions, PathBuf)> {
    let TowerArgs { pooling, tokenizer, adapter, head, .. } = args;
    if is_pipeline(&args.model) {
        if pooling.is_some() || [tokenizer, adapter, head].into_iter().any(Option::is_some) {
            return Err(Error::usage(format!(
                "{} says itself what its tower is made of; --pooling, --tokenizer, --adapter and --head go with a model",
                args.model
            )));
        }
        let pipeline = resolve(Path::new(&args.model), &[])?.pipeline;
        let options = match args.query {
            true => pipeline.query_tower(),
            false => pipeline.tower,
        };
        return Ok((options, pipeline.base_dir));
    }
    let here = std::env::current_dir().or_error(ErrorKind::Input, || "finding this folder")?;
    let options = TowerOptions {
        pooling: *pooling,
        tokenizer: tokenizer.clone(),
        adapter: adapter.clone(),
        head: head.clone(),
        ..TowerOptions::as_the_model_says(&args.model)
    };
    Ok((if args.query { options.for_queries() } else { options }, here))
}

/// The card, and what else decides a vector or its cost.
fn described(tower: &Tower) -> Result<Value> {
    let (options, space) = (tower.options(), tower.space(Digest256::of(b"")));
    let mut found = serde_json::to_value(tower.card()).context(|| "writing a model card")?;
    found["prompt_joined"] = space.prompt_joined.into();
    found["arithmetic"] = word(&options.arithmetic).into();
    found["special_tokens"] = word(&options.special_tokens).into();
    found["weights"] = json!(space.weights);
    found["memory"] = tower.memory(4096).into();
    Ok(found)
}

fn tried(tower: &Tower, device: &DeviceSpec, text: &str, trial: Duration) -> Result<Value> {
    let mut encoder = tower.load(device)?;
    let tokens = tower.tokenizer().tokenize(text)?;
    let vector = encoder.encode(&[&tokens.ids])?;
    let words: Vec<&str> = SAMPLE.split(' ').cycle().take(WORDS).collect();
    let one = tower.tokenizer().tokenize(&words.join(" "))?.ids;
    let batch = vec![one.as_slice(); TEXTS];
    let (began, mut encoded) = (Instant::now(), 0);
    while began.elapsed() < trial {
        encoder.encode(&batch)?;
        encoded += batch.len() * one.len();
    }
    let speed = (encoded > 0).then(|| (encoded as f64 / began.elapsed().as_secs_f64()).round());
    Ok(json!({
        "text": text,
        "tokens": tokens.ids,
        "vector": vector.row(0),
        "tokens_per_second": speed,
    }))
}

/// What a card says: name, value, and where that comes from.
pub(super) fn card_rows(card: &ModelCard) -> Vec<(&'static str, String, String)> {
    let commit = card.revision.as_ref().map(|commit| format!(" at {commit}"));
    let parameters = format::count(card.parameters);
    let mut rows = vec![
        ("model", card.model.clone() + &commit.unwrap_or_default(), String::new()),
        ("family", format!("{}, {parameters} parameters", card.family), card.family_by.clone()),
        ("dimensions", card.dimensions.to_string(), String::new()),
        ("pooling", card.pooling.value.name().to_owned(), card.pooling.by.clone()),
    ];
    for module in &card.modules {
        rows.push(("module", said(module), card.modules_by().to_owned()));
    }
    let quoted = |prompt: &Sourced<String>| (format!("{:?}", prompt.value), prompt.by.clone());
    let (prefix, suffix) = (quoted(&card.prompt_prefix), quoted(&card.prompt_suffix));
    rows.extend([
        ("normalize", card.normalize.value.to_string(), card.normalize.by.clone()),
        ("prompt", prefix.0, prefix.1),
        ("suffix", suffix.0, suffix.1),
        ("max tokens", card.max_tokens.value.to_string(), card.max_tokens.by.clone()),
    ]);
    rows.push(match &card.licence {
        Some(licence) => ("licence", licence.value.clone(), licence.by.clone()),
        None => ("licence", "none stated".to_owned(), String::new()),
    });
    rows
}

fn said(module: &HeadModule) -> String {
    match module {
        HeadModule::Dense { inputs, outputs, bias, activation } => {
            let bias = if *bias { "" } else { ", no bias" };
            format!("dense, {inputs} to {outputs}, {}{bias}", word(activation))
        }
        HeadModule::LayerNorm { inputs } => format!("layer norm of {inputs}"),
        HeadModule::Normalize => "unit length".to_owned(),
    }
}

fn table(found: &Value, card: &ModelCard) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (name, value, by) in card_rows(card) {
        rows.push(vec![name.to_owned(), value, by]);
    }
    let mut row = |name: &str, value: String, by: &str| {
        rows.push(vec![name.to_owned(), value, by.to_owned()]);
    };
    row("arithmetic", found["arithmetic"].as_str().unwrap_or_default().to_owned(), "");
    row("memory", format::bytes(found["memory"].as_u64().unwrap_or_default()), "estimated");
    if let Some(trial) = found.get("trial") {
        if let Some(speed) = trial["tokens_per_second"].as_f64() {
            let speed = format::count(speed as u64);
            row("speed", format!("{speed} tokens/s"), "tried on this machine");
        }
        let of = format!("of {}", trial["text"]);
        row("tokens", trial["tokens"].to_string(), &of);
        let elements = trial["vector"].as_array().into_iter().flatten().take(SHOWN);
        let elements: Vec<String> =
            elements.map(|x| format!("{:.6}", x.as_f64().unwrap_or_default())).collect();
        row("vector", format!("[{}, ...]", elements.join(", ")), &of);
    }
    format::table(&["", "", "said by"], &[], &rows)
}
