//! Stage 1 on a tiny model: gradients, gradient caching, resuming, learning.

use std::path::Path;
use std::slice;
use std::sync::Arc;

use candle_core::Tensor;
use serde::Deserialize;

use super::build::build;
use super::data::TrainData;
use super::input::{Side, TrainInput};
use super::objective::{Contrast, LossOptions, Objective};
use super::options::{FullOptions, Method, TrainOptions};
use super::step::{Model, step};
use super::train_decoder;
use crate::dataset::SplitMix64;
use crate::error::{ErrorKind, Result};
use crate::tower::{DecoderConfig, DeviceSpec, Sliding, Tower, TowerOptions};
use crate::train::model::LoraOptions;
use crate::train::report::{StepRecord, TrainReport};
use crate::train::tests_support::{
    RandomWeights, bytes, hashed, pairs_file, scalar, silent, tensors, tiny_config, tiny_data,
    tiny_options, write_llm,
};
use crate::train::training::StepResult;
use crate::types::{Cancel, Embeddings, Pooling};

pub(super) const CPU: DeviceSpec = DeviceSpec::Cpu { threads: 0 };

pub(super) fn input<'a>(config: &'a DecoderConfig, data: &'a TrainData) -> TrainInput<'a> {
    TrainInput {
        config,
        weights: &RandomWeights,
        query_weights: &RandomWeights,
        data,
        teacher: None,
        tokenize: &bytes,
        adapter: None,
        query_adapter: None,
        base_dir: Path::new("."),
        document: None,
        origin: crate::types::Digest256::of(b"tests"),
        devices: vec![CPU],
    }
}

/// A model whose adapters are no longer zero, and its parameters.
pub(super) fn model(
    config: &DecoderConfig,
    options: &TrainOptions,
) -> (Model, Vec<(String, candle_core::Var)>) {
    let data = tiny_data();
    let (model, vars) = build(&input(config, &data), options, &CPU).unwrap();
    for (name, var) in vars.iter().filter(|(name, _)| name.contains("lora_")) {
        let data: Vec<f32> = (0..var.elem_count()).map(|i| 0.3 * hashed(name, i)).collect();
        var.set(&Tensor::from_vec(data, var.shape(), var.device()).unwrap()).unwrap();
    }
    (model, vars)
}

pub(super) struct Example {
    pub(super) queries: Vec<Vec<u32>>,
    pub(super) documents: Vec<Vec<u32>>,
    pub(super) contrast: Contrast,
}

pub(super) fn example() -> Example {
    let texts = |side, all: &[&str]| -> Vec<Vec<u32>> {
        all.iter().map(|text| bytes(side, 0, text).unwrap()).collect()
    };
    Example {
        queries: texts(Side::Query, &["beer", "hops and malt", "x", "coffee beans"]),
        documents: texts(
            Side::Document,
            &["a pint of ale", "malted barley", "y", "roasted arabica from far away", "tea"],
        ),
        contrast: Contrast {
            positive: vec![0, 1, 2, 3],
            masked: vec![vec![], vec![0], vec![], vec![]],
            weights: vec![1.0, 2.0, 1.0, 0.5],
            temperatures: vec![0.1; 4],
            candidates: 5,
        },
    }
}

/// A step on [`example`] with room for the activations of this many tokens.
fn step_on_example(replicas: &[Model], temperature: f32, room: usize) -> StepResult {
    let mut e = example();
    e.contrast.temperatures = vec![temperature; 4];
    let options = LossOptions::default();
    let objective = Objective { options: &options, contrast: &e.contrast, teacher: None };
    step(replicas, &e.queries, &e.documents, &objective, room).unwrap()
}

/// Two steps have the same loss and the same gradients, but for rounding.
fn check_alike(a: &StepResult, b: &StepResult) {
    assert!((scalar(&a.loss) - scalar(&b.loss)).abs() < 1e-5);
    for (a, b) in a.gradients.iter().zip(&b.gradients) {
        let (a, b) = (a.as_ref().unwrap(), b.as_ref().unwrap());
        let norm = |t: Tensor| scalar(&t.sqr().unwrap().sum_all().unwrap());
        assert!(norm((a - b).unwrap()) <= 1e-8 * norm(a.clone()), "gradients differ");
    }
}

