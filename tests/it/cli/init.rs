//! `scalingnote init`: from files that somebody has to a pipeline that runs.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::process::Stdio;

use crate::fixture::place::Place;

const CSV: &str = "Doc-ID,Title,Content,Tags,last_modified,Lang\n\
    1,Bread,\"Flour, water, salt and time make bread.\",baking,2024-05-01T10:00:00Z,en\n\
    2,Knots,\"A bowline \u{1b}[31mholds and does not slip.\",ropes,2024-05-02T10:00:00Z,en\n\
    3,Tea,\"Water at 80 degrees keeps green tea from turning bitter.\",,2024-05-03T10:00:00Z,de\n";

fn place() -> Place {
    let place = Place::new();
    place.write("notes.csv", CSV);
    place
}

#[test]
fn what_is_proposed_runs_and_is_found() {
    let place = place();
    let said = place.expect(0, "init notes.csv --yes --model fake:16 --pooling mean");
    for piece in [
        "notes.toml is written",
        "id       Doc-ID",
        "text     Title, Content",
        "updated  last_modified",
        "the first text, of note i:1:\n  Bread\n  Flour, water, salt and time make bread.\n  baking\n",
        "the first: there is no snapshot yet",
        "scalingnote run notes.toml",
    ] {
        assert!(said.contains(piece), "no {piece:?} in\n{said}");
    }
    let file = std::fs::read_to_string(place.path("notes.toml")).unwrap();
    for piece in [
        "version = 2",
        "\"Doc-ID\" AS note_id",
        "\"Content\" AS body",
        "stored_columns = [\"title\", \"lang\"]",
        "uri = \"notes.csv\"",
        "model = \"fake:16\"",
        "root = \"notes-index\"",
    ] {
        assert!(file.contains(piece), "no {piece:?} in\n{file}");
    }
    place.says(0, "config check notes.toml", &["notes.toml is fine: 1 table"]);
    let report = place.json(0, "run notes.toml --json");
    assert_eq!(
        (&report["outcome"]["snapshot"], &report["corpus"]["notes"]),
        (&1.into(), &3.into())
    );
    let found = place.json(0, "search notes.toml bread -k 1 --json");
    assert_eq!(found["hits"][0]["stored"]["title"], "Bread");

    // It is there now, and stays as it is.
    place.says(
        2,
        "init notes.csv --yes --model fake:8 --pooling mean",
        &["notes.toml is there already", "--output"],
    );
    assert_eq!(std::fs::read_to_string(place.path("notes.toml")).unwrap(), file);
}

#[test]
fn every_question_has_a_flag() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("data/deep")).unwrap();
    std::fs::create_dir(place.path("pipelines")).unwrap();
    let lines = "{\"url\":\"a\",\"lead\":\"x\",\"story\":\"one two\",\"at\":\"2024-01-01\",\"by\":\"K\"}\n\
        {\"url\":\"b\",\"lead\":\"y\",\"story\":\"three\",\"at\":\"2024-01-02\",\"by\":\"L\"}\n";
    place.write("data/deep/a.json", lines);
    let chosen = "init data --yes --model fake:8 --pooling mean --output pipelines/news.toml --root pipelines/out --id url \
        --text story --text lead --updated-at at --stored by --no-plan";
    place.write("data/notes.txt", "no table");
    let said = place.said(0, chosen);
    assert_eq!(said.matches("skipped files without a known ending").count(), 1, "{said}");
    assert!(said.contains("text     story, lead") && !said.contains("no snapshot yet"), "{said}");
    let file = std::fs::read_to_string(place.path("pipelines/news.toml")).unwrap();
    assert!(file.contains("template = \"{{ body }}\\n{{ lead }}\""), "{file}");
    // Named where the command was given, written for where the file lies.
    let report = place.json(0, "run pipelines/news.toml --json");
    assert_eq!(report["corpus"]["notes"], 2);
    assert!(place.path("pipelines/out/snapshots").is_dir());
    assert!(!place.path("pipelines/pipelines").exists());
}

