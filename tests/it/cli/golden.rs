//! What the program prints, kept in `tests/golden/cli/`, so that a change of words is seen in review.
//!
//! `UPDATE_GOLDEN=1` rewrites the files; look at the difference before it is committed.

use std::path::Path;

use regex::Regex;

use crate::fixture::checkout::package;
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;

#[track_caller]
fn same(name: &str, said: &str) {
    let path = package().join("tests/golden/cli").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, said).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = kept.lines().zip(said.lines()).position(|(kept, said)| kept != said);
    assert!(
        kept == said,
        "tests/golden/cli/{name} is no longer what the program says, first in line {}; run this test with UPDATE_GOLDEN=1 and \
         look at the difference\n{said}",
        differs.unwrap_or(kept.lines().count().min(said.lines().count())) + 1
    );
}

/// A command with what it printed and how it ended.
fn told(place: &Place, line: &str) -> String {
    let mut command = place.command(line);
    command.env_remove("COLUMNS").env("HOME", place.folder()).env_remove("XDG_CACHE_HOME");
    let output = command.output().unwrap();
    let mut text = format!("$ scalingnote {line}\n");
    for stream in [&output.stdout, &output.stderr] {
        text += &String::from_utf8_lossy(stream);
    }
    text += &format!("exit code {}\n\n", output.status.code().unwrap());
    settled(&text, place.folder())
}

/// Without what differs from run to run and from machine to machine.
fn settled(text: &str, folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap();
    let mut text = text.replace(folder.to_str().unwrap(), "<folder>");
    for (pattern, word) in [
        (r"\d{8}T\d{6}Z-[0-9a-f]{8}", "<run>"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "<time>"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( UTC)?", "<time>"),
        (r"\b\d+\.\d+s\b", "<duration>"),
        (r"[\d,]+ tokens/s", "<speed> tokens/s"),
        (r"\b[\d.,]+ (B|KiB|MiB|GiB|bytes)\b", "<bytes>"),
        (r"<time> on \S+", "<time> on <host>"),
        (r"scalingnote \d+\.\d+\.\d+", "scalingnote <version>"),
        (r"\b[0-9a-f]{16,64}\b", "<hash>"),
        // The padding of a table goes by what was replaced.
        (r" {3,}", "  "),
        (r"/[^ ]*/scalingnote run", "<program> run"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, word).into_owned();
    }
    text
}

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let list = list.take_while(|line| !line.is_empty());
    // What a command does goes on in deeper lines.
    let names = list.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn help_of_every_command() {
    let place = Place::new();
    let (mut said, mut open, mut count) = (String::new(), vec![String::new()], 0);
    let mut common: Option<String> = None;
    while let Some(command) = open.pop() {
        let line = format!("{command} --help").trim().to_owned();
        let mut asked = place.command(&line);
        let output = asked.env_remove("COLUMNS").output().unwrap();
        assert!(output.status.success(), "{line}");
        let help = String::from_utf8(output.stdout).unwrap();
        open.extend(
            listed(&help)
                .into_iter()
                .rev()
                .map(|name| format!("{command} {name}").trim().to_owned()),
        );
        // Kept once, with the first help; a command that tells them otherwise keeps its own.
        let help = match &common {
            None => {
                let (from, to) = (help.find("  -h, --help\n"), help.find("Start here:"));
                common = Some(help[from.unwrap()..to.unwrap()].trim_end().to_owned());
                help
            }
            Some(common) => help.replace(common.as_str(), "  (the options of every command)"),
        };
        said += &format!("$ scalingnote {line}\n{help}\n\n");
        count += 1;
    }
    assert!(count >= 25, "{count} commands");
    same("help.txt", &said);
}

fn place() -> Place {
    let file = PipelineFile {
        columns: "title, body",
        corpus: "stored_columns = [\"title\"]\n",
        root: "root",
        ..PipelineFile::default()
    };
    let place = Place::with(&file);
    let line =
        |at| format!("{{\"id\":{at},\"title\":\"note {at}\",\"body\":\"words of note {at}\"}}\n");
    place.write("notes.jsonl", (0..40).map(line).collect::<String>());
    let wrong = file
        .text()
        .replace("model =", "modle =")
        .replace("pooling = \"mean\"", "pooling = \"maen\"");
    place.write("bad.toml", wrong);
    place
}

#[test]
fn common_errors() {
    let place = place();
    let lines = [
        "",
        "frobnicate",
        "run",
        "run nothing.toml",
        "run bad.toml",
        "run p.toml --set tower.max_token=5",
        "run p.toml --override count-change",
        "run p.toml --deadline 5",
        "run p.toml --set corpus.tables.0.uri=gone.jsonl",
        "run p.toml --set corpus.template={{bdy}}",
        "run p.toml --set tower.model=gone.gguf",
        "run p.toml --set gates.min_notes=100",
        "search p.toml words",
        "search nowhere words",
        "snapshot show p.toml 7",
        "purge p.toml --note-id 42",
        "publish p.toml --plan nothing",
        "tower nothing.gguf",
        "init notes.jsonl --text bdy --yes",
        "explain p.toml s:",
        "doctor p.toml --set publish.root=notes.jsonl/root",
    ];
    let said: String = lines.iter().map(|line| told(&place, line)).collect();
    // The machine's part of it is another one everywhere.
    let machine =
        Regex::new(r"(?m)^(ok|warning) +(processor|memory|disk|open files|device).*\n(  +->.*\n)?")
            .unwrap();
    same("errors.txt", &machine.replace_all(&said, ""));
}

#[test]
fn tables() {
    let place = place();
    let lines = [
        "config check p.toml",
        "plan p.toml",
        "run p.toml",
        "run p.toml",
        "search p.toml note -k 3",
        "snapshot list p.toml",
        "snapshot show p.toml",
        "explain p.toml 7 --query note",
        "purge p.toml --note-id i:7 --dry-run",
        "snapshot verify p.toml",
        "snapshot gc p.toml --dry-run",
        "init notes.jsonl --yes --model fake:16 --pooling mean --output new.toml",
    ];
    let said: String = lines.iter().map(|line| told(&place, line)).collect();
    same("tables.txt", &said);
}
