//! The architecture test: layers, fences, file sizes, panics, top-level names, machine paths.
//!
//! The rules are checked on tokens, not on text: comments and strings do not count, nested `use` trees,
//! `super::super::` and inline modules do. Every rule is itself tested on made-up sources in `checker`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

mod checker;
mod circles;
mod scan;

use crate::fixture::checkout::package;
use scan::{NamedPath, Scanned, Token};

/// Modules by layer, lowest first. A module may import from lower layers only, never from its own.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["types"],
    &["store", "observe", "schema", "kernel"],
    &["corpus", "tower", "embedding", "index", "snapshot", "dataset"],
    &["train", "evaluate", "search"],
    &["stage"],
    &["config", "report"],
    &["exec", "serve"],
    &["cli"],
];

/// Crates by prefix and the modules that may name them.
const FENCES: &[(&[&str], &[&str])] = &[
    (&["candle_"], &["tower", "train"]),
    (&["gemm"], &["kernel"]),
    // Everybody else says `crate::kernel`.
    (&["scalingnote_kernel"], &["lib"]),
    (&["datafusion"], &["corpus", "exec/ballista"]),
    (&["ballista"], &["exec/ballista"]),
    (&["usearch"], &["index"]),
    (&["clap", "indicatif"], &["cli"]),
];

/// What may stand at the top beside hidden files: folders are few on purpose.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "benches",
    "pipelines",
    "rust-toolchain.toml",
    "schemas",
    "src",
    "tests",
];
const TOP_LEVEL_HIDDEN: &[&str] =
    &[".ci", ".config", ".github", ".gitattributes", ".gitignore", ".rustfmt.toml"];

/// Longest source file, its unit tests included.
const MAX_LINES: usize = 500;

/// Folders under a root: any other module that names or parses a key asks `store::layout`.
const ROOT_FOLDERS: &[&str] =
    &["prepared/", "embeddings/", "indexes/", "towers/", "runs/", "snapshots/", "leases/"];

/// Methods that read a tensor's numbers, for which a GPU is waited for: `train` does so in one place, which counts them.
const READS: &[&str] = &["to_scalar", "to_vec0", "to_vec1", "to_vec2", "to_vec3"];
const READ_IN: &str = "train/tensors";

/// Macros that print: the command line alone does that.
const PRINTING: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Breach {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// All breaches in one source file; `file` is its path below `src/`, with `/`.
fn check_source(file: &str, source: &str) -> Vec<Breach> {
    check_scanned(file, source, &scan::scan(file, source))
}

fn check_scanned(file: &str, source: &str, scanned: &Scanned) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut breach = |line: usize, what: String| {
        breaches.push(Breach { file: format!("src/{file}"), line, what });
    };

    let lines = source.lines().count();
    if lines > MAX_LINES {
        breach(lines, format!("{lines} lines; the limit is {MAX_LINES}: split it"));
    }
    let module = file.split(['/', '.']).next().unwrap_or_default();
    let own_layer = layer_of(module);
    if own_layer.is_none() && !matches!(file, "lib.rs" | "main.rs") {
        breach(1, format!("module `{module}` has no layer: add it to LAYERS"));
    }

    for NamedPath { line, path, .. } in &scanned.paths {
        let Some(first) = path.first() else { continue };
        let Some(target) = first.strip_prefix("crate::") else {
            for (crates, homes) in FENCES {
                let fenced = crates.iter().any(|name| is_crate(first, name));
                if fenced && !homes.iter().any(|home| lies_in(file, home)) {
                    breach(*line, format!("`{first}` may be named only in {}", homes.join(", ")));
                }
            }
            continue;
        };
        let (Some(own), Some(other)) = (own_layer, layer_of(target)) else { continue };
        if target != module && other >= own {
            let way = if other == own { "sideways" } else { "up" };
            breach(*line, format!("`{module}` imports {way} from `{target}`"));
        }
    }
    check_calls(scanned, module, &mut breach);
    if module == "train" && !lies_in(file, READ_IN) {
        check_reads(&scanned.tokens, &mut breach);
    }
    for token in scanned.tokens.iter().filter(|token| token.is_text && !token.in_test) {
        let key = token.text.trim_start_matches('/');
        if !lies_in(file, "store/layout") && ROOT_FOLDERS.iter().any(|f| key.starts_with(f)) {
            breach(
                token.line,
                format!("`{}`: keys are made and read by store::layout", token.text),
            );
        }
    }
    breaches.sort();
    breaches.dedup();
    breaches
}

