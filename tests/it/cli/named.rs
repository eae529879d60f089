//! Paths and files that an operator names: `~`, and what is not a file.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;

fn pipeline(uri: &str, root: &str) -> String {
    PipelineFile::titles(uri, root).text()
}

/// A pipeline over notes in the home folder, which is `home`, and whose root is there too.
fn at_home() -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("home")).unwrap();
    place.write("home/notes.csv", "id,title\n1,a\n2,b\n");
    place.write("p.toml", pipeline("~/notes.csv", "~/index"));
    place
}

/// Runs a command with that home folder; gives its exit code and all that it said.
fn run(place: &Place, line: &str) -> (Option<i32>, String) {
    said(place.command(line).env("HOME", place.path("home")).output().unwrap())
}

fn said(output: Output) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = output;
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[track_caller]
fn says(found: (Option<i32>, String), code: i32, pieces: &[&str]) {
    assert_eq!(found.0, Some(code), "{}", found.1);
    for piece in pieces {
        assert!(found.1.contains(piece), "no {piece:?} in {}", found.1);
    }
}

#[test]
fn the_home_folder_is_meant_in_every_key_and_flag() {
    let place = at_home();
    std::fs::create_dir(place.path("recipes")).unwrap();
    place.write(
        "recipes/t.toml",
        "[tower]\nmodel = \"~/m.gguf\"\npooling = \"mean\"\n[query]\n[method]\nkind = \"lora\"\n\
         [[pairs]]\npath = \"~/pairs.jsonl\"\n",
    );
    let home = place.path("home");
    let home = home.to_str().unwrap();
    for (line, code, pieces) in [
        ("run p.toml --metrics-file=~/m.prom", 0, &["snapshot 1"][..]),
        ("snapshot list ~/index", 0, &["1"]),
        ("snapshot list ~//index/", 0, &["1"]),
        ("search ~/index a --model=~/none", 1, &["none"]),
        ("config show p.toml", 0, &["/home/index\"", "/home/notes.csv\""]),
        ("run p.toml --set publish.root=~/other", 0, &["snapshot 1"]),
        ("schema --out=~/schemas", 0, &["plan.schema.json"]),
        ("config upgrade p.toml --output=~/new.toml", 0, &["is p.toml as version 2"]),
        ("config check ~/new.toml", 0, &["is fine"]),
        ("run p.toml --set tower.model=~/m.gguf", 1, &["m.gguf"]),
        ("train recipes/t.toml", 1, &["pairs.jsonl"]),
    ] {
        let found = run(&place, line);
        let near = code == 0 || found.1.contains(&format!("{home}/")) || line.contains("--model");
        assert!(near, "{line}: {}", found.1);
        assert_eq!(found.0, Some(code), "{line}: {}", found.1);
        assert!(pieces.iter().all(|piece| found.1.contains(piece)), "{line}: {}", found.1);
    }
    let by_env = place
        .command("snapshot list p.toml")
        .env("HOME", home)
        .env("SCALINGNOTE__PUBLISH__ROOT", "~/other")
        .output();
    says(said(by_env.unwrap()), 0, &["1"]);
    for made in ["index/snapshots", "m.prom", "other/snapshots", "schemas", "new.toml"] {
        assert!(place.path("home").join(made).exists(), "{made} is not in the home folder");
    }
    assert!(!place.path("~").exists() && !place.path("recipes/~").exists());
}

#[test]
fn a_folder_that_is_called_so_is_told_from_the_home_folder() {
    let place = at_home();
    // As 0.1.0 made it.
    std::fs::create_dir_all(place.path("~/index")).unwrap();
    let (home, here) = (place.path("home/index"), place.folder().to_str().unwrap().to_owned());
    let both = ["`~/index` may mean two places", home.to_str().unwrap(), &here, "`./~/index`"];
    for line in ["run p.toml", "config check p.toml", "plan p.toml"] {
        says(run(&place, line), 2, &both);
        says(
            run(&place, line),
            2,
            &["p.toml:12:8: `publish.root`", "p.toml:7:7: `corpus.tables.0.uri`"],
        );
    }
    says(run(&place, "snapshot list ~/index"), 2, &[both[0], both[1], both[3], "this folder"]);
    says(run(&place, "schema --out=~/x"), 2, &["`./~/x`", "this folder"]);
    assert!(!home.exists());
    // What is written out is one of both.
    let line = "run p.toml --set publish.root=./~/index --set corpus.tables.0.uri=home/notes.csv";
    says(run(&place, line), 0, &["snapshot 1"]);
    assert!(place.path("~/index/snapshots").is_dir() && !home.exists());
}

