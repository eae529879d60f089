//! What is built for a run is built for the tests, too.

use std::collections::BTreeSet;
use std::process::Command;

/// Every package with its features, as `cargo` resolves them for these kinds of dependencies.
fn resolved(kinds: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["tree", "--offline", "--locked", "--prefix", "none", "--format", "{p} {f}"]);
    let output = cargo.args(["--edges", kinds]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

/// Otherwise whoever runs `make index` and then `make test` waits for this library, and all that is above the package,
/// twice.
#[test]
fn no_dependency_of_the_tests_alone_changes_the_features_of_another() {
    let (built, tested) = (resolved("normal,build"), resolved("normal,build,dev"));
    assert!(built.len() > 200 && tested.len() > built.len());
    let changed: Vec<_> = built.difference(&tested).collect();
    assert!(changed.is_empty(), "built once for a run and once for the tests: {changed:?}");
}
