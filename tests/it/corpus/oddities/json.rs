//! Oddities of JSON files.

use super::{Cell, Table, config, corpus, counted, first_line, notes, refused};

/// What it is, the table's options, the rows, and what is made of them in lines and in a list.
type Case = (&'static str, &'static str, Vec<String>, Cell, Cell);

/// The same in lines and in a list. `line N` of a message is that of the row.
fn both(what: &'static str, options: &'static str, rows: &[&str], cell: Cell) -> Case {
    let rows = rows.iter().map(|row| (*row).to_owned()).collect();
    (what, options, rows, cell.clone(), cell.lower(first_line("json") - 1))
}

fn cases() -> Vec<Case> {
    const ONE: &str = r#"{"id": 1, "title": "a"}"#;
    let a = &[("i:1", "a")][..];
    let string = r#"{"schema": {"title": "string"}}"#;
    let id = r#"{"schema": {"id": "string"}}"#;
    let version = r#"{"sql": "SELECT id AS note_id, CAST(v AS VARCHAR) AS title FROM notes"}"#;
    let strings = r#"{"schema": {"v": "strings"}, "sql": "SELECT id AS note_id, array_to_string(v, '|') AS title FROM notes"}"#;
    let deep = format!("{{\"id\": 2, \"v\": {}{}}}", "[".repeat(128), "]".repeat(128));
    let rows = |second: &str| vec![ONE.to_owned(), second.to_owned()];
    vec![
        both(
            "a text that is a number in one row",
            "{}",
            &[r#"{"id": 1, "title": "SECRET"}"#, r#"{"id": 2, "title": 5}"#],
            refused(&[
                "field `title`",
                "a string in",
                "a number in",
                "line 1",
                "line 2",
                "title = \"string\"",
            ]),
        ),
        both(
            "the same, declared",
            string,
            &[ONE, r#"{"id": 2, "title": 5.10}"#],
            notes(&[("i:1", "a"), ("i:2", "5.10")]),
        ),
        both(
            "a text that is a list in one row",
            "{}",
            &[r#"{"id": 1, "title": "SECRET"}"#, r#"{"id": 2, "title": ["b"]}"#],
            refused(&["field `title`", "a list in", "line 2", "make them two tables"]),
        ),
        both("7 and \"7\"", "{}", &[ONE, r#"{"id": "1", "title": "SECRET"}"#], {
            refused(&["field `id`", "a number in", "a string in", "id = \"string\""])
        }),
        both(
            "7 and \"007\", declared",
            id,
            &[r#"{"id": 7, "title": "a"}"#, r#"{"id": "007", "title": "b"}"#],
            notes(&[("s:007", "b"), ("s:7", "a")]),
        ),
        both(
            "zeros before ids",
            "{}",
            &[r#"{"id": "007", "title": "a"}"#, r#"{"id": "7", "title": "b"}"#],
            notes(&[("s:007", "a"), ("s:7", "b")]),
        ),
        both("a number with zeros before it", "{}", &[ONE, r#"{"id": 007, "title": "SECRET"}"#], {
            counted(&["line 2", "not JSON", "field `id`"], a)
        }),
        both(
            "ids beyond 64 bits",
            "{}",
            &[
                r#"{"id": 18446744073709551616, "title": "a"}"#,
                r#"{"id": 18446744073709551617, "title": "b"}"#,
            ],
            notes(&[("s:18446744073709551616", "a"), ("s:18446744073709551617", "b")]),
        ),
        both(
            "numbers that are written alike",
            version,
            &[r#"{"id": 1, "v": 1.10}"#, r#"{"id": 2, "v": 1e400}"#],
            notes(&[("i:1", "1.10"), ("i:2", "1e400")]),
        ),
        both(
            "whole numbers and fractions",
            version,
            &[r#"{"id": 1, "v": 2}"#, r#"{"id": 2, "v": 2.5}"#],
            notes(&[("i:1", "2"), ("i:2", "2.5")]),
        ),
        both(
            "texts of numbers compared",
            r#"{"sql": "SELECT id AS note_id, v AS title FROM notes WHERE CAST(v AS DOUBLE) > 10"}"#,
            &[r#"{"id": 1, "v": 9}"#, r#"{"id": 2, "v": 12.50}"#, r#"{"id": 3, "v": 100}"#],
            notes(&[("i:2", "12.50"), ("i:3", "100")]),
        ),
        both(
            "lists that are declared",
            strings,
            &[r#"{"id": 1, "v": ["a", null, "b", 7]}"#, r#"{"id": 2, "v": "SECRET"}"#],
            counted(&["line 2", "field `v`", "not of the declared type"], &[("i:1", "a|b|7")]),
        ),
        both("an option of CSV files", r#"{"null": "x"}"#, &[r#"{"id": 1, "title": "SECRET"}"#], {
            config(&["null is for CSV files", "leave it out"])
        }),
        both("no number", "{}", &[ONE, r#"{"id": 2, "title": NaN, "v": "SECRET"}"#], {
            counted(&["line 2", "field `title`", "NaN or Infinity, which is not JSON"], a)
        }),
        both(
            "a field given twice",
            "{}",
            &[ONE, r#"{"id": 2, "title": "SECRET", "title": "b"}"#],
            counted(&["line 2", "a field twice in one object"], a),
        ),
        both(
            "a row that is not an object",
            "{}",
            &[ONE, r#""SECRET""#],
            counted(&["line 2", "not a JSON object"], a),
        ),
        both(
            "a row that is a list",
            "{}",
            &[ONE, r#"["SECRET"]"#],
            counted(&["line 2", "not a JSON object"], a),
        ),
        both(
            "a row that is null",
            "{}",
            &[ONE, "null"],
            counted(&["line 2", "not a JSON object"], a),
        ),
        both(
            "single quotes",
            "{}",
            &[ONE, "{'id': 2, 'title': 'SECRET'}"],
            counted(&["line 2", "not JSON", "column"], a),
        ),
        both("a comma too many in a row", "{}", &[ONE, r#"{"id": 2, "title": "SECRET",}"#], {
            counted(&["line 2", "not JSON", "column"], a)
        }),
        both("half a character", "{}", &[ONE, r#"{"id": 2, "title": "SECRET \ud800"}"#], {
            counted(&["line 2", "field `title`", "half a surrogate pair"], a)
        }),
        both(
            "a raw tab",
            "{}",
            &[ONE, "{\"id\": 2, \"title\": \"SECRET\t\"}"],
            counted(&["line 2", "not JSON", "field `title`"], a),
        ),
        both(
            "escapes",
            "{}",
            &[r#"{"id": 1, "title": "\u00dc\n\ud83d\ude00\u0000!"}"#],
            notes(&[("i:1", "Ü\n😀\0!")]),
        ),
        both(
            "a field that is null or not there",
            "{}",
            &[ONE, r#"{"id": 2, "title": null}"#, r#"{"id": 3}"#],
            notes(&[("i:1", "a"), ("i:2", "none"), ("i:3", "none")]),
        ),
        both(
            "a row without an id",
            "{}",
            &[ONE, r#"{"title": "SECRET"}"#],
            counted(&["null note_id"], a),
        ),
        both(
            "a declared field that is of another type",
            r#"{"schema": {"id": "integer"}}"#,
            &[ONE, r#"{"id": "SECRET", "title": "b"}"#],
            counted(&["line 2", "field `id`", "not of the declared type"], a),
        ),
        both(
            "an object as a text",
            r#"{"sql": "SELECT id AS note_id, title FROM notes"}"#,
            &[r#"{"id": 1, "title": {"de": "SECRET"}}"#],
            config(&["title", "Struct"]),
        ),
        both(
            "lists in lists",
            "{}",
            &[ONE, &deep],
            counted(&["line 2", "column 143", "more than 128 deep"], a),
        ),
        (
            "a string that nothing closes",
            "{}",
            rows(r#"{"id": 2, "title": "SECRET}"#),
            counted(&["line 2", "not JSON", "field `title`"], a),
            refused(&["line 3", "a string does not end in its line"]),
        ),
        (
            "a bracket of another kind",
            "{}",
            rows(r#"{"id": 2, "title": "SECRET"]"#),
            counted(&["line 2", "not JSON"], a),
            refused(&["line 3", "a bracket is closed by one of another kind"]),
        ),
        (
            "two objects in a line",
            "{}",
            rows(r#"{"id": 2, "title": "SECRET"} {"id": 3, "title": "b"}"#),
            counted(&["line 2", "more than one object in a line"], a),
            refused(&["line 3", "a comma is missing"]),
        ),
        (
            "no value between commas",
            "{}",
            rows(""),
            notes(a),
            refused(&["line 4", "nothing stands after a comma"]),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_and_lists() {
    let mut table = Table::default();
    let cases = cases();
    let count = cases.len();
    for (what, options, rows, lines, list) in cases {
        let text = rows.join("\n") + "\n";
        table.text(what, "n.jsonl", text.as_bytes(), options, &lines).await;
        let text = format!("[\n{}\n]\n", rows.join(",\n"));
        table.text(what, "n.json", text.as_bytes(), options, &list).await;
    }
    table.end(count * 6);
}

/// The ending does not say how the objects stand in a file; the file does.
#[tokio::test(flavor = "multi_thread")]
async fn layouts() {
    let mut table = Table::default();
    let both = notes(&[("i:1", "a"), ("i:2", "b")]);
    let pretty = "{\n  \"id\": 1,\n  \"title\": \"a\"\n}\n{\n  \"id\": 2,\n  \"title\": \"b\"\n}\n";
    let fields: String = (0..10_001).map(|at| format!(", \"c{at}\": 1")).collect();
    let cells = [
        ("pretty-printed objects", pretty.to_owned(), both.clone()),
        ("a pretty-printed list", format!("[{}]", pretty.replace("}\n{", "},\n{")), both.clone()),
        ("objects in one line", pretty.replace('\n', ""), both.clone()),
        (
            "a list in one line",
            format!("[{}]", pretty.replace('\n', "").replace("}{", "},{")),
            both.clone(),
        ),
        (
            "an object alone",
            pretty.split_inclusive("}\n").next().unwrap().to_owned(),
            notes(&[("i:1", "a")]),
        ),
        (
            "a pretty-printed object with a fault",
            pretty.replace("\"b\"", "SECRET"),
            counted(&["line 7", "not JSON"], &[("i:1", "a")]),
        ),
        (
            "pretty-printed objects cut off",
            pretty[..pretty.len() - 2].replace('b', "SECRET"),
            refused(&["line 5", "is the file whole?"]),
        ),
        (
            "something behind a list",
            format!("[{{\"id\": 1, \"title\": \"a\"}}]\n{pretty}"),
            refused(&["line 2", "follows the end of the list"]),
        ),
        ("an empty list", "[]".to_owned(), notes(&[])),
        (
            "no object at all",
            "SECRET\n".to_owned(),
            refused(&["none of its rows", "line 1", "not JSON"]),
        ),
        (
            "10,001 fields",
            format!("{{\"id\": 1, \"title\": \"a\"{fields}}}\n"),
            refused(&["line 1", "more than 10000 different fields", "make the id a field"]),
        ),
    ];
    let count = cells.len();
    for (what, text, cell) in cells {
        for name in ["n.jsonl", "n.json"] {
            table.text(what, name, text.as_bytes(), "{}", &cell).await;
        }
    }
    table.end(count * 6);
}

/// What has no rows has whatever columns the query names, and never one that another table of the query has.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_rows_is_read_by_any_query() {
    let mut seen = Table::default();
    for (sql, cell) in [
        ("SELECT * FROM notes", notes(&[])),
        (
            "SELECT n.id AS note_id, upper(n.title) AS title FROM notes n WHERE n.likes + 1 > 5",
            notes(&[]),
        ),
        ("SELECT id AS note_id, title FROM notes JOIN tags USING (id)", notes(&[])),
        (
            "SELECT t.id AS note_id, t.title FROM tags t LEFT JOIN notes n ON n.id = t.id",
            notes(&[("i:7", "t")]),
        ),
        (
            "SELECT id AS note_id, title FROM tags UNION ALL SELECT id, body FROM notes",
            notes(&[("i:7", "t")]),
        ),
        ("SELECT id AS note_id, nope FROM tags", config(&["no column named nope"])),
    ] {
        for text in ["[]", "\n\n", " [ ]\r\n"] {
            let mut corpus =
                corpus("n.json", "{}").write("n.json", text).write("t.csv", "id,title\n7,t\n");
            corpus.options.sql = sql.into();
            corpus.options.tables.push(crate::corpus::table("tags", "t.csv"));
            seen.see(sql, &mut corpus, &cell).await;
        }
    }
    seen.end(18);
}

/// An answer of a web service holds its rows in a field, which is named, with the way out.
#[tokio::test(flavor = "multi_thread")]
async fn rows_in_a_field_are_pointed_at() {
    let mut seen = Table::default();
    let rows = r#"[{"id": 1, "title": "SECRET"}, {"id": 2, "title": 5}]"#;
    for (text, path) in [
        (
            format!(r#"{{"meta": {{"n": 2}}, "data": {rows}}}"#),
            "jq -c '.data[]' FILE > notes.jsonl",
        ),
        (format!("{{\n  \"data\": {rows}\n}}\n"), "`data` is a list of objects"),
        (format!(r#"{{"the rows": {rows}}}"#), r#"jq -c '.["the rows"][]' FILE"#),
        (r#"{"items": [], "next": null}"#.to_owned(), "jq -c '.items[]' FILE"),
    ] {
        let missing = config(&["no column named id", path]);
        let all = config(&["no column `note_id`", path]);
        for (options, cell) in [("{}", missing), (r#"{"sql": "SELECT * FROM notes"}"#, all)] {
            let mut corpus = corpus("n.json", options).write("n.json", &text);
            seen.see("rows in a field", &mut corpus, &cell).await;
        }
    }
    // As pandas writes a table unless told otherwise.
    for text in [
        r#"{"id": {"0": 1, "1": 2}, "title": {"0": "SECRET", "1": "b"}}"#,
        r#"{"columns": ["id", "title"], "index": [0], "data": [[1, "SECRET"]]}"#,
    ] {
        let mut corpus = corpus("n.json", "{}").write("n.json", text);
        let cell = refused(&["holds columns, not rows", "orient=\"records\""]);
        seen.see("columns", &mut corpus, &cell).await;
    }
    // Two objects are rows, and so is one with a list of texts.
    for text in ["{\"data\": [{}]}\n{\"data\": [{}]}\n", "{\"data\": [\"a\"]}"] {
        let mut corpus = corpus("n.json", "{}").write("n.json", text);
        seen.see("rows with a list", &mut corpus, &config(&["no column named id"])).await;
        let error = Table::came_to(&corpus).await.unwrap_err().to_string();
        assert!(!error.contains("jq"), "{error}");
    }
    seen.end(12);
}
