//! A process resolves each of its towers once: resolving one hashes its weight files and opens its tokenizer.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::fixture::program::{expect, program};
use crate::fixture::training::{DISTILL, STUDENT, folder, pipeline_of_teacher};

/// What a command prints, and the models of the towers that it resolved, sorted.
#[track_caller]
fn resolved(folder: &Path, line: &str) -> (String, Vec<String>) {
    let mut command = program(folder);
    command.args(line.split_whitespace()).env("SCALINGNOTE_LOG", "scalingnote::tower=debug");
    let output = command.output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{line}\n{stdout}\n{stderr}");
    let models = stderr.lines().filter_map(|line| line.split_once("resolving the tower model="));
    let name = |model: &str| Path::new(model.trim()).file_name().unwrap().to_owned();
    let mut models: Vec<String> =
        models.map(|(_, model)| name(model).into_string().unwrap()).collect();
    models.sort();
    (stdout, models)
}

fn add_note(folder: &Path, id: &str) {
    let corpus = folder.join("set/corpus.jsonl");
    let mut corpus = std::fs::OpenOptions::new().append(true).open(corpus).unwrap();
    writeln!(corpus, "{}", json!({ "_id": id, "text": format!("{id} is another note") })).unwrap();
}

#[test]
fn a_run_with_a_distilled_query_tower_resolves_two_towers() {
    let folder = folder();
    let path = folder.path();
    expect(path, 0, "train recipe.toml --out round1");
    std::fs::write(path.join("distill.toml"), DISTILL).unwrap();
    expect(path, 0, "distill distill.toml --out student");
    let pipeline = pipeline_of_teacher().replace("[query]\nprompt_prefix = \"? \"\n", STUDENT);
    std::fs::write(path.join("p.toml"), pipeline).unwrap();
    let both = ["model", "student"];

    // Planned, encoded, drift measured, the query tower asked, published.
    assert_eq!(resolved(path, "run p.toml").1, both);
    add_note(path, "second");
    assert_eq!(resolved(path, "run p.toml").1, both);

    // The same in processes of a scheduler; workers share the tower.
    add_note(path, "third");
    let (brief, planned) = resolved(path, "plan p.toml --brief");
    assert_eq!(planned, both);
    let brief: Value = serde_json::from_str(&brief).unwrap();
    let plan = brief["plan_key"].as_str().unwrap();
    let task = |stage: &str| {
        let two = r#"--set encode.devices=["cpu:1","cpu:1"]"#;
        resolved(path, &format!("task p.toml --plan {plan} --stage {stage} {two}")).1
    };
    assert_eq!(task("encode"), ["model"]);
    assert!(task("encode").is_empty(), "it is done");
    assert!(task("build").is_empty(), "it encodes nothing");
    assert_eq!(resolved(path, &format!("publish p.toml --plan {plan}")).1, both);
}
