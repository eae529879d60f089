//! The metrics file of real runs: its format, its numbers beside the report's, and the alerts on it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::fixture::checkout::{Checkout, NOTES, package};

/// Every sample by name and labels (without the pipeline's), after strict checks of the format.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'), "a last line without an end is not read");
    let mut samples = BTreeMap::new();
    let mut family: Option<(String, bool)> = None;
    let mut seen = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a help text");
            assert!(help.len() > 10 && help.ends_with('.'), "{name}: {help}");
            assert!(!seen.contains(&name.to_owned()), "{name} is described twice");
            seen.push(name.to_owned());
            family = Some((name.to_owned(), false));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, typed) = family.as_mut().expect("HELP comes before TYPE");
            assert_eq!(rest, format!("{name} gauge"));
            *typed = true;
        } else {
            let (name, typed) = family.as_ref().expect("a sample follows its HELP");
            assert!(typed, "{name} has no TYPE");
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(name.starts_with("scalingnote_") && name.chars().all(legal), "{name}");
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let labels = series.strip_prefix(name.as_str()).expect("samples are under their name");
            let labels = labels.strip_prefix("{pipeline=\"quickstart\"").expect("the pipeline");
            let labels = labels.strip_suffix('}').expect("labels are closed");
            let value: f64 = value.parse().expect("a number");
            let before = samples.insert(format!("{name}{}", labels.replace(',', " ")), value);
            assert_eq!(before, None, "{series} is there twice");
        }
    }
    samples
}

fn promtool(arguments: &[&str], stdin: Option<&Path>) {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(package());
    if let Some(file) = stdin {
        command.stdin(std::fs::File::open(file).expect("readable"));
    }
    match command.output() {
        Ok(output) => assert!(
            output.status.success() && (stdin.is_none() || output.stderr.is_empty()),
            "promtool {arguments:?}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(_) => assert!(
            std::env::var_os("SCALINGNOTE_REQUIRE_PROMTOOL").is_none(),
            "promtool is not on the PATH (Debian, Ubuntu: apt install prometheus)"
        ),
    }
}

const RUN: &str = "scalingnote run pipelines/quickstart.toml --metrics-file m.prom";

