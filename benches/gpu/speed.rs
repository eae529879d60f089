//! Tokens per second.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::budget::Budget;
use crate::model::{Model, sequences};
use crate::parity::{Way, encode};
use crate::{Arguments, Failure};

#[cfg(feature = "cuda")]
// SAFETY: as the CUDA runtime, which the program is linked to, declares it.
unsafe extern "C" {
    safe fn cudaProfilerStart() -> std::ffi::c_int;
}

/// Lets a profiler begin that was told to wait (`ncu --profile-from-start off`): what comes before are the device's
/// trial, loading and the warm-up.
fn profiled_from_here() {
    #[cfg(feature = "cuda")]
    // Without a profiler there is nothing to begin.
    let _status = cudaProfilerStart();
}

pub fn speed(arguments: &Arguments) -> Result<(Value, bool), Failure> {
    let (begun, step) = (Instant::now(), Budget::new());
    let model = Model::of(arguments)?;
    let (config, _) = model.parts()?;
    let mut encoder = model.load(&arguments.device, arguments.arithmetic, arguments.flash)?;
    let load_s = begun.elapsed().as_secs_f64();
    let width = config.head_dim * (config.heads + config.kv_heads);
    let linear = config.layers * config.hidden_size * (2 * width + 3 * config.intermediate_size);
    let mut sets = Vec::new();
    for set in ["256", "mixed"] {
        let sequences = sequences(set, arguments.count);
        let ids = serde_json::to_vec(&sequences)?;
        std::fs::write(Path::new(&arguments.folder).join(format!("{set}.ids.json")), ids)?;
        let tokens: usize = sequences.iter().map(Vec::len).sum();
        let mut tried = serde_json::Map::new();
        let mut best = (0.0, 0);
        for budget in arguments.budgets_or(&[16_384, 32_768, 65_536, 131_072]) {
            // The next batch is handed over before this one's vectors are asked for, as the encode stage does.
            let way = Way { budget, in_flight: 2 };
            // Once to warm up: kernels are loaded and memory is reserved on first use.
            let some = &sequences[..sequences.len().min(2 * budget as usize / 256 + 1)];
            let warmed = Instant::now();
            let outcome = encode(&mut *encoder, some, way).and_then(|_| {
                let share = some.iter().map(Vec::len).sum::<usize>() as f64 / tokens as f64;
                let (expected, left) = (warmed.elapsed().as_secs_f64() / share, step.left());
                if expected > left {
                    let what = format!("{set} at {budget}: some {expected:.0} s expected");
                    eprintln!("cut: {what}, {left:.0} s are left for it");
                    return Err(what.into());
                }
                profiled_from_here();
                let begun = Instant::now();
                encode(&mut *encoder, &sequences, way)?;
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
    let report = json!({
        "runner": "ours", "shape": model.name(), "device": arguments.device,
        "arithmetic": arguments.arithmetic, "flash_attn": cfg!(feature = "flash-attn") && arguments.flash,
        "load_s": load_s, "linear_parameters": linear, "ceiling_tokens_per_s": encoder.ceiling(), "sets": sets,
    });
    Ok((report, true))
}
