//! `scalingnote doctor`: what is wrong is said before a run meets it.

use serde_json::Value;

use crate::fixture::files::walk;
use crate::fixture::machine;
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;

fn place() -> Place {
    let place = Place::with(&PipelineFile { root: "root", ..PipelineFile::default() });
    place.write_notes(0..50, |at| format!("words of note {at}"));
    place
}

fn check<'a>(found: &'a Value, name: &str) -> &'a Value {
    let checks = found["checks"].as_array().unwrap();
    checks
        .iter()
        .find(|check| check["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {found}"))
}

#[track_caller]
fn says(found: &Value, name: &str, health: &str, piece: &str) {
    let check = check(found, name);
    assert_eq!(check["health"], health, "{check}");
    let said = format!("{} {}", check["found"], check["way_out"]);
    assert!(said.contains(piece), "no {piece:?} in {said}");
}

#[test]
fn a_machine_is_looked_at_by_itself() {
    let place = Place::new();
    let found = place.json(0, "doctor --json");
    says(&found, "processor", "fine", "search by ");
    for name in ["memory", "disk of the cache", "disk for spilling", "open files"] {
        check(&found, name);
    }
    let told = place.expect(0, "doctor");
    assert!(told.lines().count() >= found["checks"].as_array().unwrap().len(), "{told}");
}

#[test]
fn a_pipeline_that_will_run_has_nothing_wrong_and_nothing_is_left_behind() {
    let place = place();
    let found = place.json(0, "doctor p.toml --json");
    says(&found, "root", "fine", "the first run makes it");
    says(&found, "conditional put", "fine", "refused");
    says(&found, "clock", "fine", "as the store's");
    says(&found, "tower", "fine", "fake:16 is here");
    assert_eq!(std::fs::read_dir(place.folder()).unwrap().count(), 2, "the notes and the pipeline");
    place.expect(0, "run p.toml");
    let before = walk(&place.path("root"));
    let found = place.json(0, "doctor p.toml --json");
    says(&found, "root", "fine", "holds snapshot 1");
    assert_eq!(walk(&place.path("root")), before);
}

