//! What a build for GPUs chooses and says, where there is none.

use std::process::Command;

use crate::fixture::checkout::package;

#[test]
fn the_capability_and_the_libraries_are_the_cards() {
    let python = std::env::var_os("SCALINGNOTE_PYTHON").unwrap_or("python3".into());
    let script = package().join("tests/python/cuda.py");
    let output = Command::new(python).arg(script).output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