#[test]
fn what_cannot_be_proposed_says_the_way_out() {
    let place = place();
    place.write("twice.csv", "a,b\n1,x y z\n1,x y\n");
    place.write("empty.csv", "id,text\n");
    for (code, line, pieces) in [
        (1, "init twice.csv --yes", &["--id", "`a` (integer), `b` (string)"][..]),
        (1, "init empty.csv --yes", &["no rows"]),
        (
            2,
            "init notes.csv --yes --text Contents",
            &["no column `Contents`", "did you mean `Content`?"],
        ),
        (1, "init nothing.csv --yes", &["nothing.csv"]),
        (2, "init notes.csv --yes --model fake:0", &["fake:<dimensions>"]),
        (2, "init notes.csv --format xls", &["parquet, jsonl, csv, arrow, avro"]),
        (2, "init notes.csv --pooling men", &["mean, cls, last-token"]),
    ] {
        place.says(code, line, pieces);
    }
    for name in ["twice.toml", "empty.toml", "notes.toml", "nothing.toml"] {
        assert!(!place.path(name).exists(), "{name}");
    }
}

#[test]
fn the_file_goes_to_stdout_where_that_is_asked() {
    let place = place();
    let (out, err) = crate::fixture::program::expect(
        place.folder(),
        0,
        "init notes.csv --yes --model fake:8 --pooling mean --output -",
    );
    assert!(
        out.starts_with("# Made by `scalingnote init notes.csv`.\n") && err.is_empty(),
        "{out}{err}"
    );
    let names = std::fs::read_dir(place.folder()).unwrap().count();
    assert_eq!(names, 1, "nothing is written");
    place.write("piped.toml", out);
    place.expect(0, "config check piped.toml");
    // Files of a model say how token states become one vector; a fake tower has none.
    let said = place.expect(0, "init notes.csv --yes --model fake:8 --output plain.toml");
    assert!(!said.contains("nothing is planned yet"), "{said}");
    place.expect(0, "config check plain.toml");
    place.expect(0, "run plain.toml");
}

#[test]
fn a_model_that_is_not_here_is_not_fetched() {
    let place = place();
    let mut command = place.command("init notes.csv --yes");
    command.env("HF_HOME", place.path("models")).env("HF_ENDPOINT", "http://127.0.0.1:1");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("is not on this machine, so nothing is planned yet"), "{said}");
    assert!(place.path("notes.toml").exists() && !place.path("notes-index").exists());
}

#[test]
fn a_folder_of_markdown_is_taken_as_that() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("vault/deep")).unwrap();
    place.write("vault/a.md", "---\ntags: [baking]\n---\n# Bread\nFlour, water, salt and time.\n");
    place.write("vault/deep/b.md", "# Knots\nA bowline holds and does not slip.\n");
    let tower = "--yes --model fake:16 --pooling mean";
    let said = place.said(0, &format!("init vault {tower}"));
    for piece in ["format   markdown", "id       path", "text     title, body", "the first text"] {
        assert!(said.contains(piece), "no {piece:?} in\n{said}");
    }
    let file = std::fs::read_to_string(place.path("vault.toml")).unwrap();
    assert!(file.contains("format = \"markdown\""), "{file}");
    place.says(0, "config check vault.toml", &["is fine"]);
    let report = place.json(0, "run vault.toml --json");
    assert_eq!(report["corpus"]["notes"], 2);
    // What is no notes is told how to be said, where there is no file to set it in.
    place.write("dump", "a,b\n");
    place.says(1, &format!("init dump {tower}"), &["no known ending", "scalingnote init --format"]);
}

