//! A query tower with parameters of its own, trained jointly with the document tower.

use std::path::Path;

use super::build::build;
use super::data::TrainData;
use super::options::{FullOptions, Method, TrainOptions};
use super::tests::{
    CPU, check_caching, check_cosines, check_gradients, check_resuming, encode, example, folder,
    input, mean_loss, model, resolve, train, train_files,
};
use crate::error::ErrorKind;
use crate::train::model::LoraOptions;
use crate::train::report::TrainReport;
use crate::train::tests_support::{
    RandomWeights, pairs_file, silent, tensors, tiny_config, tiny_data, tiny_options,
};
use crate::types::{Cancel, Pooling};

/// One layer on the query side; its weights are trained, the document side by LoRA.
fn cut_in_full() -> TrainOptions {
    let mut options = tiny_options();
    options.query.layers = Some(1);
    options.query.method = Some(Method::Full(FullOptions { embeddings: false }));
    options.query.learning_rate = Some(1e-3);
    options
}

/// The same, by LoRA on both sides.
fn cut_by_lora() -> TrainOptions {
    let mut options = tiny_options();
    options.query.layers = Some(1);
    options
}

#[test]
fn gradients_of_both_sides_are_right() {
    for (family, options) in [("llama", cut_by_lora()), ("qwen3", cut_in_full())] {
        check_gradients(&tiny_config(family), &options);
    }
    check_caching(&cut_by_lora());
    check_caching(&cut_in_full());
}

