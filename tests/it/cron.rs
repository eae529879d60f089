//! The crontab's very line, and what `nightly.sh` does when the program fails.

use std::path::Path;
use std::process::{Command, Output};

use crate::checkout::{Checkout, package};

/// Runs `nightly.sh` with a stand-in for the program: what is tested is how its exit codes are handled,
/// and some (a killed process, a fault that passes) the program gives only under outside force.
fn nightly(dir: &Path, program: &str, window_minutes: u32) -> Output {
    let stand_in = dir.join("scalingnote");
    std::fs::write(&stand_in, format!("#!/bin/sh\n{program}\n")).expect("write");
    make_executable(&stand_in);
    Command::new(package().join("pipelines/cron/nightly.sh"))
        .args([dir.join("p.toml"), dir.join("logs")])
        .env("SCALINGNOTE", stand_in)
        .env("PAUSE_SECONDS", "0")
        .env("WINDOW_MINUTES", window_minutes.to_string())
        .output()
        .expect("nightly.sh runs")
}

fn make_executable(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("chmod");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn success_is_silent_and_logged() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let output = nightly(dir.path(), "echo \"$@\"", 3);
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
    let logs: Vec<_> = std::fs::read_dir(dir.path().join("logs")).expect("logs").collect();
    let log = logs[0].as_ref().expect("one log").path();
    let log = std::fs::read_to_string(log).expect("the log is text");
    assert!(log.contains("p.toml --deadline 180s"), "{log}");
}

#[test]
fn passing_faults_are_retried() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let count = dir.path().join("count");
    let program = format!("echo x >>{0}; [ $(wc -l <{0}) -ge 3 ] || exit 75", count.display());
    let output = nightly(dir.path(), &program, 3);
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_to_string(count).expect("counted"), "x\nx\nx\n");
}

#[test]
fn refusals_are_told_and_not_retried() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let count = dir.path().join("count");
    for (code, meaning) in [(3, "a gate refused"), (2, "configuration"), (1, "failed")] {
        let _ = std::fs::remove_file(&count);
        let program = format!("echo x >>{}; echo the reason >&2; exit {code}", count.display());
        let output = nightly(dir.path(), &program, 3);
        assert_eq!(output.status.code(), Some(code));
        assert!(said(&output).contains(meaning), "{}", said(&output));
        assert!(said(&output).contains("the reason"), "the log's end is shown");
        assert_eq!(std::fs::read_to_string(&count).expect("counted"), "x\n");
    }
}

#[test]
fn a_used_up_window_ends_the_tries() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let output = nightly(dir.path(), "exit 75", 0);
    assert_eq!(output.status.code(), Some(75));
    assert!(said(&output).contains("the next run goes on from here"), "{}", said(&output));
}

#[test]
fn a_signal_reaches_the_program_once_and_is_waited_for() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let ready = dir.path().join("ready");
    let told = dir.path().join("told");
    let program = format!(
        "trap 'echo x >>{told}; sleep 1; exit 130' TERM; touch {ready}; \
         while :; do sleep 0.1; done",
        told = told.display(),
        ready = ready.display(),
    );
    let stand_in = dir.path().join("scalingnote");
    std::fs::write(&stand_in, format!("#!/bin/sh\n{program}\n")).expect("write");
    make_executable(&stand_in);
    let night = Command::new(package().join("pipelines/cron/nightly.sh"))
        .args([dir.path().join("p.toml"), dir.path().join("logs")])
        .env("SCALINGNOTE", stand_in)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("nightly.sh runs");
    for _ in 0..200 {
        if ready.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(ready.exists(), "the program was not started");
    let pid = night.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    let output = night.wait_with_output().expect("nightly.sh ends");
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&told).expect("told"), "x\n", "told once");
    assert!(said(&output).contains("told to stop"), "{}", said(&output));
}

#[test]
fn the_crontab_line_publishes() {
    let crontab =
        std::fs::read_to_string(package().join("pipelines/cron/crontab")).expect("crontab");
    let lines: Vec<&str> =
        crontab.lines().filter(|line| line.starts_with(char::is_numeric)).collect();
    assert_eq!(lines.len(), 2, "the run and the gc");
    let checkout = Checkout::new();
    let cron = checkout.path().join("pipelines/cron");
    std::fs::create_dir_all(&cron).expect("folder");
    std::fs::copy(package().join("pipelines/cron/nightly.sh"), cron.join("nightly.sh"))
        .expect("copy");
    for line in lines {
        // Five fields of time, then the command. The daily pipeline wants a bucket and GPUs: the quick
        // start's stands in for it.
        let command = line.splitn(6, ' ').nth(5).expect("a command after five fields");
        let command = command
            .replace("/opt/scalingnote", &checkout.path().to_string_lossy())
            .replace("daily.toml", "quickstart.toml");
        let output = checkout.shell(&command);
        assert!(output.status.success(), "`{command}` failed:\n{}", said(&output));
        assert_eq!(said(&output), "", "cron would mail this");
    }
    assert_eq!(checkout.snapshots().len(), 1);
}