/// Compares every gradient of a step with the slope of its loss.
pub(super) fn check_gradients(config: &DecoderConfig, options: &TrainOptions) {
    let (model, vars) = model(config, options);
    check_slopes(&vars, &config.family, || step_on_example(slice::from_ref(&model), 0.5, 4096));
}

/// Compares every gradient that `run` gives with the slope of its loss.
pub(super) fn check_slopes(
    vars: &[(String, candle_core::Var)],
    family: &str,
    run: impl Fn() -> StepResult,
) {
    let grads = run().gradients;
    let mut rng = SplitMix64::new(3);
    for ((name, var), grad) in vars.iter().zip(&grads) {
        // Words that do not occur leave most of the embedding matrix without a gradient.
        let grad = grad.as_ref().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // Along the gradient itself plus noise: a difference large enough for f32.
        let norm = grad.iter().map(|g| g * g).sum::<f32>().sqrt();
        let noise = norm / (grad.len() as f32).sqrt();
        let direction: Vec<f32> =
            grad.iter().map(|g| (g + noise * rng.normal() as f32) / norm).collect();
        let expected: f64 =
            grad.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        let before = var.as_detached_tensor().copy().unwrap();
        let direction = Tensor::from_vec(direction, var.shape(), var.device()).unwrap();
        let loss_at = |step: f64| {
            var.set(&(&before + (&direction * step).unwrap()).unwrap()).unwrap();
            f64::from(scalar(&run().loss))
        };
        // Fourth-order central differences.
        let h = 0.02;
        let slope = (8.0 * (loss_at(h) - loss_at(-h)) - (loss_at(2.0 * h) - loss_at(-2.0 * h)))
            / (12.0 * h);
        var.set(&before).unwrap();
        assert!(
            (slope - expected).abs() <= 5e-3 * expected.abs() + 2e-5,
            "{family} {name}: {slope} by differences, {expected} by backward"
        );
    }
}

/// Decoders whose tokens see more than what comes before them, or less.
fn other_windows() -> [DecoderConfig; 3] {
    let slides = |causal, after| DecoderConfig {
        causal,
        sliding: Some(Sliding { before: 2, after, layers: vec![true, false], rope_theta: None }),
        ..tiny_config("qwen2")
    };
    let around = DecoderConfig { causal: false, ..tiny_config("llama") };
    [around, slides(true, 0), slides(false, 2)]
}