/// All breaches in `(file below src/, source)`. What `#[cfg(test)] mod name;` declares is test code too.
fn check_sources(sources: &[(String, String)]) -> Vec<Breach> {
    let mut scanned: Vec<Scanned> =
        sources.iter().map(|(file, source)| scan::scan(file, source)).collect();
    let test_modules: Vec<String> =
        scanned.iter().flat_map(|scanned| scanned.test_modules.clone()).collect();
    let mut breaches = Vec::new();
    for ((file, source), scanned) in sources.iter().zip(&mut scanned) {
        if test_modules.iter().any(|module| lies_in(file, module)) {
            scanned.tokens.iter_mut().for_each(|token| token.in_test = true);
        }
        breaches.extend(check_scanned(file, source, scanned));
    }
    let without_tests: Vec<(&str, &Scanned)> = sources
        .iter()
        .zip(&scanned)
        .filter(|((file, _), _)| !test_modules.iter().any(|module| lies_in(file, module)))
        .map(|((file, _), scanned)| (file.as_str(), scanned))
        .collect();
    breaches.extend(circles::check(&without_tests));
    breaches
}

/// Panics without a reason, unfinished code, printing outside the command line, unexplained `unsafe`.
fn check_calls(scanned: &Scanned, module: &str, breach: &mut dyn FnMut(usize, String)) {
    let tokens = &scanned.tokens;
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    for (at, token) in tokens.iter().enumerate() {
        let Token { line, in_test, .. } = *token;
        let name = token.text.as_str();
        let is_call = text(at + 1) == "(";
        let is_method = at > 0 && text(at - 1) == "." && is_call;
        let is_macro = text(at + 1) == "!" && text(at + 2) != "=";
        let explained = || scanned.has_comment_near(line, 1);
        let says_why = |at: usize| {
            let words = |token: &Token| token.text.split_whitespace().count();
            tokens.get(at).is_some_and(|token| token.is_text && words(token) > 1)
        };
        if name == "unsafe" && text(at + 1) != "fn" && !scanned.has_safety_near(line) {
            breach(line, "`unsafe` without a `// SAFETY:` line".to_owned());
        }
        if in_test {
            continue;
        }
        match name {
            "todo" | "unimplemented" if is_macro => {
                breach(line, format!("`{name}!`: nothing unfinished is shipped"));
            }
            // `unreachable!("why")` says why, as `.expect("why")` does.
            "unreachable" if is_macro && says_why(at + 3) => {}
            "panic" | "unreachable" if is_macro && !explained() => {
                breach(line, format!("`{name}!` without a comment that says why it cannot happen"));
            }
            "unwrap" if is_method && text(at + 2) == ")" && !explained() => {
                breach(line, "`.unwrap()` without a comment that says why it cannot fail".into());
            }
            "expect"
                if is_method
                    && tokens.get(at + 2).is_some_and(|reason| reason.is_text)
                    && !says_why(at + 2)
                    && !explained() =>
            {
                breach(line, "`.expect()` must say why it cannot fail".to_owned());
            }
            _ if PRINTING.contains(&name) && is_macro && module != "cli" => {
                breach(line, format!("`{name}!`: only `cli` prints; report an event instead"));
            }
            _ => {}
        }
    }
}

/// Numbers that are read back from a device.
fn check_reads(tokens: &[Token], breach: &mut dyn FnMut(usize, String)) {
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| !token.in_test) {
        let spells = |text: &str| {
            let words = text.split(' ').zip(&tokens[at..]);
            words.filter(|(word, token)| token.text == *word && !token.is_text).count()
                == text.split(' ').count()
        };
        let moves = spells("to_device ( & Device :: Cpu )");
        if moves || READS.iter().any(|name| spells(name)) {
            breach(token.line, format!("`{}`: only {READ_IN} waits for a device", token.text));
        }
    }
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Whether the root `name` of a path is the crate (or crate family) `fenced`.
fn is_crate(name: &str, fenced: &str) -> bool {
    match name.strip_prefix(fenced) {
        Some("") => true,
        Some(rest) => fenced.ends_with('_') || rest.starts_with('_'),
        None => false,
    }
}

