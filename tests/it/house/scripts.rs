//! The tests of scripts, which are in Python: each file of `tests/python` named here is a suite of its own.

use std::process::Command;

use crate::fixture::checkout::package;

#[track_caller]
fn passes(suite: &str) {
    let python = std::env::var_os("SCALINGNOTE_PYTHON").unwrap_or("python3".into());
    let script = package().join("tests/python").join(suite);
    let output = Command::new(python).arg(script).output().expect("Python runs");
    assert!(output.status.success(), "{suite}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What the benches share: steps that are cut, the rows that say so, the reading of cargo's timings.
#[test]
fn steps_are_cut_and_timings_are_read() {
    passes("benches.py");
}

/// What a build for GPUs chooses and says, where there is none.
#[test]
fn the_capability_and_the_libraries_are_the_cards() {
    passes("cuda.py");
}

#[test]
fn what_is_fetched_is_whole_or_named() {
    passes("fetch.py");
}

#[test]
fn the_makefiles_targets_take_folders_with_spaces_and_installations_by_half() {
    passes("targets.py");
}

#[test]
fn the_airflow_dag_refuses_settings_and_takes_exit_codes_as_they_are_meant() {
    passes("dag.py");
}
