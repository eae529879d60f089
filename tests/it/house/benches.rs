//! What the benches share: steps that are cut, the rows that say so, the reading of cargo's timings.

use std::process::Command;

use crate::fixture::checkout::package;

#[test]
fn steps_are_cut_and_timings_are_read() {
    let python = std::env::var_os("SCALINGNOTE_PYTHON").unwrap_or("python3".into());
    let script = package().join("tests/python/benches.py");
    let output = Command::new(python).arg(script).output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
