//! Retrieval sets as they are published: what `evaluate` reads, counts, leaves out and refuses, beside `pytrec_eval`.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::fixture::checkout::package;
use crate::fixture::program::{expect, json_of};
use crate::fixture::python;

/// Like ArguAna: every query is a document of the corpus, and the one that answers it is another. Each of 20 arguments
/// `a` has a counter-argument `c` of nearly the same words, in two copies, of which one is judged.
fn write_arguments(path: &Path) {
    let line =
        |id: &str, text: &str| format!("{}\n", json!({"_id": id, "title": null, "text": text}));
    let (mut corpus, mut queries, mut qrels) = (String::new(), String::new(), String::new());
    for at in 0..20 {
        let words = |of: &str| format!("claim{at} reason{at} example{at} {of}{at}");
        let argument = words("for");
        corpus += &line(&format!("a{at}"), &argument);
        corpus += &line(&format!("c{at}"), &words("against"));
        corpus += &line(&format!("copy{at}"), &words("against"));
        queries += &line(&format!("a{at}"), &argument);
        // No header: the first line is a judgement.
        qrels += &format!("a{at}\tc{at}\t{}.0\n", 1 + at % 3);
    }
    // What NFCorpus, ArguAna and others have.
    queries += &line("unanswered", "claim1 claim2");
    queries += &line("silent", "");
    qrels +=
        "a0\tgone1\t2\na1\tgone2\t-1\nnobody\tc1\t1\nunanswered\tc1\t0\nsilent\tc1\t1\na0\tc0\t1\n";
    std::fs::create_dir(path.join("set")).unwrap();
    for (name, text) in [("corpus.jsonl", corpus), ("queries.jsonl", queries), ("qrels.tsv", qrels)]
    {
        std::fs::write(path.join("set").join(name), text).unwrap();
    }
    let tower = "[tower]\nmodel = \"fake:256\"\npooling = \"mean\"\n";
    std::fs::write(path.join("fake.toml"), tower).unwrap();
}

#[test]
fn public_sets_are_judged_as_trec_eval_judges_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_arguments(path);
    let plain = json_of(path, "evaluate fake.toml set --run plain.txt --index --json");
    let row = |answer: &Value, at: usize, key: &str| answer["rows"][at][key].clone();
    assert_eq!(row(&plain, 0, "queries"), 21);
    assert_eq!(row(&plain, 0, "without_relevant"), 1);
    assert_eq!(
        plain["oddities"],
        json!({
            "absent_document": {"count": 2, "first": ["qrels.tsv, line 21: \"gone1\"", "qrels.tsv, line 22: \"gone2\""]},
            "absent_query": {"count": 1, "first": ["qrels.tsv, line 23: \"nobody\""]},
            "query_without_text": {"count": 1, "first": ["queries.jsonl: \"silent\""]},
            "repeated_judgement": {"count": 1, "first": ["qrels.tsv, line 26"]},
        })
    );
    let line = "evaluate fake.toml set --ignore-identical-ids --run ignoring.txt --index --json";
    let ignoring = json_of(path, line);
    // Exact search, our index and BM25 alike: the argument itself comes before its counter-argument, or is left out.
    for at in 0..3 {
        let mrr = |answer: &Value| row(answer, at, "mean")["mrr_10"].as_f64().unwrap();
        assert!(mrr(&ignoring) > mrr(&plain) + 0.1, "{at}: {} {}", mrr(&plain), mrr(&ignoring));
        assert_eq!(row(&ignoring, at, "ignore_identical_ids"), true);
        assert_eq!(row(&plain, at, "ignore_identical_ids"), Value::Null);
    }
    let run = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    assert!(
        run("plain.txt").contains("\na3 Q0 a3 1 ") && !run("ignoring.txt").contains("a3 Q0 a3 ")
    );
    judged_alike_by_pytrec_eval(path, "plain.txt", &plain, &[]);
    judged_alike_by_pytrec_eval(path, "plain.txt", &ignoring, &["--ignore-identical-ids"]);
    judged_alike_by_pytrec_eval(path, "ignoring.txt", &ignoring, &[]);

    std::fs::write(path.join("plain.json"), plain.to_string()).unwrap();
    let (_, stderr) =
        expect(path, 1, "evaluate fake.toml set --ignore-identical-ids --compare plain.json");
    assert!(stderr.contains("or both without"), "{stderr}");
    let (stdout, stderr) = expect(path, 0, "evaluate fake.toml set --compare plain.json");
    for piece in [
        "judgements of documents that the corpus lacks: 2 (qrels.tsv, line 21: \"gone1\"",
        "judgements of queries that are not there: 1",
        "judged queries without a text: 1",
        "judgements that repeat another: 1 (qrels.tsv, line 26); counted once",
    ] {
        assert!(stdout.contains(piece) && stderr.contains(piece), "{piece}\n{stdout}\n{stderr}");
    }
    assert!(stdout.contains("queries without a relevant document: 1; they count as 0"), "{stdout}");
}

