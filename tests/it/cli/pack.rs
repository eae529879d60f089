//! A student packed to be shipped: small, near to what it was, and particular about its tokenizer.

use std::process::Command;

use scalingnote::train::DistillOptions;
use serde_json::{Value, json};

use crate::fixture::checkout::package;
use crate::fixture::program::{expect, json_of};
use crate::fixture::training::{DISTILL_BERT, folder, write_encoder};

#[test]
fn a_packed_student_answers_like_the_student() {
    let folder = folder();
    let path = folder.path();
    write_encoder(&path.join("encoder"));
    std::fs::write(path.join("distill.toml"), DISTILL_BERT).unwrap();
    let (_, stderr) = expect(path, 1, "distill distill.toml --out run --export small");
    assert!(stderr.contains("distil to the end first"), "{stderr}");
    expect(path, 0, "distill distill.toml --out run");
    let whole =
        json_of(path, "distill distill.toml --out run --export eight --table-bits 8 --json");
    let four = json_of(
        path,
        "distill distill.toml --out run --export four --bits 4 --tokens 29 --tokenizer-from a-wheel==1 --json",
    );
    let value = |answer: &serde_json::Value, key: &str| answer[key].as_f64().unwrap();
    assert!(
        value(&whole, "mean_cosine") > 0.9999 && value(&whole, "least_cosine") > 0.999,
        "{whole}"
    );
    let cosine = value(&four, "mean_cosine");
    assert!(cosine > 0.95 && cosine < value(&whole, "mean_cosine"), "{four}");
    // Single characters stay whatever is asked for, and the tiny tokenizer knows nothing else.
    assert_eq!((four["share_kept"].as_f64(), four["queries"].as_u64()), (Some(1.0), Some(30)));
    let size =
        |name: &str| std::fs::metadata(path.join(name).join("model.safetensors")).unwrap().len();
    assert!(size("eight") * 2 < size("run/student"), "{} {}", size("eight"), size("run/student"));
    assert!(size("four") < size("eight"));
    assert!(!path.join("four/tokenizer.json").exists());
    // It can be looked at with what it lacks named beside it.
    let card = "tower four --pooling mean --tokenizer run/student/tokenizer.json --json --trial 0s";
    let card = json_of(path, card);
    assert_eq!(card["pooling"], json!({ "value": "mean", "by": "set" }), "{card}");
    std::fs::write(path.join("p.toml"), "").unwrap();
    for (line, code, said) in [
        ("tower four --pooling mean", 1, "name a tokenizer.json"),
        ("tower model --pooling mean --adapter gone", 1, "adapter: there is nothing at"),
        ("tower model --pooling mean --head gone", 1, "head: there is nothing at"),
        ("tower model", 2, "`pooling` is not set"),
        ("tower model", 2, "; name it with --pooling"),
        ("tower p.toml --pooling mean", 2, "says itself what its tower is made of"),
    ] {
        let (_, stderr) = expect(path, code, line);
        assert!(stderr.contains(said), "{line}: {stderr}");
    }

    // Queries that are there for distillation alone have no document to count tokens of.
    std::fs::write(path.join("queries.jsonl"), "{\"query\": \"alone\", \"text\": \"\"}\n").unwrap();
    let more = format!("{DISTILL_BERT}[[pairs]]\npath = \"queries.jsonl\"\n");
    std::fs::write(path.join("more.toml"), more).unwrap();
    let counted = json_of(path, "distill more.toml --out run --export more --tokens 29 --json");
    assert_eq!(counted["queries"], 31);

    // It goes on learning from where it was: with a projection of its own, not fitted, it would know nothing.
    let adapt = DISTILL_BERT.replace(
        "path = \"encoder\"",
        "path = \"eight\"\ntokenizer = \"encoder/tokenizer.json\"\nfit_queries = 0",
    );
    std::fs::write(path.join("adapt.toml"), &adapt).unwrap();
    expect(path, 0, "distill adapt.toml --out adapted");
    let accuracies = |run: &str| -> Vec<f64> {
        let text = std::fs::read_to_string(path.join(run).join("report.json")).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        let values = report["validation"].as_array().unwrap();
        values.iter().map(|v| v["accuracy"].as_f64().unwrap()).collect()
    };
    let (before, after) = (accuracies("run"), accuracies("adapted"));
    assert!((after[0] - before[2]).abs() < 0.005, "{before:?} {after:?}");
    assert!(path.join("adapted/student/tokenizer.json").exists());
    let wrong = adapt.replace("encoder/tokenizer.json", "wrong.json");
    std::fs::write(path.join("wrong.toml"), wrong).unwrap();
    let tokenizer = std::fs::read_to_string(path.join("encoder/tokenizer.json")).unwrap();
    std::fs::write(path.join("wrong.json"), tokenizer + "\n").unwrap();
    let (_, stderr) = expect(path, 1, "distill wrong.toml --out wrong");
    assert!(
        stderr.contains("is not the tokenizer that these weights were trained with"),
        "{stderr}"
    );

    // It is a query tower like the student, and as particular about the document tower.
    let pair = |model: &str, tokenizer: &str| {
        format!(
            "[tower]\nmodel = \"model\"\npooling = \"mean\"\nmax_tokens = 32\n[query.tower]\nmodel = \"{model}\"\n\
             tokenizer = \"{tokenizer}\"\npooling = \"mean\"\nmax_tokens = 48\n"
        )
    };
    let entropy = |model: &str| {
        std::fs::write(path.join("pair.toml"), pair(model, "encoder/tokenizer.json")).unwrap();
        let answer = json_of(path, "evaluate pair.toml set --json");
        answer["rows"][0]["contrastive_entropy"].as_f64().unwrap()
    };
    let student = entropy("run/student");
    assert!((entropy("eight") - student).abs() < 0.02 * student);
    let (tokenizer, other) = (path.join("encoder/tokenizer.json"), path.join("other.json"));
    let text = std::fs::read_to_string(&tokenizer).unwrap().replace("\"z\":27", "\"Z\":27");
    std::fs::write(&other, text).unwrap();
    for (named, code, message) in [
        (
            "other.json",
            1,
            "is not the tokenizer that these weights were trained with (it is that of a-wheel==1)",
        ),
        ("none.json", 1, "pair.toml:7:13: `query.tower.tokenizer`: there is nothing at"),
    ] {
        std::fs::write(path.join("pair.toml"), pair("four", named)).unwrap();
        let (_, stderr) = expect(path, code, "evaluate pair.toml set");
        assert!(stderr.contains(message), "{stderr}");
    }
    let cut = pair("four", "encoder/tokenizer.json").replacen(
        "max_tokens = 32\n",
        "max_tokens = 32\nlayers = 1\n",
        1,
    );
    std::fs::write(path.join("pair.toml"), cut).unwrap();
    let (_, stderr) = expect(path, 2, "evaluate pair.toml set");
    assert!(stderr.contains("(other layers)"), "{stderr}");
}