#[test]
fn gradients_of_other_windows_equal_finite_differences() {
    for config in other_windows() {
        for pooling in [Pooling::Mean, Pooling::LastToken] {
            let mut options = tiny_options();
            options.tower.pooling = Some(pooling);
            check_gradients(&config, &options);
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    for (family, pooling, full) in [
        ("llama", Pooling::LastToken, false),
        ("qwen2", Pooling::Mean, false),
        ("qwen3", Pooling::LastToken, false),
        ("qwen3", Pooling::Mean, true),
    ] {
        let mut options = tiny_options();
        options.tower.pooling = Some(pooling);
        if full {
            options.method = Method::Full(FullOptions::default());
        }
        check_gradients(&tiny_config(family), &options);
    }
}

#[derive(Deserialize)]
struct Case {
    options: LossOptions,
    loss: f64,
    /// Of the vectors, row by row.
    vectors: Vec<f32>,
}

#[derive(Deserialize)]
struct Golden {
    embeddings: Vec<Vec<f32>>,
    temperatures: Vec<f32>,
    cases: std::collections::BTreeMap<String, Case>,
    /// Of the adapter's parameters, under the case "all".
    grads: std::collections::BTreeMap<String, Vec<f32>>,
}

/// The relative error of some numbers.
fn error_of(got: &Tensor, expected: &[f32]) -> f64 {
    let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(got.len(), expected.len());
    let norm = |all: &mut dyn Iterator<Item = f64>| all.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    error / norm(&mut expected.iter().map(|v| f64::from(*v)))
}

/// Every term of the loss, and all together through the model.
#[test]
fn gradients_equal_pytorch() {
    let golden: Golden =
        serde_json::from_str(include_str!("../../../tests/it/golden/train.json")).unwrap();
    let (model, vars) = model(&tiny_config("llama"), &tiny_options());
    let mut e = example();
    e.contrast.temperatures = golden.temperatures.clone();
    let rows = [model.encode(0, &e.queries, 4096), model.encode(1, &e.documents, 4096)];
    let rows = rows.map(|rows| rows.unwrap().to_vec2::<f32>().unwrap()).concat();
    for (row, expected) in rows.iter().zip(&golden.embeddings) {
        assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5));
    }
    let cpu = candle_core::Device::Cpu;
    let mut teacher: Vec<f32> = (0..9 * 6).map(|i| hashed("teacher", i)).collect();
    // A document is like its query.
    (0..4 * 6).for_each(|i| teacher[4 * 6 + i] += teacher[i]);
    let teacher = Tensor::from_vec(teacher, (9, 6), &cpu).unwrap();
    let teacher = crate::train::model::decoder::normalize(&teacher).unwrap();
    assert_eq!(golden.cases.len(), 6);
    for (name, case) in &golden.cases {
        let (options, contrast) = (&case.options, &e.contrast);
        let objective = Objective { options, contrast, teacher: Some(&teacher) };
        let vectors =
            candle_core::Var::from_vec(golden.embeddings.concat(), (9, 32), &cpu).unwrap();
        let (loss, _) = objective.loss(&vectors).unwrap();
        let value = f64::from(scalar(&loss));
        assert!((value / case.loss - 1.0).abs() < 1e-5, "{name}: {value} {}", case.loss);
        let store = loss.backward().unwrap();
        let error = error_of(store.get(&vectors).unwrap(), &case.vectors);
        assert!(error <= 1e-4, "{name}: {error}");
    }
    let case = &golden.cases["all"];
    let objective =
        Objective { options: &case.options, contrast: &e.contrast, teacher: Some(&teacher) };
    let one = slice::from_ref(&model);
    let result = step(one, &e.queries, &e.documents, &objective, 4096).unwrap();
    let value = f64::from(scalar(&result.loss));
    assert!((value / case.loss - 1.0).abs() < 1e-5, "{value} {}", case.loss);
    assert_eq!(vars.len(), golden.grads.len());
    for ((name, _), grad) in vars.iter().zip(&result.gradients) {
        let error = error_of(grad.as_ref().unwrap(), &golden.grads[name]);
        assert!(error <= 1e-4, "{name}: {error}");
    }
}

/// A batch that is a token too large for the room is not embedded twice, but for what does not fit.
#[test]
fn one_token_too_many_repeats_one_text() {
    let (model, _) = model(&tiny_config("llama"), &tiny_options());
    let all = step_on_example(slice::from_ref(&model), 0.1, 4096);
    assert_eq!(all.repeated, 0);
    let e = example();
    let longest = e.queries.iter().chain(&e.documents).map(Vec::len).max().unwrap();
    let short = step_on_example(slice::from_ref(&model), 0.1, all.tokens - 1);
    assert!(
        short.repeated > 0 && short.repeated <= longest,
        "{} of {}",
        short.repeated,
        all.tokens
    );
    check_alike(&all, &short);
}

/// A batch embedded twice in chunks has the gradients of one whose graph is kept.
pub(super) fn check_caching(options: &TrainOptions) {
    let (model, _) = model(&tiny_config("llama"), options);
    let step = |room| step_on_example(slice::from_ref(&model), 0.1, room);
    check_alike(&step(4096), &step(20));
}

/// Three replicas that share a batch have the loss and the gradients of one that has it alone, with and without room
/// for the graphs; a replica may be left without a text.
#[test]
fn replicas_that_share_a_batch_are_one() {
    let mut apart = tiny_options();
    apart.query.layers = Some(1);
    for options in [tiny_options(), apart] {
        let config = tiny_config("llama");
        let replicas: Vec<Model> = (0..12).map(|_| model(&config, &options).0).collect();
        let alone = step_on_example(&replicas[..1], 0.1, 4096);
        for (count, room) in [(2, 4096), (3, 20), (12, 4096)] {
            let shared = step_on_example(&replicas[..count], 0.1, room);
            assert_eq!(alone.tokens, shared.tokens);
            check_alike(&alone, &shared);
        }
    }
}