#[test]
fn the_query_side_has_the_first_layers_and_parameters_of_its_own() {
    let (config, data) = (tiny_config("llama"), tiny_data());
    let count = |options: &TrainOptions| {
        let (_, vars) = build(&input(&config, &data), options, &CPU).unwrap();
        let query = vars.iter().filter(|(name, _)| name.starts_with("query:")).count();
        (query, vars.len() - query)
    };
    // Seven projections a layer, A and B; nine tensors a layer and the last norm.
    assert_eq!(count(&tiny_options()), (0, 2 * 7 * 2));
    assert_eq!(count(&cut_by_lora()), (7 * 2, 2 * 7 * 2));
    assert_eq!(count(&cut_in_full()), (9 + 1, 2 * 7 * 2));
    let mut both = cut_in_full();
    both.method = both.query.method.clone().unwrap();
    assert_eq!(count(&both), (9 + 1, 2 * 9 + 1));
    let mut options = cut_by_lora();
    options.query.layers = Some(3);
    let error = build(&input(&config, &data), &options, &CPU).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error.to_string().contains("query.layers is 3, but the document tower has 2"),
        "{error}"
    );
    let mut options = tiny_options();
    options.query.learning_rate = Some(1e-3);
    assert!(options.validate().unwrap_err().to_string().contains("parameters of its own"));
    options.query.learning_rate = None;
    options.query.method = Some(Method::Lora(LoraOptions { rank: 0, ..LoraOptions::default() }));
    assert_eq!(options.validate().unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn both_sides_learn_and_a_run_resumes_bit_for_bit() {
    let (one, two) = check_resuming(&cut_in_full());
    let read =
        |folder: &tempfile::TempDir, name: &str| std::fs::read(folder.path().join(name)).unwrap();
    for name in ["adapter/adapter_model.safetensors", "query-model/model.safetensors"] {
        assert_eq!(read(&one, name), read(&two, name), "{name}");
    }
    for mut options in [cut_in_full(), cut_by_lora()] {
        options.steps = Some(60);
        options.optimizer.learning_rate = 1e-2;
        options.optimizer.warmup_steps = 5;
        let dir = tempfile::tempdir().unwrap();
        let report = train(&options, dir.path(), &Cancel::new()).unwrap();
        // Of the batches: a random model of a few thousand parameters, with nothing shared between the sides, learns the
        // 54 pairs by heart and says little of those held out.
        let (first, last) = (mean_loss(&report.steps[..6]), mean_loss(&report.steps[54..]));
        assert!(last < 0.8 * first, "{first} to {last}");
    }
}

#[test]
fn the_query_sides_learning_rate_is_its_own() {
    // One step: every parameter with a gradient moves by the learning rate (AdamW's first step).
    let (config, data) = (tiny_config("llama"), tiny_data());
    let mut options = cut_in_full();
    options.steps = Some(1);
    options.validation.pairs = 0;
    options.optimizer.warmup_steps = 0;
    options.optimizer.learning_rate = 1e-2;
    let dir = tempfile::tempdir().unwrap();
    train(&options, dir.path(), &Cancel::new()).unwrap();
    let saved = tensors(dir.path().join("query-model/model.safetensors"));
    let (_, vars) = build(&input(&config, &data), &options, &CPU).unwrap();
    let name = "model.layers.0.mlp.down_proj.weight";
    let (_, before) = vars.iter().find(|(own, _)| *own == format!("query:{name}")).unwrap();
    let moved = (&saved[name] - before.as_detached_tensor()).unwrap().abs().unwrap();
    let largest = moved.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    assert!((largest / 1e-3 - 1.0).abs() < 0.01, "{largest}");
}

/// What `train` leaves is loaded as two towers that give the trained vectors; the query tower carries the space of the
/// document tower, and another document tower does not admit it.
#[tokio::test]
async fn the_exported_pair_is_the_trained_pair() {
    for (case, mut options) in [("lora", cut_by_lora()), ("full", cut_in_full())] {
        let dir = tempfile::tempdir().unwrap();
        let (tiny, _) = model(&tiny_config("llama"), &tiny_options());
        folder(&tiny, dir.path());
        options.tower.model = ".".into();
        options.tower.pooling = Some(Pooling::Mean);
        options.tower.max_tokens = Some(64);
        options.pairs = vec![pairs_file(dir.path())];
        options.steps = Some(4);
        options.optimizer.learning_rate = 1e-2;
        let reporter = silent();
        let out = dir.path().join("out");
        let train = async |options: &TrainOptions, out: &Path| {
            train_files(options, dir.path(), out).await.unwrap()
        };
        train(&options, &out).await;

        let mut document = options.tower.clone();
        document.adapter = Some("out/adapter".into());
        let mut query = options.query_tower();
        assert_eq!(query.layers, Some(1));
        match case {
            "lora" => query.adapter = Some("out/query-adapter".into()),
            _ => {
                query.tokenizer = Some("tokenizer.json".into());
                query.model = "out/query-model".into();
                query.layers = None;
            }
        }
        query.max_tokens = Some(64);
        let (query, document) =
            (resolve(&query, dir.path()).await, resolve(&document, dir.path()).await);
        document.admits(&query).unwrap();
        document.admits(&document).unwrap();
        let base = resolve(&options.tower, dir.path()).await;
        let error = base.admits(&query).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("(other adapter)"), "{error}");

        // The state of the run, loaded into the model that was trained.
        let (config, weights) = (tiny_config("llama"), RandomWeights);
        let data = tiny_data();
        let mut trained = input(&config, &data);
        (trained.weights, trained.query_weights) = (&weights, &weights);
        let (model, vars) = build(&trained, &options, &CPU).unwrap();
        let saved = tensors(out.join("checkpoint.safetensors"));
        for (name, var) in &vars {
            var.set(&saved[&format!("value.{name}")]).unwrap();
        }
        let e = example();
        let (q, d) = (model.encode(0, &e.queries, 4096), model.encode(1, &e.documents, 4096));
        check_cosines(&encode(&query, &e.queries).await, &q.unwrap(), 0.9999);
        check_cosines(&encode(&document, &e.documents).await, &d.unwrap(), 0.9999);
        let shared = model.encode(1, &e.queries, 4096).unwrap();
        let apart = encode(&query, &e.queries).await;
        let first: f32 =
            apart.row(0).iter().zip(&shared.to_vec2::<f32>().unwrap()[0]).map(|(a, b)| a * b).sum();
        assert!(first < 0.999, "one layer and two give different vectors");

        // Another round goes on from both; at half precision the pair belongs together too.
        let small = dir.path().join("small");
        let cpu = vec![CPU];
        let data = TrainData::open(&options, dir.path(), &reporter, &Cancel::new()).await.unwrap();
        super::export(&options, dir.path(), &data, &out, &small, true, cpu, &reporter)
            .await
            .unwrap();
        if case == "lora" {
            let mut half = options.query_tower();
            (half.adapter, half.max_tokens) = (Some("small/query-adapter".into()), Some(64));
            let half = resolve(&half, dir.path()).await;
            assert!(document.admits(&half).is_err());
            let mut fitting = options.tower.clone();
            fitting.adapter = Some("small/adapter".into());
            resolve(&fitting, dir.path()).await.admits(&half).unwrap();

            let mut second = options.clone();
            second.tower.adapter = Some("out/adapter".into());
            second.query.adapter = Some("out/query-adapter".into());
            second.steps = Some(1);
            second.validation.every = 1;
            let report = train(&second, &dir.path().join("again")).await;
            let first = std::fs::read_to_string(out.join("report.json")).unwrap();
            let first: TrainReport = serde_json::from_str(&first).unwrap();
            let (end, start) = (first.validation.last().unwrap(), &report.validation[0]);
            assert!((end.loss - start.loss).abs() < 1e-5, "{} {}", end.loss, start.loss);
            // The whole adapter's first layer starts a cut query side.
            second.query.adapter = None;
            second.steps = Some(2);
            train(&second, &dir.path().join("third")).await;
        }
    }
}
