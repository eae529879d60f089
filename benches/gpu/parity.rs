//! Whether vectors are right: beside the processor's, and whatever batch they come in.

use std::collections::VecDeque;

use candle_core::{DType, Tensor};
use scalingnote::tower::{Encoder, Running, Started, open_cuda, pack};
use scalingnote::types::{Arithmetic, Embeddings};
use serde_json::{Map, Value, json};

use crate::model::{Model, name_of, sequences};
use crate::{Arguments, Failure};

/// Least cosines that pass, in f32 and in 16 bits.
const LEAST: (f32, f32) = (0.9999, 0.999);

/// How batches are handed over.
#[derive(Clone, Copy)]
pub struct Way {
    pub budget: u32,
    /// Batches that are started before the first is asked for.
    pub in_flight: usize,
}

/// Vectors by sequence.
pub fn encode(
    encoder: &mut dyn Encoder,
    sequences: &[Vec<u32>],
    way: Way,
) -> Result<Vec<Vec<f32>>, Failure> {
    let lengths: Vec<u32> = sequences.iter().map(|ids| ids.len() as u32).collect();
    let mut vectors = vec![Vec::new(); sequences.len()];
    let mut give = |batch: Vec<usize>, rows: Embeddings| {
        batch.iter().zip(rows.rows()).for_each(|(at, row)| vectors[*at] = row.to_vec());
    };
    let mut running: VecDeque<(Vec<usize>, Box<dyn Running>)> = VecDeque::new();
    for batch in pack(&lengths, way.budget) {
        let ids: Vec<&[u32]> = batch.iter().map(|at| sequences[*at].as_slice()).collect();
        match encoder.start(&ids)? {
            Started::Done(rows) => give(batch, rows),
            Started::Running(next) => running.push_back((batch, next)),
        }
        if running.len() >= way.in_flight
            && let Some((batch, first)) = running.pop_front()
        {
            give(batch, first.finish()?.vectors);
        }
    }
    for (batch, rest) in running {
        give(batch, rest.finish()?.vectors);
    }
    Ok(vectors)
}

/// The least and the mean cosine of vectors of unit length.
fn cosines(a: &[Vec<f32>], b: &[Vec<f32>]) -> (f32, f32) {
    let dot = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let all: Vec<f32> = a.iter().zip(b).map(dot).collect();
    // What is not a number counts as the worst.
    let least = all.iter().map(|x| if x.is_finite() { *x } else { -1. }).fold(1., f32::min);
    (least, all.iter().sum::<f32>() / all.len() as f32)
}

fn least_for(arithmetic: Arithmetic) -> f32 {
    if arithmetic == Arithmetic::F32 { LEAST.0 } else { LEAST.1 }
}

/// The device's vectors in every arithmetic that it has, with fused attention and without, beside the processor's in
/// f32.
pub fn parity(arguments: &Arguments) -> Result<(Value, bool), Failure> {
    let model = Model::of(arguments)?;
    let sequences = match (&model, &arguments.texts) {
        (Model::Tower(tower), Some(texts)) => std::fs::read_to_string(texts)?
            .lines()
            .map(|line| {
                let line: Value = serde_json::from_str(line)?;
                let text = line["text"].as_str().ok_or("no text")?;
                Ok(tower.tokenizer().tokenize(text)?.ids)
            })
            .collect::<Result<_, Failure>>()?,
        _ => sequences("mixed", arguments.count),
    };
    let way = Way { budget: 4096, in_flight: 2 };
    let exact = model.load("cpu", Arithmetic::F32, true)?;
    let exact = encode(&mut *{ exact }, &sequences, way)?;
    let (mut found, mut passed) = (Map::new(), true);
    // Only a GPU has two kinds of attention.
    let kinds: &[bool] =
        if arguments.device.starts_with("cuda") { &[true, false] } else { &[true] };
    for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::F16] {
        for flash in kinds {
            let name = name_of(arithmetic) + if *flash { "" } else { " composed" };
            let vectors = model
                .load(&arguments.device, arithmetic, *flash)
                .and_then(|mut encoder| encode(&mut *encoder, &sequences, way));
            let one = match vectors {
                Ok(vectors) => {
                    let (least, mean) = cosines(&vectors, &exact);
                    let ok = least >= least_for(arithmetic);
                    passed &= ok;
                    json!({ "cosine_min": least, "cosine_mean": mean, "passed": ok })
                }
                // The processor's own kernels and its tensors lack one arithmetic each; a GPU lacks none.
                Err(error) => {
                    passed &= !arguments.device.starts_with("cuda");
                    json!({ "skipped": error.to_string() })
                }
            };
            found.insert(name, one);
        }
    }
    let report = json!({
        "shape": model.name(), "texts": sequences.len(), "device": arguments.device, "to_cpu_f32": found, "passed": passed,
    });
    Ok((report, passed))
}

