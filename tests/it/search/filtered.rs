//! Search among the notes that fulfil a condition on stored columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};

use scalingnote::corpus::RowFilter;
use scalingnote::error::ErrorKind;
use scalingnote::search::{Found, Snapshot};
use scalingnote::types::{Cancel, NoteId};

use crate::fixture::support::{
    Chunk, local, notes, publish, store_content_with, unit, unit_vectors,
};

fn number(row: &Chunk) -> i64 {
    match row.note {
        NoteId::Int(id) => id,
        NoteId::Str(_) => unreachable!("the test's ids are integers"),
    }
}

fn lang(id: i64) -> Option<&'static str> {
    [Some("en"), Some("fr"), Some("en"), None, Some("de")][(id % 5) as usize]
}

/// `lang` with nulls, `likes` from the id, `Title` in upper case.
fn columns(rows: &[&Chunk]) -> RecordBatch {
    let ids: Vec<i64> = rows.iter().map(|row| number(row)).collect();
    let langs: ArrayRef = Arc::new(StringArray::from_iter(ids.iter().map(|id| lang(*id))));
    let likes: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.iter().copied()));
    let titles = ids.iter().map(|id| format!("note {id}"));
    let titles: ArrayRef = Arc::new(StringArray::from_iter_values(titles));
    RecordBatch::try_from_iter_with_nullable([
        ("lang", langs, true),
        ("likes", likes, false),
        ("Title", titles, false),
    ])
    .unwrap()
}

async fn open(corpus: &[Chunk], shards: u32) -> (Snapshot, tempfile::TempDir) {
    let (folder, root) = local();
    let content = store_content_with(&root, corpus, shards, &columns).await;
    publish(&root, None, content, "run").await;
    (Snapshot::open(&root, None, folder.path()).await.unwrap(), folder)
}

fn best(
    corpus: &[Chunk],
    query: &[f32],
    k: usize,
    passes: impl Fn(i64) -> bool,
) -> Vec<(i64, f32)> {
    let score = |chunk: &Chunk| chunk.vector.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
    let mut all: std::collections::BTreeMap<i64, f32> = Default::default();
    for chunk in corpus.iter().filter(|chunk| passes(number(chunk))) {
        let entry = all.entry(number(chunk)).or_insert(f32::MIN);
        *entry = entry.max(score(chunk));
    }
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(k);
    all
}

fn ids(found: &[Found]) -> Vec<i64> {
    let id = |found: &Found| match found.note_id {
        NoteId::Int(id) => id,
        NoteId::Str(_) => unreachable!("the test's ids are integers"),
    };
    found.iter().map(id).collect()
}

/// Vectors in clumps, as embeddings of real notes lie: a filter may leave hardly any of a clump.
fn clumps(count: usize, dimensions: usize, seed: u64) -> Vec<Chunk> {
    let centres = unit_vectors(count / 50, dimensions, seed);
    let mut corpus = notes(&unit_vectors(count, dimensions, seed + 1));
    for (at, chunk) in corpus.iter_mut().enumerate() {
        let centre = centres.row(at % centres.len());
        let near: Vec<f32> =
            chunk.vector.iter().zip(centre).map(|(x, centre)| 0.4 * x + centre).collect();
        chunk.vector = unit(&near);
    }
    corpus
}

#[tokio::test]
async fn filtered_search_finds_what_exact_filtered_search_finds() {
    let corpus = clumps(6_000, 32, 21);
    let (snapshot, _folder) = open(&corpus, 2).await;
    type Passes = fn(i64) -> bool;
    // From hardly any row (a scan of what is left) over half (the graph) to every row.
    let conditions: [(&str, Passes); 6] = [
        ("likes < 3", |id| id < 3),
        ("likes % 40 = 7", |id| id % 40 == 7),
        ("lang = 'en' AND likes > 10", |id| lang(id) == Some("en") && id > 10),
        ("lang <> 'en'", |id| lang(id).is_some_and(|lang| lang != "en")),
        ("likes >= 300", |id| id >= 300),
        ("\"Title\" LIKE 'note%'", |_| true),
    ];
    let queries = clumps(60, 32, 23);
    for (condition, passes) in conditions {
        let passing = snapshot.passing(condition).unwrap();
        assert_eq!(passing.vectors(), (0..6_000).filter(|id| passes(*id)).count(), "{condition}");
        let (mut hits, mut wanted) = (0, 0);
        for query in &queries {
            let expected = best(&corpus, &query.vector, 10, passes);
            let exact = snapshot.search_among(&query.vector, 10, true, &passing).unwrap();
            assert_eq!(exact.len(), expected.len());
            for (found, (id, score)) in exact.iter().zip(&expected) {
                // Equal but for a swap at f16's rounding.
                assert!((found.score - score).abs() < 2e-3, "{condition}: {id}");
            }
            let found = snapshot.search_among(&query.vector, 10, false, &passing).unwrap();
            let (found, exact) = (ids(&found), ids(&exact));
            assert!(found.iter().all(|id| passes(*id)), "{condition}: {found:?}");
            hits += exact.iter().filter(|id| found.contains(id)).count();
            wanted += exact.len();
        }
        let recall = hits as f64 / wanted as f64;
        println!("{condition}: recall {recall:.4} of {wanted}");
        assert!(recall >= 0.95, "{condition}: recall {recall}");
    }
    let none = snapshot.passing("likes < 0").unwrap();
    assert!(snapshot.search_among(&queries[0].vector, 10, false, &none).unwrap().is_empty());
}

