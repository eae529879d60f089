//! Tables of a corpus in every format, pipeline files, training pairs and retrieval sets.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;

use scalingnote::corpus::{ColumnType, CorpusOptions, TableFormat, TableOptions, TypeRule};
use scalingnote::dataset::{PairSet, PairSource, RetrievalSet, RetrievalSetOptions};
use scalingnote::error::Result;
use scalingnote::store::Root;

use super::files::{avro, csv, ipc, jsonl, parquet};
use super::prepared::{corpus, prepared};
use super::{CANARY, Target, block_on};

/// A corpus of one table.
pub struct Table {
    kind: String,
    folder: tempfile::TempDir,
    options: CorpusOptions,
}

const ROWS: i64 = 40;

fn batch() -> RecordBatch {
    let ids = Int64Array::from_iter_values(0..ROWS);
    let texts = (0..ROWS).map(|id| format!("{CANARY} {id} {}", "words ".repeat(id as usize)));
    let scores = Int64Array::from_iter((0..ROWS).map(|id| (id % 3 > 0).then_some(id * 1000)));
    let topics = (0..ROWS).map(|id| Some((0..id % 4).map(Some).collect::<Vec<_>>()));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(ids)),
        ("text", Arc::new(StringArray::from_iter_values(texts))),
        ("score", Arc::new(scores)),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(topics))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn flat() -> RecordBatch {
    batch().project(&[0, 1, 2]).unwrap()
}

impl Table {
    pub fn new(kind: &str) -> Self {
        let mut table = TableOptions::new("notes", &format!("notes.{kind}"));
        let mut types = TypeRule::Guessed;
        if kind == "json" {
            table.schema.insert("score".into(), ColumnType::Integer);
            types = TypeRule::Exact;
        }
        let mut sql = "select id as note_id, text as body, score from notes".to_owned();
        if kind == "md" {
            table.format = Some(TableFormat::Markdown);
            table.schema.insert("score".into(), ColumnType::Integer);
            sql =
                "select path as note_id, title, body, tags as topics, score from notes".to_owned();
        }
        let mut options = corpus(table, sql, types);
        options.stored_columns.push("score".into());
        Self { kind: kind.to_owned(), folder: tempfile::tempdir().unwrap(), options }
    }
}

impl Target for Table {
    fn seeds(&self) -> Vec<Vec<u8>> {
        match self.kind.as_str() {
            "parquet" => vec![parquet(&batch()), parquet(&flat())],
            "arrow" => vec![ipc(&batch()), ipc(&flat())],
            "avro" => vec![avro(&flat())],
            "csv" => vec![csv(&flat())],
            "json" => {
                let rows: Vec<serde_json::Value> = String::from_utf8(jsonl(&batch()))
                    .unwrap()
                    .lines()
                    .map(|line| serde_json::from_str(line).unwrap())
                    .collect();
                let pretty = |row: &serde_json::Value| serde_json::to_string_pretty(row).unwrap();
                let objects = rows.iter().map(pretty).collect::<Vec<_>>().join("\n");
                let joined = rows.iter().map(ToString::to_string).collect::<String>();
                let lists = serde_json::to_vec(&rows).unwrap().repeat(2);
                vec![objects.into(), joined.into(), lists, pretty(&rows.into()).into()]
            }
            "md" => vec![
                format!("---\ntitle: {CANARY}\nscore: 7\ntags: [a, {CANARY}]\nx: {{y: [1, ~]}}\n---\n# {CANARY}\n\n```\n# b\n```\n").into(),
                format!("+++\ntitle = \"{CANARY}\"\nscore = 7\ntags = [\"a\"]\n[x]\ny = 1979-05-27\n+++\n{CANARY}\n===\n").into(),
            ],
            _ => vec![jsonl(&batch())],
        }
    }

    fn read(&mut self, data: &[u8]) -> Result<()> {
        let file = self.folder.path().join(format!("notes.{}", self.kind));
        std::fs::write(file, data).unwrap();
        block_on(prepared(&self.options, self.folder.path(), &Root::in_memory())).map(drop)
    }

    fn names(&self) -> Vec<String> {
        // Rejected rows are named by their notes.
        vec![format!("notes.{}", self.kind), "rejected, corpus.max_rejected".to_owned()]
    }
}

/// One file that is read as it is.
pub struct File {
    kind: String,
    folder: tempfile::TempDir,
}

impl File {
    pub fn new(kind: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("corpus.jsonl", "{\"_id\":\"1\",\"title\":\"t\",\"text\":\"x\"}\n");
        write("queries.jsonl", "{\"_id\":\"q\",\"text\":\"y\"}\n");
        write("qrels.tsv", "query-id\tcorpus-id\tscore\nq\t1\t1\n");
        Self { kind: kind.to_owned(), folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(match self.kind.as_str() {
            "pipeline" => "pipeline.toml",
            "pairs" => "pairs.jsonl",
            "documents" => "corpus.jsonl",
            _ => "qrels.tsv",
        })
    }
}

impl Target for File {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        match self.kind.as_str() {
            "pipeline" => ["quickstart.toml", "daily.toml"]
                .iter()
                .map(|name| std::fs::read(package.join("pipelines").join(name)).unwrap())
                .collect(),
            "pairs" => {
                let pair = |at: u32| {
                    let negatives = [format!("{CANARY} {at}"), "other".into()];
                    serde_json::json!({"query": format!("q {at}"), "text": format!("{CANARY} of {at}"),
                        "title": "t", "negatives": negatives, "weight": 0.5})
                };
                vec![(0..20).map(|at| format!("{}\n", pair(at))).collect::<String>().into()]
            }
            "documents" => {
                let line = |id: u32| {
                    format!("{{\"_id\":\"{id}\",\"title\":null,\"text\":\"{CANARY} of {id}\"}}\n")
                };
                vec![(0..20).map(line).collect::<String>().into()]
            }
            _ => [
                "query-id\tcorpus-id\tscore\nq\t1\t1\n",
                "q\t1\t1.0\nq\t2\t0\n",
                "q 0 1 1\nq 0 2 2\n",
            ]
            .map(|text| text.as_bytes().to_vec())
            .into(),
        }
    }

    fn read(&mut self, data: &[u8]) -> Result<()> {
        let path = self.path();
        std::fs::write(&path, data).unwrap();
        match self.kind.as_str() {
            "pipeline" => scalingnote::config::resolve(&path, [], &[]).map(drop),
            "pairs" => PairSet::open(&[PairSource::new(&path)], self.folder.path(), 1).map(drop),
            _ => RetrievalSet::open(&RetrievalSetOptions::new(self.folder.path())).map(drop),
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.path().file_name().unwrap().to_string_lossy().into_owned()]
    }
}