#[test]
fn what_a_shell_alone_knows_is_refused_by_name() {
    let place = at_home();
    let set = |value: &str| format!("run p.toml --set publish.root={value}");
    for (value, piece) in [
        ("~bob/index", "the home folder of the user `bob`"),
        ("$HOME/index", "variables are not filled in"),
        ("file://~/index", "write `~/index` without `file://`"),
        ("file:///~/index", "a URI knows no home folder"),
    ] {
        says(run(&place, &set(value)), 2, &["--set publish.root: ", piece]);
        says(run(&place, &format!("snapshot list {value}")), 2, &["invalid value", piece]);
    }
    for home in [None, Some(""), Some("home")] {
        let mut command = place.command("run p.toml");
        command.env_remove("HOME");
        if let Some(home) = home {
            command.env("HOME", home);
        }
        says(said(command.output().unwrap()), 2, &["HOME", "`publish.root`", "write the path out"]);
    }
    // Who names no home folder needs none.
    let line = "run p.toml --set publish.root=out --set corpus.tables.0.uri=home/notes.csv";
    says(said(place.command(line).env_remove("HOME").output().unwrap()), 0, &["snapshot 1"]);
    let left: Vec<_> = std::fs::read_dir(place.folder()).unwrap().collect();
    assert_eq!(left.len(), 3, "home, out and p.toml: {left:?}");
}

/// Runs a command that must not wait for anything.
fn at_once(place: &Place, line: &str) -> (Option<i32>, String) {
    let mut command = place.command(line);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{line}: it waits");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    said(child.wait_with_output().unwrap())
}

