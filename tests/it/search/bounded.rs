//! Conditions that mean harm: each is refused or answered soon, in little memory, on a thread with little stack.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};

use scalingnote::corpus::RowFilter;
use scalingnote::error::{ErrorKind, Result};
use scalingnote::types::Cancel;

use crate::house::hostile::targets::{largest_request, reset_largest_request};

/// Generous for a machine that is busy with other tests; without bounds most of these end never.
const SOON: Duration = Duration::from_secs(10);

fn schema() -> Schema {
    Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("f", DataType::Boolean, true),
        Field::new("l", DataType::new_list(DataType::Utf8, true), true),
        Field::new("x", DataType::Float64, true),
    ])
}

/// Rows with `a` from 0, and texts of so many bytes.
fn notes(rows: usize, bytes: usize) -> RecordBatch {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in 0..rows {
        lists.append_value([Some("tax"), (row % 2 == 0).then_some("home")]);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..rows as i64)),
        Arc::new(StringArray::from_iter_values(
            (0..rows).map(|row| format!("{row}{}", "x".repeat(bytes))),
        )),
        Arc::new(arrow::array::BooleanArray::from_iter((0..rows).map(|row| Some(row % 3 == 0)))),
        Arc::new(lists.finish()),
        Arc::new(arrow::array::Float64Array::from_iter_values((0..rows).map(|row| row as f64))),
    ];
    RecordBatch::try_new(Arc::new(schema()), columns).unwrap()
}

/// The rows that pass.
fn passing(condition: &str, notes: &RecordBatch, cancel: &Cancel) -> Result<Vec<usize>> {
    let filter = RowFilter::compile(condition, &schema())?;
    let names: Vec<&str> = filter.columns().fields().iter().map(|f| f.name().as_str()).collect();
    let at: Vec<usize> = names.iter().map(|name| schema().index_of(name).unwrap()).collect();
    let found = filter.evaluate(&notes.project(&at).unwrap(), cancel)?;
    Ok((0..notes.num_rows()).filter(|row| found.value(*row)).collect())
}

fn refused(condition: &str, says: &str) {
    let shown = &condition[..condition.len().min(60)];
    let error = passing(condition, &notes(16, 2), &Cancel::new())
        .err()
        .unwrap_or_else(|| panic!("{shown} is taken"));
    assert_eq!(error.kind(), ErrorKind::Input, "{shown}: {error:?}");
    assert!(error.to_string().contains(says), "{shown}: {error}");
}

