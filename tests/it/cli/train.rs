//! `train` and `evaluate` through the program: a tiny random LLM learns, stops, resumes, is exported and judged.

use serde_json::{Value, json};

use crate::fixture::program::{expect, json_of};
use crate::fixture::training::{RECIPE, folder};

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
    assert!(stdout.starts_with("exported the best of 6 steps so far\n"), "{stdout}");
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
fn files_that_a_recipe_names_are_looked_for_before_the_work() {
    let folder = folder();
    let path = folder.path();
    let recipe = RECIPE
        .replace("seed = 3", "seed = 3\njudged = [\"gone\"]")
        .replace("model = \"model\"", "model = \"gone\"\nadapter = \"gone\"")
        .replace("pairs.jsonl", "gone.jsonl");
    std::fs::write(path.join("gone.toml"), &recipe).unwrap();
    let wrong = recipe.replace("batch_pairs = 6", "batch_pairs = 1");
    std::fs::write(path.join("wrong.toml"), wrong).unwrap();
    let judged = "gone.toml:5:11: `judged.0`: there is nothing at ";
    let tower = "gone.toml:7:9: `tower.model`: \"gone\": there is no file or directory ";
    let adapter = "gone.toml:8:11: `tower.adapter`: there is nothing at ";
    let pairs = "`pairs.0.path`: there is nothing at ";
    for (line, code, said) in [
        (
            "train gone.toml --out out",
            1,
            &["4 problems with what the", judged, tower, adapter, pairs][..],
        ),
        ("whiten gone.toml --out out", 1, &["3 problems", tower, adapter, pairs]),
        ("mine gone.toml --out out", 1, &["3 problems", tower, adapter, pairs]),
        ("mine gone.toml --out out --adapter set", 1, &["gone.toml:", pairs]),
        ("evaluate gone.toml set", 1, &["2 problems", tower, adapter]),
        (
            "train wrong.toml --out out",
            2,
            &["5 problems", "wrong.toml:1:15: `batch_pairs`: must be"],
        ),
    ] {
        let (_, stderr) = expect(path, code, line);
        for piece in said {
            assert!(stderr.contains(piece), "{line}: no {piece:?} in {stderr}");
        }
    }
    let distill = "batch = 8\n[teacher]\nmodel = \"gone\"\npooling = \"mean\"\n[student]\nkind = \"bert\"\n\
        path = \"gone\"\n[[pairs]]\npath = \"set\"\nqrels = \"gone.tsv\"\n";
    std::fs::write(path.join("distill.toml"), distill).unwrap();
    let (_, stderr) = expect(path, 1, "distill distill.toml --out out");
    for piece in [
        "3:9: `teacher.model`: \"gone\": ",
        "7:8: `student.path`: there is nothing at ",
        "9:8: `pairs.0.path`: there is nothing at ",
    ] {
        assert!(stderr.contains(piece), "no {piece:?} in {stderr}");
    }
    assert!(!path.join("out").exists());
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
        ("train key.toml", 2, "key.toml:2:1: unknown key `temprature`"),
        ("train nested.toml", 2, "unknown key `rang` in [method]"),
        ("train full.toml", 2, "unknown key `alpha` in [method]"),
        ("train value.toml", 2, "value.toml:1:15: `batch_pairs`: must be at least 2"),
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
        ("evaluate tower.toml set", 2, "tower.toml:2:1: unknown key `modle`"),
        ("evaluate key.toml set", 2, "unknown key `temprature`"),
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
