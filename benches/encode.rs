//! Measures the document tower on real texts: `benches/encode.sh` runs it beside its peers.
//!
//! usage: encode MODEL TEXTS.jsonl OUT_DIR [--threads N] [--budget N] [--max-tokens N] [--repeats N]
//!        encode --ceiling [--threads N]
//!
//! TEXTS.jsonl has lines {"set": .., "text": ..}. For each set, OUT_DIR gets `<set>.ids.json` (token ids, what
//! the peers encode too) and `<set>.f32` (our vectors, row-major, mean-pooled, not normalised), and standard
//! output one JSON object.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use scalingnote::observe::{Reporter, Silent};
use scalingnote::tower::{DeviceSpec, Tower, TowerOptions, pack};
use scalingnote::types::{Arithmetic, Pooling};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    plain: Vec<String>,
    threads: usize,
    budget: u32,
    max_tokens: u32,
    repeats: usize,
    ceiling: bool,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut found = Arguments {
        plain: Vec::new(),
        threads: std::thread::available_parallelism()?.get(),
        budget: 8192,
        max_tokens: 512,
        repeats: 2,
        ceiling: false,
    };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut number = || -> Result<usize, Failure> {
            Ok(given.next().ok_or("a number is missing")?.parse()?)
        };
        match argument.as_str() {
            "--threads" => found.threads = number()?,
            "--budget" => found.budget = number()? as u32,
            "--max-tokens" => found.max_tokens = number()? as u32,
            "--repeats" => found.repeats = number()?,
            "--ceiling" => found.ceiling = true,
            // What cargo itself adds.
            "--bench" => {}
            _ => found.plain.push(argument),
        }
    }
    Ok(found)
}

fn main() -> Result<(), Failure> {
    let arguments = arguments()?;
    if arguments.ceiling {
        println!("{}", json!({"f32_gemm_flops": ceiling(arguments.threads)}));
        return Ok(());
    }
    let [model, texts, out] = arguments.plain.as_slice() else {
        return Err("usage: encode MODEL TEXTS.jsonl OUT_DIR".into());
    };
    let options = TowerOptions {
        model: model.clone(),
        revision: None,
        tokenizer: None,
        adapter: None,
        pooling: Pooling::Mean,
        prompt_prefix: String::new(),
        prompt_suffix: String::new(),
        dimensions: None,
        normalize: false,
        max_tokens: arguments.max_tokens,
        arithmetic: Arithmetic::F32,
        layers: None,
    };
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let tower = runtime.block_on(Tower::resolve(&options, Path::new("."), &reporter))?;
    let config = tower.config().ok_or("a real model is needed")?;
    let width = config.head_dim * (config.heads + config.kv_heads);
    let linear = config.layers * config.hidden_size * (2 * width + 3 * config.intermediate_size);
    let begun = Instant::now();
    let mut encoder = tower.load(&DeviceSpec::Cpu { threads: arguments.threads })?;
    let load_s = begun.elapsed().as_secs_f64();

    let mut sets: Vec<(String, Vec<Vec<u32>>)> = Vec::new();
    let mut tokenize_s = 0.;
    for line in std::fs::read_to_string(texts)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let set = line["set"].as_str().ok_or("no set")?;
        if sets.last().is_none_or(|(last, _)| last != set) {
            sets.push((set.to_owned(), Vec::new()));
        }
        let begun = Instant::now();
        let tokens = tower.tokenizer().tokenize(line["text"].as_str().ok_or("no text")?)?;
        tokenize_s += begun.elapsed().as_secs_f64();
        sets.last_mut().ok_or("no set")?.1.push(tokens.ids);
    }

    let mut results = Vec::new();
    for (name, sequences) in &sets {
        let lengths: Vec<u32> = sequences.iter().map(|ids| ids.len() as u32).collect();
        let batches = pack(&lengths, arguments.budget);
        let mut vectors = vec![0f32; sequences.len() * tower.dimensions() as usize];
        let mut best = f64::MAX;
        for _ in 0..arguments.repeats {
            let begun = Instant::now();
            for batch in &batches {
                let ids: Vec<&[u32]> = batch.iter().map(|at| sequences[*at].as_slice()).collect();
                let rows = encoder.encode(&ids)?;
                for (at, row) in batch.iter().zip(rows.rows()) {
                    vectors[at * row.len()..(at + 1) * row.len()].copy_from_slice(row);
                }
            }
            best = best.min(begun.elapsed().as_secs_f64());
        }
        let tokens: u32 = lengths.iter().sum();
        let out = PathBuf::from(out);
        std::fs::write(out.join(format!("{name}.ids.json")), serde_json::to_vec(sequences)?)?;
        let bytes: Vec<u8> = vectors.iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(out.join(format!("{name}.f32")), bytes)?;
        results.push(json!({
            "set": name, "texts": sequences.len(), "tokens": tokens, "seconds": best,
            "tokens_per_s": f64::from(tokens) / best,
        }));
    }
    let report = json!({
        "threads": arguments.threads, "load_s": load_s, "tokenize_s": tokenize_s,
        "linear_parameters": linear, "peak_rss_bytes": peak_rss(), "sets": results,
    });
    println!("{report}");
    Ok(())
}

/// The highest resident size of this process so far.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Floating point operations per second of large f32 products by the `gemm` crate: one product on all
/// threads, and one product on each; the better counts.
fn ceiling(threads: usize) -> f64 {
    const N: usize = 1536;
    let product = |parallelism| {
        let data = || (0..N * N).map(|i| (i % 1000) as f32 * 1e-3 - 0.5).collect::<Vec<f32>>();
        let (a, b, mut c) = (data(), data(), vec![0f32; N * N]);
        let n = N as isize;
        let mut best = f64::MAX;
        for _ in 0..12 {
            let begun = Instant::now();
            // SAFETY: three N x N matrices, rows N elements apart.
            unsafe {
                gemm::gemm(
                    N,
                    N,
                    N,
                    c.as_mut_ptr(),
                    1,
                    n,
                    false,
                    a.as_ptr(),
                    1,
                    n,
                    b.as_ptr(),
                    1,
                    n,
                    0f32,
                    1f32,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
            best = best.min(begun.elapsed().as_secs_f64());
        }
        2. * (N * N * N) as f64 / best
    };
    let together = product(gemm::Parallelism::Rayon(threads));
    let apart: f64 = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| product(gemm::Parallelism::None))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(0.)).sum()
    });
    together.max(apart)
}
