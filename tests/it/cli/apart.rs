//! A query tower trained jointly with the document tower, through the program: trained, judged, admitted, refused.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::sets::judged_alike_by_pytrec_eval;
use crate::fixture::program::{expect, json_of};
use crate::fixture::training::{self, RECIPE, folder};

/// The query side keeps the first of the two layers.
fn recipe(query: &str) -> String {
    RECIPE.replace(
        "prompt_prefix = \"? \"\n",
        &format!("prompt_prefix = \"? \"\nlayers = 1\n{query}"),
    )
}

const FULL: &str = "method = { kind = \"full\", embeddings = false }\nlearning_rate = 2e-3\n";

/// The trained pair.
fn pipeline() -> String {
    let query = "[query.tower]\nmodel = \"model\"\nadapter = \"out/query-adapter\"\nlayers = 1\n\
        pooling = \"mean\"\nprompt_prefix = \"? \"\nmax_tokens = 32\n";
    training::pipeline("model", "adapter = \"out/adapter\"\n", query)
}

fn mean(answer: &Value) -> &Value {
    &answer["rows"][0]["mean"]
}

#[test]
fn a_query_tower_trained_end_to_end_is_admitted_by_its_document_tower_alone() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("apart.toml"), recipe("")).unwrap();
    let (stdout, _) = expect(path, 0, "train apart.toml --out out");
    assert!(stdout.contains("out/adapter") && stdout.contains("out/query-adapter"), "{stdout}");

    // The recipe with what was trained, and a pipeline that names both, are the same pair.
    std::fs::write(path.join("pair.toml"), pipeline()).unwrap();
    let by_recipe = json_of(path, "evaluate apart.toml set --adapter out --json");
    let by_pipeline = json_of(path, "evaluate pair.toml set --vectors v --json");
    assert_eq!(mean(&by_recipe), mean(&by_pipeline));
    let shared = json_of(path, "evaluate apart.toml set --adapter out/adapter --json");
    let entropy = |answer: &Value| answer["rows"][0]["contrastive_entropy"].as_f64().unwrap();
    assert!(
        (entropy(&shared) - entropy(&by_recipe)).abs() > 0.01,
        "queries have their own adapter"
    );
    let mined = json_of(path, "mine apart.toml --adapter out --out mined --json");
    assert_eq!(mined["pairs"], 30);

    let report = json_of(path, "run pair.toml --json");
    assert_eq!(report["outcome"], json!({"result": "published", "snapshot": 1}), "{report}");
    let found = json_of(path, "search pair.toml hello -k 3 --json");
    assert_eq!(found["hits"].as_array().unwrap().len(), 3, "{found}");
    // Another document tower (as released, or one layer less) refuses the query tower before any work.
    for (name, old, new, what) in [
        ("raw.toml", "adapter = \"out/adapter\"\n", "", "(other adapter)"),
        ("cut.toml", "adapter = \"out/adapter\"\n", "layers = 1\n", "(other adapter, layers)"),
    ] {
        let other = pipeline().replacen(old, new, 1).replace("\"root\"", "\"other\"");
        std::fs::write(path.join(name), other).unwrap();
        for line in [format!("run {name}"), format!("evaluate {name} set")] {
            let (_, stderr) = expect(path, 2, &line);
            assert!(stderr.contains(what) && stderr.contains("trained with"), "{line}\n{stderr}");
        }
    }
    assert!(!path.join("other/embeddings").exists());
}

