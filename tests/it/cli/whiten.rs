//! `whiten`: a head behind a trained LLM, which the query tower that was distilled from it takes as it is.

use serde_json::json;

use crate::fixture::program::{expect, json_of};
use crate::fixture::training::{DISTILL, RECIPE, STUDENT, folder, pipeline};

const HEAD: &str = "head = \"whitened/head\"\n";

#[test]
fn what_compares_before_a_head_compares_behind_it() {
    let folder = folder();
    let path = folder.path();
    let write = |name: &str, text: &str| std::fs::write(path.join(name), text).unwrap();
    expect(path, 0, "train recipe.toml --out round1");
    write("distill.toml", DISTILL);
    expect(path, 0, "distill distill.toml --out student");
    let line = "whiten recipe.toml --adapter round1 --out whitened";
    let answer = json_of(path, &format!("{line} --json"));
    assert_eq!((&answer["texts"], &answer["head"]), (&json!(60), &json!("whitened/head")));
    let crowding = |when: &str| answer[format!("crowding_{when}")].as_f64().unwrap();
    assert!(crowding("before") > 0.1 && crowding("after").abs() < 0.1, "{answer}");
    // What is stored is not encoded again, and the same texts give the same head.
    let weights = || std::fs::read(path.join("whitened/head/1_Dense/model.safetensors")).unwrap();
    let before = weights();
    expect(path, 0, line);
    assert_eq!(weights(), before);

    let adapter = "adapter = \"round1/adapter\"\n";
    let behind = format!("{adapter}{HEAD}");
    write("llm.toml", &pipeline("model", &behind, "[query]\nprompt_prefix = \"? \"\n"));
    write("both.toml", &pipeline("model", &behind, &format!("{STUDENT}{HEAD}")));
    expect(path, 0, "run llm.toml");
    let report = json_of(path, "run both.toml --json");
    assert_eq!(report["outcome"], json!({"result": "published", "snapshot": 2}), "{report}");
    let found = json_of(path, "search both.toml hello -k 3 --json");
    assert_eq!(found["hits"].as_array().unwrap().len(), 3, "{found}");
    expect(path, 0, "snapshot verify both.toml");

    // Behind one of them alone nothing can be compared.
    let other = |text: String| text.replace("\"root\"", "\"other\"");
    write("notes.toml", &other(pipeline("model", &behind, STUDENT)));
    write("queries.toml", &other(pipeline("model", adapter, &format!("{STUDENT}{HEAD}"))));
    for name in ["notes.toml", "queries.toml"] {
        let (_, stderr) = expect(path, 2, &format!("run {name}"));
        assert!(stderr.contains("(other modules, head)"), "{name}: {stderr}");
    }
}

#[test]
fn what_cannot_be_fitted_is_told() {
    let folder = folder();
    let path = folder.path();
    let (_, stderr) = expect(path, 2, "whiten recipe.toml --out w --power 0.7");
    assert!(stderr.contains("power must be in 0..=0.5"), "{stderr}");
    let (_, stderr) = expect(path, 1, "whiten recipe.toml --out w --texts 20");
    assert!(stderr.contains("20 texts are too few for 32 dimensions"), "{stderr}");
    assert!(!path.join("w/vectors").exists(), "nothing is encoded for that");
    let own = "model = \"model\"\nhead = \"w/head\"";
    std::fs::write(path.join("own.toml"), RECIPE.replace("model = \"model\"", own)).unwrap();
    let (_, stderr) = expect(path, 2, "whiten own.toml --out w");
    assert!(stderr.contains("has a head already"), "{stderr}");
    let cut = "model = \"model\"\ndimensions = 16";
    std::fs::write(path.join("cut.toml"), RECIPE.replace("model = \"model\"", cut)).unwrap();
    let (_, stderr) = expect(path, 2, "whiten cut.toml --out w");
    assert!(stderr.contains("take tower.dimensions away"), "{stderr}");
    assert!(!path.join("w/head").exists());
}