/// What opens and closes around a condition, and is tried at every depth.
const NESTS: &[(&str, &str, &str)] = &[
    ("(", "f", ")"),
    ("NOT (", "f", ")"),
    ("NOT ", "f", ""),
    ("- ", "a", ""),
    ("+ ", "a", ""),
    ("~ ", "a", ""),
    ("@", "a", ""),
    ("! ", "f", ""),
    ("CAST(", "a", " AS BIGINT)"),
    ("TRY_CAST(", "a", " AS BIGINT)"),
    ("CONVERT(", "a", ", INT)"),
    ("CASE WHEN ", "f", " THEN true ELSE false END"),
    ("CASE WHEN f THEN true ELSE ", "f", " END"),
    ("CASE ", "a", " WHEN 1 THEN 2 ELSE 3 END"),
    ("CASE WHEN end + ", "f", " THEN true END"),
    ("(", "f", " BETWEEN false AND true)"),
    ("(f BETWEEN ", "f", " AND true)"),
    ("(", "f", " IN (true, false, f))"),
    ("f IN (", "f", ")"),
    ("coalesce(", "a", ", 1)"),
    ("coalesce(1, ", "a", ")"),
    ("nullif(", "a", ", 1)"),
    ("lower(", "b", ")"),
    ("substr(", "b", ", 1, 2)"),
    ("floor(", "x", ")"),
    ("make_array(", "b", ")"),
    ("[", "a", "]"),
    ("ARRAY[", "a", "]"),
    ("l[", "1", "]"),
    ("{'a': ", "a", "}"),
    ("MAP {'a': ", "a", "}"),
    ("STRUCT(", "a", ")"),
    ("STRUCT<a INT>(", "a", ")"),
    ("EXTRACT(YEAR FROM ", "b", ")"),
    ("SUBSTRING(", "b", " FROM 1 FOR 2)"),
    ("POSITION(", "b", " IN b)"),
    ("POSITION(b IN ", "b", ")"),
    ("OVERLAY(", "b", " PLACING b FROM 1)"),
    ("TRIM(BOTH 'x' FROM ", "b", ")"),
    ("INTERVAL ", "'1 day'", ""),
    ("INTERVAL '1' + (", "a", ")"),
    ("PRIOR ", "a", ""),
    ("EXISTS (SELECT ", "f", ")"),
    ("f IN (SELECT ", "f", ")"),
    ("f IN (FROM (", "t JOIN t", " JOIN t))"),
    ("f IN (SELECT * FROM (", "t", " JOIN t))"),
    ("f IN (WITH t AS (SELECT ", "f", ") SELECT 1)"),
    ("f IN (VALUES (", "a", "))"),
    ("f(a -> ", "a", ")"),
    ("f((a, b) -> ", "a", ")"),
    ("f(a := ", "a", ")"),
    ("{fn f(", "a", ")}"),
    ("f(1) OVER (PARTITION BY ", "a", ")"),
    ("f(1) FILTER (WHERE ", "a", ")"),
    ("a = ANY(", "a", ")"),
    ("MATCH (a) AGAINST (", "a", ")"),
    ("CAST(a AS Nested(a INT DEFAULT ", "1", "))"),
    ("JSON_OBJECT('a' : ", "a", ")"),
    ("a.b.f(", "a", ")"),
];

/// What follows itself.
const CHAINS: &[(&str, &str)] = &[
    ("a", " + a"),
    ("a", "-a"),
    ("a", " * a"),
    ("f", " AND f"),
    ("a = 1", " OR a = 1"),
    ("f", " = f"),
    ("b", " || b"),
    ("b", " LIKE b"),
    ("b", " ~ b"),
    ("b", " SIMILAR TO 'b'"),
    ("a", "::bigint"),
    ("CAST(a AS BIGINT", "[]"),
    ("l", "[1]"),
    ("a", ".b"),
    ("b", ":a"),
    ("b", " -> a"),
    ("a", " IS NULL"),
    ("f", " IS NOT TRUE"),
    ("f", " XOR f"),
    ("a", " IS DISTINCT FROM a"),
    ("b", " COLLATE x"),
    ("b", " AT TIME ZONE 'UTC'"),
    ("f", " BETWEEN f AND f"),
    ("f", " IN (f)"),
    ("f", "\n-- comment"),
    ("f", "/*"),
    ("f", " /* c */ AND f"),
    ("a", ", a"),
    ("'", "''"),
    ("CAST(a AS ARRAY", "<ARRAY"),
    ("CAST(a AS ", "STRUCT<a "),
    ("CAST(a AS ", "Nullable("),
    ("f", ")"),
    ("f", "]"),
    ("f", " END"),
];