#[test]
fn metrics_say_what_the_report_says() {
    let mut checkout = Checkout::new();
    let file = checkout.path().join("m.prom");
    let read = || parse(&std::fs::read_to_string(&file).expect("the metrics are written"));
    let report: Value = serde_json::from_str(&checkout.ok(&format!("{RUN} --json"))).expect("JSON");
    promtool(&["check", "metrics"], Some(&file));
    let first = read();
    let get = |samples: &BTreeMap<String, f64>, name: &str| {
        *samples.get(&format!("scalingnote_{name}")).unwrap_or_else(|| panic!("no {name}"))
    };
    let mut stages = report["stages"].as_array().expect("stages").iter();
    let encode = stages.find(|stage| stage["stage"] == "encode").expect("encode");
    for (name, expected) in [
        ("last_run_exit_code", 0.0),
        ("failed_runs_in_a_row", 0.0),
        ("snapshot_number", 1.0),
        ("snapshot_notes", NOTES as f64),
        ("snapshot_vectors", NOTES as f64),
        ("last_run_notes change=\"new\"", NOTES as f64),
        ("last_run_texts source=\"encoded\"", NOTES as f64),
        ("last_run_texts source=\"reused\"", 0.0),
        ("last_run_tokens", encode["actual"]["tokens"].as_f64().expect("tokens")),
        (
            "last_run_written_bytes stage=\"encode\"",
            encode["actual"]["bytes"].as_f64().expect("bytes"),
        ),
        (
            "last_run_recall_ratio bound=\"mean\"",
            report["recall"]["mean"].as_f64().expect("recall"),
        ),
        ("recall_required_ratio", 0.9),
        ("gate_refused gate=\"recall\"", 0.0),
    ] {
        assert_eq!(get(&first, name), expected, "{name}");
    }
    assert!(get(&first, "last_run_tokens_per_second") > 0.0);
    assert!(get(&first, "last_run_device_busy_seconds") > 0.0);
    // All texts of this catalogue have the same number of words.
    assert_eq!(get(&first, "last_run_padding_avoided_tokens"), 0.0);
    assert!(get(&first, "last_run_written_bytes stage=\"build\"") > 0.0);
    let success = get(&first, "last_success_timestamp_seconds");
    let created = get(&first, "snapshot_created_timestamp_seconds");
    assert!(created > 1.7e9 && (success - created).abs() < 600.0, "{created} {success}");

    // A gate refuses: the code is 3, the gate is named, the snapshot and the last success are the old ones.
    checkout.edit();
    let refused = checkout.shell(&format!("{RUN} --set gates.min_notes=1000"));
    assert_eq!(refused.status.code(), Some(3));
    let second = read();
    assert_eq!(get(&second, "last_run_exit_code"), 3.0);
    assert_eq!(get(&second, "gate_refused gate=\"count-change\""), 1.0);
    assert_eq!(get(&second, "gate_refused gate=\"recall\""), 0.0);
    assert_eq!(get(&second, "snapshot_number"), 1.0);
    assert_eq!(get(&second, "last_success_timestamp_seconds"), success);
    assert_eq!(get(&second, "last_run_texts source=\"encoded\""), 1.0);
    assert_eq!(get(&second, "last_run_texts source=\"reused\""), NOTES as f64 - 1.0);

    // A pipeline that cannot be read: nothing is known but the failure, and what was known stays.
    let wrong = checkout.shell(&format!("{RUN} --set gates.no_such_key=1"));
    assert_eq!(wrong.status.code(), Some(2));
    promtool(&["check", "metrics"], Some(&file));
    let third = read();
    assert_eq!(get(&third, "last_run_exit_code"), 2.0);
    assert_eq!(get(&third, "failed_runs_in_a_row"), 2.0);
    assert_eq!(get(&third, "snapshot_number"), 1.0);
    assert_eq!(get(&third, "snapshot_created_timestamp_seconds"), created);
    assert_eq!(get(&third, "last_success_timestamp_seconds"), success);

    // Day two is good after all; the environment names the file as well.
    checkout.ok("SCALINGNOTE_METRICS_FILE=m.prom scalingnote run pipelines/quickstart.toml");
    let fourth = read();
    assert_eq!((get(&fourth, "snapshot_number"), get(&fourth, "failed_runs_in_a_row")), (2.0, 0.0));
    assert!(get(&fourth, "last_success_timestamp_seconds") > success);
    // A day without changes counts as good.
    checkout.ok(RUN);
    assert_eq!(get(&read(), "last_run_texts source=\"reused\""), NOTES as f64);

    // A file that cannot be written is told, and fails no run.
    let told =
        checkout.shell("scalingnote run pipelines/quickstart.toml --metrics-file no/folder.prom");
    assert_eq!(told.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&told.stderr).contains("no/folder.prom"));
}

#[test]
fn alerts_name_metrics_that_exist_and_pass_their_tests() {
    let alerts = std::fs::read_to_string(package().join("pipelines/prometheus/alerts.yml"));
    let alerts = alerts.expect("the alerts are readable");
    let checkout = Checkout::new();
    checkout.ok(RUN);
    let metrics = std::fs::read_to_string(checkout.path().join("m.prom")).expect("metrics");
    let mut named = 0;
    for line in alerts.lines().filter(|line| line.trim_start().starts_with("expr:")) {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("scalingnote_")) {
            assert!(metrics.contains(&format!("\n# TYPE {name} gauge\n")), "no metric {name}");
            named += 1;
        }
    }
    assert!(named >= 5, "{named} metrics are named in alerts");
    promtool(&["check", "rules", "pipelines/prometheus/alerts.yml"], None);
    promtool(&["test", "rules", "tests/prometheus/alerts_test.yml"], None);
}
