//! No note text in logs, errors and reports: marker words stand in every text, everything is run and broken under the
//! most talkative logging, and no word of it may come out.

use std::path::Path;

use crate::fixture::place::Place;
use crate::house::hostile::targets::{CANARY, write_model};

/// A text that tries to break out of quotes and lines.
fn text(at: usize) -> String {
    format!("it's \"{CANARY}\" {at}, '{CANARY}', {{{CANARY}}}: [{CANARY}]\\\n{CANARY} `{CANARY}`")
}

/// What was heard at a place.
struct Heard {
    place: Place,
    /// Everything the program said so far, with the command that made it say so.
    said: Vec<(String, String)>,
}

/// What a scenario changes of the pipeline.
struct Scenario<'a> {
    table: &'a str,
    sql: &'a str,
    template: &'a str,
    model: &'a str,
}

const GOOD: Scenario<'static> = Scenario {
    table: "notes.jsonl",
    sql: "select id as note_id, title, body, score from notes",
    template: "{{ title }} {{ body }}",
    model: "fake:16",
};

impl Heard {
    fn new() -> Self {
        Self { place: Place::new(), said: Vec::new() }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        self.place.write(name, bytes);
    }

    fn notes(&self, count: usize) {
        let line = |at: usize| serde_json::json!({"id": at, "title": CANARY, "body": text(at), "score": at});
        let lines: String = (0..count).map(|at| format!("{}\n", line(at))).collect();
        self.write("notes.jsonl", lines);
    }

    fn pipeline(&self, name: &str, scenario: &Scenario) {
        let Scenario { table, sql, template, model } = scenario;
        let sql = serde_json::Value::from(*sql);
        let template = serde_json::Value::from(*template);
        let pipeline = format!(
            "version = 1\n[corpus]\nsql = {sql}\ntemplate = {template}\nstored_columns = [\"score\"]\n\
             max_rejected = 5\n[[corpus.tables]]\nname = \"notes\"\nuri = \"{table}\"\n\
             [tower]\nmodel = \"{model}\"\npooling = \"mean\"\nmax_tokens = 64\n\
             [publish]\nroot = \"root-{name}\"\n"
        );
        self.write(&format!("{name}.toml"), pipeline);
    }

    fn run(&mut self, line: &str) -> Option<i32> {
        let output = self.place.command(line).env("SCALINGNOTE_LOG", "trace").output().unwrap();
        for stream in [output.stdout, output.stderr] {
            self.said.push((line.to_owned(), String::from_utf8_lossy(&stream).into_owned()));
        }
        output.status.code()
    }

    /// Every place where the marker came out: what was said, and what is under `runs/`, `snapshots/`, `leases/`.
    fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        for (line, said) in &self.said {
            for found in said.lines().filter(|said| said.contains(CANARY)) {
                leaks.push(format!("`{line}` says: {found}"));
            }
        }
        for entry in std::fs::read_dir(self.place.folder()).unwrap() {
            let root = entry.unwrap().path();
            for kept in ["runs", "snapshots", "leases"] {
                look_into(&root.join(kept), &mut leaks);
            }
        }
        leaks
    }
}

fn look_into(folder: &Path, leaks: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look_into(&path, leaks);
        } else if String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains(CANARY) {
            leaks.push(format!("{} holds it", path.display()));
        }
    }
}

#[test]
fn whatever_is_done_says_no_text() {
    let mut heard = Heard::new();
    heard.notes(60);
    heard.pipeline("good", &GOOD);
    for (code, line) in [
        (0, "config check good.toml"),
        (0, "plan good.toml -vvv"),
        (0, "run good.toml -vvv"),
        (0, "run good.toml -vvv --log-format json --progress json"),
        (0, "search good.toml something -k 5 -vvv"),
        (0, "search good.toml something --exact --json"),
    ] {
        assert_eq!(heard.run(line), Some(code), "{line}: {:?}", heard.said.last());
    }
    heard.notes(70);
    for (code, line) in [
        (0, "run good.toml -vvv"),
        (0, "snapshot list good.toml"),
        (0, "snapshot show good.toml --json"),
        (0, "snapshot diff good.toml 1 2 --notes"),
        (0, "snapshot verify good.toml --sample 4 -vvv"),
        (0, "snapshot gc good.toml --dry-run -vvv"),
        (0, "doctor good.toml -vvv"),
        (0, "explain good.toml 5 --query something -vvv"),
        (0, "purge good.toml --note-id i:5 -vvv"),
        (0, "run good.toml -vvv"),
    ] {
        assert_eq!(heard.run(line), Some(code), "{line}: {:?}", heard.said.last());
    }
    assert!(heard.place.path("root-good/runs").is_dir());
    assert_eq!(heard.leaks(), Vec::<String>::new());
}

