//! Oddities of CSV and TSV files.

use super::{Cell, Table, config, corpus, counted, notes, refused};

/// What it is, the table's options, the text with commas (tabs in TSV files), and what each reader makes of it.
type Case = (&'static str, &'static str, &'static str, Cell, Cell);

/// The same for both.
fn both(what: &'static str, options: &'static str, text: &'static str, cell: Cell) -> Case {
    (what, options, text, cell.clone(), cell)
}

fn cases() -> Vec<Case> {
    let one = |text: &str| notes(&[("i:1", text)]);
    let escape = r#"{"escape": "\\"}"#;
    let bare = r#"{"escape": "\\", "quote": "none"}"#;
    let declared = r#"{"schema": {"f": "float", "b": "boolean", "t": "timestamp"}, "sql": "SELECT id AS note_id, CAST(f AS VARCHAR) || ' ' || CAST(b AS VARCHAR) || ' ' || CAST(t AS VARCHAR) AS title FROM notes"}"#;
    let null = r#"{"null": "\\N"}"#;
    let number = r#"{"null": "\\N", "sql": "SELECT id AS note_id, coalesce(CAST(v AS VARCHAR), 'none') AS title FROM notes"}"#;
    let types = r#"{"sql": "SELECT 1 AS note_id, arrow_typeof(i) || ' ' || arrow_typeof(f) || ' ' || arrow_typeof(b) || ' ' || arrow_typeof(d) || ' ' || arrow_typeof(m) AS title FROM notes LIMIT 1"}"#;
    let greater =
        r#"{"sql": "SELECT id AS note_id, v AS title FROM notes WHERE CAST(v AS DOUBLE) > 10"}"#;
    let by_place = r#"{"has_header": false, "sql": "SELECT column_1 AS note_id, column_2 AS title FROM notes"}"#;
    let renamed = r#"{"has_header": false, "skip_rows": 1, "sql": "SELECT column_1 AS note_id, column_3 AS title FROM notes"}"#;
    vec![
        (
            "a quote that nothing closes",
            "{}",
            "id,title\n1,a\n2,\"SECRET\n3,c\n",
            refused(&["line 3: the quoted field", "still open", "quote = \"none\""]),
            notes(&[("i:1", "a"), ("i:2", "\"SECRET"), ("i:3", "c")]),
        ),
        (
            "a quote that is closed rows below",
            "{}",
            "id,title\n1,\"SECRET\n2,b\n3,15\"\n",
            // Nothing tells this from one text of three lines.
            notes(&[("i:1", "SECRET\n2,b\n3,15")]),
            notes(&[("i:1", "\"SECRET"), ("i:2", "b"), ("i:3", "15\"")]),
        ),
        (
            "text behind a quote",
            "{}",
            "id,title\n1,\"SECRET\" x\n",
            refused(&["line 2: text follows the closing quote", "quote = \"none\""]),
            one("\"SECRET\" x"),
        ),
        (
            "a quote declared that nothing closes",
            r#"{"quote": "\""}"#,
            "id,title\n1,\"SECRET\n2,b\n",
            refused(&["line 2: the quoted field"]),
            refused(&["line 2: the quoted field"]),
        ),
        both("quotes and line breaks", "{}", "id,title\n1,\"a \"\"b\"\"\nc\"\n", one("a \"b\"\nc")),
        both("a mark before a quote", "{}", "\u{feff}\"id\",title\n1,a\n", one("a")),
        both("a quote inside", "{}", "id,title\n1,a 5\" disk\n", one("a 5\" disk")),
        both("another quote", r#"{"quote": "'"}"#, "id,title\n1,'a \"b'\n", one("a \"b")),
        both("no quote", r#"{"quote": "none"}"#, "id,title\n1,\"a\n", one("\"a")),
        both("an escaped quote", escape, "id,title\n1,\"a \\\"b\\\" c\"\n", one("a \"b\" c")),
        both("an escaped escape", escape, "id,title\n1,a\\\\b\n", one("a\\b")),
        both("an escaped delimiter", escape, "id,title\n1,a\\,b\n", one("a,b")),
        ("an escaped letter", escape, "id,title\n1,a\\nb\n", one("a\\nb"), one("a\nb")),
        (
            "escapes that are not declared",
            "{}",
            "id,title\n1,\"say \\\"SECRET\\\" twice\"\n",
            refused(&["line 2: text follows", "set escape = \"\\\\\""]),
            one("\"say \\\"SECRET\\\" twice\""),
        ),
        both("a backslash", "{}", "id,title\n1,C:\\new\\\n", one("C:\\new\\")),
        both(
            "a comment",
            r##"{"comment": "#"}"##,
            "# a,b,c\nid,title\n#1,x\n1,a # b\n",
            one("a # b"),
        ),
        both("a comment that is none", "{}", "id,title\n#1,x\n", notes(&[("s:#1", "x")])),
        both("a null marker", null, "id,title\n1,\\N\n", one("none")),
        both("a null marker, and nothing", null, "id,title\n1,\n2,b\n", {
            counted(&["note i:1: no text"], &[("i:2", "b")])
        }),
        both("nothing", "{}", "id,title\n1,\n2,\"\"\n", notes(&[("i:1", "none"), ("i:2", "none")])),
        both("lines to skip", r#"{"skip_rows": 2}"#, "A \"report\n\nid,title\n1,a\n", one("a")),
        both("too many lines to skip", r#"{"skip_rows": 9}"#, "id,title\n1,SECRET\n", {
            refused(&["no header behind the 9 lines that skip_rows passes over"])
        }),
        both("blank lines alone", "{}", "\n\r\n\n", refused(&["no header", "blank"])),
        both("no header", by_place, "1,a\n2,b\n", notes(&[("i:1", "a"), ("i:2", "b")])),
        both("names given twice", "{}", "id,title,title\n1,SECRET,b\n", {
            refused(&[
                "line 1",
                "columns 2 and 3",
                "have the same name",
                "has_header = false and skip_rows = 1",
            ])
        }),
        both("names given twice, and the way out", renamed, "id,title,title\n1,a,b\n", one("b")),
        both(
            "columns without a name",
            "{}",
            "id,title,,\n1,SECRET,,\n",
            refused(&["columns 3 and 4 have no name"]),
        ),
        both("a delimiter at the end", "{}", "id,title,\n1,a,\n", one("a")),
        both(
            "names to quote",
            r#"{"sql": "SELECT \"Note ID\" AS note_id, \"Überschrift\" AS title FROM notes"}"#,
            "Note ID,Überschrift\n1,a\n",
            one("a"),
        ),
        both(
            "names to quote, and no quotes",
            r#"{"sql": "SELECT id AS note_id, Überschrift AS title FROM notes"}"#,
            "Note ID,Überschrift\n1,SECRET\n",
            config(&["\"Note ID\"", "\"Überschrift\""]),
        ),
        both("too few fields", "{}", "id,title\n1,a\n\n2\n", {
            counted(
                &["line 4", "1 field, the header has 2", "wrong number of fields"],
                &[("i:1", "a")],
            )
        }),
        both("too many fields", "{}", "id,title\n1,a,SECRET\n2,b\n", {
            counted(
                &["line 2", "3 fields, the header has 2", "wrong number of fields"],
                &[("i:2", "b")],
            )
        }),
        both(
            "a line of spaces",
            "{}",
            "id,title\n1,a\n  \n",
            counted(&["line 3", "1 field"], &[("i:1", "a")]),
        ),
        both(
            "zeros before ids",
            "{}",
            "id,title\n007,a\n7,b\n0007,c\n",
            notes(&[("s:0007", "c"), ("s:007", "a"), ("s:7", "b")]),
        ),
        both(
            "ids beyond 64 bits",
            "{}",
            "id,title\n9223372036854775808,a\n9223372036854775807,b\n",
            notes(&[("s:9223372036854775807", "b"), ("s:9223372036854775808", "a")]),
        ),
        both(
            "one id that is a word",
            "{}",
            "id,title\n7,a\nA7,b\n",
            notes(&[("s:7", "a"), ("s:A7", "b")]),
        ),
        both("an id with a sign or a space", "{}", "id,title\n+7,a\n 7,b\n-0,c\n", {
            notes(&[("s: 7", "b"), ("s:+7", "a"), ("s:-0", "c")])
        }),
        both(
            "ids that are fractions",
            "{}",
            "id,title\n1.0,SECRET\n2.5,b\n",
            config(&["note_id", "Float64"]),
        ),
        both(
            "a row without an id",
            "{}",
            "id,title\n,SECRET\n2,b\n",
            counted(&["null note_id"], &[("i:2", "b")]),
        ),
        both(
            "a delimiter that is another",
            r#"{"delimiter": ";"}"#,
            "id;title\n1;a,b\n",
            one("a,b"),
        ),
        both(
            "a delimiter that is not there",
            r#"{"delimiter": ";"}"#,
            "id,title\n1,SECRET\n",
            config(&["no column named id", "delimiter"]),
        ),
        both(
            "one character of two meanings",
            r#"{"delimiter": ";", "quote": ";"}"#,
            "id,title\n",
            config(&["delimiter and quote are both", "a character of its own"]),
        ),
        both(
            "a quote of two characters",
            r#"{"quote": "''"}"#,
            "id,title\n",
            config(&["quote", "one ASCII character", "\"none\""]),
        ),
        both("a null marker beside numbers", number, "id,v\n1,\n2,\\N\n3,5\n", {
            notes(&[("i:1", "none"), ("i:2", "none"), ("i:3", "5")])
        }),
        both(
            "types that are found",
            types,
            "i,f,b,d,m\n-5,2.5,true,2024-10-01,1\n7,0.1,false,2024-10-02,1.5\n",
            one("Int64 Float64 Boolean Utf8 Utf8"),
        ),
        both(
            "types that are not",
            types,
            "i,f,b,d,m\n07,2.50,TRUE,1e3,1\n",
            one("Utf8 Utf8 Utf8 Utf8 Int64"),
        ),
        both("texts of numbers compared", greater, "id,v\n1,9\n2,100\n3,12.50\n", {
            notes(&[("i:2", "100"), ("i:3", "12.50")])
        }),
        both("an escaped letter without quotes", bare, "id,title\n1,a\\nb\\\\n\n", one("a\nb\\n")),
        both("declared types", declared, "id,f,b,t\n1,1.10,1,2024-10-01T12:00:00+02:00\n", {
            one("1.1 true 2024-10-01T10:00:00")
        }),
        both(
            "a declared type",
            r#"{"schema": {"id": "string"}}"#,
            "id,title\n7,a\n",
            notes(&[("s:7", "a")]),
        ),
        both(
            "a value of another type",
            r#"{"schema": {"id": "integer"}}"#,
            "id,title\nSECRET,a\n2,b\n",
            counted(&["line 2", "column `id`", "not of the declared type"], &[("i:2", "b")]),
        ),
        both(
            "a declared column that is not there",
            r#"{"schema": {"ID": "string"}}"#,
            "id,title\n1,SECRET\n",
            config(&["`ID`", "they have `id`, `title`"]),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_and_tsv() {
    let mut table = Table::default();
    let cases = cases();
    let count = cases.len();
    for (what, options, text, csv, tsv) in cases {
        table.text(what, "n.csv", text.as_bytes(), options, &csv).await;
        // In the text of a note, too.
        let tabs = |notes: &mut Vec<(String, String)>| {
            notes.iter_mut().for_each(|(_, text)| *text = text.replace(',', "\t"));
        };
        let mut tsv = tsv;
        if !options.contains("delimiter") {
            match &mut tsv {
                Cell::Notes(notes) | Cell::Counted(_, notes) => tabs(notes),
                Cell::Refused(..) => {}
            }
        }
        let text =
            if options.contains("delimiter") { text.to_owned() } else { text.replace(',', "\t") };
        table.text(what, "n.tsv", text.as_bytes(), options, &tsv).await;
    }
    table.end(count * 6);
}

/// Ten rows are ten notes, wherever a text begins with a quote that nothing closes, or that another text closes.
#[tokio::test(flavor = "multi_thread")]
async fn ten_rows_with_a_quote_are_ten_notes() {
    for open in 1..=10 {
        for closed in [None, Some(3), Some(10)] {
            let text = |id: usize| match id {
                _ if id == open => format!("\"note {id}"),
                _ if Some(id) == closed => format!("note {id}\""),
                _ => format!("note {id}"),
            };
            let rows: String = (1..=10).map(|id| format!("{id}\t{}\n", text(id))).collect();
            let corpus = corpus("n.tsv", "{}").write("n.tsv", format!("id\ttitle\n{rows}"));
            let found: Vec<_> = corpus.texts().await.into_iter().map(|(_, text)| text).collect();
            assert_eq!(found, (1..=10).map(text).collect::<Vec<_>>());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers() {
    let mut table = Table::default();
    let names = |count: usize| (3..=count).map(|at| format!(",c{at}")).collect::<String>();
    let many = |count: usize| {
        format!("id,title{}\n1,a{}\n", names(count), ",".repeat(count - 2)).into_bytes()
    };
    let cells = [
        ("10,001 columns", many(10_001), notes(&[("i:1", "a")])),
        (
            "65,537 columns",
            many(65_537),
            refused(&["line 1: 65537 columns", "is the delimiter right?"]),
        ),
        (
            "a header that is not UTF-8",
            b"id,title,SECRET\xff\n1,a,b\n".to_vec(),
            refused(&["line 1: field 3 of the header is not UTF-8", "encoding = \"windows-1252\""]),
        ),
        (
            "a name that a format begins with",
            b"id,title,PAR1\n1,a,b\n".to_vec(),
            notes(&[("i:1", "a")]),
        ),
    ];
    for (what, bytes, cell) in cells {
        table.text(what, "n.csv", &bytes, "{}", &cell).await;
    }
    for first in ["PAR1", "BZhours", "Obj", "ARROW1"] {
        let text = format!("{first},id,title\nx,1,a\n");
        table.text(first, "n.csv", text.as_bytes(), "{}", &notes(&[("i:1", "a")])).await;
    }
    table.end(8 * 3);
}

/// Files with headers that were put one behind the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_in_the_middle_is_no_note() {
    let mut table = Table::default();
    let cell = counted(&["line 3", "the header again"], &[("i:1", "a"), ("i:2", "b")]);
    table.text("two files in one", "n.csv", b"id,title\n1,a\nid,title\n2,b\n", "{}", &cell).await;
    let both = notes(&[("s:1", "a"), ("s:id", "title")]);
    let named = r#"{"has_header": false, "sql": "SELECT column_1 AS note_id, column_2 AS title FROM notes"}"#;
    table.text("no header", "n.csv", b"id,title\n1,a\n", named, &both).await;
    table.end(6);
}
