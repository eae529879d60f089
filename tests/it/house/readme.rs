//! The README is executed: every command it shows runs here as written (or is a target of the
//! Makefile), and its Python example reads a real snapshot and must agree with `scalingnote search`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::fixture::checkout::{Checkout, NOTES, package};

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

const CLUSTER_SECTION: &str = "## When one machine is not enough\n";

/// The README's section on clusters, which only a program with that feature can run: tests/it/exec/cluster/readme.rs does.
#[cfg(feature = "cluster")]
pub fn cluster_section() -> String {
    let readme = readme();
    let (_, rest) =
        readme.split_once(CLUSTER_SECTION).expect("README.md has a section on clusters");
    rest.split("\n## ").next().unwrap_or_default().to_owned()
}

/// Everything but that section.
fn without_cluster_section(readme: &str) -> String {
    let (before, rest) =
        readme.split_once(CLUSTER_SECTION).expect("README.md has a section on clusters");
    let after = rest.split_once("\n## ").map_or("", |(_, after)| after);
    format!("{before}\n## {after}")
}

/// The command lines of the README's `sh` blocks, comments and continuation lines resolved.
pub fn commands(markdown: &str) -> Vec<String> {
    let text = blocks(markdown, "sh").concat().replace("\\\n", " ");
    text.lines()
        .map(|line| line.split(" # ").next().unwrap_or(line).trim())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_of_the_readme_runs_as_written() {
    let lines = commands(&without_cluster_section(&readme()));
    assert!(lines.len() > 10, "README.md shows only {} commands", lines.len());
    let packages = std::fs::read_to_string(package().join("tests/python/requirements.txt"))
        .expect("the list of Python packages is readable");
    let mut checkout = Checkout::new();
    checkout.install("pipelines/cron/nightly.sh");
    let mut days = 0;
    let mut plan_key = String::new();
    let mut server = None;
    let has_openssl = checkout.shell("command -v openssl").status.success();
    for line in &lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Every later day sees one more changed note.
        let publishes = matches!(words[..], ["scalingnote", "run" | "publish", ..])
            || words[0].ends_with("nightly.sh");
        let begins_a_day =
            (publishes && words.get(1) != Some(&"publish")) || words.contains(&"--brief");
        if begins_a_day {
            if days > 0 {
                checkout.edit();
            }
            days += 1;
        }
        let before = checkout.snapshots().len();
        match words[..] {
            // It answers the `curl` lines after it, and ends with the test.
            ["scalingnote", "serve", ..] => server = Some(Served::start(&checkout, line)),
            ["curl", ..] => {
                let server = server.as_ref().expect("`scalingnote serve` stands above `curl`");
                server.answers(&checkout, line);
            }
            // The commands after it need what it writes.
            _ if line.contains("notes.pem") && !has_openssl => {
                println!("skipped: no openssl for `{line}`")
            }
            ["openssl", ..] => drop(checkout.ok(line)),
            ["scalingnote" | "SCALINGNOTE_SIGNING_KEY_FILE=notes.pem", ..] => {
                let said = checkout.ok(&format!("PLAN_KEY={plan_key}; {line}"));
                assert!(!said.trim().is_empty(), "`{line}` prints nothing");
                if words.contains(&"--brief") {
                    let plan: Value = serde_json::from_str(&said).expect("a plan in brief is JSON");
                    assert_eq!(plan["encode_tasks"], 1, "the edited note is to be encoded");
                    plan_key = plan["plan_key"].as_str().expect("a key").to_owned();
                }
            }
            ["pipelines/cron/nightly.sh", ..] => {
                assert_eq!(checkout.ok(line), "", "a good night is silent");
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
        let published = checkout.snapshots().len() - before;
        if publishes {
            assert_eq!(published, 1, "`{line}` publishes one snapshot");
        }
    }
    server.expect("README.md shows how to serve").stop();
    // What the commands are there for happened: two days, a way back to the first, and three ways to run a day.
    assert_eq!(days, 5);
    let content: Vec<Value> =
        checkout.snapshots().iter().map(|manifest| manifest["content_hash"].clone()).collect();
    assert_eq!(content.len(), 6, "the rollback is a snapshot of its own");
    assert_ne!(content[0], content[1], "the edited note is in the second snapshot");
    assert_eq!(content[0], content[2], "the rollback brings the first content back");
    let metrics = std::fs::read_to_string(checkout.path().join("scalingnote.prom"));
    let metrics = metrics.expect("README.md shows how metrics are written");
    assert!(
        metrics.contains("scalingnote_snapshot_number{pipeline=\"quickstart\"} 6\n"),
        "{metrics}"
    );
}

/// `scalingnote serve` as the README starts it, on a free port.
struct Served {
    process: Child,
    address: String,
}

/// The address that the README serves on.
const ADDRESS: &str = "127.0.0.1:8080";

impl Served {
    fn start(checkout: &Checkout, line: &str) -> Self {
        assert!(line.contains(ADDRESS), "`{line}` must serve on {ADDRESS}");
        let line = line.replace(ADDRESS, "127.0.0.1:0");
        let mut command = checkout.command(&format!("exec {line}"));
        let mut process = command.stdout(Stdio::piped()).spawn().expect("sh runs");
        let mut said = String::new();
        let out = process.stdout.take().expect("its output is piped");
        BufReader::new(out).read_line(&mut said).expect("its output is text");
        let address = said.trim().split("http://").nth(1).unwrap_or_else(|| panic!("{said:?}"));
        Self { address: address.to_owned(), process }
    }

    /// Runs a `curl` line of the README where there is a curl.
    fn answers(&self, checkout: &Checkout, line: &str) {
        if !checkout.shell("command -v curl").status.success() {
            println!("skipped: no curl for `{line}`");
            return;
        }
        let line = line.replace(ADDRESS, &self.address).replace("curl ", "curl --fail ");
        assert!(line.contains(&self.address), "`{line}` must ask {ADDRESS}");
        let said = checkout.ok(&line);
        let hits = || serde_json::from_str::<Value>(&said).ok()?["hits"].as_array().map(Vec::len);
        assert!(!line.contains("/search") || hits() > Some(0), "`{line}` finds nothing: {said}");
    }

    fn stop(mut self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        assert!(self.process.wait().expect("it is our child").success(), "SIGTERM is no failure");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.process.kill();
    }
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

/// The README's example, kept running: it reads note ids and prints the notes like each.
struct Example {
    process: Child,
    out: BufReader<ChildStdout>,
}

impl Example {
    fn start(python: &Path, script: &Path, root: &Path) -> Self {
        let mut command = Command::new(python);
        command.arg(script).arg(root).arg("0.05").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("Python runs");
        let out = BufReader::new(process.stdout.take().expect("its output is piped"));
        Self { process, out }
    }

    /// Snapshot number, and `(note id, score)` by rank, from five lines `number<TAB>score<TAB>note id<TAB>title`.
    fn similar(&mut self, note: &str) -> (u64, Vec<(String, f64)>) {
        let input = self.process.stdin.as_mut().expect("its input is piped");
        writeln!(input, "{note}").expect("the example reads");
        let mut numbers = Vec::new();
        let mut hits = Vec::new();
        for _ in 0..5 {
            let mut line = String::new();
            self.out.read_line(&mut line).expect("output is UTF-8");
            let fields: Vec<&str> = line.trim_end().split('\t').collect();
            assert!(fields.len() == 4, "the example prints {line:?}");
            numbers.push(fields[0].parse().expect("a snapshot number"));
            hits.push((fields[2].to_owned(), fields[1].parse().expect("a score")));
        }
        assert!(numbers.iter().all(|number| *number == numbers[0]), "an answer is of one snapshot");
        (numbers[0], hits)
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
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
        checkout.ok(&format!(
            "scalingnote run pipelines/quickstart.toml --set index.shards={shards} \
             --set index.quantization={quantization}"
        ));
        let script = checkout.path().join("similar.py");
        std::fs::write(&script, example).expect("write");
        let mut example = Example::start(&python, &script, &checkout.root());
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
            let (number, found) = example.similar(&format!("i:{note}"));
            assert_eq!(number, 1);
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
        // A newer snapshot takes over while the example runs.
        let line = "scalingnote run pipelines/quickstart.toml";
        checkout.edit();
        checkout.ok(&format!(
            "{line} --set index.shards={shards} --set index.quantization={quantization}"
        ));
        let swapped = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            example.similar("i:17").0 == 2
        });
        assert!(swapped, "snapshot 2 takes over");
        // Its base has a removed key, and the edited note lies in a delta.
        let newest = checkout.snapshots().pop().expect("a snapshot");
        assert!(newest["content"]["shards"].to_string().contains("\"deltas\""), "{newest}");
        let (_, found) = example.similar("i:0");
        assert_eq!(found[0].0, "i:0");
        let ids: std::collections::BTreeSet<_> = found.iter().map(|(id, _)| id).collect();
        assert_eq!(ids.len(), 5, "no note comes twice: {found:?}");
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