/// Every construct at its limit, beyond it, and with an error at its innermost place, where a parser may try again at
/// every level. On a thread with as little stack as tokio's have.
#[test]
fn every_construct_is_answered_soon() {
    let notes = notes(64, 2);
    let mut slowest = (Duration::ZERO, String::new());
    let mut ask = |condition: String| {
        let began = Instant::now();
        if let Err(error) = passing(&condition, &notes, &Cancel::new()) {
            let shown = &condition[..condition.len().min(80)];
            assert_ne!(error.kind(), ErrorKind::Internal, "{shown}: {error:?}");
        }
        let took = began.elapsed();
        assert!(took < SOON, "{took:?}: {}", &condition[..condition.len().min(80)]);
        if took > slowest.0 {
            slowest = (took, condition);
        }
    };
    for (open, middle, close) in NESTS {
        for depth in [8, 16, 32, 33, 60, 700] {
            for inside in [(*middle).to_owned(), format!("{middle} {middle}"), "?".to_owned()] {
                ask(format!("{}{inside}{}", open.repeat(depth), close.repeat(depth)));
            }
            // The brackets are closed too early, and one chain is in every level.
            ask(format!("{}{middle}", open.repeat(depth)));
            ask(format!(
                "{}{middle}{}",
                format!("a + a + {open}").repeat(depth),
                close.repeat(depth)
            ));
        }
    }
    for (first, next) in CHAINS {
        for count in [100, 256, 260, 520, 2_000, 300_000] {
            ask(format!("{first}{}", next.repeat(count)));
            ask(format!("({first}{}", next.repeat(count)));
            ask(format!("f AND make_array({first}{}) = 1", next.repeat(count)));
        }
    }
    println!("the slowest took {:?}: {}", slowest.0, &slowest.1[..slowest.1.len().min(80)]);
}

#[test]
fn too_much_is_refused_with_its_limit() {
    refused(&format!("a{} > 1", " + a".repeat(718)), "at most 260");
    let casts = format!("{}a{} > 1", "CAST(".repeat(50), " AS BIGINT)".repeat(50));
    refused(&casts, "nested too deeply: at most 32");
    refused(&format!("a IN ({})", vec!["1"; 600].join(",")), "more than 512 members");
    refused(&format!("b = '{}'", "x".repeat(20_000)), "at most 16384 are read");
    let twice = format!("{}f{}", "(".repeat(20), " BETWEEN false AND true)".repeat(20));
    refused(&twice, "do not nest BETWEEN");
    let twice = format!("{}a{} > 1", "coalesce(".repeat(20), ", 1)".repeat(20));
    refused(&twice, "do not nest BETWEEN");
    refused("CAST(l AS VARCHAR[1000000000]) IS NULL", "not to FixedSizeList");
    refused("TRY_CAST(l AS VARCHAR[1000000000]) IS NULL", "not to FixedSizeList");
    refused(r"regexp_like(b, '((\w{90}){90}){90}')", "2 MiB when compiled");
    refused(r"b ~ '((\w{90}){90}){90}'", "2 MiB when compiled");
    refused(r"b SIMILAR TO '((\w{90}){90}){90}'", "2 MiB when compiled");
    refused(r"regexp_like(b, '(\w{90}){90}', 'i')", "2 MiB when compiled");
    refused("regexp_like(b, b)", "written out as a text");
    refused("regexp_like('x', substr('(x{99}){99}', a))", "written out as a text");
    refused("b ~ b", "written out as a text");
    refused("b LIKE b", "written out as a text");
    refused(&format!("b LIKE '{}'", "%a".repeat(65)), "at most 64");
    refused(&["b ~ 'x'"; 9].join(" OR "), "at most 8 regular expressions");
    for (call, what) in [
        ("repeat(b, 1000000000) = ''", "not available"),
        ("lpad(b, 1000000000) = ''", "not available"),
        ("concat(b, b) = ''", "not available"),
        ("array_repeat(b, 1000000000) = l", "not available"),
        ("array_length(range(0, 1000000000)) > 1", "not available"),
        ("array_length(generate_series(0, 1000000000)) > 1", "not available"),
        ("replace(b, '', 'x') = ''", "not available"),
        ("array_resize(l, 1000000000) = l", "not available"),
        ("arrow_cast(b, 'FixedSizeBinary(1000000000)') IS NULL", "not available"),
        ("EXISTS (SELECT 1)", "no subqueries"),
        ("row_number() OVER () = 1", "no windows"),
    ] {
        refused(call, what);
    }
}