#[test]
fn a_clock_that_is_off_is_told_with_the_way_out() {
    if !machine::is_there() {
        return;
    }
    let place = place();
    place.expect(0, "run p.toml");
    for (seconds, piece) in [(7_200, "seconds ahead of the store's"), (-7_200, "seconds behind")] {
        let output =
            machine::ahead(place.command("doctor p.toml --json"), seconds).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        says(&found, "clock", "warning", piece);
        says(&found, "clock", "warning", "NTP");
        // A folder does not mind; a bucket refuses such requests.
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn what_is_wrong_decides_the_exit_code() {
    let place = place();
    let set = |line: &str| format!("doctor p.toml --json {line}");
    // A file where the root's folder would be.
    let found = place.json(1, &set("--set publish.root=notes.jsonl/root"));
    says(&found, "root", "wrong", "is a file");
    let root = "p.toml --set publish.root=notes.jsonl";
    for (code, command) in [(1, "doctor"), (0, "config check"), (1, "run")] {
        place.says(code, &format!("{command} {root}"), &["is a file; a root is a folder"]);
    }
    let found = place.json(1, &set("--set tower.arithmetic=f16"));
    says(&found, "arithmetic", "wrong", "tower.arithmetic = ");
    let found = place.json(1, &set("--set tower.model=gone.gguf"));
    says(&found, "tower", "wrong", "gone.gguf");
    // What a run would read, by a name and by a glob, and judgements that are not there.
    for (uri, piece) in [("gone.jsonl", "does not exist"), ("gone*.jsonl", "matches no file")] {
        let uri = format!("--set corpus.tables.0.uri={uri}");
        says(&place.json(1, &set(&uri)), "table notes", "wrong", piece);
        place.says(
            0,
            &format!("config check p.toml {uri}"),
            &[
                "--set corpus.tables.0.uri: table `notes`: ",
                piece,
                "a run on this machine would fail",
            ],
        );
    }
    let found = place.json(1, &set("--set evaluation.set=judged"));
    says(&found, "evaluation", "wrong", "judged");
    says(&found, "table notes", "fine", "there");
    place.says(0, "config check p.toml --set evaluation.set=judged", &["[evaluation]", "judged"]);
    assert!(!place.said(0, "config check p.toml").contains("would fail"));
    place.says(2, "doctor p.toml --set tower.modle=x", &["modle"]);
    place.says(
        1,
        "doctor p.toml --set tower.model=gone.gguf",
        &["WRONG", "a run would fail: tower"],
    );

    let mut command = place.command(&set("--set tower.model=example/none"));
    command.env("HF_HOME", place.path("models")).env("HF_ENDPOINT", "http://127.0.0.1:1");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    says(&found, "tower", "wrong", "HF_ENDPOINT");
}

#[test]
fn a_root_among_the_notes_is_refused_before_anything_is_written_there() {
    let place =
        Place::with(&PipelineFile { uri: "notes", root: "root", ..PipelineFile::default() });
    std::fs::create_dir(place.path("notes")).unwrap();
    place.write("notes/a.jsonl", "{\"id\": 1, \"body\": \"one\"}\n");
    let files =
        || (walk(&place.path("notes")), std::fs::read_dir(place.path("notes")).unwrap().count());
    let before = files();
    for command in ["run", "run --wait 1s", "plan", "plan --brief", "plan --shares", "doctor"] {
        let (command, flags) = command.split_once(' ').unwrap_or((command, ""));
        let line = format!("{command} p.toml --set publish.root=notes {flags}");
        place.says(1, &line, &["notes is in publish.root", "a folder of its own"]);
        assert_eq!(files(), before, "{line}");
    }
    place.says(
        1,
        "doctor p.toml --set corpus.tables.0.uri=notes/*.jsonl --set publish.root=notes",
        &["--set"],
    );
    assert_eq!(files(), before);
    place.expect(0, "run p.toml");
}

/// Each would end a run; nothing of the corpus is read to find it.
#[test]
fn what_a_run_would_refuse_of_the_tables_is_said_before() {
    let place = place();
    let says_both = |set: &str, code: i32, pieces: &[&str]| {
        for command in ["doctor", "config check", "plan"] {
            place.says(code, &format!("{command} p.toml {set}"), pieces);
        }
    };
    says_both("--set corpus.template={{bdy}}", 2, &["corpus.template", "bdy"]);
    says_both("--set corpus.stored_columns=[\"titel\"]", 2, &["corpus.stored_columns", "titel"]);
    place.write("sql.toml", sql("select id as note_id, body from nots"));
    place.write("id.toml", sql("select id, body from notes"));
    for command in ["doctor", "config check", "plan"] {
        place.says(2, &format!("{command} sql.toml"), &["corpus.sql", "nots"]);
        place.says(2, &format!("{command} id.toml"), &["note_id"]);
    }
    let found = place.json(2, "doctor id.toml --json");
    says(&found, "table notes", "fine", "there");
    says(&found, "corpus", "wrong", "note_id");
    // No file of the kind that its name says.
    place.write("csv.parquet", "id,body\n1,one\n2,two\n");
    place.write("cut.parquet", "PAR1 and no footer");
    for name in ["csv.parquet", "cut.parquet"] {
        let set = format!("--set corpus.tables.0.uri={name}");
        says_both(&set, 1, &["table `notes`", name]);
        let found = place.json(1, &format!("doctor p.toml --json {set}"));
        says(&found, "table notes", "wrong", name);
    }
    // Read by everybody who may read anything.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = place.path("notes.jsonl");
        let mode = |bits| std::fs::Permissions::from_mode(bits);
        std::fs::set_permissions(&file, mode(0o000)).unwrap();
        if std::fs::read(&file).is_err() {
            says_both("", 1, &["table `notes`", "notes.jsonl"]);
        }
        std::fs::set_permissions(&file, mode(0o644)).unwrap();
    }
    for command in ["doctor", "config check"] {
        place.says(0, &format!("{command} p.toml"), &[]);
    }
    // The start of a large file tells which columns it has, and not all about them.
    let rows = (0..200_000).map(|at| format!("{at},{at},note of many words {at}\n"));
    place.write("large.csv", format!("id,code,body\n{}x,x,x\n", rows.collect::<String>()));
    let large = "--set corpus.tables.0.uri=large.csv";
    place.says(0, &format!("doctor p.toml {large}"), &[]);
    place.says(2, &format!("doctor p.toml {large} --set corpus.template={{{{bdy}}}}"), &["bdy"]);
    place.write("code.toml", sql("select id as note_id, code as title, body from notes"));
    let found = place.json(0, &format!("doctor code.toml --json {large}"));
    says(&found, "corpus", "warning", "rows that come later, or");
    place.says(0, &format!("config check code.toml {large}"), &["rows that come later, or"]);
}

/// Of a large folder some notes are read, here and there; a run reads all of them.
#[test]
fn a_check_reads_some_of_many_notes() {
    let place = Place::new();
    std::fs::create_dir(place.path("vault")).unwrap();
    for at in 0..1_000 {
        let front = match at {
            999 => "seldom: x\n",
            500.. => "later: x\n",
            _ => "",
        };
        place.write(&format!("vault/{at:03}.md"), format!("---\n{front}---\nNote {at}\n"));
    }
    for column in ["later", "seldom"] {
        let query = format!("select path as note_id, body, {column} as title from notes");
        let vault = "uri = \"vault\"\nformat = \"markdown\"";
        let file = sql(&query).replace("uri = \"notes.jsonl\"", vault);
        place.write(&format!("{column}.toml"), file);
    }
    let found = place.json(0, "doctor later.toml --json");
    says(&found, "corpus", "fine", "fit them");
    let found = place.json(0, "doctor seldom.toml --json");
    says(&found, "corpus", "warning", "rows that come later, or");
    place.says(0, "config check seldom.toml", &["rows that come later, or"]);
    place.expect(0, "plan seldom.toml");
}

fn sql(sql: &str) -> String {
    let file = PipelineFile { root: "root", ..PipelineFile::default() };
    let whole = file.text().replace("version = 1", "version = 2");
    whole.replace("select id as note_id, body from notes", sql)
}

#[test]
fn keys_and_arithmetic_that_are_not_there_are_said_before() {
    let place = place();
    let keys = "--set publish.public_keys=[\"gone.pem\"]";
    let found = place.json(2, &format!("doctor p.toml --json {keys}"));
    says(&found, "root", "wrong", "gone.pem");
    place.says(0, &format!("config check p.toml {keys}"), &["gone.pem", "would fail"]);
    let wrong = ["tower.arithmetic", "\"f16\" is what none of encode.devices can do"];
    place.says(0, "config check p.toml --set tower.arithmetic=f16", &wrong);
    let gpu = "config check p.toml --set tower.arithmetic=f16 --set encode.devices=[\"cuda:0\"]";
    place.says(0, gpu, &["is fine"]);
    // No file of a fake model says how token states become a vector.
    place.write(
        "p.toml",
        sql("select id as note_id, body from notes").replace("pooling = \"mean\"\n", ""),
    );
    for command in ["config check", "plan", "run"] {
        place.says(2, &format!("{command} p.toml"), &["p.toml:", "`pooling` is not set"]);
    }
}
