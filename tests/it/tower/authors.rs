//! Towers of which the model's own files say everything.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use scalingnote::error::ErrorKind;
use scalingnote::observe::{Reporter, Silent};
use scalingnote::tower::{Defaults, DeviceSpec, Tower, TowerOptions};
use scalingnote::types::{Digest256, Pooling};

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;
use crate::fixture::training::write_encoder;
use crate::house::hostile::targets::llama;

fn silent() -> Arc<dyn Reporter> {
    Arc::new(Silent)
}

async fn resolve(options: TowerOptions, base: &Path) -> Tower {
    Tower::resolve(&options, base, &silent()).await.unwrap()
}

fn encode(tower: &Tower, text: &str) -> Vec<f32> {
    let tokens = tower.tokenizer().tokenize(text).unwrap();
    let mut encoder = tower.load(&DeviceSpec::Cpu { threads: 1 }).unwrap();
    encoder.encode(&[&tokens.ids]).unwrap().row(0).to_vec()
}

/// `weight[row][column]` and `bias[row]` of the module that the fixture adds.
fn weight(row: usize, column: usize) -> f32 {
    ((row * 31 + column * 17) % 13) as f32 / 13. - 0.4
}

fn bias(row: usize) -> f32 {
    row as f32 / 50.
}

/// An encoder as sentence-transformers stores one: first token, a dense layer to 8 elements, unit length.
fn write_model(folder: &Path) {
    write_encoder(folder);
    let write = |name: &str, value: Value| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    };
    let module = |path: &str, class: &str| json!({"path": path, "type": format!("sentence_transformers.models.{class}")});
    write(
        "modules.json",
        json!([
            module("", "Transformer"),
            module("1_Pooling", "Pooling"),
            module("2_Dense", "Dense"),
            module("3_Normalize", "Normalize"),
        ]),
    );
    write("1_Pooling/config.json", json!({"pooling_mode_cls_token": true}));
    write(
        "2_Dense/config.json",
        json!({
            "in_features": 16, "out_features": 8, "bias": true,
            "activation_function": "torch.nn.modules.activation.Tanh",
        }),
    );
    write("sentence_bert_config.json", json!({"max_seq_length": 40, "do_lower_case": true}));
    write(
        "config_sentence_transformers.json",
        json!({"prompts": {"query": "ask ", "document": "tell "}, "similarity_fn_name": "cosine"}),
    );
    let weights: Vec<f32> = (0..8 * 16).map(|at| weight(at / 16, at % 16)).collect();
    let biases: Vec<f32> = (0..8).map(bias).collect();
    let tensors = [
        ("linear.weight".to_owned(), vec![8, 16], weights),
        ("linear.bias".to_owned(), vec![8], biases),
    ];
    let path = folder.join("2_Dense/model.safetensors");
    std::fs::write(path, llama::safetensors(&tensors, None)).unwrap();
}

/// What the module makes of a state.
fn dense(state: &[f32]) -> Vec<f64> {
    let row = |row: usize| {
        let sum: f64 = (0..16).map(|at| f64::from(weight(row, at)) * f64::from(state[at])).sum();
        (sum + f64::from(bias(row))).tanh()
    };
    let outputs: Vec<f64> = (0..8).map(row).collect();
    let norm = outputs.iter().map(|x| x * x).sum::<f64>().sqrt();
    outputs.iter().map(|output| output / norm).collect()
}

#[tokio::test]
async fn every_module_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let tower = resolve(TowerOptions::as_the_model_says("."), folder.path()).await;
    let options = tower.options();
    assert_eq!(
        (options.pooling(), options.max_tokens(), tower.dimensions()),
        (Pooling::Cls, 40, 8)
    );
    assert_eq!(options.prompt_prefix(), "tell ");
    let space = tower.space(Digest256::of(b""));
    assert!(space.prompt_joined && space.modules.len() == 1, "{space:?}");
    let by: Vec<&str> = tower.understood().iter().map(|one| one.by.as_str()).collect();
    assert_eq!(by[0], "1_Pooling/config.json");
    assert!(by.contains(&"sentence_bert_config.json"), "{by:?}");

    // The same by hand: the first token's state of the text with its prompt, in lower case.
    let bare = TowerOptions { normalize: Some(false), ..TowerOptions::new(".", Pooling::Cls) };
    let state = encode(&resolve(bare, folder.path()).await, "tell a bee and a cow");
    assert_eq!(state.len(), 16);
    let vector = encode(&tower, "A Bee and a COW");
    for (found, expected) in vector.iter().zip(dense(&state)) {
        assert!((f64::from(*found) - expected).abs() < 1e-5, "{vector:?}");
    }

    // Queries have their own prompt, in the same space otherwise.
    let query = TowerOptions::as_the_model_says(".").for_queries();
    let query = resolve(query, folder.path()).await;
    assert_eq!(query.options().prompt_prefix(), "ask ");
    let (own, other) = (query.space(Digest256::of(b"")), tower.space(Digest256::of(b"")));
    assert_eq!(own.differing(&other), ["prompt_prefix"]);

    // The module's weights are part of what a vector is.
    let path = folder.path().join("2_Dense/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let altered = resolve(TowerOptions::as_the_model_says("."), folder.path()).await;
    assert_ne!(altered.weights_digest(), tower.weights_digest());
}