#[test]
fn whatever_breaks_says_no_text() {
    let mut heard = Heard::new();
    heard.notes(20);
    let good = std::fs::read_to_string(heard.place.path("notes.jsonl")).unwrap();
    let note = |at: usize| serde_json::json!({"id": at, "title": CANARY, "body": text(at)});
    // Rows that are broken in themselves.
    heard.write("cut.jsonl", format!("{good}{{\"id\": 20, \"body\": \"{CANARY}"));
    heard.write("types.jsonl", format!("{good}{{\"id\": 20, \"body\": [\"{CANARY}\", 1]}}\n"));
    heard.write("object.jsonl", format!("{good}{{\"id\": 20, \"score\": {{\"{CANARY}\": 1}}}}\n"));
    heard.write("words.jsonl", format!("{good}{CANARY} {CANARY}\n"));
    heard.write("ids.jsonl", format!("{}\n{{\"body\": \"{CANARY}\"}}\n", note(1)));
    let mut bytes = good.clone().into_bytes();
    let at = good.find(CANARY).unwrap();
    bytes[at - 2] = 0xff;
    heard.write("utf8.jsonl", bytes);
    heard.write(
        "rows.csv",
        format!("id,title,body,score\n1,a,b,3\n2,{CANARY},{CANARY},{CANARY},9\n"),
    );
    heard.write(
        "type.csv",
        format!("id,title,body,score\n1,a,b,3\n2,a,{CANARY},\"{CANARY} it's 'x'\"\n"),
    );
    heard.write(
        "quote.csv",
        format!("id,title,body,score\n1,a,b,3\n2,a,\"{CANARY} \"{CANARY}\",4\n"),
    );
    heard.write("fine.csv", format!("id,title,body,score\n1,a,\"it's {CANARY}, 'x'\",3\n"));
    let tables = [
        "cut.jsonl",
        "types.jsonl",
        "object.jsonl",
        "words.jsonl",
        "ids.jsonl",
        "utf8.jsonl",
        "rows.csv",
        "type.csv",
        "quote.csv",
    ];
    let from_notes =
        |what: &str| format!("select id as note_id, {what} as body, 1 as score from notes");
    let queries = [
        "cast(body as bigint)",
        "body::date",
        "to_timestamp(body)",
        "decode(body, 'hex')",
        "arrow_cast(body, 'Float64')",
        "body / 0",
        "regexp_replace('x', body, 'y')",
        "to_timestamp(body, title)",
        "make_date(body, 1, 1)",
        "repeat(body, 100000000)",
    ];
    let templates = [
        "{{ body + 1 }}",
        "{{ body.x.y }}",
        "{% include body %}",
        "{{ body | int }}",
        "{{ body | items }}",
        "{{ range(body) }}",
        "{{ {}[body].x }}",
        "{{ body | urlencode | float + body }}",
        "{% for a, b in title %}{{ a }}{% endfor %}",
    ];
    let sql = "select id as note_id, title, body, score from notes";
    for (at, table) in tables.iter().enumerate() {
        heard.pipeline(&format!("table{at}"), &Scenario { table, sql, ..GOOD });
    }
    for (at, query) in queries.iter().enumerate() {
        let sql = from_notes(query);
        heard.pipeline(
            &format!("query{at}"),
            &Scenario { sql: &sql, template: "{{ body }}", ..GOOD },
        );
        let csv =
            Scenario { table: "fine.csv", sql: &sql, template: "{{ body }}", model: "fake:16" };
        heard.pipeline(&format!("csv{at}"), &csv);
    }
    for (at, template) in templates.iter().enumerate() {
        heard.pipeline(&format!("template{at}"), &Scenario { template, ..GOOD });
    }
    let mut names: Vec<String> = (0..tables.len()).map(|at| format!("table{at}")).collect();
    names.extend((0..queries.len()).flat_map(|at| [format!("query{at}"), format!("csv{at}")]));
    names.extend((0..templates.len()).map(|at| format!("template{at}")));
    let mut failed = 0;
    for name in &names {
        let code = heard.run(&format!("run {name}.toml -vvv"));
        assert!(matches!(code, Some(0..=3)), "{name}: {code:?} {:?}", heard.said.last());
        failed += u32::from(code != Some(0));
        let code = heard.run(&format!("explain {name}.toml 1 -vvv"));
        assert!(matches!(code, Some(0 | 2)), "{name}: {code:?} {:?}", heard.said.last());
    }
    assert!(failed as usize > names.len() / 2, "{failed} of {} failed as they should", names.len());
    assert_eq!(heard.leaks(), Vec::<String>::new());
}

#[test]
fn notes_that_cannot_be_encoded_are_named_by_id() {
    let mut heard = Heard::new();
    heard.notes(20);
    let good = std::fs::read_to_string(heard.place.path("notes.jsonl")).unwrap();
    // One note without the letter whose vector is not a number.
    heard.write(
        "notes.jsonl",
        format!("{good}{{\"id\": 99, \"title\": \"a\", \"body\": \"b\", \"score\": 1}}\n"),
    );
    std::fs::create_dir(heard.place.path("model")).unwrap();
    write_model(&heard.place.path("model"), Some('z'));
    heard.pipeline("quarantine", &Scenario { model: "model", ..GOOD });
    assert_eq!(heard.run("run quarantine.toml -vvv --set encode.self_test=false"), Some(3));
    let said: String = heard.said.iter().map(|(_, said)| said.as_str()).collect();
    assert!(said.contains("quarantined"), "{said}");
    assert_eq!(heard.leaks(), Vec::<String>::new());
}
