//! Measures the document tower on real texts: `benches/encode.sh` runs it beside its peers.
//!
//! usage: encode MODEL TEXTS.jsonl OUT_DIR [--arithmetic f32|bf16|int8] [--threads N] [--budget N]
//!               [--max-tokens N] [--tokenise] [--repeats N]
//!               (fewer repeats where the step's time does not allow them; with --tokenise each tokenises the texts, too)
//!        encode --ceiling [--threads N]
//!
//! TEXTS.jsonl has lines {"set": .., "text": ..}. For each set, OUT_DIR gets `<set>.ids.json` (token ids, what
//! the peers encode too) and `<set>.ours-<arithmetic>.f32` (our vectors, row-major, mean-pooled, not normalised),
//! and standard output one JSON object.

#[path = "budget.rs"]
mod budget;
#[path = "ceiling.rs"]
mod ceiling;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use scalingnote::observe::{Reporter, Silent};
use scalingnote::tower::{DeviceSpec, Tower, TowerOptions, pack};
use scalingnote::types::Pooling;
use serde_json::{Value, json};

use self::budget::Budget;

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    plain: Vec<String>,
    threads: usize,
    budget: u32,
    max_tokens: u32,
    repeats: usize,
    arithmetic: String,
    tokenise: bool,
    ceiling: bool,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut found = Arguments {
        plain: Vec::new(),
        threads: std::thread::available_parallelism()?.get(),
        budget: 8192,
        max_tokens: 512,
        repeats: 2,
        arithmetic: "f32".to_owned(),
        tokenise: false,
        ceiling: false,
    };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        if argument == "--arithmetic" {
            found.arithmetic = given.next().ok_or("a name is missing")?;
            continue;
        }
        let mut number = || -> Result<usize, Failure> {
            Ok(given.next().ok_or("a number is missing")?.parse()?)
        };
        match argument.as_str() {
            "--threads" => found.threads = number()?,
            "--budget" => found.budget = number()? as u32,
            "--max-tokens" => found.max_tokens = number()? as u32,
            "--repeats" => found.repeats = number()?,
            "--ceiling" => found.ceiling = true,
            "--tokenise" => found.tokenise = true,
            // What cargo itself adds.
            "--bench" => {}
            _ => found.plain.push(argument),
        }
    }
    Ok(found)
}

fn main() -> Result<(), Failure> {
    let (arguments, budget) = (arguments()?, Budget::new());
    if arguments.ceiling {
        println!("{}", ceiling::measure(arguments.threads));
        return Ok(());
    }
    let [model, texts, out] = arguments.plain.as_slice() else {
        return Err("usage: encode MODEL TEXTS.jsonl OUT_DIR".into());
    };
    let options = TowerOptions {
        normalize: Some(false),
        max_tokens: Some(arguments.max_tokens),
        arithmetic: serde_json::from_value(json!(arguments.arithmetic))?,
        ..TowerOptions::new(model.clone(), Pooling::Mean)
    };
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let tower = runtime.block_on(Tower::resolve(&options, Path::new("."), &reporter))?;
    // Of an encoder nobody asks how near it comes to the machine's ceiling.
    let linear = tower.config().map_or(1, |config| {
        let width = config.head_dim * (config.heads + config.kv_heads);
        config.layers * config.hidden_size * (2 * width + 3 * config.intermediate_size)
    });
    let begun = Instant::now();
    let mut encoder = tower.load(&DeviceSpec::Cpu { threads: arguments.threads })?;
    let load_s = begun.elapsed().as_secs_f64();
    let (loaded, load_peak) = (resident("VmRSS:"), resident("VmHWM:"));

    let mut sets: Vec<(String, Vec<Vec<u32>>)> = Vec::new();
    let mut texts_of: Vec<Vec<String>> = Vec::new();
    let mut tokenize_s = 0.;
    for line in std::fs::read_to_string(texts)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let set = line["set"].as_str().ok_or("no set")?;
        if sets.last().is_none_or(|(last, _)| last != set) {
            sets.push((set.to_owned(), Vec::new()));
            texts_of.push(Vec::new());
        }
        let text = line["text"].as_str().ok_or("no text")?;
        texts_of.last_mut().ok_or("no set")?.push(text.to_owned());
        let begun = Instant::now();
        let tokens = tower.tokenizer().tokenize(text)?;
        tokenize_s += begun.elapsed().as_secs_f64();
        sets.last_mut().ok_or("no set")?.1.push(tokens.ids);
    }

    let out = PathBuf::from(out);
    for (name, sequences) in &sets {
        // First: the peers need them, whatever becomes of this step.
        std::fs::write(out.join(format!("{name}.ids.json")), serde_json::to_vec(sequences)?)?;
    }
    let mut results = Vec::new();
    for ((name, sequences), texts) in sets.iter().zip(&texts_of) {
        let lengths: Vec<u32> = sequences.iter().map(|ids| ids.len() as u32).collect();
        let batches = pack(&lengths, arguments.budget);
        let mut vectors = vec![0f32; sequences.len() * tower.dimensions() as usize];
        let mut best = f64::MAX;
        for _ in 0..arguments.repeats {
            let begun = Instant::now();
            if arguments.tokenise {
                tokenised(&tower, texts, arguments.threads)?;
            }
            for batch in &batches {
                let ids: Vec<&[u32]> = batch.iter().map(|at| sequences[*at].as_slice()).collect();
                let rows = encoder.encode(&ids)?;
                for (at, row) in batch.iter().zip(rows.rows()) {
                    vectors[at * row.len()..(at + 1) * row.len()].copy_from_slice(row);
                }
            }
            best = best.min(begun.elapsed().as_secs_f64());
            if best > budget.left() / 2. {
                break;
            }
        }
        let tokens: u32 = lengths.iter().sum();
        let bytes: Vec<u8> = vectors.iter().flat_map(|x| x.to_le_bytes()).collect();
        let file = format!("{name}.ours-{}.f32", arguments.arithmetic);
        std::fs::write(out.join(file), bytes)?;
        results.push(json!({
            "set": name, "texts": sequences.len(), "tokens": tokens, "seconds": best,
            "tokens_per_s": f64::from(tokens) / best, "batch": arguments.budget,
        }));
    }
    let report = json!({
        "threads": arguments.threads, "arithmetic": arguments.arithmetic, "load_s": load_s,
        "loaded_rss_bytes": loaded, "load_peak_rss_bytes": load_peak, "tokenize_s": tokenize_s,
        "linear_parameters": linear, "peak_rss_bytes": resident("VmHWM:"), "sets": results,
    });
    println!("{report}");
    Ok(())
}

/// Tokenises texts as a run does: by all threads.
fn tokenised(tower: &Tower, texts: &[String], threads: usize) -> Result<(), Failure> {
    let share = texts.len().div_ceil(threads).max(1);
    let done = std::thread::scope(|scope| {
        let started: Vec<_> = texts
            .chunks(share)
            .map(|texts| {
                scope.spawn(|| {
                    texts.iter().try_for_each(|text| tower.tokenizer().tokenize(text).map(drop))
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    for one in done {
        one.map_err(|_| "a thread panicked")??;
    }
    Ok(())
}

/// The resident size of this process: now (`VmRSS:`) or at its highest (`VmHWM:`).
fn resident(which: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(which))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