#[tokio::test]
async fn a_head_of_its_own_stands_behind_any_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_model(&path.join("whole"));
    std::fs::create_dir(path.join("head")).unwrap();
    write_encoder(&path.join("bare"));
    std::fs::rename(path.join("whole/2_Dense"), path.join("head/2_Dense")).unwrap();
    let kinds = |kinds: &[&str]| {
        let module = |kind: &&str| json!({"path": format!("2_{kind}"), "type": format!("sentence_transformers.models.{kind}")});
        Value::from(kinds.iter().map(module).collect::<Vec<_>>()).to_string()
    };
    std::fs::write(path.join("head/modules.json"), kinds(&["Dense", "Normalize"])).unwrap();
    let plain = TowerOptions { normalize: Some(false), ..TowerOptions::new("bare", Pooling::Cls) };
    let options =
        TowerOptions { head: Some("head".into()), ..TowerOptions::new("bare", Pooling::Cls) };
    let tower = resolve(options.clone(), path).await;
    let state = encode(&resolve(plain.clone(), path).await, "a bee");
    for (found, expected) in encode(&tower, "a bee").iter().zip(dense(&state)) {
        assert!((f64::from(*found) - expected).abs() < 1e-5);
    }
    // The head is part of what a vector is, and nothing else is.
    let space = |tower: &Tower| tower.space(Digest256::of(b""));
    let without = TowerOptions { head: None, ..options.clone() };
    let without = resolve(without, path).await;
    assert_eq!(space(&tower).differing(&space(&without)), ["dimensions", "modules", "head"]);
    assert!(serde_json::to_value(space(&without)).unwrap().get("head").is_none());
    let weights = path.join("head/2_Dense/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let altered = resolve(options.clone(), path).await;
    assert_eq!(space(&altered).differing(&space(&tower)), ["head"]);

    // With the whole list its pooling has to be the tower's; without a list it is no head.
    let all = json!([
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]);
    std::fs::write(path.join("head/modules.json"), all.to_string()).unwrap();
    std::fs::rename(path.join("whole/1_Pooling"), path.join("head/1_Pooling")).unwrap();
    assert_eq!(resolve(options.clone(), path).await.dimensions(), 8);
    let wrong = TowerOptions { pooling: Some(Pooling::Mean), ..options.clone() };
    let error = Tower::resolve(&wrong, path, &silent()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("1_Pooling/config.json"), "{error}");
    std::fs::remove_file(path.join("head/modules.json")).unwrap();
    let error = Tower::resolve(&options, path, &silent()).await.err().unwrap();
    assert!(error.to_string().contains("modules.json"), "{error}");
}

#[tokio::test]
async fn a_pipeline_of_version_1_means_what_it_meant() {
    let folder = tempfile::tempdir().unwrap();
    write_encoder(folder.path());
    let set = TowerOptions::new(".", Pooling::Mean);
    let before = resolve(set.clone(), folder.path()).await.space(Digest256::of(b""));
    write_model(folder.path());
    let after = resolve(set.clone(), folder.path()).await.space(Digest256::of(b""));
    assert_eq!(after, before, "files that 0.1.0 did not read change nothing");
    assert_eq!((after.max_tokens, after.dimensions, after.prompt_joined), (512, 16, false));
    // What the pipeline says wins over the model, one by one.
    let said = TowerOptions {
        defaults: Defaults::Model,
        prompt_prefix: Some(String::new()),
        max_tokens: Some(30),
        ..set
    };
    let tower = resolve(said, folder.path()).await;
    assert_eq!((tower.options().pooling(), tower.options().max_tokens()), (Pooling::Mean, 30));
    assert!(!tower.space(Digest256::of(b"")).prompt_joined);
}

#[tokio::test]
async fn a_model_that_says_nothing_must_be_told_how_to_pool() {
    let folder = tempfile::tempdir().unwrap();
    write_encoder(folder.path());
    let options = TowerOptions::as_the_model_says(".");
    let error = Tower::resolve(&options, folder.path(), &silent()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("`pooling` is not set"), "{error}");
}