fn lies_in(file: &str, module: &str) -> bool {
    file.strip_prefix(module).is_some_and(|rest| rest.starts_with(['/', '.']))
}

/// Paths of one machine, made of pieces so that this file passes its own test.
fn machine_paths() -> [String; 4] {
    ["work/", "root/", "home/runner", "Users/"].map(|rest| format!("/{rest}"))
}

/// Breaches in any committed text file: paths that exist on one machine only.
fn check_text(file: &str, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for path in machine_paths() {
            // What stands behind a letter, a dot or a slash is relative or a URI: it names no machine.
            let absolute = line.match_indices(&path).any(|(start, _)| {
                !line[..start].ends_with(|c: char| c.is_alphanumeric() || "._-/}>~".contains(c))
            });
            if absolute {
                let what = format!("names a path of one machine (`{path}`)");
                breaches.push(Breach { file: file.to_owned(), line: at + 1, what });
            }
        }
    }
    breaches
}

/// Breaches of the top-level list.
fn check_top_level<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Breach> {
    names
        .into_iter()
        .filter(|name| !TOP_LEVEL.contains(name) && !TOP_LEVEL_HIDDEN.contains(name))
        .map(|name| {
            let what = "is not on the list of top-level names (DESIGN is fixed there)".to_owned();
            Breach { file: name.to_owned(), line: 0, what }
        })
        .collect()
}

/// Every file that git would commit, below `root`, with `/`; without git, every file outside hidden and
/// build folders.
fn project_files(root: &Path) -> Vec<String> {
    let listed = std::process::Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    if let Ok(output) = listed
        && output.status.success()
    {
        let text = String::from_utf8(output.stdout).expect("file names are UTF-8");
        let files = text.split_terminator('\0').map(str::to_owned);
        // A deleted file stays listed until its removal is staged.
        return files.filter(|file| root.join(file).is_file()).collect();
    }
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).expect("readable folder") {
            let entry = entry.expect("readable entry");
            let name = entry.file_name().into_string().expect("file names are UTF-8");
            let path = folder.join(&name);
            if !entry.path().is_dir() {
                files.push(path.to_string_lossy().replace('\\', "/"));
            } else if name != "target" && !name.starts_with('.') {
                folders.push(path);
            }
        }
    }
    files.sort();
    files
}

fn assert_none(breaches: &[Breach]) {
    let list: Vec<_> = breaches.iter().map(ToString::to_string).collect();
    assert!(breaches.is_empty(), "{} breaches:\n{}", list.len(), list.join("\n"));
}

#[test]
fn sources_keep_the_architecture() {
    let root = package();
    let mut sources = Vec::new();
    for file in project_files(&root) {
        if let Some(below) = file.strip_prefix("src/").filter(|below| below.ends_with(".rs")) {
            let source = std::fs::read_to_string(root.join(&file)).expect("source is UTF-8");
            sources.push((below.to_owned(), source));
        }
    }
    assert!(sources.len() > 20, "only {} source files below {}", sources.len(), root.display());
    assert_none(&check_sources(&sources));
}

#[test]
fn nothing_else_lies_at_the_top() {
    let files = project_files(&package());
    let names: BTreeSet<&str> = files.iter().filter_map(|file| file.split('/').next()).collect();
    assert!(names.contains("Cargo.toml"));
    assert_none(&check_top_level(names));
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let root = package();
    let mut breaches = Vec::new();
    for file in project_files(&root) {
        // Binary fixtures are not text; they are skipped by not being UTF-8.
        if let Ok(text) = std::fs::read_to_string(root.join(&file)) {
            breaches.extend(check_text(&file, &text));
        }
    }
    assert_none(&breaches);
}