#[test]
fn what_a_set_should_not_have_is_refused_where_that_is_asked_or_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_arguments(path);
    let (_, stderr) = expect(path, 1, "evaluate fake.toml set --strict --vectors v");
    for piece in [
        "set: judgements of documents that the corpus lacks: 2",
        "line 22: \"gone2\"",
        "line 23: \"nobody\"",
        "--strict",
    ] {
        assert!(stderr.contains(piece), "{piece}\n{stderr}");
    }
    assert!(!path.join("v").exists());
    for (qrels, piece) in [
        ("a0\tc0\t1.5\n", "qrels.tsv, line 1: the grade 1.5 is not a whole number"),
        (
            "a0\tc0\t1\na1\tc1\t1\na0\tc0\t2\n",
            "line 3: query \"a0\" and document \"c0\" have grade 2 here and 1 on line 1",
        ),
        (
            "a0\t7\t1\na1\t8\t1\n",
            "nothing can be measured; judgements of documents that the corpus lacks: 2",
        ),
        ("a0\tc0\t0\n", "nothing can be measured"),
        ("", "nothing can be measured"),
        ("query-id\tcorpus-id\tscore\n", "nothing can be measured"),
    ] {
        std::fs::write(path.join("set/qrels.tsv"), qrels).unwrap();
        let (_, stderr) = expect(path, 1, "evaluate fake.toml set");
        assert!(stderr.contains(piece), "{piece}\n{stderr}");
    }
    // A set in order passes, in TREC's layout too.
    std::fs::write(path.join("set/trec.txt"), "a0 0 c0 1\r\na1 0 c1 2\r\n").unwrap();
    let answer = json_of(path, "evaluate fake.toml set --qrels trec.txt --strict --json");
    assert_eq!((&answer["rows"][0]["queries"], &answer["oddities"]), (&json!(2), &Value::Null));
}

/// A run file of an evaluation, judged by pytrec_eval, has the measures of the evaluation's first row: of every query,
/// and in the mean.
pub fn judged_alike_by_pytrec_eval(path: &Path, run: &str, answer: &Value, options: &[&str]) {
    let Some(python) = python::with("pytrec_eval") else { return };
    let output = Command::new(python)
        .arg(package().join("tests/python/judge_run.py"))
        .args([path.join("set/qrels.tsv"), path.join(run)])
        .args(options)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    let theirs = theirs.as_object().unwrap();
    let ours = &answer["rows"][0];
    let rows = ours["per_query"].as_array().unwrap();
    assert_eq!(rows.len(), theirs.len());
    let mut sums = std::collections::BTreeMap::new();
    let same = |name: &str, own: &Value, value: f64| {
        assert!((own[name].as_f64().unwrap() - value).abs() < 1e-6, "{run} {name} {own} {value}");
    };
    for row in rows {
        for (name, value) in theirs[row["query"].as_str().unwrap()].as_object().unwrap() {
            same(name, row, value.as_f64().unwrap());
            *sums.entry(name).or_insert(0.0) += value.as_f64().unwrap();
        }
    }
    for (name, sum) in sums {
        same(name, &ours["mean"], sum / rows.len() as f64);
    }
}
