//! What becomes of a result that stdout does not take: a full disk is an error, a reader that went away is none.

use std::process::{Output, Stdio};

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;

/// A published snapshot of 40 notes in `root`, of the pipeline `p.toml`.
fn published() -> Place {
    let place = Place::with(&PipelineFile::titles("notes.csv", "root"));
    write_notes(&place, 40);
    place.expect(0, "run p.toml");
    place
}

fn write_notes(place: &Place, count: usize) {
    let lines = (0..count).map(|id| format!("{id},note {id}\n"));
    place.write("notes.csv", format!("id,title\n{}", lines.collect::<String>()));
}

fn with(place: &Place, line: &str, stdout: impl Into<Stdio>) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = place.command(line).stdout(stdout).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// On a disk that is full.
#[cfg(target_os = "linux")]
fn onto_full(place: &Place, line: &str) -> (Option<i32>, String) {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    with(place, line, full)
}

/// Commands that print something and change nothing that matters here.
const LINES: &[&str] = &[
    "--help",
    "--version",
    "help run",
    "run --help",
    "completions bash",
    "schema pipeline",
    "config check p.toml",
    "config show p.toml",
    "config show p.toml --json",
    "config upgrade p.toml --dry-run",
    "config upgrade p.toml --output -",
    "plan p.toml",
    "plan p.toml --json",
    "plan p.toml --brief",
    "run p.toml",
    "run p.toml --json",
    "search p.toml note",
    "search p.toml note --json",
    "snapshot list root",
    "snapshot list root --json",
    "snapshot show root",
    "snapshot show root --json",
    "snapshot diff root 1 1",
    "snapshot verify root --sample 0",
    "snapshot gc root --dry-run",
    "purge root --note-id i:1 --dry-run --json",
    "purge root --note-id i:1 --lift",
];

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_of_every_command_that_prints() {
    let place = published();
    for line in LINES.iter().chain(&["serve root --vectors-only --bind 127.0.0.1:0"]) {
        let (code, stderr) = onto_full(&place, line);
        assert_eq!(code, Some(1), "{line}: {stderr}");
        let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(error.contains("standard output cannot be written"), "{line}: {stderr}");
        assert!(stderr.contains("  caused by: No space left on device"), "{line}: {stderr}");
        assert!(!stderr.contains("panicked"), "{line}: {stderr}");
    }
    let (code, stderr) = onto_full(&place, "--log-format json snapshot list root");
    let error: serde_json::Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(
        (code, &error["kind"], &error["exit_code"]),
        (Some(1), &"Resource".into(), &1.into())
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = published();
    for line in LINES {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, stderr) = with(&place, line, writer);
        assert_eq!(code, Some(0), "{line}: {stderr}");
        assert!(!stderr.contains("error") && !stderr.contains("warning"), "{line}: {stderr}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_done_is_said_to_be_done() {
    let place = published();
    write_notes(&place, 41);
    super::named::retrieval_set(&place);
    for (line, done) in [
        (
            "run p.toml --json",
            "snapshot 2 is published; only its report could not be printed; it is at ",
        ),
        (
            "run p.toml",
            "the run is done, with nothing to publish; only its report could not be printed",
        ),
        ("plan p.toml --brief", "the plan is stored, but could not be printed"),
        (
            "snapshot rollback root 1 --reason x",
            "snapshot 3 serves the content of snapshot 1, but that",
        ),
        (
            "purge root --note-id i:1",
            "the purge has ended, but the report that proves it could not",
        ),
        ("snapshot gc root", "what is not needed is deleted, but the report could not be printed"),
        ("evaluate tower.toml set --run ranked", "the set is judged and the named files are"),
        ("schema --out schemas", "the schemas are written, but could not be listed"),
        ("config upgrade p.toml", "the file is written, but that could not be said"),
    ] {
        let (code, stderr) = onto_full(&place, line);
        assert_eq!(code, Some(1), "{line}: {stderr}");
        assert!(stderr.contains(&format!("error: {done}")), "{line}: {stderr}");
    }
    let report = place.json(0, "snapshot show root --json");
    assert_eq!(report["content"]["notes"], 39, "40 of snapshot 1, and one is purged");
    for file in ["ranked", "schemas/plan.schema.json"] {
        assert!(place.path(file).is_file(), "{file} is not written");
    }
    place.says(0, "config check p.toml", &["is fine"]);
    assert!(std::fs::read_to_string(place.path("p.toml")).unwrap().contains("version = 2"));
}

/// What is wrong with the notes matters more than that it could not be printed.
#[cfg(target_os = "linux")]
#[test]
fn a_refusal_keeps_its_exit_code() {
    let place = published();
    write_notes(&place, 4);
    let (code, stderr) = onto_full(&place, "run p.toml --metrics-file m.prom");
    assert_eq!(code, Some(3), "{stderr}");
    let warning = "warning: the run has ended; only its report could not be printed";
    assert!(stderr.contains(warning) && stderr.contains("No space left"), "{stderr}");
    let metrics = std::fs::read_to_string(place.path("m.prom")).unwrap();
    assert!(metrics.contains("scalingnote_last_run_exit_code{pipeline=\"p\"} 3"), "{metrics}");
    // A damaged snapshot is one, whatever became of the list of its files.
    let manifest = place.json(0, "snapshot show root --json");
    let file = manifest["content"]["shards"][0]["index"]["path"].as_str().unwrap();
    std::fs::write(place.path("root").join(file), "x").unwrap();
    let (code, stderr) = onto_full(&place, "snapshot verify root");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("error: snapshot 1 is damaged"), "{stderr}");
    assert!(stderr.contains("warning: standard output cannot be written"), "{stderr}");
}