/// An encoder that folds capitals sees them by marks in its tokenizer, which the quick start's script writes alike.
#[test]
fn a_student_that_keeps_case_has_marks_in_its_tokenizer() {
    let folder = folder();
    let path = folder.path();
    write_encoder(&path.join("encoder"));
    let file = path.join("encoder/tokenizer.json");
    let mut tokenizer: Value =
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    std::fs::write(
        path.join("cased.toml"),
        DISTILL_BERT.replace("path = \"encoder\"", "path = \"encoder\"\nkeep_case = true"),
    )
    .unwrap();
    let (_, stderr) = expect(path, 1, "distill cased.toml --out cased");
    assert!(stderr.contains("keep_case") && stderr.contains("tokenizer.json"), "{stderr}");

    tokenizer["normalizer"] = json!({
        "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": true,
    });
    tokenizer["model"]["vocab"]["†"] = 30.into();
    tokenizer["model"]["vocab"]["‡"] = 31.into();
    std::fs::write(&file, serde_json::to_string_pretty(&tokenizer).unwrap()).unwrap();
    expect(path, 0, "distill cased.toml --out cased");
    let ours = std::fs::read_to_string(path.join("cased/student/tokenizer.json")).unwrap();
    let script = "import sys; sys.path.insert(0, sys.argv[1]); import fetch_quickstart; \
        fetch_quickstart.keep_case(open(sys.argv[2], 'rb'), sys.stdout.buffer)";
    let written = Command::new("python3")
        .args(["-B", "-c", script])
        .arg(package().join("pipelines"))
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(written.stdout).unwrap(), ours);
}

/// What `fetch_quickstart.py` writes, what the quick start names and what its student was trained with are one tokenizer.
#[test]
fn the_quick_starts_student_knows_the_tokenizer_that_is_fetched() {
    let read =
        |name: &str| std::fs::read_to_string(package().join("pipelines").join(name)).unwrap();
    let pipeline: toml::Value = toml::from_str(&read("quickstart.toml")).unwrap();
    let tokenizer = pipeline["query"]["tower"]["tokenizer"].as_str().unwrap();
    let tokenizer = tokenizer.strip_prefix("../.cache/").unwrap();
    let sums = read("quickstart.sha256");
    let (sum, _) = sums
        .lines()
        .filter_map(|line| line.split_once("  "))
        .find(|(_, name)| *name == tokenizer)
        .expect("the list has the tokenizer's sum");
    let config: Value = serde_json::from_str(&read("quickstart/student/config.json")).unwrap();
    assert_eq!(config["scalingnote"]["tokenizer"]["sha256"], sum);

    // The recipes that make it and adapt it fit the pipeline that uses it.
    for name in ["distill-quickstart.toml", "distill-notes.toml"] {
        let recipe: toml::Value = toml::from_str(&read(name)).unwrap();
        let options: DistillOptions = toml::from_str(&read(name)).unwrap();
        options.validate().unwrap();
        for key in ["model", "adapter", "pooling", "prompt_prefix", "prompt_suffix", "arithmetic"] {
            assert_eq!(recipe["teacher"][key], pipeline["tower"][key], "{name}: {key}");
        }
        assert_eq!(recipe["student"]["max_tokens"], pipeline["query"]["tower"]["max_tokens"]);
        if name == "distill-notes.toml" {
            assert_eq!(recipe["student"]["path"], pipeline["query"]["tower"]["model"]);
            assert_eq!(recipe["student"]["tokenizer"], pipeline["query"]["tower"]["tokenizer"]);
        }
    }
}
