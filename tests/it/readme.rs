//! The README is executed: every command it shows runs here as written (or is a target of the
//! Makefile), and its Python example reads a real snapshot and must agree with `scalingnote search`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::checkout::{Checkout, NOTES, package};

fn readme() -> String {
    std::fs::read_to_string(package().join("README.md")).expect("README.md is readable")
}

/// The fenced code blocks of one language, in order.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in markdown.lines() {
        match (&mut open, line.trim_end().strip_prefix("```")) {
            (None, Some(tag)) => open = Some((tag == language, String::new())),
            (Some(_), Some("")) => {
                if let Some((true, text)) = open.take() {
                    found.push(text);
                }
            }
            (Some((_, text)), _) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a code block of README.md is not closed");
    found
}

/// The command lines of the README's `sh` blocks, comments and continuation lines resolved.
fn commands(markdown: &str) -> Vec<String> {
    let text = blocks(markdown, "sh").concat().replace("\\\n", " ");
    text.lines()
        .map(|line| line.split(" # ").next().unwrap_or(line).trim())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_of_the_readme_runs_as_written() {
    let lines = commands(&readme());
    assert!(lines.len() > 10, "README.md shows only {} commands", lines.len());
    let packages = std::fs::read_to_string(package().join("tests/python/requirements.txt"))
        .expect("the list of Python packages is readable");
    let mut checkout = Checkout::new();
    let mut runs = 0;
    for line in &lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["scalingnote", command, ..] => {
                // Every later run sees one more changed note, as a day would bring it.
                if command == "run" {
                    if runs > 0 {
                        checkout.edit();
                    }
                    runs += 1;
                }
                let said = checkout.ok(line);
                assert!(!said.trim().is_empty(), "`{line}` prints nothing");
                if command == "run" {
                    assert_eq!(checkout.snapshots().len(), runs, "`{line}` publishes one snapshot");
                }
            }
            ["make", ref arguments @ ..] => {
                let mut make = Command::new("make");
                let output = make.arg("-n").args(arguments).current_dir(package()).output();
                let output = output.expect("make runs");
                assert!(output.status.success(), "`{line}` is no target of the Makefile");
            }
            ["python3", "-m", "pip", "install", ref wanted @ ..] => {
                for name in wanted {
                    assert!(packages.contains(name), "tests/python/requirements.txt lacks {name}");
                }
            }
            // A clone is where every test starts from.
            ["git", "clone", ..] | ["cd", ..] => {}
            _ => panic!("no test runs `{line}` of README.md"),
        }
    }
    assert_eq!(runs, 2, "README.md shows `scalingnote run` twice: the second sees a change");
    // What the commands are there for happened: two days, and a way back to the first.
    let content: Vec<Value> =
        checkout.snapshots().iter().map(|manifest| manifest["content_hash"].clone()).collect();
    assert_eq!(content.len(), 3, "the rollback is a snapshot of its own");
    assert_ne!(content[0], content[1], "the edited note is in the second snapshot");
    assert_eq!(content[0], content[2], "the rollback brings the first content back");
}

#[test]
fn code_blocks_are_found() {
    let markdown = "a\n```sh\nx # why\ny \\\n  z\n# only a comment\n```\n```python\np\n```\n";
    assert_eq!(commands(markdown), ["x", "y    z"]);
    assert_eq!(blocks(markdown, "python"), ["p\n"]);
}

/// The Python that has the packages; `None` (said aloud) where there is none.
fn python() -> Option<PathBuf> {
    let set = std::env::var_os("SCALINGNOTE_PYTHON").map(PathBuf::from);
    let own = package().join(".cache/venv/bin/python");
    let candidates = set.into_iter().chain([own, PathBuf::from("python3")]);
    for python in candidates {
        let imports = "import duckdb, numpy, pyarrow, usearch";
        let found = Command::new(&python).args(["-c", imports]).output();
        if found.is_ok_and(|output| output.status.success()) {
            return Some(python);
        }
    }
    assert!(
        std::env::var_os("SCALINGNOTE_REQUIRE_PYTHON").is_none(),
        "no Python with the packages of tests/python/requirements.txt"
    );
    println!(
        "skipped: no Python with the packages of tests/python/requirements.txt (`make test` installs them)"
    );
    None
}

