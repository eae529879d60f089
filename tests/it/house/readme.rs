//! The pages are executed: every command they show runs here as written (or is a target of the
//! Makefile), and the Python example reads a real snapshot and must agree with `scalingnote search`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::fixture::checkout::{Checkout, NOTES, package};
use crate::fixture::python;
use crate::fixture::server::Served;

/// The page on clusters, which only a program with that feature can run: tests/it/exec/cluster/readme.rs does.
pub const CLUSTERS: &str = "pipelines/kubernetes/README.md";

/// A page of this repository.
pub fn page(path: &str) -> String {
    std::fs::read_to_string(package().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
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
    assert!(open.is_none(), "a code block is not closed");
    found
}

/// The command lines of a page's `sh` blocks, comments and continuation lines resolved.
pub fn commands(markdown: &str) -> Vec<String> {
    let text = blocks(markdown, "sh").concat().replace("\\\n", " ");
    text.lines()
        .map(|line| line.split(" # ").next().unwrap_or(line).trim())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// What came of a page's commands.
struct Ran {
    checkout: Checkout,
    days: usize,
    served: bool,
}

/// Runs the commands of a page, in a fresh clone.
fn run(path: &str) -> Ran {
    let lines = commands(&page(path));
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
            ["scalingnote", "serve", ..] => server = Some(serve(&checkout, line)),
            ["curl", ..] => {
                let server = server.as_ref().expect("`scalingnote serve` stands above `curl`");
                answers(server, &checkout, line);
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
            ["make", ..] => is_a_target(path, line),
            // `make test-wheel` does it.
            ["python3", "-m", "pip", "install", folder] => {
                assert!(package().join(folder).join("pyproject.toml").is_file(), "`{line}`");
            }
            _ => panic!("no test runs `{line}` of {path}"),
        }
        let published = checkout.snapshots().len() - before;
        if publishes {
            assert_eq!(published, 1, "`{line}` publishes one snapshot");
        }
    }
    let served = server.is_some();
    if let Some(server) = server {
        server.stop();
    }
    Ran { checkout, days, served }
}

#[track_caller]
fn is_a_target(path: &str, line: &str) {
    let arguments = line.split_whitespace().skip(1);
    let mut make = Command::new("make");
    let output = make.arg("-n").args(arguments).current_dir(package()).output();
    let output = output.expect("make runs");
    assert!(output.status.success(), "`{line}` of {path} is not a target of the Makefile");
}

#[test]
fn every_command_of_the_readme_runs_as_written() {
    let ran = run("README.md");
    assert!(ran.served, "README.md shows how to serve");
    // What the commands are there for happened: two days, and a way back to the first.
    let snapshots = ran.checkout.snapshots();
    let content: Vec<&Value> = snapshots.iter().map(|manifest| &manifest["content_hash"]).collect();
    assert_eq!((ran.days, content.len()), (2, 3), "the rollback is a snapshot of its own");
    assert_ne!(content[0], content[1], "the edited note is in the second snapshot");
    assert_eq!(content[0], content[2], "the rollback brings the first content back");
}

#[test]
fn every_command_of_the_page_on_pipelines_runs_as_written() {
    let ran = run("pipelines/README.md");
    // Three ways to run a day.
    assert_eq!((ran.days, ran.checkout.snapshots().len()), (3, 3));
    let metrics = std::fs::read_to_string(ran.checkout.path().join("scalingnote.prom"));
    let metrics = metrics.expect("the page shows how metrics are written");
    let newest = "scalingnote_snapshot_number{pipeline=\"quickstart\"} 3\n";
    assert!(metrics.contains(newest), "{metrics}");
}

/// Other pages show commands that take hours, or more than a test has; targets of the Makefile are looked up.
#[test]
fn every_page_is_executed_or_shows_targets_that_exist() {
    let run_here = ["README.md", "pipelines/README.md", CLUSTERS];
    let listed =
        Command::new("git").args(["ls-files", "*README.md"]).current_dir(package()).output();
    let listed = String::from_utf8(listed.expect("git runs").stdout).expect("paths are text");
    assert!(run_here.iter().all(|path| page(path).contains("```sh\n")));
    for path in listed.lines().filter(|path| !run_here.contains(path)) {
        for line in commands(&page(path)) {
            match line.split_whitespace().next() {
                Some("make") => is_a_target(path, &line),
                Some("python3") if path.starts_with("schemas/") => {}
                _ => assert!(
                    ["benches/README.md", "tests/fuzz/README.md"].contains(&path),
                    "no test runs `{line}` of {path}"
                ),
            }
        }
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let listed = Command::new("git").args(["ls-files", "*.md"]).current_dir(package()).output();
    let listed = String::from_utf8(listed.expect("git runs").stdout).expect("paths are text");
    assert!(listed.lines().count() > 5, "{listed}");
    let anchor = |heading: &str| {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-');
        heading.trim_start_matches('#').trim().chars().filter(kept).collect::<String>()
    };
    for from in listed.lines() {
        let folder = Path::new(from).parent().unwrap_or(Path::new(""));
        let text = page(from);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let to = if path.is_empty() { PathBuf::from(from) } else { folder.join(path) };
            assert!(package().join(&to).exists(), "{from} links to {link}, which is not there");
            if !fragment.is_empty() {
                let there = page(to.to_str().expect("paths are text"));
                let mut headings = there.lines().filter(|line| line.starts_with('#'));
                let found =
                    headings.any(|line| anchor(line).to_lowercase().replace(' ', "-") == fragment);
                assert!(found, "{from} links to {link}: {} has no such heading", to.display());
            }
        }
    }
}

/// The address that the README serves on.
const ADDRESS: &str = "127.0.0.1:8080";

/// `scalingnote serve` as the README starts it, on a free port.
fn serve(checkout: &Checkout, line: &str) -> Served {
    assert!(line.contains(ADDRESS), "`{line}` must serve on {ADDRESS}");
    let line = line.replace(ADDRESS, "127.0.0.1:0");
    Served::start(&mut checkout.command(&format!("exec {line}")))
}

/// Runs a `curl` line of the README where there is a curl.
fn answers(server: &Served, checkout: &Checkout, line: &str) {
    if !checkout.shell("command -v curl").status.success() {
        println!("skipped: no curl for `{line}`");
        return;
    }
    assert!(line.contains(ADDRESS), "`{line}` must ask {ADDRESS}");
    let line = line.replace(ADDRESS, &server.address.to_string());
    let said = checkout.ok(&line.replace("curl ", "curl --fail "));
    let hits = || serde_json::from_str::<Value>(&said).ok()?["hits"].as_array().map(Vec::len);
    assert!(!line.contains("/search") || hits() > Some(0), "`{line}` finds nothing: {said}");
}

#[test]
fn code_blocks_are_found() {
    let markdown = "a\n```sh\nx # why\ny \\\n  z\n# only a comment\n```\n```python\np\n```\n";
    assert_eq!(commands(markdown), ["x", "y    z"]);
    assert_eq!(blocks(markdown, "python"), ["p\n"]);
}

/// The page's example, kept running: it reads note ids and prints the notes like each.
struct Example {
    process: Child,
    out: BufReader<ChildStdout>,
}

impl Example {
    fn start(python: &Path, script: &Path, root: &Path) -> Self {
        let mut command = Command::new(python);
        command.arg(script).arg(root).arg("0.05").env("PYTHONPATH", python::reader());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
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

#[test]
fn the_python_example_agrees_with_search() {
    let Some(python) = python::with("numpy, pyarrow, usearch") else { return };
    let examples = blocks(&page("schemas/README.md"), "python");
    let example = examples.first().expect("schemas/README.md has a Python example");
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
            let (number, found) = example.similar(&note.to_string());
            assert_eq!(number, 1);
            assert_eq!(found[0].0, note.to_string(), "a note is its own nearest");
            let expected: BTreeMap<String, f64> = hits
                .iter()
                .map(|hit| {
                    (hit["note_id"].to_string(), hit["score"].as_f64().expect("hits have a score"))
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
            example.similar("17").0 == 2
        });
        assert!(swapped, "snapshot 2 takes over");
        // Its base has a removed key, and the edited note is in a delta.
        let newest = checkout.snapshots().pop().expect("a snapshot");
        assert!(newest["content"]["shards"].to_string().contains("\"deltas\""), "{newest}");
        let (_, found) = example.similar("0");
        assert_eq!(found[0].0, "0");
        let ids: std::collections::BTreeSet<_> = found.iter().map(|(id, _)| id).collect();
        assert_eq!(ids.len(), 5, "no note comes twice: {found:?}");
    }
}

#[test]
fn pyarrow_and_duckdb_read_what_a_snapshot_names() {
    let Some(python) = python::with("duckdb, numpy, pyarrow, usearch") else { return };
    let script = package().join("tests/python/read_snapshot.py");
    for vector_type in ["f32", "f16"] {
        let checkout = Checkout::new();
        checkout.ok(&format!(
            "scalingnote run pipelines/quickstart.toml --set encode.vector_type={vector_type}"
        ));
        let root = checkout.root();
        let arguments = [&root.to_string_lossy(), vector_type];
        let said = python::run(&python, &script, &arguments, "");
        assert_eq!(said.trim(), format!("{NOTES} notes, {NOTES} vectors of 64 dimensions"));
    }
}
