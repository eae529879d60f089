//! Every guarantee of the README names its tests in `tests/README.md`, and the tests exist.

use std::collections::BTreeSet;
use std::path::Path;

use crate::fixture::checkout::package;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the README promises: the bold words that begin a bullet or a paragraph of that section.
fn promised() -> BTreeSet<String> {
    let readme = read(&package().join("README.md"));
    let (_, rest) = readme.split_once("\n## Guarantees\n").expect("README.md has guarantees");
    let section = rest.split("\n## ").next().unwrap_or_default();
    let bold = section.lines().filter_map(|line| {
        let text = line.strip_prefix("- ").unwrap_or(line).strip_prefix("**")?;
        let (title, _) = text.split_once("**")?;
        Some(title.trim_end_matches('.').to_owned())
    });
    bold.collect()
}

/// Whether a module of `tests/it`, or a test in one, has this path.
fn exists(path: &str) -> bool {
    let it = package().join("tests/it");
    let of = |module: &str| {
        let file = it.join(module.replace("::", "/"));
        [file.with_extension("rs"), file.join("mod.rs")].into_iter().find(|file| file.is_file())
    };
    of(path).is_some()
        || path.rsplit_once("::").is_some_and(|(module, test)| {
            of(module).is_some_and(|file| read(&file).contains(&format!("fn {test}(")))
        })
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let table = read(&package().join("tests/README.md"));
    let rows = table.lines().filter_map(|line| {
        let (title, tests) = line.strip_prefix("| ")?.split_once(" | ")?;
        tests.starts_with('`').then(|| (title.to_owned(), tests.to_owned()))
    });
    let mut named = BTreeSet::new();
    for (title, tests) in rows {
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{title}");
        for name in names {
            assert!(exists(name), "`{title}` names {name}, which is not a test");
        }
        named.insert(title);
    }
    assert_eq!(named, promised());
    assert!(!exists("snapshot::no_such_test") && !exists("nowhere::at_all"));
}