#[test]
fn a_run_on_several_devices_is_that_on_one() {
    let (config, data) = (tiny_config("llama"), tiny_data());
    let run = |output: &Path, devices: Vec<DeviceSpec>| {
        let input = TrainInput { devices, ..input(&config, &data) };
        train_decoder(&input, &tiny_options(), output, &silent(), &Cancel::new())
    };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let alone = run(one.path(), vec![CPU]).unwrap();
    let shared = run(two.path(), vec![CPU, CPU]).unwrap();
    for (a, b) in alone.steps.iter().zip(&shared.steps) {
        assert!((a.loss - b.loss).abs() < 1e-4, "step {}: {} and {}", a.step, a.loss, b.loss);
    }
    assert!(alone.steps[0].loss != alone.steps[11].loss);
    let mixed = run(two.path(), vec![CPU, DeviceSpec::Cuda(0)]).unwrap_err();
    assert!(mixed.to_string().contains("not on both"), "{mixed}");
    let twice = run(two.path(), vec![DeviceSpec::Cuda(1), DeviceSpec::Cuda(1)]).unwrap_err();
    assert!(twice.to_string().contains("cuda:1 is given twice"), "{twice}");
    assert_eq!(run(two.path(), vec![]).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn gradient_caching_changes_nothing() {
    for separate in [false, true] {
        let mut options = tiny_options();
        options.method =
            Method::Lora(LoraOptions { rank: 4, alpha: 8.0, separate, ..Default::default() });
        check_caching(&options);
    }
}

pub(super) fn train(options: &TrainOptions, output: &Path, cancel: &Cancel) -> Result<TrainReport> {
    let (config, data) = (tiny_config("llama"), tiny_data());
    train_decoder(&input(&config, &data), options, output, &silent(), cancel)
}

pub(super) fn mean_loss(steps: &[StepRecord]) -> f32 {
    steps.iter().map(|step| step.loss).sum::<f32>() / steps.len() as f32
}

pub(super) fn adapter_of(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("adapter/adapter_model.safetensors")).unwrap()
}

pub(super) async fn encode(tower: &Tower, sequences: &[Vec<u32>]) -> Embeddings {
    let ids: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    tower.load(&DeviceSpec::Cpu { threads: 1 }).unwrap().encode(&ids).unwrap()
}

pub(super) async fn resolve(options: &TowerOptions, dir: &Path) -> Tower {
    Tower::resolve(options, dir, &silent()).await.unwrap()
}

pub(super) fn check_cosines(got: &Embeddings, expected: &Tensor, least: f32) {
    for (row, expected) in got.rows().zip(expected.to_vec2::<f32>().unwrap()) {
        let cosine: f32 = row.iter().zip(&expected).map(|(a, b)| a * b).sum();
        assert!(cosine > least, "{cosine}");
    }
}

pub(super) fn losses(report: &TrainReport) -> Vec<u32> {
    report.steps.iter().map(|s| s.loss.to_bits()).collect()
}

/// Runs `options` whole in one folder and stopped and resumed in another: equal losses. Gives the folders.
pub(super) fn check_resuming(options: &TrainOptions) -> (tempfile::TempDir, tempfile::TempDir) {
    /// Cancels after this many steps.
    struct StopAfter(Cancel, u64);
    impl crate::observe::Reporter for StopAfter {
        fn event(&self, event: crate::observe::Event) {
            if let crate::observe::Event::Progress { done, .. } = event
                && done >= self.1
            {
                self.0.cancel();
            }
        }
    }
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = train(options, one.path(), &Cancel::new()).unwrap();
    let cancel = Cancel::new();
    let stop: Arc<dyn crate::observe::Reporter> = Arc::new(StopAfter(cancel.clone(), 5 * 8));
    let (config, data) = (tiny_config("llama"), tiny_data());
    let stopped =
        train_decoder(&input(&config, &data), options, two.path(), &stop, &cancel).unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Cancelled);
    let resumed = train(options, two.path(), &Cancel::new()).unwrap();
    assert_eq!(losses(&whole), losses(&resumed));
    assert_eq!(whole.validation, resumed.validation);
    (one, two)
}

