//! Runs of stage 1 as a whole: what is exported, when they stop, how they resume, a teacher, an encoder as query tower.

use std::path::Path;
use std::slice;
use std::sync::Arc;

use super::build::build;
use super::data::TrainData;
use super::input::TrainInput;
use super::objective::{LossOptions, Objective};
use super::options::TrainOptions;
use super::step::step;
use super::teacher::{TeacherVectors, TextVectors};
use super::tests::{
    CPU, adapter_of, check_slopes, encode, example, folder, input, losses, mean_loss, model,
    resolve, train, train_files,
};
use super::{export_checkpoint, train_decoder};
use crate::dataset::TextSource;
use crate::error::ErrorKind;
use crate::observe::Reporter;
use crate::tower::TowerOptions;
use crate::train::model::StudentOptions;
use crate::train::options::Schedule;
use crate::train::tests_support::{
    ReadBacks, pairs_file, silent, tensors, tiny_bert, tiny_config, tiny_data, tiny_options,
};
use crate::types::{Cancel, Embeddings, Pooling};

#[test]
fn a_run_with_a_constant_rate_goes_on_and_another_does_not() {
    let mut options = tiny_options();
    options.optimizer.warmup_steps = 2;
    options.optimizer.schedule = Schedule::Constant;
    options.validation.pairs = 0;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = train(&options, one.path(), &Cancel::new()).unwrap();
    options.steps = Some(5);
    train(&options, two.path(), &Cancel::new()).unwrap();
    options.steps = Some(12);
    let longer = train(&options, two.path(), &Cancel::new()).unwrap();
    assert_eq!(losses(&whole), losses(&longer));
    assert_eq!(adapter_of(one.path()), adapter_of(two.path()));
    // The last slice lets the rate fall.
    options.steps = Some(16);
    options.optimizer.decay_steps = 4;
    let last = train(&options, two.path(), &Cancel::new()).unwrap();
    assert_eq!(losses(&whole), losses(&last)[..12]);
    let rates: Vec<f64> = last.steps.iter().map(|step| step.learning_rate).collect();
    assert!(rates[11] > rates[12] && rates[14] > rates[15], "{rates:?}");
    let mut other = tiny_options();
    let dir = tempfile::tempdir().unwrap();
    train(&other, dir.path(), &Cancel::new()).unwrap();
    other.steps = Some(13);
    let error = train(&other, dir.path(), &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

/// So many steps that the tower gets worse again: what is exported is the best look, or the mean of the two best.
#[test]
fn the_best_look_is_exported_not_the_last_step() {
    let mut options = tiny_options();
    options.optimizer.learning_rate = 0.2;
    options.optimizer.warmup_steps = 0;
    options.validation.pairs = 12;
    options.validation.every = 2;
    options.validation.average = 2;
    let dir = tempfile::tempdir().unwrap();
    let report = train(&options, dir.path(), &Cancel::new()).unwrap();
    let looks = report.validation.iter().filter(|look| look.step > 0);
    let best = looks.clone().map(|look| look.score).fold(0.0, f64::max);
    assert!(report.exported.iter().all(|step| *step > 0) && !report.exported.is_empty());
    let first = looks.clone().find(|look| look.step == report.exported[0]).unwrap();
    assert_eq!(first.score, best);
    assert!(best > report.validation.last().unwrap().score, "{:?}", report.validation);
    let files: Vec<_> = report
        .exported
        .iter()
        .map(|step| tensors(dir.path().join(format!("best-{step:08}.safetensors"))))
        .collect();
    for (name, exported) in tensors(dir.path().join("adapter/adapter_model.safetensors")) {
        let sum = files
            .iter()
            .skip(1)
            .fold(files[0][&name].clone(), |sum, file| (sum + &file[&name]).unwrap());
        let mean = (sum / files.len() as f64).unwrap();
        let far = (mean - exported).unwrap().abs().unwrap().sum_all().unwrap();
        assert!(far.to_scalar::<f32>().unwrap() < 1e-4, "{name}");
    }
    // Exported again, it is the same.
    let (config, data, again) = (tiny_config("llama"), tiny_data(), tempfile::tempdir().unwrap());
    let run = input(&config, &data);
    let steps = export_checkpoint(&run, &options, dir.path(), again.path(), false).unwrap();
    assert_eq!((steps, adapter_of(again.path())), (12, adapter_of(dir.path())));
    // The run itself is at its last step.
    let last = tensors(dir.path().join("checkpoint.safetensors"));
    let name = files[0].keys().find(|name| name.contains("lora_B")).unwrap();
    let far = (&last[&format!("value.{name}")] - &files[0][name]).unwrap().abs().unwrap();
    assert!(far.sum_all().unwrap().to_scalar::<f32>().unwrap() > 1e-3);
}

#[test]
fn a_run_that_gets_no_better_stops() {
    let mut options = tiny_options();
    options.optimizer.learning_rate = 1e-12;
    options.steps = Some(40);
    options.validation.patience = Some(2);
    let dir = tempfile::tempdir().unwrap();
    let report = train(&options, dir.path(), &Cancel::new()).unwrap();
    // The looks before steps 0, 4 and 8 are alike.
    assert_eq!(report.steps.len(), 8, "{:?}", report.validation);
}

/// A teacher that counts letters.
fn letters(texts: &[&str]) -> Arc<TextVectors> {
    let mut vectors = Embeddings::with_capacity(26, texts.len());
    for text in texts {
        let mut row = [0f32; 26];
        text.bytes().for_each(|b| row[usize::from(b.saturating_sub(b'a').min(25))] += 1.0);
        vectors.push(&row);
    }
    Arc::new(TextVectors::of(texts, vectors))
}

fn teacher_of(data: &TrainData, options: &TrainOptions) -> TeacherVectors {
    let [queries, documents] = data.taught(options).unwrap();
    TeacherVectors { queries: letters(&queries), documents: letters(&documents) }
}

/// Pairs, plain texts, and every term of the loss.
fn all_terms() -> (TrainData, TrainOptions) {
    let mut data = tiny_data();
    let texts = data.pairs.documents.iter().map(|text| text.chars().rev().collect());
    data.texts.sources = vec![texts.collect()];
    let mut options = tiny_options();
    options.texts = vec![TextSource { share: Some(0.5), ..TextSource::new("t") }];
    options.teacher = Some(serde_json::from_str("{\"vectors\": \"v.parquet\"}").unwrap());
    options.loss = LossOptions {
        contrast_weight: 0.5,
        both_directions: true,
        guide_margin: Some(0.3),
        score_weight: 1.0,
        score_temperature: 0.1,
        gram_weight: 1.0,
        gram_temperature: 0.1,
        matryoshka: vec![16],
    };
    (data, options)
}

/// A GPU is waited for once a step. The house tests keep every other read out of training.
#[test]
fn a_step_reads_back_once_whatever_its_loss_is_made_of() {
    let config = tiny_config("llama");
    let (data, mut options) = all_terms();
    options.validation.pairs = 0;
    let teacher = teacher_of(&data, &options);
    // With room for the graphs, and for less than two texts at once.
    for activation_tokens in [4096, 20] {
        options.activation_tokens = activation_tokens;
        let dir = tempfile::tempdir().unwrap();
        let counts = Arc::new(ReadBacks::default());
        let reporter: Arc<dyn Reporter> = counts.clone();
        let run = TrainInput { teacher: Some(&teacher), ..input(&config, &data) };
        train_decoder(&run, &options, dir.path(), &reporter, &Cancel::new()).unwrap();
        assert_eq!(counts.of_steps(), [1; 11]);
    }
}

#[test]
fn a_teachers_scores_are_learnt_from_pairs_and_from_plain_texts() {
    let config = tiny_config("llama");
    let (data, mut options) = all_terms();
    options.steps = Some(80);
    options.optimizer.learning_rate = 1e-2;
    let teacher = teacher_of(&data, &options);
    let dir = tempfile::tempdir().unwrap();
    let run = TrainInput { teacher: Some(&teacher), ..input(&config, &data) };
    let report = train_decoder(&run, &options, dir.path(), &silent(), &Cancel::new()).unwrap();
    let of_texts = |text: bool, range: std::ops::Range<usize>| {
        let steps = report.steps[range].iter().filter(|step| (step.pairs == 0) == text);
        mean_loss(&steps.cloned().collect::<Vec<_>>())
    };
    for text in [false, true] {
        let (start, end) = (of_texts(text, 0..12), of_texts(text, 68..80));
        assert!(end < 0.85 * start, "texts {text}: {start} to {end}");
    }
    // More steps show the teacher what fewer did, and more.
    let few = TrainOptions { steps: Some(3), ..options.clone() };
    let [_, all] = data.taught(&options).unwrap();
    let [_, some] = data.taught(&few).unwrap();
    assert!(some.len() < all.len() && all.starts_with(&some));
    // A text that the teacher does not know is named by its hash alone.
    let other = teacher_of(&data, &few);
    let run = TrainInput { teacher: Some(&other), ..input(&config, &data) };
    let dir = tempfile::tempdir().unwrap();
    let error = train_decoder(&run, &options, dir.path(), &silent(), &Cancel::new()).unwrap_err();
    assert!(error.to_string().contains("has no vector of the text with the hash"), "{error}");
}

#[test]
fn a_cut_above_the_dimensions_is_refused() {
    let mut options = tiny_options();
    options.loss.matryoshka = vec![32];
    let dir = tempfile::tempdir().unwrap();
    let error = train(&options, dir.path(), &Cancel::new()).unwrap_err();
    assert!(error.to_string().contains("the vectors have 32 dimensions"), "{error}");
}

fn encoder(path: &Path) -> StudentOptions {
    let encoder = serde_json::json!({
        "kind": "bert", "path": path, "layers": 2, "max_tokens": 20, "train_embeddings": true,
        "fit_queries": 40,
    });
    serde_json::from_value(encoder).unwrap()
}

#[test]
fn gradients_reach_an_encoder_on_the_query_side() {
    let dir = tempfile::tempdir().unwrap();
    tiny_bert(dir.path());
    let (config, data) = (tiny_config("llama"), tiny_data());
    let mut options = tiny_options();
    options.query.student = Some(encoder(dir.path()));
    let (model, vars) = build(&input(&config, &data), &options, &CPU).unwrap();
    assert!(vars.iter().any(|(name, _)| name == "query:projection.weight"));
    let mut e = example();
    e.queries.iter_mut().flatten().for_each(|id| *id %= 40);
    e.contrast.temperatures = vec![0.5; 4];
    let loss = LossOptions::default();
    let objective = Objective { options: &loss, contrast: &e.contrast, teacher: None };
    // The adapter's B is zero, so A learns nothing yet.
    let learning = |name: &str| !name.ends_with("lora_A.weight");
    let chosen: Vec<_> = vars.iter().filter(|(name, _)| learning(name)).cloned().collect();
    let keep: Vec<bool> = vars.iter().map(|(name, _)| learning(name)).collect();
    check_slopes(&chosen, "bert", || {
        let mut result =
            step(slice::from_ref(&model), &e.queries, &e.documents, &objective, 4096).unwrap();
        let mut at = keep.iter();
        result.gradients.retain(|_| *at.next().unwrap());
        result
    });
}

/// The paper's rival: a small encoder for queries and the LLM for documents, trained end to end.
#[tokio::test]
async fn an_encoder_is_trained_jointly_as_query_tower() {
    let dir = tempfile::tempdir().unwrap();
    let (llm, bert) = (dir.path().join("llm"), dir.path().join("bert"));
    let mut options = tiny_options();
    folder(&model(&tiny_config("llama"), &options).0, &llm);
    tiny_bert(&bert);
    options.tower.model = "llm".into();
    options.query.student = Some(encoder(Path::new("bert")));
    options.query.learning_rate = Some(3e-3);
    options.pairs = vec![pairs_file(dir.path())];
    options.steps = Some(60);
    options.optimizer.learning_rate = 1e-2;
    let (out, again) = (dir.path().join("out"), dir.path().join("again"));
    let report = train_files(&options, dir.path(), &out).await.unwrap();
    let (start, end) = (mean_loss(&report.steps[..6]), mean_loss(&report.steps[54..]));
    assert!(end < 0.8 * start, "{start} to {end}");
    let repeated = train_files(&options, dir.path(), &again).await.unwrap();
    assert_eq!(losses(&report), losses(&repeated));

    let document = TowerOptions { adapter: Some("out/adapter".into()), ..options.tower.clone() };
    let document = resolve(&document, dir.path()).await;
    let query = TowerOptions {
        max_tokens: Some(20),
        ..TowerOptions::new("out/query-model", Pooling::Mean)
    };
    let query = resolve(&query, dir.path()).await;
    document.admits(&query).unwrap();
    let ids = query.tokenizer().tokenize("abcd").unwrap().ids;
    assert_eq!(encode(&query, &[ids]).await.dimensions(), 32);

    options.query.prompt_prefix = "q".into();
    assert!(
        options.validate().unwrap_err().to_string().contains("query.prompt_prefix does not go")
    );
}
