//! `train` and `evaluate` through the program: a tiny random LLM learns, stops, resumes, is exported and judged.

use std::path::Path;
use std::process::Output;

use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::fixture::program::program;

pub const RECIPE: &str = r#"batch_pairs = 6
temperature = 0.1
steps = 6
seed = 3
[tower]
model = "model"
pooling = "mean"
max_tokens = 32
[query]
prompt_prefix = "? "
max_tokens = 32
[validation]
pairs = 6
every = 3
[method]
kind = "lora"
rank = 4
alpha = 8.0
[optimizer]
learning_rate = 5e-3
warmup_steps = 1
[[pairs]]
path = "pairs.jsonl"
"#;

pub fn run(folder: &Path, line: &str) -> Output {
    program(folder).args(line.split_whitespace()).output().expect("the program starts")
}

/// Runs a command that must end with `code`; gives stdout and stderr.
#[track_caller]
pub fn expect(folder: &Path, code: i32, line: &str) -> (String, String) {
    let output = run(folder, line);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{line}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

#[track_caller]
pub fn json_of(folder: &Path, line: &str) -> Value {
    serde_json::from_str(&expect(folder, 0, line).0).expect("stdout is JSON")
}

/// A llama of two layers with seeded weights and a tokenizer that knows bytes.
fn write_model(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let write = |name: &str, value: Value| {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    };
    write(
        "config.json",
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 257, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "max_position_embeddings": 512, "hidden_act": "silu",
            "eos_token_id": 0,
        }),
    );
    let mut vocab = serde_json::Map::new();
    vocab.insert("<eos>".into(), 0.into());
    let mut next = 0x100;
    for byte in 0..=255u8 {
        // GPT-2's printable stand-ins for bytes.
        let shown = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        };
        vocab.insert(shown.to_string(), (u32::from(byte) + 1).into());
    }
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    write(
        "tokenizer.json",
        json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [{"id": 0, "content": "<eos>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []},
        }),
    );
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![257, 32]),
        ("model.norm.weight".to_owned(), vec![32]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", vec![32]),
            ("post_attention_layernorm", vec![32]),
            ("self_attn.q_proj", vec![32, 32]),
            ("self_attn.k_proj", vec![16, 32]),
            ("self_attn.v_proj", vec![16, 32]),
            ("self_attn.o_proj", vec![32, 32]),
            ("mlp.gate_proj", vec![48, 32]),
            ("mlp.up_proj", vec![48, 32]),
            ("mlp.down_proj", vec![32, 48]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let norm = if shape.len() == 1 { 1.0 } else { 0.0 };
            let count: usize = shape.iter().product();
            let values = (0..count).map(|_| norm + random.random_range(-0.2f32..0.2));
            (name, shape, values.flat_map(f32::to_le_bytes).collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        (name, safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// A folder with the recipe, the model, 30 pairs, and a set of 12 queries and 20 documents.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_model(&path.join("model"));
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let mut word = |n: usize| -> String {
        (0..n).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
    };
    let mut pairs = String::new();
    for _ in 0..30 {
        let query = word(5);
        pairs += &format!("{}\n", json!({"query": query, "text": format!("{query} {}", word(4))}));
    }
    let (mut corpus, mut queries) = (String::new(), String::new());
    let mut qrels = "query-id\tcorpus-id\tscore\n".to_owned();
    for at in 0..20 {
        let text = format!("{} {}", word(6), word(5));
        corpus += &format!("{}\n", json!({"_id": format!("d{at}"), "text": text}));
        if at < 12 {
            let query = text.split(' ').next().unwrap();
            queries += &format!("{}\n", json!({"_id": format!("q{at}"), "text": query}));
            qrels += &format!("q{at}\td{at}\t1\n");
        }
    }
    std::fs::create_dir(path.join("set")).unwrap();
    for (name, text) in [
        ("recipe.toml", RECIPE),
        ("fake.toml", "[tower]\nmodel = \"fake:256\"\npooling = \"mean\"\n"),
        ("pairs.jsonl", &pairs),
        ("set/corpus.jsonl", &corpus),
        ("set/queries.jsonl", &queries),
        ("set/qrels.tsv", &qrels),
    ] {
        std::fs::write(path.join(name), text).unwrap();
    }
    folder
}

fn losses(report: &Value) -> Vec<f64> {
    report["steps"].as_array().unwrap().iter().map(|s| s["loss"].as_f64().unwrap()).collect()
}

#[test]
fn a_tower_is_trained_exported_and_judged() {
    let folder = folder();
    let path = folder.path();
    let report = json_of(path, "train recipe.toml --out whole --json");
    let whole = losses(&report);
    assert_eq!(whole.len(), 6);
    assert_eq!(report["validation"].as_array().unwrap().len(), 3, "before steps 0 and 3, and last");

    // Stopped before the first step, then resumed to the same losses.
    let (_, stderr) = expect(path, 75, "train recipe.toml --out halves --deadline 0s");
    assert!(stderr.contains("run again to resume"), "{stderr}");
    assert!(path.join("halves/report.html").is_file());
    let (stdout, _) = expect(path, 0, "train recipe.toml --out halves");
    assert!(
        stdout.contains("trained 6 of 6 steps") && stdout.contains("halves/adapter"),
        "{stdout}"
    );
    let halves = std::fs::read(path.join("halves/report.json")).unwrap();
    assert_eq!(losses(&serde_json::from_slice(&halves).unwrap()), whole);

    // Devices that share every batch learn what one learns.
    let shared =
        losses(&json_of(path, "train recipe.toml --out two --device cpu:1 --device cpu:1 --json"));
    assert_eq!(shared.len(), whole.len());
    assert!(shared.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-3), "{shared:?} {whole:?}");

    // Other options are another run.
    let (_, stderr) = expect(path, 2, "train recipe.toml --out whole --steps 7");
    assert!(stderr.contains("a run with another recipe"), "{stderr}");

    // The checkpoint as f16 is half as large and makes almost the same tower.
    let (stdout, _) = expect(path, 0, "train recipe.toml --out whole --export small --f16");
    assert!(stdout.starts_with("exported after 6 steps\n"), "{stdout}");
    let data =
        |name: &str| std::fs::read(path.join(name).join("adapter_model.safetensors")).unwrap();
    let (full, half) = (data("whole/adapter"), data("small/adapter"));
    let (full, half) = (
        safetensors::SafeTensors::deserialize(&full).unwrap(),
        safetensors::SafeTensors::deserialize(&half).unwrap(),
    );
    for (name, tensor) in full.tensors() {
        let small = half.tensor(&name).unwrap();
        assert_eq!(small.dtype(), safetensors::Dtype::F16, "{name}");
        assert_eq!(small.data().len() * 2, tensor.data().len(), "{name}");
    }
    let raw = json_of(path, "evaluate recipe.toml set --json");
    let trained = json_of(path, "evaluate recipe.toml set --adapter whole --json");
    let small = json_of(path, "evaluate recipe.toml set --adapter small/adapter --json");
    let entropy = |answer: &Value| answer["rows"][0]["contrastive_entropy"].as_f64().unwrap();
    assert!((entropy(&raw) - entropy(&trained)).abs() > 0.1, "the adapter is merged");
    assert!((entropy(&small) - entropy(&trained)).abs() < 0.05, "f16 rounds, nothing more");
}

#[test]
fn a_tower_is_compared() {
    let folder = folder();
    let path = folder.path();
    let answer = json_of(path, "evaluate fake.toml set --json --per-query queries.tsv");
    assert_eq!(answer["rows"][0]["system"], "fake");
    assert_eq!(answer["rows"][1]["system"], "BM25");
    for row in answer["rows"].as_array().unwrap() {
        // Every query is a word of its own document alone, whichever way it is looked for.
        assert_eq!((&row["mean"]["ndcg_10"], &row["queries"]), (&json!(1.0), &json!(12)), "{row}");
    }
    let table = std::fs::read_to_string(path.join("queries.tsv")).unwrap();
    assert!(table.starts_with("query\tsystem\tndcg_10\tmrr_10\trecall_10\trecall_100"), "{table}");
    assert_eq!(table.lines().count(), 1 + 2 * 12);

    // A tower of 2 dimensions finds less: the earlier one is better by more than chance.
    std::fs::write(path.join("answer.json"), answer.to_string()).unwrap();
    let two = std::fs::read_to_string(path.join("fake.toml")).unwrap().replace("256", "2");
    std::fs::write(path.join("two.toml"), two).unwrap();
    let worse = json_of(path, "evaluate two.toml set --json --compare answer.json");
    let versus = &worse["comparisons"][1];
    assert_eq!(versus["first"], "fake (answer.json)");
    let ndcg = &versus["measures"][0];
    assert_eq!((&ndcg["measure"], &ndcg["significant"]), (&json!("ndcg_10"), &json!(true)));
    assert!(ndcg["high"].as_f64().unwrap() < 0.0, "{ndcg}");
    let (stdout, _) = expect(path, 0, "evaluate two.toml set --compare answer.json");
    assert!(stdout.contains("two against fake (answer.json) (95% interval):"), "{stdout}");

    // A pipeline and a training recipe name towers too.
    let pipeline = "version = 1\n[corpus]\nsql = \"select id as note_id, t from n\"\n\
        template = \"{{ t }}\"\n[[corpus.tables]]\nname = \"n\"\nuri = \"n.csv\"\n\
        [tower]\nmodel = \"fake:256\"\npooling = \"mean\"\n[publish]\nroot = \"out\"\n";
    std::fs::write(path.join("p.toml"), pipeline).unwrap();
    let same = json_of(path, "evaluate p.toml set --json");
    assert_eq!(same["rows"][0]["mean"], answer["rows"][0]["mean"]);
}

#[test]
fn wrong_files_and_flags_are_told() {
    let folder = folder();
    let path = folder.path();
    for (name, old, new) in [
        ("key.toml", "temperature", "temprature"),
        ("nested.toml", "rank = 4", "rang = 4"),
        ("full.toml", "kind = \"lora\"", "kind = \"full\""),
        ("value.toml", "batch_pairs = 6", "batch_pairs = 1"),
        ("syntax.toml", "seed = 3", "seed = "),
        ("pairs.toml", "pairs.jsonl", "none.jsonl"),
        ("model.toml", "\"model\"", "\"fake:8\""),
    ] {
        std::fs::write(path.join(name), RECIPE.replace(old, new)).unwrap();
    }
    std::fs::write(path.join("tower.toml"), "[tower]\nmodle = \"fake:8\"\n").unwrap();
    std::fs::write(path.join("other.json"), "{}").unwrap();
    // (arguments, exit code, a piece of stderr)
    for (line, code, message) in [
        ("train key.toml", 2, "key.toml:2:1: unknown field `temprature`"),
        ("train nested.toml", 2, "unknown field `rang`"),
        ("train full.toml", 2, "unknown field `alpha`"),
        ("train value.toml", 2, "value.toml: batch_pairs must be at least 2"),
        ("train syntax.toml", 2, "syntax.toml:4:"),
        ("train none.toml", 2, "none.toml cannot be read"),
        ("train set", 2, "it is a directory"),
        ("train pairs.toml", 1, "none.jsonl"),
        ("train model.toml", 2, "model.toml: tower.model must be a decoder LLM"),
        ("train recipe.toml --steps 0", 2, "0 is not in 1.."),
        ("train recipe.toml --f16", 2, "--export"),
        ("train recipe.toml --device gpu", 2, "`cpu:<threads>` nor `cuda:<number>`"),
        ("train recipe.toml --device cpu --device cuda:0", 2, "not on both"),
        ("distill recipe.toml --device gpu", 2, "`cpu:<threads>` nor `cuda:<number>`"),
        ("mine recipe.toml --out m --device gpu", 2, "`cpu:<threads>` nor `cuda:<number>`"),
        (
            "distill recipe.toml",
            2,
            "recipe.toml has [tower]: it is a recipe for `scalingnote train`",
        ),
        ("train recipe.toml --out none --export x", 1, "no checkpoint in none"),
        ("evaluate tower.toml set", 2, "tower.toml:2:1: unknown field `modle`"),
        ("evaluate key.toml set", 2, "unknown field `temprature`"),
        ("evaluate fake.toml nowhere", 1, "there is no folder nowhere"),
        ("evaluate fake.toml model", 1, "corpus.jsonl"),
        ("evaluate fake.toml set --compare none.json", 2, "none.json cannot be read"),
        ("evaluate fake.toml set --compare other.json", 1, "is not what `scalingnote evaluate"),
        ("evaluate fake.toml set --adapter model", 2, "takes neither adapter nor tokenizer"),
    ] {
        let (stdout, stderr) = expect(path, code, line);
        assert!(stderr.contains(message), "{line}\n{stderr}");
        assert!(stdout.is_empty() && !stderr.contains("panicked"), "{line}\n{stdout}\n{stderr}");
    }
    assert!(!path.join(".cache").exists() && !path.join("none").exists(), "nothing of this writes");
}
