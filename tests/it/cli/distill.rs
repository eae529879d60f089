//! `mine` and `distill` through the program, and the student as a snapshot's query tower.

use serde_json::json;

use crate::fixture::program::{expect, json_of};
use crate::fixture::training::{DISTILL, RECIPE, STUDENT, folder, pipeline_of_teacher};

#[test]
fn negatives_are_mined_and_the_next_round_goes_on_from_the_adapter() {
    let folder = folder();
    let path = folder.path();
    expect(path, 0, "train recipe.toml --out round1");
    let line =
        "mine recipe.toml --adapter round1/adapter --out mined --skip 0 --window 9 --margin 1";
    let answer = json_of(path, &format!("{line} --keep 2 --json"));
    assert_eq!(answer["pairs"], 30);
    assert!(answer["with_negatives"].as_u64().unwrap() > 20, "{answer}");
    let mined = std::fs::read_to_string(path.join("mined/0-pairs.jsonl")).unwrap();
    assert_eq!(mined.lines().count(), 30);
    for line in mined.lines() {
        let pair: serde_json::Value = serde_json::from_str(line).unwrap();
        let negatives = pair["negatives"].as_array().unwrap();
        assert!(negatives.len() <= 2 && !negatives.contains(&pair["text"]), "{pair}");
    }
    // Another choice among the same neighbours encodes nothing again.
    let parts = || walk(&path.join("mined/vectors/embeddings"), "parquet");
    let before = parts();
    assert!(!before.is_empty());
    expect(path, 0, &format!("{line} --keep 1"));
    assert_eq!(parts(), before);

    let round2 = RECIPE
        .replace("pairs.jsonl", "mined/0-pairs.jsonl")
        .replace("steps = 6", "steps = 3\nhard_negatives = 1")
        .replace("model = \"model\"", "model = \"model\"\nadapter = \"round1/adapter\"");
    std::fs::write(path.join("round2.toml"), &round2).unwrap();
    let first = json_of(path, "train recipe.toml --out round1 --json");
    let second = json_of(path, "train round2.toml --out round2 --json");
    let held_out =
        |report: &serde_json::Value, at: usize| report["validation"][at]["loss"].as_f64().unwrap();
    // It begins with what the first round exported, its best look, and not at the raw model.
    let looks = first["validation"].as_array().unwrap();
    let end = looks.iter().position(|look| look["step"] == first["exported"][0]).unwrap();
    let gap = (held_out(&second, 0) - held_out(&first, end)).abs();
    assert!(gap < 0.2 * (held_out(&first, 0) - held_out(&first, end)).abs(), "{first} {second}");
    let wrong = round2.replace("rank = 4", "rank = 2");
    std::fs::write(path.join("wrong.toml"), wrong).unwrap();
    let (_, stderr) = expect(path, 1, "train wrong.toml --out wrong");
    assert!(stderr.contains("has rank 4, above the 2 of method.rank"), "{stderr}");
}

#[test]
fn a_distilled_query_tower_is_admitted_by_its_teachers_snapshot_alone() {
    let folder = folder();
    let path = folder.path();
    expect(path, 0, "train recipe.toml --out round1");
    std::fs::write(path.join("distill.toml"), DISTILL).unwrap();
    let report = json_of(path, "distill distill.toml --out student --json");
    let validation = report["validation"].as_array().unwrap();
    let cosine = |at: usize| validation[at]["accuracy"].as_f64().unwrap();
    assert!(cosine(validation.len() - 1) > cosine(0), "{report}");
    assert!(!walk(&path.join("student/teacher/embeddings"), "parquet").is_empty());

    // First the LLM answers queries; then the student does, in a new snapshot for which nothing is encoded.
    std::fs::write(path.join("llm.toml"), pipeline_of_teacher()).unwrap();
    std::fs::write(
        path.join("student.toml"),
        pipeline_of_teacher().replace("[query]\nprompt_prefix = \"? \"\n", STUDENT),
    )
    .unwrap();
    expect(path, 0, "run llm.toml");
    let report = json_of(path, "run student.toml --json");
    assert_eq!(report["outcome"], json!({"result": "published", "snapshot": 2}), "{report}");
    let shown = json_of(path, "snapshot show root --json");
    assert_eq!(shown["content"]["query_towers"][0]["kind"], "distilled");
    let found = json_of(path, "search student.toml hello -k 3 --json");
    assert_eq!(found["hits"].as_array().unwrap().len(), 3, "{found}");

    // A document tower that it was not distilled from refuses it before any work.
    let other = std::fs::read_to_string(path.join("student.toml"))
        .unwrap()
        .replace("adapter = \"round1/adapter\"\n", "")
        .replace("\"root\"", "\"other\"");
    std::fs::write(path.join("other.toml"), other).unwrap();
    let (_, stderr) = expect(path, 2, "run other.toml");
    assert!(
        stderr.contains("distilled from another tower") && stderr.contains("(other adapter)"),
        "{stderr}"
    );
    assert!(!path.join("other/embeddings").exists());
    // Other weights under the student's name are refused by the search.
    let weights = path.join("student/student/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let (_, stderr) = expect(path, 1, "search root hello");
    assert!(stderr.contains("is another tower than snapshot 2 admits"), "{stderr}");
}

/// Files below a folder with this ending, sorted.
fn walk(folder: &std::path::Path, ending: &str) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = glob::glob(&format!("{}/**/*.{ending}", folder.display()))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    found.sort();
    found
}
