//! Training pairs from tables: Parquet as it is, anything else by SQL.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, ListBuilder, RecordBatch, StringArray, StringBuilder};
use serde_json::Value;

use crate::fixture::program::{expect, json_of};
use crate::fixture::training::{RECIPE, folder};
use crate::house::hostile::targets::files::parquet;

/// The pairs of the folder as Parquet; the answer's column has another name.
fn write_parquet(path: &std::path::Path) {
    let lines = std::fs::read_to_string(path.join("pairs.jsonl")).unwrap();
    let pairs: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let text =
        |key: &str| -> Vec<&str> { pairs.iter().map(|pair| pair[key].as_str().unwrap()).collect() };
    let mut negatives = ListBuilder::new(StringBuilder::new());
    for at in 0..pairs.len() {
        negatives.values().append_value(format!("stranger {at}"));
        negatives.append(true);
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("query", Arc::new(StringArray::from(text("query")))),
        ("text", Arc::new(StringArray::from(text("text")))),
        ("negatives", Arc::new(negatives.finish())),
        ("weight", Arc::new(Float64Array::from(vec![0.5; pairs.len()]))),
        ("note_id", Arc::new(StringArray::from(text("query")))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    std::fs::write(path.join("pairs.parquet"), parquet(&batch)).unwrap();
}

#[test]
fn pairs_come_from_parquet_and_from_sql() {
    let folder = folder();
    let path = folder.path();
    write_parquet(path);
    let losses = |name: &str, pairs: &str, extra: &str| -> Vec<f64> {
        let recipe = RECIPE.replace("path = \"pairs.jsonl\"\n", pairs).replace("seed = 3", extra);
        std::fs::write(path.join(format!("{name}.toml")), recipe).unwrap();
        let report = json_of(path, &format!("train {name}.toml --out {name} --json"));
        assert_eq!(report["training_pairs"], 24, "30 less 6 held out");
        report["steps"].as_array().unwrap().iter().map(|s| s["loss"].as_f64().unwrap()).collect()
    };
    let parquet = losses("parquet", "path = \"pairs.parquet\"\n", "seed = 3");
    // The same rows by SQL over the lines, in whatever order they come.
    let sql =
        "path = \"pairs.jsonl\"\nsql = \"SELECT query, text FROM pairs ORDER BY text DESC\"\n";
    assert_eq!(losses("lines", sql, "seed = 3"), parquet);
    // Hard negatives reach the batch.
    let hard = losses("hard", "path = \"pairs.parquet\"\n", "seed = 3\nhard_negatives = 1");
    assert!(hard[0] > parquet[0], "{hard:?} {parquet:?}");
    for (name, pairs, message) in [
        ("sql", "path = \"pairs.jsonl\"\nsql = \"SELECT querry, text FROM pairs\"\n", "querry"),
        (
            "column",
            "path = \"pairs.jsonl\"\nsql = \"SELECT query FROM pairs\"\n",
            "no column `text`",
        ),
        ("write", "path = \"pairs.jsonl\"\nsql = \"DROP TABLE pairs\"\n", "DDL not supported"),
    ] {
        let recipe = RECIPE.replace("path = \"pairs.jsonl\"\n", pairs);
        std::fs::write(path.join("wrong.toml"), recipe).unwrap();
        let (_, stderr) = expect(path, 2, "train wrong.toml --out wrong");
        assert!(stderr.contains(message) && !stderr.contains("corpus."), "{name}\n{stderr}");
    }
    let recipe = RECIPE.replace("path = \"pairs.jsonl\"\n", "path = \"none.parquet\"\n");
    std::fs::write(path.join("wrong.toml"), recipe).unwrap();
    let (_, stderr) = expect(path, 1, "train wrong.toml --out wrong");
    assert!(stderr.contains("none.parquet"), "{stderr}");
}