#[test]
fn resuming_gives_the_same_losses_bit_for_bit() {
    let options = tiny_options();
    let (one, two) = check_resuming(&options);
    assert_eq!(adapter_of(one.path()), adapter_of(two.path()));
    // Another run does not continue this one, and a damaged checkpoint is named.
    let mut other = options.clone();
    other.seed += 1;
    assert_eq!(train(&other, two.path(), &Cancel::new()).unwrap_err().kind(), ErrorKind::Conflict);
    std::fs::write(two.path().join("checkpoint.safetensors"), b"short").unwrap();
    assert_eq!(train(&options, two.path(), &Cancel::new()).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn training_learns_and_writes_what_peft_reads() {
    let mut options = tiny_options();
    options.steps = Some(60);
    options.optimizer.learning_rate = 1e-2;
    options.optimizer.warmup_steps = 5;
    options.hard_negatives = 1;
    let dir = tempfile::tempdir().unwrap();
    let report = train(&options, dir.path(), &Cancel::new()).unwrap();
    let (start, end) = (mean_loss(&report.steps[..6]), mean_loss(&report.steps[54..]));
    assert!(end < 0.6 * start, "{start} to {end}");
    let first = report.validation.first().unwrap().loss;
    let last = report.validation.last().unwrap().loss;
    assert!(last < first, "held out {first} to {last}");
    let config: serde_json::Value = serde_json::from_str(
        &std::fs::read_to_string(dir.path().join("adapter/adapter_config.json")).unwrap(),
    )
    .unwrap();
    assert_eq!((config["peft_type"].as_str(), config["r"].as_u64()), (Some("LORA"), Some(4)));
    let tensors = tensors(dir.path().join("adapter/adapter_model.safetensors"));
    assert_eq!(tensors.len(), 2 * 7 * 2);
    let name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight";
    assert_eq!(tensors[name].dims(), [4, 48]);
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("polyline") && page.contains("60 of 60 steps"));
}

/// A run whose texts are in files.
pub(super) async fn train_files(
    options: &TrainOptions,
    dir: &Path,
    output: &Path,
) -> Result<TrainReport> {
    let (reporter, cancel) = (silent(), Cancel::new());
    let data = TrainData::open(options, dir, &reporter, &cancel).await?;
    let teacher = options.teacher.as_ref().map(|teacher| teacher.read(dir)).transpose()?.flatten();
    let teacher = teacher.as_ref();
    super::train(options, dir, &data, teacher, output, vec![CPU], &reporter, &cancel).await
}

/// A folder with the tiny model of `model` as Hugging Face has it.
pub(super) fn folder(model: &Model, dir: &Path) {
    write_llm(&model.document.decoder.config, dir);
}

#[tokio::test]
async fn the_tower_with_the_exported_adapter_gives_the_trained_vectors() {
    let known =
        [("llama", Pooling::LastToken), ("qwen2", Pooling::Mean), ("qwen3", Pooling::LastToken)]
            .map(|(family, pooling)| (tiny_config(family), pooling));
    let others = other_windows().map(|config| (config, Pooling::Mean));
    for (config, pooling) in known.into_iter().chain(others) {
        let mut options = tiny_options();
        options.tower.pooling = Some(pooling);
        let (model, _) = model(&config, &options);
        let dir = tempfile::tempdir().unwrap();
        folder(&model, dir.path());
        let adapter = model.document.adapter.as_ref().unwrap();
        adapter.export(&dir.path().join("adapter"), "tiny", false, false, None).unwrap();
        options.tower.model = dir.path().to_str().unwrap().into();
        options.tower.adapter = Some("adapter".into());
        options.tower.max_tokens = Some(64);
        let tower = resolve(&options.tower, dir.path()).await;
        let Example { documents, .. } = example();
        let expected = model.encode(1, &documents, 4096).unwrap();
        check_cosines(&encode(&tower, &documents).await, &expected, 0.99999);
    }
}

#[tokio::test]
async fn training_runs_from_options_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = tiny_options();
    let (model, _) = model(&tiny_config("llama"), &options);
    folder(&model, dir.path());
    options.tower.model = ".".into();
    options.query.prompt_prefix = "q".into();
    options.pairs = vec![pairs_file(dir.path())];
    options.steps = Some(3);
    let reporter = silent();
    let out = dir.path().join("out");
    let report = train_files(&options, dir.path(), &out).await.unwrap();
    assert_eq!((report.steps.len(), &report.exported[..]), (3, &[3][..]));
    let again = dir.path().join("again");
    let data = TrainData::open(&options, dir.path(), &reporter, &Cancel::new()).await.unwrap();
    let exported =
        super::export(&options, dir.path(), &data, &out, &again, false, vec![CPU], &reporter);
    assert_eq!(exported.await.unwrap(), 3);
    assert_eq!(adapter_of(&out), adapter_of(&again));
}