#[tokio::test]
async fn a_note_of_many_chunks_counts_once_among_those_that_pass() {
    let mut corpus = notes(&unit_vectors(200, 16, 31));
    for chunk in 1..30u32 {
        let near: Vec<f32> = corpus[4].vector.iter().map(|x| x + 0.001 * chunk as f32).collect();
        let note = corpus[4].note.clone();
        corpus.push(Chunk { note, chunk, text: format!("chunk {chunk}"), vector: unit(&near) });
    }
    let (snapshot, _folder) = open(&corpus, 2).await;
    let passing = snapshot.passing("likes % 2 = 0").unwrap();
    assert_eq!(passing.vectors(), 129);
    let query = corpus[4].vector.clone();
    for exact in [true, false] {
        let found = snapshot.search_among(&query, 10, exact, &passing).unwrap();
        let expected: Vec<i64> =
            best(&corpus, &query, 10, |id| id % 2 == 0).iter().map(|(id, _)| *id).collect();
        assert_eq!(ids(&found), expected);
    }
}

#[tokio::test]
async fn conditions_that_cannot_be_meant_are_refused() {
    let (snapshot, _folder) = open(&notes(&unit_vectors(20, 8, 41)), 2).await;
    for (condition, says) in [
        ("", "cannot be read"),
        ("lang =", "cannot be read"),
        ("lang = 'en' banana", "cannot be read"),
        ("lang = 'en'; drop table x", "cannot be read"),
        ("lang = = 'en'", "expected an expression, not `=` (line 1, column 8); write e.g. lang ="),
        ("lang = 'en", "Unterminated string literal"),
        ("lang = 5", "`lang` is text: write `lang = '5'`"),
        ("5 < lang", "write `'5' < lang`"),
        ("likes > 1 AND lang <> 5", "write `lang != '5'`"),
        ("lang IN (1, 2)", "`lang` is text: write '1', in quotes"),
        ("lang BETWEEN 1 AND 2", "`lang` is text: write '1', in quotes"),
        ("lang = true", "write `lang = 'true'`"),
        ("\"Title\" = 5", "`\"Title\"` is text: write `\"Title\" = '5'`"),
        ("likes = 'many'", "`likes` is a number: compare it with one"),
        ("likes = \"Title\"", "compares a number with text"),
        ("lang = \"fr\"", "if a text is meant, write 'fr' in single quotes"),
        ("language = 'en'", "did you mean `lang`"),
        ("Title = 'x'", "`\"Title\"`, in double quotes"),
        ("note_id = 'i:3'", "no stored column"),
        ("lang", "not a condition"),
        ("likes + 1", "not a condition"),
        ("likes > random()", "another value each time"),
        ("likes < date_part('day', now())", "another value each time"),
        ("likes IN (SELECT 1)", "subqueries"),
        ("EXISTS (SELECT 1 FROM notes)", "subqueries"),
        ("count(*) > 1", "aggregates"),
        ("repeat(lang, 1000000000) = 'x'", "not available"),
        ("lang || lang = 'enen'", "||"),
        ("likes = $1", "no variables"),
    ] {
        let error = snapshot.passing(condition).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{condition}: {error:?}");
        assert!(error.to_string().contains(says), "{condition}: {error}");
    }
    let long = format!("likes IN ({})", vec!["123456789"; 2_000].join(","));
    assert!(snapshot.passing(&long).unwrap_err().to_string().contains("bytes"));
    let deep = format!("{}likes > 1{}", "(".repeat(1_500), ")".repeat(1_500));
    assert_eq!(snapshot.passing(&deep).unwrap_err().kind(), ErrorKind::Input);
    // A value that cannot be computed is an error without the value.
    let error = snapshot.passing("CAST(\"Title\" AS BIGINT) > 3").unwrap_err();
    assert!(error.kind() == ErrorKind::Input && !error.to_string().contains("note 1"), "{error}");
}

#[test]
fn types_are_brought_together_and_unknown_is_false() {
    let schema = Schema::new(vec![
        Field::new("flag", DataType::Boolean, true),
        Field::new("score", DataType::Float64, true),
        Field::new("topics", DataType::new_list(DataType::Utf8, true), true),
        Field::new("name", DataType::Utf8, true),
    ]);
    let mut lists = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
    lists.append_value([Some("tax"), Some("home")]);
    lists.append_null();
    lists.append_value([Some("food")]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        Arc::new(Float64Array::from(vec![Some(1.5), Some(-2.0), None])),
        Arc::new(lists.finish()),
        Arc::new(StringArray::from(vec![Some("Ann"), Some("bob"), None])),
    ];
    let batch = RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap();
    for (condition, expected) in [
        ("flag", [true, false, false]),
        ("NOT flag", [false, false, true]),
        ("score > 1", [true, false, false]),
        ("score IS NULL OR score < 0", [false, true, true]),
        ("array_has(topics, 'tax')", [true, false, false]),
        ("lower(name) IN ('ann', 'bob')", [true, true, false]),
        ("name ILIKE 'A%'", [true, false, false]),
        ("CASE WHEN flag THEN score > 1 ELSE true END", [true, true, true]),
        ("score BETWEEN -3 AND 0", [false, true, false]),
        ("1 = 1", [true, true, true]),
        ("NULL", [false, false, false]),
        ("NULL = name", [false, false, false]),
    ] {
        let filter =
            RowFilter::compile(condition, &schema).unwrap_or_else(|e| panic!("{condition}: {e}"));
        let names: Vec<&str> =
            filter.columns().fields().iter().map(|f| f.name().as_str()).collect();
        let at: Vec<usize> = names.iter().map(|name| schema.index_of(name).unwrap()).collect();
        let found = filter.evaluate(&batch.project(&at).unwrap(), &Cancel::new()).unwrap();
        let found: Vec<bool> = found.iter().map(|value| value.expect("never null")).collect();
        assert_eq!(found, expected, "{condition}");
    }
}