#[test]
fn a_pipeline_needs_to_name_the_model_and_nothing_else() {
    let place = Place::new();
    write_model(&place.path("model"));
    let notes = |count| place.write_notes(0..count, |at| format!("word number {at}"));
    notes(30);
    let file = PipelineFile { model: "model", root: "root", ..PipelineFile::default() };
    let text =
        file.text().replace("version = 1", "version = 2").replace("pooling = \"mean\"\n", "");
    place.write("p.toml", &text);
    place.expect(0, "config check p.toml");
    place.expect(0, "run p.toml");
    let manifest = place.json(0, "snapshot show p.toml --json");
    let content = &manifest["content"];
    assert_eq!(content["space"]["pooling"], "cls");
    assert_eq!(content["space"]["prompt_prefix"], "tell ");
    assert_eq!(content["space"]["modules"][0]["kind"], "dense");
    let query = &content["query_towers"][0]["options"];
    assert_eq!((&query["prompt_prefix"], &query["pooling"]), (&json!("ask "), &json!("cls")));
    place.says(0, "search root word", &["note_id"]);
    place.expect(0, "snapshot verify root");
    assert_eq!(place.json(0, "run p.toml --json")["outcome"]["result"], "nothing-to-do");

    // In version 1 the prompts stay empty.
    place.write(
        "p1.toml",
        text.replace("version = 2", "version = 1").replace("\"root\"", "\"old\""),
    );
    place.says(0, "config check p1.toml", &["tower.defaults", "version 2"]);
    place.expect(0, "run p1.toml");
    let old = place.json(0, "snapshot show old --json");
    assert_eq!(old["content"]["space"]["prompt_prefix"], "");
    assert_eq!(old["content"]["space"].get("modules"), None);

    let told = place.json(0, "tower model --query --json");
    assert_eq!(told["prompt_prefix"]["value"], "ask ");
    assert_eq!(told["pooling"], json!({"value": "cls", "by": "1_Pooling/config.json"}));
    assert!(told["trial"]["tokens_per_second"].as_f64() > Some(0.0), "{told}");
    place.says(
        0,
        "tower p.toml --no-trial",
        &["cls", "1_Pooling/config.json", "\"tell \"", "dense", "none stated"],
    );

    // A stated licence and the rest of the card go into the next manifest.
    place.write("model/README.md", "---\nlicense: apache-2.0\n---\n");
    notes(31);
    // Vectors of random weights are so near to each other that rounding changes their order.
    place.expect(0, "run p.toml --override recall --reason near");
    let card =
        &place.json(0, "snapshot show p.toml --json")["provenance"]["measured"]["model-card"];
    assert_eq!(card["licence"], json!({"value": "apache-2.0", "by": "README.md"}));
    assert_eq!((&card["family"], &card["family_by"]), (&json!("bert"), &json!("config.json")));
    assert_eq!(card["prompt_prefix"]["value"], "tell ");
    assert_eq!(card["modules"][0]["outputs"], 8);
    place.says(
        0,
        "snapshot show root",
        &["licence      apache-2.0 (README.md)", "dense, 16 to 8, tanh (modules.json)", "bert, "],
    );
}

#[test]
fn config_show_says_which_file_of_the_model_a_value_is_from() {
    let place = Place::new();
    write_model(&place.path("model"));
    place.write("model/README.md", "---\nlicense: mit\n---\n");
    let file = PipelineFile { model: "model", root: "root", ..PipelineFile::default() };
    let text = file.text().replace("pooling = \"mean\"\n", "max_tokens = 30\n");
    place.write("p.toml", text.replace("version = 1", "version = 2"));
    let shown = place.expect(0, "config show p.toml");
    for piece in [
        "defaults = \"model\"  # default of version 2",
        "pooling = \"cls\"  # the model's 1_Pooling/config.json",
        "prompt_prefix = \"tell \"  # the model's config_sentence_transformers.json, prompt \"document\"",
        "prompt_prefix = \"ask \"  # the model's config_sentence_transformers.json, prompt \"query\"",
        "max_tokens = 30\n",
        "# [tower] model: bert, ",
        "behind the pooling dense (modules.json); licence mit (README.md)",
    ] {
        assert!(shown.contains(piece), "no {piece:?} in\n{shown}");
    }
    let json = place.json(0, "config show p.toml --json");
    assert_eq!(json["origins"]["tower.pooling"], "the model's 1_Pooling/config.json");
    assert_eq!(json["pipeline"]["query"]["prompt_prefix"], "ask ");
    assert_eq!(json["models"]["tower"]["modules"][0]["kind"], "dense");
    // What is shown means the same: the space of a run stays.
    place.write("notes.jsonl", "{\"id\": 1, \"body\": \"a bee\"}\n");
    place.write("shown.toml", &shown);
    let space = |file: &str| {
        place.expect(0, &format!("run {file} --set publish.root={file}.root"));
        place.json(0, &format!("snapshot show {file}.root --json"))["content"]["space_id"].take()
    };
    assert_eq!(space("shown.toml"), space("p.toml"));

    // In version 1 the model's files say nothing but the pooling.
    place.write("p1.toml", &text);
    let shown = place.expect(0, "config show p1.toml");
    for piece in ["pooling = \"cls\"  # the model's", "prompt_prefix = \"\"  # default\n"] {
        assert!(shown.contains(piece), "no {piece:?} in\n{shown}");
    }
    // Nothing is fetched for it, and what is broken stops nothing.
    let hub = format!("config show p.toml --set tower.model=org/name --set publish.root={}", "r");
    place.says(0, &hub, &["# [tower] org/name: it is not on this machine", "--fetch"]);
    let none = place.json(0, &format!("{hub} --json"));
    assert_eq!(none["models"], json!({"tower": null}));
    std::fs::remove_file(place.path("model/tokenizer.json")).unwrap();
    place.says(
        0,
        "config show p.toml",
        &["# [tower] model: it cannot be read: ", "tokenizer.json"],
    );
}
