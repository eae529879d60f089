//! Measures the document tower on a device: `benches/gpu.sh` runs it beside its peers, `benches/gpu/first.sh` in the first
//! minutes on a card.
//!
//! usage: gpu parity DIR WHAT [--texts TEXTS.jsonl] [--count N]   vectors beside the processor's in f32
//!        gpu invariance DIR WHAT [--budgets N] [--count N]       one by one, alone, in reverse, several in flight
//!        gpu speed DIR WHAT [--budgets N,N] [--count N]          tokens per second
//!        gpu memory DIR WHAT                                     a batch that memory does not hold (it is taken before)
//!
//! WHAT is `--model MODEL` or `--shape NAME [--layers N]` (random weights), then [--device D] [--arithmetic A] [--flash off].
//! D is `cuda:N`, `cpu`, or `tensors`: what a GPU runs, on the processor. Sequences are synthetic but for `--texts`: 256 tokens
//! each or of mixed lengths; `speed` writes their ids into DIR (`<set>.ids.json`), which the peers encode too. Standard output
//! has one JSON object. The exit code is 1 where vectors differ.

#[path = "../budget.rs"]
mod budget;
mod model;
mod parity;
mod speed;

use std::process::ExitCode;

use scalingnote::types::Arithmetic;
use serde_json::json;

pub type Failure = Box<dyn std::error::Error>;

pub struct Arguments {
    command: String,
    pub folder: String,
    pub device: String,
    pub arithmetic: Arithmetic,
    pub model: Option<String>,
    pub shape: Option<String>,
    pub layers: Option<usize>,
    pub texts: Option<String>,
    budgets: Vec<u32>,
    pub count: usize,
    pub flash: bool,
}

impl Arguments {
    pub fn budgets_or(&self, default: &[u32]) -> Vec<u32> {
        if self.budgets.is_empty() { default.to_vec() } else { self.budgets.clone() }
    }
}

fn arguments() -> Result<Arguments, Failure> {
    let mut found = Arguments {
        command: String::new(),
        folder: String::new(),
        device: "cuda:0".to_owned(),
        arithmetic: Arithmetic::Bf16,
        model: None,
        shape: None,
        layers: None,
        texts: None,
        budgets: Vec::new(),
        count: 4096,
        flash: true,
    };
    let mut given = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("a value is missing after {argument}"));
        match argument.as_str() {
            "--device" => found.device = value()?,
            "--arithmetic" => found.arithmetic = serde_json::from_value(json!(value()?))?,
            "--model" => found.model = Some(value()?),
            "--shape" => found.shape = Some(value()?),
            "--layers" => found.layers = Some(value()?.parse()?),
            "--texts" => found.texts = Some(value()?),
            "--flash" => found.flash = value()? != "off",
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

fn main() -> Result<ExitCode, Failure> {
    let arguments = arguments()?;
    let (report, passed) = match arguments.command.as_str() {
        "parity" => parity::parity(&arguments)?,
        "invariance" => parity::invariance(&arguments)?,
        "speed" => speed::speed(&arguments)?,
        "memory" => parity::out_of_memory(&arguments)?,
        _ => return Err("usage: gpu parity|invariance|speed|memory DIR ...".into()),
    };
    println!("{report}");
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