#[test]
fn notes_that_cannot_be_read_are_counted_and_the_file_is_written() {
    let place = Place::new();
    std::fs::create_dir(place.path("vault")).unwrap();
    place.write("vault/a.md", "# Bread\nFlour, water, salt and time.\n");
    place.write("vault/b.md", "---\ntitle: a: b\n---\nNo YAML.\n");
    let said = place.said(0, "init vault --yes --model fake:16 --pooling mean");
    for piece in
        ["vault.toml is written", "1 row cannot be read", "b.md line 2", "max_rejected = 1"]
    {
        assert!(said.contains(piece), "no {piece:?} in\n{said}");
    }
    assert!(!said.contains("finds nothing wrong"), "{said}");
    for command in ["config check", "run"] {
        place.says(1, &format!("{command} vault.toml"), &["corpus.max_rejected"]);
    }
    // The way out, followed.
    let file = std::fs::read_to_string(place.path("vault.toml")).unwrap();
    let file = file.replace("max_rejected = 0", "max_rejected = 1");
    place.write("vault.toml", file + "\n[gates]\nmax_rejected_percent = 50\n");
    for command in ["config check", "run"] {
        place.expect(0, &format!("{command} vault.toml"));
    }
}

#[test]
fn what_a_model_lacks_is_what_comes_next() {
    let place = place();
    let trained = crate::fixture::training::folder();
    let model = trained.path().join("model").display().to_string();
    for (model, pieces) in [
        (
            model.as_str(),
            ["`pooling` is not set", "write into [tower] of p.toml: pooling = \"mean\""],
        ),
        ("gone.gguf", ["gone.gguf", "write into [tower] of p.toml: model = "]),
    ] {
        let said = place.said(0, &format!("init notes.csv --yes --output p.toml --model {model}"));
        for piece in pieces {
            assert!(said.contains(piece), "no {piece:?} in\n{said}");
        }
        assert!(!said.contains("finds nothing wrong"), "{said}");
        std::fs::remove_file(place.path("p.toml")).unwrap();
    }
    place
        .expect(0, &format!("init notes.csv --yes --output p.toml --model {model} --pooling mean"));
    place.says(0, "config check p.toml", &["is fine"]);
}

/// The program on a terminal that says these lines; what stands on the terminal in the end, and on stdout.
fn on_a_terminal(folder: &Path, line: &str, answers: &str) -> (String, String) {
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: fills two numbers that outlive the call; the null pointers ask for no name, settings or size.
    let opened = unsafe {
        libc::openpty(
            &mut ours,
            &mut theirs,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    assert_eq!(opened, 0);
    // SAFETY: both were just opened, and nobody else has them.
    let [mut ours, theirs] =
        [ours, theirs].map(|number| unsafe { std::fs::File::from_raw_fd(number) });
    let mut command = crate::fixture::program::program(folder);
    command.args(line.split_whitespace()).stdout(Stdio::piped());
    command.stdin(theirs.try_clone().unwrap()).stderr(theirs);
    ours.write_all(answers.as_bytes()).unwrap();
    let child = command.spawn().unwrap();
    drop(command);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    // What is left on the terminal; nobody writes to it any more.
    let mut told = vec![0; 1 << 16];
    // SAFETY: sets one flag of a file that is open.
    unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    let mut length = 0;
    while let Ok(more @ 1..) = ours.read(&mut told[length..]) {
        length += more;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&told[..length]), text(&output.stdout))
}

#[test]
fn on_a_terminal_it_asks() {
    let place = place();
    let answers = "\nContent, Title\nfake:16\nsomewhere\n";
    let (told, said) = on_a_terminal(place.folder(), "init notes.csv --no-plan", answers);
    for piece in [
        "columns: Doc-ID (integer), Title (string)",
        "id column [Doc-ID]: ",
        "text columns, in order [Title, Content]: ",
        "model [Qwen/Qwen3-Embedding-0.6B]: ",
        "root (folder or bucket) [notes-index]: ",
    ] {
        assert!(told.contains(piece), "no {piece:?} in\n{told}");
    }
    assert!(said.contains("text     Content, Title"), "{said}");
    let file = std::fs::read_to_string(place.path("notes.toml")).unwrap();
    assert!(
        file.contains("model = \"fake:16\"") && file.contains("root = \"somewhere\""),
        "{file}"
    );
    // Nothing from a note may command the terminal.
    let (_, shown) = on_a_terminal(
        place.folder(),
        "init notes.csv --yes --no-plan --model fake:8 --pooling mean --id Content --title Title --output b.toml",
        "",
    );
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}