#[track_caller]
fn run_python(python: &Path, script: &Path, arguments: &[&str]) -> String {
    let output = Command::new(python).arg(script).args(arguments).output().expect("Python runs");
    assert!(
        output.status.success(),
        "{} failed:\n{}",
        script.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

/// `(note id, score)` by rank, from the lines `score<TAB>note id<TAB>title` of the example.
fn parse_example(output: &str) -> Vec<(String, f64)> {
    let hits = output.lines().map(|line| {
        let mut fields = line.split('\t');
        let score = fields.next().and_then(|text| text.parse().ok()).expect("a score");
        (fields.next().expect("a note id").to_owned(), score)
    });
    hits.collect()
}

/// A note id of `search --json` in the tagged form of the stored files.
#[track_caller]
fn tagged(id: &Value) -> String {
    match id {
        Value::Number(number) => format!("i:{number}"),
        Value::String(text) => text.clone(),
        other => panic!("{other} is no note id"),
    }
}

#[test]
fn the_python_example_agrees_with_search() {
    let Some(python) = python() else { return };
    let readme = readme();
    let examples = blocks(&readme, "python");
    let example = examples.first().expect("README.md has a Python example");
    for (shards, quantization) in [(1, "i8"), (3, "i8"), (2, "f32"), (2, "f16")] {
        let mut checkout = Checkout::new();
        let line = format!(
            "scalingnote run pipelines/quickstart.toml --set index.shards={shards} \
             --set index.quantization={quantization}"
        );
        checkout.ok(&line);
        // A second day, so that a base has removed keys and a delta beside it.
        checkout.edit();
        checkout.ok(&line);
        let newest = checkout.snapshots().pop().expect("a snapshot");
        assert!(newest["content"]["shards"].to_string().contains("\"deltas\""), "{newest}");
        let script = checkout.path().join("similar.py");
        std::fs::write(&script, example).expect("write");
        let root = checkout.root();
        for note in [0, 17, 239] {
            // The text that was encoded for this note: the same text makes the same vector, so that
            // "notes like this note" and "search for this text" are one question.
            let text = format!(
                "{}\nThe product mishandles case {note}, and says so.",
                checkout.title(note)
            );
            std::fs::write(checkout.path().join("text"), text).expect("write");
            let line = "scalingnote search .cache/quickstart-699 \"$(cat text)\" -k 5 --json";
            let hits: Value = serde_json::from_str(&checkout.ok(line)).expect("search prints JSON");
            let hits = hits["hits"].as_array().or_else(|| hits.as_array()).expect("a list of hits");
            let found =
                run_python(&python, &script, &[&root.to_string_lossy(), &format!("i:{note}")]);
            let found = parse_example(&found);
            assert_eq!(found.len(), 5, "the example prints five hits");
            assert_eq!(found[0].0, format!("i:{note}"), "a note is its own nearest");
            let expected: BTreeMap<String, f64> = hits
                .iter()
                .map(|hit| {
                    (tagged(&hit["note_id"]), hit["score"].as_f64().expect("hits have a score"))
                })
                .collect();
            assert_eq!(expected.len(), 5);
            let last = expected.values().copied().fold(f64::INFINITY, f64::min);
            for (id, score) in &found {
                // Queries differ by one rounding to f16: only hits at the very border may change.
                match expected.get(id) {
                    Some(other) => assert!((score - other).abs() < 2e-3, "{id}: {score}, {other}"),
                    None => assert!((score - last).abs() < 2e-3, "{id} is not in the search"),
                }
            }
        }
    }
}

#[test]
fn pyarrow_and_duckdb_read_what_a_snapshot_names() {
    let Some(python) = python() else { return };
    let script = package().join("tests/python/read_snapshot.py");
    for vector_type in ["f32", "f16"] {
        let checkout = Checkout::new();
        checkout.ok(&format!(
            "scalingnote run pipelines/quickstart.toml --set encode.vector_type={vector_type}"
        ));
        let root = checkout.root();
        let said = run_python(&python, &script, &[&root.to_string_lossy(), vector_type]);
        assert_eq!(said.trim(), format!("{NOTES} notes, {NOTES} vectors of 64 dimensions"));
    }
}