/// A folder with everything that is not a file.
#[cfg(target_os = "linux")]
fn with_odd_files() -> Place {
    let place = Place::new();
    for name in ["p.toml", "ok.toml"] {
        place.write(name, pipeline("notes.csv", "root"));
    }
    place.write("notes.csv", "id,title\n1,a\n2,b\n");
    place.write("tower.toml", "[tower]\nmodel = \"fake:8\"\npooling = \"mean\"\n");
    place.write("large", vec![b'#'; 5 << 20]);
    place.write("latin", b"caf\xe9\n");
    std::fs::create_dir(place.path("folder")).unwrap();
    for pipe in ["pipe", "pipe.toml", "pipe.gguf"] {
        assert!(Command::new("mkfifo").arg(place.path(pipe)).status().unwrap().success());
    }
    place
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_no_file_is_refused_wherever_one_is_read() {
    let place = with_odd_files();
    let odd = [
        ("pipe", "it is a pipe; name a regular file"),
        ("/dev/zero", "it is a device; name a regular file"),
        ("folder", "it is a directory; name a regular file"),
        ("none", "No such file"),
    ];
    for line in [
        "run @",
        "plan @",
        "task @ --plan x --stage encode",
        "publish @ --plan x",
        "config check @",
        "config show @",
        "config upgrade @",
        "train @",
        "distill @",
        "mine @ --out mined",
        "evaluate @ set",
        "purge root --from @",
        "evaluate tower.toml set --compare @",
    ] {
        for (name, said) in odd {
            says(at_once(&place, &line.replace('@', name)), 2, &[name, said]);
        }
    }
    // The metrics of no run yet are not a mistake.
    for line in ["run p.toml --metrics-file @", "publish p.toml --plan x --metrics-file @"] {
        for (name, said) in &odd[..3] {
            says(at_once(&place, &line.replace('@', name)), 2, &[name, said]);
        }
        says(
            at_once(&place, &line.replace('@', "notes.csv")),
            2,
            &["something else than our metrics"],
        );
    }
    assert!(!place.path("root").exists(), "nothing was begun");
    assert!(std::fs::read_to_string(place.path("notes.csv")).unwrap().starts_with("id,title"));
    for (line, said) in [
        ("config check large", "it is larger than 4 MiB"),
        ("run p.toml --metrics-file large", "it is larger than 4 MiB"),
        ("config check latin", "it is not UTF-8 text"),
        ("purge root --from latin", "it is not UTF-8 text"),
        ("snapshot list pipe.toml", "it is a pipe"),
        ("serve pipe.toml", "it is a pipe"),
    ] {
        says(at_once(&place, line), 2, &[said]);
    }
    for (line, said) in [
        ("run p.toml --set tower.model=./pipe.gguf", "it is a pipe"),
        ("evaluate tower.toml folder", "there is nothing at folder/corpus.jsonl, nor with .xz"),
    ] {
        says(at_once(&place, line), 1, &[said]);
    }
    // A file of a set.
    for name in ["corpus.jsonl", "queries.jsonl"] {
        place.write(&format!("folder/{name}"), "{\"_id\": \"1\", \"text\": \"a\"}\n");
    }
    assert!(Command::new("mkfifo").arg(place.path("folder/qrels.tsv")).status().unwrap().success());
    says(at_once(&place, "evaluate tower.toml folder"), 1, &["qrels.tsv", "it is a pipe"]);
    std::fs::create_dir(place.path("folder/q")).unwrap();
    says(at_once(&place, "evaluate tower.toml folder --queries q"), 1, &["it is a directory"]);
}

#[test]
fn note_ids_come_from_standard_input_where_that_is_asked_for() {
    let place = Place::new();
    place.write("p.toml", pipeline("notes.csv", "root"));
    place.write("notes.csv", "id,title\n1,a\n2,b\n");
    place.expect(0, "run p.toml");
    place.write("ids", "\u{feff}i:1\r\n\r\ni:7\n");
    let mut command = place.command("purge p.toml --from - --dry-run");
    let output = command.stdin(std::fs::File::open(place.path("ids")).unwrap()).output().unwrap();
    says(said(output), 0, &["would purge 1 note and", "note i:7: nothing of it is stored here"]);
    place.says(0, "purge p.toml --from ids --dry-run", &["would purge 1 note and"]);
}

/// A set of two queries in `set`, and a tower.
pub(super) fn retrieval_set(place: &Place) {
    std::fs::create_dir(place.path("set")).unwrap();
    let lines =
        "{\"_id\": \"1\", \"text\": \"red fish\"}\n{\"_id\": \"2\", \"text\": \"blue bird\"}\n";
    place.write("set/corpus.jsonl", lines);
    place.write("set/queries.jsonl", lines);
    place.write("set/qrels.tsv", "1\t1\t1\n2\t2\t1\n");
    place.write("tower.toml", "[tower]\nmodel = \"fake:8\"\npooling = \"mean\"\n");
}

#[test]
fn files_that_flags_name_are_written_whole_or_it_is_said() {
    let place = Place::new();
    retrieval_set(&place);
    for flag in ["--run", "--per-query"] {
        place.write("out", "before");
        place.expect(0, &format!("evaluate tower.toml set {flag} out"));
        assert!(std::fs::read_to_string(place.path("out")).unwrap().contains("tower"), "{flag}");
        #[cfg(target_os = "linux")]
        {
            place.says(0, &format!("evaluate tower.toml set {flag} /dev/stdout"), &["tower"]);
            let line = format!("evaluate tower.toml set {flag} /dev/full");
            place.says(1, &line, &["/dev/full cannot be written", "No space left"]);
            place.says(0, &format!("evaluate tower.toml set {flag} /dev/null"), &["tower"]);
        }
        place.says(2, &format!("evaluate tower.toml set {flag} none/out"), &["none/out"]);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        let kind = Path::new("/dev/null").metadata().unwrap().file_type();
        assert!(kind.is_char_device(), "it is not replaced");
    }
    let parts = |name: &str| std::fs::read_dir(place.path(name)).unwrap().count();
    assert_eq!((parts("set"), parts(".")), (3, 3), "no part of a file is left");
}
