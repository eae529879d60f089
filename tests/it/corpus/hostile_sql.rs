//! Queries and packed files that would take the process down, or all of its memory.

use std::io::Write;
use std::time::{Duration, Instant};

use scalingnote::error::ErrorKind;

use super::Corpus;

/// Generous for a machine that is busy with other tests; without bounds most of these end never.
const SOON: Duration = Duration::from_secs(60);

fn corpus(sql: &str) -> Corpus {
    Corpus::new("notes.csv", sql).write("notes.csv", "id,title,n\n1,a,1\n2,b,2\n")
}

fn nested(open: &str, middle: &str, close: &str, depth: usize) -> String {
    format!("{}{middle}{}", open.repeat(depth), close.repeat(depth))
}

/// At the limits, planned and run on threads with as little stack as tokio's.
#[tokio::test(flavor = "multi_thread")]
async fn long_and_deep_queries_are_run_or_refused_soon() {
    let select = |value: &str| format!("SELECT id AS note_id, title, {value} AS v FROM notes");
    let filter = |value: &str| format!("SELECT id AS note_id, title FROM notes WHERE {value}");
    let mut queries = Vec::new();
    for value in [
        format!("n{}", " + n".repeat(510)),
        format!("n{}", "::bigint".repeat(510)),
        format!("title{}", " || title".repeat(510)),
        nested("CAST(", "n", " AS BIGINT)", 63),
        nested("coalesce(", "n", ", 1)", 12),
        nested("CASE WHEN n = 1 THEN 1 ELSE ", "n", " END", 60),
    ] {
        queries.push((select(&value), true));
        queries.push((filter(&format!("{value} IS NOT NULL")), true));
    }
    let ors: Vec<String> = (0..500).map(|at| format!("n = {at}")).collect();
    queries.push((filter(&ors.join(" OR ")), true));
    queries.push((filter(&format!("n{}", " IS NULL".repeat(1_000))), true));
    queries.push((filter(&nested("NOT (", "n = 1", ")", 61)), true));
    let ids: Vec<String> = (0..20_000).map(|at| at.to_string()).collect();
    queries.push((filter(&format!("n IN ({})", ids.join(","))), true));
    let one = "SELECT id AS note_id, title FROM notes";
    queries.push((vec![one; 100].join(" UNION ALL "), true));
    queries.push((nested("SELECT * FROM (", one, ")", 20), true));
    for (sql, _) in &mut queries {
        sql.push_str(" LIMIT 1");
    }
    for beyond in [
        filter(&format!("n{} > 1", " + n".repeat(3_000))),
        filter(&nested("CAST(", "n n", " AS BIGINT)", 50)),
        filter(&nested("CAST(", "n", " AS BIGINT)", 100)),
        filter(&nested("(", "n = 1", ")", 5_000)),
        filter(&nested("NOT ", "n = 1", "", 5_000)),
        vec![one; 1_000].join(" UNION ALL "),
        nested("SELECT * FROM ((", "notes notes notes", "))", 30),
        nested("SELECT * FROM ((", "notes", ") JOIN notes)", 30),
        nested("(", one, ")", 5_000),
        format!("SELECT n{} FROM notes", ", n".repeat(200_000)),
        format!("{one} -- {}", "x".repeat(2 << 20)),
        filter(&nested("(", "n = 1", " BETWEEN false AND true)", 60)),
        filter(&nested("(", "n = 1", " IN (true, false))", 60)),
        select(&nested("coalesce(", "n", ", 1)", 60)),
        select(&nested("nullif(", "n", ", 7)", 60)),
    ] {
        queries.push((beyond, false));
    }
    for (open, middle, close) in [
        ("lower(", "title", ")"),
        ("concat(", "title", ", 'x')"),
        ("greatest(", "n", ", 1)"),
        ("substr(", "title", ", 1)"),
        ("CASE WHEN ", "n = 1", " THEN true ELSE false END"),
        ("NOT ", "n = 1", ""),
        ("- ", "n", ""),
        ("abs(", "n", ")"),
        ("array_to_string(make_array(", "title", "), ',')"),
    ] {
        queries.push((select(&nested(open, middle, close, 31)), true));
    }
    for (sql, taken) in queries {
        let (shown, began) = (&sql[..sql.len().min(90)], Instant::now());
        let outcome = corpus(&sql).prepare().await;
        assert!(began.elapsed() < SOON, "{shown}: {:?}", began.elapsed());
        match outcome {
            Ok(_) => assert!(taken, "{shown} is taken"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Config, "{shown}: {error:?}");
                assert!(error.to_string().contains("corpus.sql: "), "{shown}: {error}");
                assert!(!taken, "{shown}: {error}");
            }
        }
    }
}

fn gzip(write: impl FnOnce(&mut dyn Write)) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    write(&mut packed);
    packed.finish().unwrap()
}