/// The same sequences in batches one by one, each alone, in reverse, and with several batches in flight.
pub fn invariance(arguments: &Arguments) -> Result<(Value, bool), Failure> {
    let model = Model::of(arguments)?;
    let sequences = sequences("mixed", arguments.count);
    let mut encoder = model.load(&arguments.device, arguments.arithmetic, arguments.flash)?;
    let budget = arguments.budgets_or(&[2048])[0];
    let mut run = |sequences: &[Vec<u32>], way| encode(&mut *encoder, sequences, way);
    let serial = run(&sequences, Way { budget, in_flight: 1 })?;
    let backwards: Vec<Vec<u32>> = sequences.iter().rev().cloned().collect();
    let mut reversed = run(&backwards, Way { budget, in_flight: 1 })?;
    reversed.reverse();
    let ways = [
        ("alone", run(&sequences, Way { budget: 1, in_flight: 1 })?),
        ("reversed", reversed),
        ("pipelined", run(&sequences, Way { budget, in_flight: 5 })?),
        ("all_in_flight", run(&sequences, Way { budget, in_flight: usize::MAX })?),
    ];
    let (mut found, mut passed) = (Map::new(), true);
    for (name, vectors) in &ways {
        let (least, _) = cosines(vectors, &serial);
        passed &= least >= least_for(arguments.arithmetic);
        found.insert((*name).to_owned(), json!(least));
    }
    let lengths: Vec<u32> = sequences.iter().map(|ids| ids.len() as u32).collect();
    let report = json!({
        "shape": model.name(), "texts": sequences.len(), "batches": pack(&lengths, budget).len(),
        "device": arguments.device, "arithmetic": arguments.arithmetic, "flash": arguments.flash,
        "least_cosine_to_serial": found, "passed": passed,
    });
    Ok((report, passed))
}

/// Takes a GPU's memory but for two GiB. It is taken as long as what is returned is there.
fn most_of_memory(device: &str) -> Result<Vec<Tensor>, Failure> {
    let Some(number) = device.strip_prefix("cuda:") else { return Ok(Vec::new()) };
    let device = open_cuda(number.parse()?)?;
    let mut taken = Vec::new();
    // A GiB each.
    while let Ok(more) = Tensor::zeros(1usize << 28, DType::F32, &device) {
        taken.push(more);
    }
    taken.truncate(taken.len().saturating_sub(2));
    // What is given back is another stream's only once this one has come to it.
    device.synchronize()?;
    Ok(taken)
}

/// A batch that memory does not hold: it must be refused as such, and the next must come out as ever.
pub fn out_of_memory(arguments: &Arguments) -> Result<(Value, bool), Failure> {
    let model = Model::of(arguments)?;
    let mut encoder = model.load(&arguments.device, arguments.arithmetic, arguments.flash)?;
    let few = sequences("mixed", 8);
    let way = Way { budget: 2048, in_flight: 1 };
    let before = encode(&mut *encoder, &few, way)?;
    // As many tokens as the kernels count: tensors of some GiB each, for which there is no room beside what is taken.
    let taken = most_of_memory(&arguments.device)?;
    let sequence = vec![1u32; 512];
    let (config, _) = model.parts()?;
    let most = (1usize << 31) / (2 * config.intermediate_size) / 512;
    let many = vec![sequence.as_slice(); most];
    let refused = match encoder.start(&many) {
        Ok(Started::Running(batch)) => batch.finish().err(),
        Ok(Started::Done(_)) => None,
        Err(error) => Some(error),
    };
    let as_resource = refused
        .as_ref()
        .is_some_and(|error| error.kind() == scalingnote::error::ErrorKind::Resource);
    let (least, _) = cosines(&encode(&mut *encoder, &few, way)?, &before);
    let passed = as_resource && least >= 0.9999;
    let report = json!({
        "tokens": most * 512, "taken_gib": taken.len(), "refused": refused.map(|error| error.to_string()),
        "as_resource": as_resource, "cosine_after": least, "passed": passed,
    });
    Ok((report, passed))
}