#[test]
fn sensible_conditions_may_be_long() {
    let notes = notes(600, 2);
    let check = |condition: &str, passes: &dyn Fn(usize) -> bool| {
        let found = passing(condition, &notes, &Cancel::new());
        let found =
            found.unwrap_or_else(|e| panic!("{}: {e}", &condition[..60.min(condition.len())]));
        let expected: Vec<usize> = (0..600).filter(|row| passes(*row)).collect();
        assert_eq!(found, expected, "{}", &condition[..60.min(condition.len())]);
    };
    let ors: Vec<String> = (0..257).map(|at| format!("a = {}", 2 * at)).collect();
    check(&ors.join(" OR "), &|row| row % 2 == 0 && row < 514);
    let likes: Vec<String> = (0..200).map(|at| format!("b LIKE '{at}x%'")).collect();
    check(&likes.join(" OR "), &|row| row < 200);
    let ands: Vec<String> = (0..200).map(|at| format!("a <> {at}")).collect();
    check(&ands.join(" AND "), &|row| row >= 200);
    let nulls = vec!["a IS NOT NULL"; 128].join(" AND ");
    check(&nulls, &|_| true);
    let ids: Vec<String> = (0..510).map(|at| (at - 100).to_string()).collect();
    check(&format!("a IN ({})", ids.join(", ")), &|row| row < 410);
    check(&format!("{}a = 7{}", "(".repeat(32), ")".repeat(32)), &|row| row == 7);
    check(&format!("{}a = 7{}", "NOT (NOT (".repeat(15), "))".repeat(15)), &|row| row == 7);
    let cases: Vec<String> = (0..100).map(|at| format!("WHEN a = {at} THEN {}", at % 2)).collect();
    check(&format!("CASE {} ELSE 0 END = 1", cases.join(" ")), &|row| row < 100 && row % 2 == 1);
    check("a BETWEEN 3 AND 5 OR a BETWEEN -2 AND 1", &|row| row <= 1 || (3..=5).contains(&row));
    check("(a BETWEEN 3 AND 5) BETWEEN true AND true", &|row| (3..=5).contains(&row));
    check("coalesce(nullif(a, 3), -1) = -1", &|row| row == 3);
    check("coalesce(CASE WHEN a > 5 THEN b END, b, 'none') = '5xx'", &|row| row == 5);
    check("coalesce(a) = 5", &|row| row == 5);
    check("array_has_any(l, ['home', 'food']) AND NOT f", &|row| row % 2 == 0 && row % 3 != 0);
    check("array_length(make_array(b, b, b)) = 3 AND a < 2", &|row| row < 2);
    check(r"regexp_like(b, '^\d{2}x') AND b ~ '^1'", &|row| (10..20).contains(&row));
    check("CAST(a AS DOUBLE) / 2 = 3.5 AND CAST(a AS VARCHAR) = '7'", &|row| row == 7);
}

#[test]
fn what_it_computes_at_once_is_little_whatever_it_reads() {
    let notes = notes(1_000, 2_000);
    reset_largest_request();
    let many = vec!["b"; 400].join(", ");
    let condition = format!("array_length(make_array({many})) = 400 AND a < 10");
    let found = passing(&condition, &notes, &Cancel::new()).unwrap();
    assert_eq!(found, (0..10).collect::<Vec<_>>());
    // All at once were 800 MB. Other tests run beside this one.
    let largest = largest_request();
    assert!(largest < 256 << 20, "{largest} bytes at once");

    let one = self::notes(1, 1 << 20);
    let error = passing(&condition, &one, &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("at most 64 are allowed"), "{error}");
    assert_eq!(passing("b LIKE '0x%'", &one, &Cancel::new()).unwrap(), [0]);
}

#[test]
fn it_stops_soon_after_nobody_waits() {
    let notes = notes(20_000, 2_000);
    let many = vec!["b"; 400].join(", ");
    let condition = format!("array_length(make_array({many})) = 400");
    let cancel = Cancel::new();
    let waiting = cancel.clone();
    let began = Instant::now();
    let evaluating = std::thread::spawn(move || passing(&condition, &notes, &waiting));
    std::thread::sleep(Duration::from_millis(300));
    cancel.cancel();
    let error = evaluating.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}