/// A field of 300 MiB in a file of a megabyte; the memory limit of 64 MiB has room for rows of 4 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_packed_row_that_would_take_all_memory_is_refused() {
    let sql = "SELECT id AS note_id, title FROM notes";
    let long = vec![b'x'; 1 << 20];
    for (name, before, after) in [
        ("notes.csv.gz", "id,title\n1,short\n2,", "\n"),
        ("notes.csv.gz", "id,title\n1,short\n2,\"", "\"\n"),
        ("notes.jsonl.gz", "{\"id\": 1, \"title\": \"short\"}\n{\"id\": 2, \"title\": \"", "\"}\n"),
        ("notes.json.gz", "[{\"id\": 1, \"title\": \"short\"},\n{\"id\": 2, \"title\": \"", "\"}]"),
    ] {
        let bytes = gzip(|out| {
            out.write_all(before.as_bytes()).unwrap();
            (0..300).for_each(|_| out.write_all(&long).unwrap());
            out.write_all(after.as_bytes()).unwrap();
        });
        assert!(bytes.len() < 4 << 20);
        let mut corpus = Corpus::new(name, sql).write(name, bytes);
        corpus.options.memory_limit_mib = 64;
        let error = corpus.fails().await;
        let said = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Input, "{said}");
        let line = if name == "notes.csv.gz" { "line 3" } else { "line 2" };
        for part in [name, line, "4.0 MiB", "corpus.memory_limit_mib"] {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
    }
}

/// What is long in all, and short in each row, is streamed.
#[tokio::test(flavor = "multi_thread")]
async fn a_packed_file_of_many_rows_is_read_whatever_its_size() {
    let row = "x".repeat(100_000);
    let bytes = gzip(|out| {
        out.write_all(b"id,title\n").unwrap();
        for id in 0..2_000 {
            // One note, two thousand times.
            writeln!(out, "{},{row}", id % 2).unwrap();
        }
    });
    let mut corpus = Corpus::new("notes.csv.gz", "SELECT DISTINCT id AS note_id, title FROM notes");
    corpus = corpus.write("notes.csv.gz", bytes);
    corpus.options.memory_limit_mib = 64;
    let (outcome, rows) = corpus.rows().await;
    assert_eq!((outcome.rows_read, rows.len(), rows[1].text.len()), (2, 2, 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_millions_of_values_is_rejected() {
    let bytes = gzip(|out| {
        out.write_all(b"{\"id\": 1, \"title\": \"a\"}\n{\"id\": 2, \"title\": \"b\", \"v\": [0")
            .unwrap();
        out.write_all(",0".repeat(1_500_000).as_bytes()).unwrap();
        out.write_all(b"]}\n").unwrap();
    });
    let mut corpus = Corpus::new("notes.jsonl.gz", "SELECT id AS note_id, title FROM notes");
    corpus = corpus.write("notes.jsonl.gz", bytes);
    let error = corpus.fails().await;
    assert!(error.to_string().contains("1,048,576 commas"), "{error}");
    corpus.options.max_rejected = 1;
    assert_eq!(corpus.texts().await.len(), 1);
}

/// Rows that a query multiplies are held within the memory limit, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_multiplies_rows_is_bounded() {
    let lines: String = (0..200).map(|id| format!("{id},title {id}\n")).collect();
    let chain = |links: usize, join: &str| {
        let link =
            |at: usize| format!(", n{} AS (SELECT x.id FROM n{at} x {join} n{at} y)", at + 1);
        let links: String = (0..links).map(link).collect::<Vec<_>>().concat();
        format!("WITH n0 AS (SELECT id FROM notes){links}")
    };
    let corpus = |sql: String| {
        let mut corpus =
            Corpus::new("notes.csv", &sql).write("notes.csv", format!("id,title\n{lines}"));
        corpus.options.memory_limit_mib = 64;
        corpus
    };
    // Written out, the longer ones have more tables than there are atoms.
    for links in [9, 20, 60, 200] {
        let sql = format!(
            "{} SELECT id AS note_id, CAST(id AS VARCHAR) AS title FROM n{links}",
            chain(links, "CROSS JOIN")
        );
        let error = corpus(sql).fails().await;
        assert!(error.to_string().contains("more than 1,024 tables"), "{links}: {error}");
    }
    let select = "SELECT id AS note_id, CAST(id AS VARCHAR) AS title FROM";
    let many =
        format!("{} {select} n6 LIMIT 1", chain(6, "JOIN").replace(" y)", " y ON x.id = y.id)"));
    assert_eq!(corpus(many).texts().await.len(), 1);
    // 200 to the fourth, in front of the last join.
    let error = corpus(format!("{} {select} n3 ORDER BY id", chain(3, "CROSS JOIN"))).fails().await;
    assert_eq!(error.kind(), ErrorKind::Resource, "{error}");
    assert!(error.to_string().contains("corpus.memory_limit_mib"), "{error}");
}