#[test]
fn a_fully_trained_query_side_is_a_model_of_its_own() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("apart.toml"), recipe(FULL)).unwrap();
    expect(path, 0, "train apart.toml --out out");
    let config = std::fs::read_to_string(path.join("out/query-model/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["num_hidden_layers"], 1);
    assert!(config["scalingnote"]["teacher"]["adapter"].is_string(), "{config}");
    let model = "model = \"out/query-model\"\ntokenizer = \"model/tokenizer.json\"\n";
    let pair = pipeline()
        .replace("model = \"model\"\nadapter = \"out/query-adapter\"\nlayers = 1\n", model);
    std::fs::write(path.join("pair.toml"), &pair).unwrap();
    let by_recipe = json_of(path, "evaluate apart.toml set --adapter out --json");
    assert_eq!(mean(&by_recipe), mean(&json_of(path, "evaluate pair.toml set --json")));
    let other = pair.replacen("adapter = \"out/adapter\"\n", "", 1);
    std::fs::write(path.join("other.toml"), other).unwrap();
    expect(path, 2, "evaluate other.toml set");
    // Both sides in full: two models.
    let both = recipe(FULL)
        .replace("kind = \"lora\"\nrank = 4\nalpha = 8.0\n", "kind = \"full\"\n")
        .replace("5e-3", "1e-3");
    std::fs::write(path.join("both.toml"), both).unwrap();
    let (stdout, _) = expect(path, 0, "train both.toml --out both");
    assert!(stdout.contains("both/model") && stdout.contains("both/query-model"), "{stdout}");
    json_of(path, "evaluate both.toml set --adapter both --json");
}

#[test]
fn vectors_are_kept_and_everything_asked_for_is_told() {
    let folder = folder();
    let path = folder.path();
    let pair = "[tower]\nmodel = \"model\"\npooling = \"mean\"\nmax_tokens = 32\n\
        [query.tower]\nmodel = \"model\"\nlayers = 1\npooling = \"mean\"\nmax_tokens = 32\n";
    std::fs::write(path.join("pair.toml"), pair).unwrap();
    let line =
        "evaluate pair.toml set --vectors v --index --latency --run run.txt --name two --json";
    let first = json_of(path, line);
    let row = |at: usize, key: &str| first["rows"][at][key].clone();
    assert_eq!((row(0, "system"), row(1, "system")), (json!("two"), json!("two (index)")));
    assert_eq!(row(2, "system"), "BM25");
    // Of 20 documents the graph misses none.
    assert_eq!(first["index_recall_10"], 1.0, "{first}");
    assert_eq!(row(0, "mean"), row(1, "mean"));
    let latency = first["latency"].as_array().unwrap();
    assert_eq!(
        (&latency[0]["tower"], &latency[1]["tower"]),
        (&json!("query tower"), &json!("document tower"))
    );
    for tower in latency {
        let value = |key: &str| tower[key].as_f64().unwrap();
        assert!(value("median_ms") > 0.0 && value("median_ms") <= value("p95_ms"), "{tower}");
        assert_eq!((tower["queries"].as_u64(), value("mean_tokens")), (Some(12), 6.0), "{tower}");
    }
    let parts = || -> Vec<PathBuf> {
        let pattern = format!("{}/v/embeddings/**/*.parquet", path.display());
        glob::glob(&pattern).unwrap().map(Result::unwrap).collect()
    };
    // Two spaces: one of documents and one of queries. Another query tower adds its own and no more.
    let before = parts();
    assert_eq!(before.len(), 2, "{before:?}");
    let again = json_of(path, line);
    assert_eq!((mean(&again), parts()), (mean(&first), before.clone()));
    std::fs::write(
        path.join("other.toml"),
        pair.replace("layers = 1\n", "prompt_prefix = \"? \"\n"),
    )
    .unwrap();
    std::fs::write(path.join("first.json"), first.to_string()).unwrap();
    let other = json_of(
        path,
        "evaluate other.toml set --vectors v --json --compare first.json --compare first.json",
    );
    assert_eq!(parts().len(), before.len() + 1);
    assert_eq!(other["comparisons"].as_array().unwrap().len(), 3);
    let (stdout, _) = expect(path, 0, "evaluate pair.toml set --vectors v --index --latency");
    for piece in ["pair (index)", "of the exact 10 nearest", "query tower: ", "95th percentile"] {
        assert!(stdout.contains(piece), "{piece}\n{stdout}");
    }
    judged_alike_by_pytrec_eval(path, "run.txt", &first, &[]);
}
