//! A teacher in a training recipe, through the program: a tower encodes what is shown, a run goes on, negatives are mined
//! by it, and what will be judged is not trained on.

use std::path::Path;

use serde_json::Value;

use crate::fixture::program::{expect, json_of};
use crate::fixture::training::{RECIPE, folder};

const TAUGHT: &str = r#"[teacher.tower]
model = "fake:64"
pooling = "mean"
[loss]
contrast_weight = 0.5
both_directions = true
guide_margin = 0.05
score_weight = 1.0
gram_weight = 1.0
matryoshka = [16]
[[texts]]
path = "texts.jsonl"
share = 0.4
"#;

fn write(path: &Path, name: &str, text: &str) {
    std::fs::write(path.join(name), text).unwrap();
}

fn losses(report: &Value) -> Vec<f64> {
    report["steps"].as_array().unwrap().iter().map(|step| step["loss"].as_f64().unwrap()).collect()
}

#[test]
fn a_teachers_scores_are_learnt_and_the_run_goes_on() {
    let folder = folder();
    let path = folder.path();
    let lines: String = (0..20).map(|at| format!("{{\"text\": \"plain text {at}\"}}\n")).collect();
    write(path, "texts.jsonl", &lines);
    let constant = "warmup_steps = 1\nschedule = \"constant\"";
    let recipe = RECIPE.replace("warmup_steps = 1", constant) + TAUGHT;
    write(path, "taught.toml", &recipe);
    let whole = losses(&json_of(path, "train taught.toml --out whole --steps 8 --json"));
    assert_eq!(whole.len(), 8);
    assert!(path.join("whole/teacher").is_dir() && path.join("whole/adapter").is_dir());
    // Another number of steps is the same run; what the teacher knows already is not encoded again.
    json_of(path, "train taught.toml --out halves --steps 3 --json");
    let longer = losses(&json_of(path, "train taught.toml --out halves --steps 8 --json"));
    assert_eq!(longer, whole);

    // The same from a Parquet file: the parts that the encode stage wrote are one.
    let from_files = recipe.replace(
        "[teacher.tower]\nmodel = \"fake:64\"\npooling = \"mean\"",
        "[teacher]\nvectors = \"whole/teacher\"",
    );
    assert_ne!(from_files, recipe);
    write(path, "files.toml", &from_files);
    assert_eq!(losses(&json_of(path, "train files.toml --out files --steps 8 --json")), whole);
    write(path, "gone.toml", &from_files.replace("whole/teacher", "nowhere"));
    let (_, stderr) = expect(path, 1, "train gone.toml --out gone");
    assert!(stderr.contains("nowhere"), "{stderr}");

    // The teacher mines, and its scores stay with what it found.
    let mined = json_of(path, "mine taught.toml --teacher --out mined --margin 1 --json");
    assert!(mined["negatives"].as_u64().unwrap() > 0, "{mined}");
    let text = std::fs::read_to_string(path.join("mined/0-pairs.jsonl")).unwrap();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let scores = line["negative_scores"].as_array().unwrap();
        assert_eq!(scores.len(), line["negatives"].as_array().unwrap().len());
        let own = line["score"].as_f64().unwrap();
        assert!(scores.iter().all(|score| score.as_f64().unwrap() <= own), "{line}");
    }
    let (_, stderr) = expect(path, 2, "mine recipe.toml --teacher --out m");
    assert!(stderr.contains("names no [teacher]"), "{stderr}");
}

#[test]
fn recipes_that_cannot_work_are_told() {
    let folder = folder();
    let path = folder.path();
    write(path, "texts.jsonl", "{\"text\": \"a\"}\n");
    let taught = format!("{RECIPE}{TAUGHT}");
    let by_source = |keys: &str| {
        RECIPE
            .replace("seed = 3", "seed = 3\norder = \"by_source\"")
            .replace("path = \"pairs.jsonl\"", &format!("path = \"pairs.jsonl\"\n{keys}"))
    };
    for (recipe, message) in [
        (
            taught.replace("[teacher.tower]", "[teacher]\nvectors = \"v\"\n[teacher.tower]"),
            "either tower",
        ),
        (taught.replace("gram_weight = 1.0", ""), "need loss.gram_weight"),
        (format!("{RECIPE}[loss]\nscore_weight = 1.0\n"), "name one in [teacher]"),
        (format!("{RECIPE}[loss]\ngram_wieght = 1.0\n"), "did you mean `gram_weight`?"),
        (taught.replace("[16]", "[64]"), "the vectors have 32 dimensions"),
        (taught.replace("share = 0.4", "share = 1.0"), "leaves nothing for the other sources"),
        (RECIPE.to_owned() + "share = 0.5\n", "`pairs.0.share`: needs order = \"by_source\""),
        (by_source("share = 2.0"), "`pairs.0.share`: must be above 0 and at most 1"),
        (by_source("temperature = 0.0"), "`pairs.0.temperature`: must be"),
        (RECIPE.replace("every = 3", "every = 3\naverage = 0"), "validation.average"),
        (RECIPE.replace("warmup_steps = 1", "decay_steps = 1"), "needs schedule = \"constant\""),
        (
            RECIPE
                .replace("seed = 3", "seed = 3\njudged = [\"set\"]")
                .replace("pairs.jsonl", "set"),
            "may be trained on",
        ),
    ] {
        write(path, "wrong.toml", &recipe);
        let status = if message == "may be trained on" { 1 } else { 2 };
        let (_, stderr) = expect(path, status, "train wrong.toml --out out");
        assert!(stderr.contains(message), "{message}: {stderr}");
    }
    // Of another set, everything may be.
    write(path, "right.toml", &RECIPE.replace("seed = 3", "seed = 3\njudged = [\"set\"]"));
    expect(path, 0, "train right.toml --out out --steps 1");
}
