//! The word list: odd, archaic or private words that messages, docs and pages do without, with what to write instead.

use std::process::Command;

use crate::fixture::checkout::package;

/// Words that a native engineer stumbles over, and what to use. Alternatives of one word have `|` between them.
const INSTEAD: &[(&str, &str)] = &[
    ("anew", "again"),
    ("in vain", "without success"),
    ("whoever", "the reader, caller or service that is meant"),
    ("whosoever", "anyone who"),
    ("astray", "lost"),
    ("amiss", "wrong"),
    ("mend|mends|mended|mending", "fix"),
    ("foretell|foretells|foretold", "predict, estimate"),
    ("for ever", "forever"),
    ("by itself", "automatically, itself, or nothing"),
    ("at hand", "available, current"),
    ("way back", "backward pass"),
    ("tonight", "this run"),
    ("upon", "on"),
    ("shall", "must, will"),
    ("thereof|therein|therewith|thereby", "of it, in it, with it, so"),
    ("lest", "so that not"),
    ("lies|lie in|under|there|beside|elsewhere", "is, is stored"),
    ("passing fault|faults", "transient failure"),
    ("a work", "a task"),
    ("works to", "tasks to"),
    ("is|was going on", "is in progress"),
    ("sign of life", "heartbeat"),
    ("now and then", "from time to time, periodically"),
    ("give|gives heed", "respect"),
];

/// What may follow `is no`: any other noun reads better after `is not a`.
const AFTER_NO: &[&str] = &[
    "longer",
    "more",
    "other",
    "one",
    "such",
    "larger",
    "wider",
    "better",
    "worse",
    "less",
    "reason",
    "obstacle",
    "news",
    "matter",
    "parameter",
    "measure",
    "way",
    "gate",
    "two",
    "default",
    "use",
    "effect",
    "need",
    "good",
    "vectors",
];

/// The words of a text in lower case, each with its line. Marks of comments and strings are no words, so a phrase is
/// found over a line break, too.
fn words(text: &str) -> Vec<(String, usize)> {
    let split = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '\'' | '-'));
    let lines = text.lines().enumerate();
    let words = lines.flat_map(|(at, line)| line.split(split).map(move |word| (word, at + 1)));
    words.filter(|(word, _)| !word.is_empty()).map(|(word, at)| (word.to_lowercase(), at)).collect()
}

/// What of the list a text has: line, words, what to write instead.
fn odd(text: &str) -> Vec<(usize, String, &'static str)> {
    let words = words(text);
    let mut found = Vec::new();
    for (phrase, instead) in INSTEAD {
        let parts: Vec<Vec<&str>> =
            phrase.split(' ').map(|part| part.split('|').collect()).collect();
        for window in words.windows(parts.len()) {
            let fits =
                |((word, _), part): (&(String, usize), &Vec<&str>)| part.contains(&word.as_str());
            if window.iter().zip(&parts).all(fits) {
                let said: Vec<&str> = window.iter().map(|(word, _)| word.as_str()).collect();
                found.push((window[0].1, said.join(" "), *instead));
            }
        }
    }
    for window in words.windows(4) {
        let [before, is, no, after] = [0, 1, 2, 3].map(|at| window[at].0.as_str());
        let verb = ["is", "are", "was", "were"].contains(&is) && no == "no";
        if verb && !["there", "and"].contains(&before) && !AFTER_NO.contains(&after) {
            found.push((window[1].1, format!("{is} {no} {after}"), "is not a"));
        }
    }
    found
}

#[test]
fn messages_docs_and_pages_use_plain_words() {
    let listed = Command::new("git").args(["ls-files"]).current_dir(package()).output();
    let listed = String::from_utf8(listed.expect("git runs").stdout).expect("paths are text");
    let read = |path: &&str| {
        let page = path.ends_with(".md") || ["Makefile", "Cargo.toml"].contains(path);
        let told = ["src/", "pipelines/", "schemas/", "tests/golden/cli/"];
        // What somebody might type into a search, and what an old release printed.
        let quoted = path.ends_with(".tsv") || path.starts_with("tests/fixtures/");
        !quoted && (page || told.iter().any(|folder| path.starts_with(folder)))
    };
    let mut bad = String::new();
    for path in listed.lines().filter(read) {
        let Ok(text) = std::fs::read_to_string(package().join(path)) else { continue };
        for (line, said, instead) in odd(&text) {
            bad += &format!("{path}:{line}: \"{said}\"; write: {instead}\n");
        }
    }
    assert!(bad.is_empty(), "words of the list in tests/it/house/words.rs:\n{bad}");
}

#[test]
fn a_word_put_back_is_found() {
    let found =
        |text: &str| odd(text).into_iter().map(|(line, said, _)| (line, said)).collect::<Vec<_>>();
    assert_eq!(
        found("/// Submitted three times in\n/// vain: run it anew."),
        [(2, "anew".to_owned()), (1, "in vain".to_owned()),]
    );
    assert_eq!(found("\"the report lies under \\\n    the root\""), [(1, "lies under".to_owned())]);
    assert_eq!(found("It is no note id."), [(1, "is no note".to_owned())]);
    assert!(
        found("There is no snapshot; it is no longer there, and must lie between 0 and 1.")
            .is_empty()
    );
    assert!(found("let renewed_in_vain = anew_id;").is_empty(), "names of code are one word each");
}
