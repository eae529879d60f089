//! A judged retrieval set in BEIR layout.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::file::{for_each_line, read_jsonl};
use crate::error::{Error, Result, ResultExt};

/// A document of the corpus.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Document {
    /// Its id.
    #[serde(rename = "_id", deserialize_with = "id")]
    pub id: String,
    /// Its title; may be empty.
    #[serde(default)]
    pub title: String,
    /// Its text.
    #[serde(default)]
    pub text: String,
}

impl Document {
    /// Title and text, one line break between them; the text alone where there is no title.
    pub fn render(&self) -> String {
        match (self.title.trim(), self.text.trim()) {
            ("", text) => text.to_owned(),
            (title, "") => title.to_owned(),
            (title, text) => format!("{title}\n{text}"),
        }
    }
}

/// A query.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Query {
    /// Its id.
    #[serde(rename = "_id", deserialize_with = "id")]
    pub id: String,
    /// Its text.
    pub text: String,
}

/// Ids are strings; a number is taken as its decimal digits.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Text(String),
        Number(i64),
    }
    Ok(match Id::deserialize(deserializer)? {
        Id::Text(text) => text,
        Id::Number(number) => number.to_string(),
    })
}

/// Judgements: query id -> document id -> grade. A grade above 0 means relevant.
pub type Qrels = BTreeMap<String, BTreeMap<String, i32>>;

/// Which files make a retrieval set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrievalSetOptions {
    /// The folder.
    pub path: PathBuf,
    /// File of the queries inside it.
    #[serde(default = "queries_file")]
    pub queries: String,
    /// File of the judgements inside it.
    #[serde(default = "qrels_file")]
    pub qrels: String,
}

pub(super) fn queries_file() -> String {
    "queries.jsonl".into()
}

pub(super) fn qrels_file() -> String {
    "qrels.tsv".into()
}

impl RetrievalSetOptions {
    /// The files of a folder under their usual names.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), queries: queries_file(), qrels: qrels_file() }
    }
}

/// Corpus, queries and judgements, in memory.
#[derive(Debug, Clone, Default)]
pub struct RetrievalSet {
    /// All documents in file order.
    pub documents: Vec<Document>,
    /// All queries in file order.
    pub queries: Vec<Query>,
    /// The judgements.
    pub qrels: Qrels,
}

impl RetrievalSet {
    /// Reads a set and checks that ids are unique and that every judgement names a known query and document.
    ///
    /// # Errors
    /// NotFound for a missing file; Input, naming file and line or id, otherwise.
    pub fn open(options: &RetrievalSetOptions) -> Result<Self> {
        Self::read(options).context(|| options.path.display().to_string())
    }

    fn read(options: &RetrievalSetOptions) -> Result<Self> {
        let set = Self {
            documents: read_jsonl(&options.path.join("corpus.jsonl"))?,
            queries: read_jsonl(&options.path.join(&options.queries))?,
            qrels: read_qrels(&options.path.join(&options.qrels))?,
        };
        let documents = unique(set.documents.iter().map(|d| d.id.as_str()), "corpus.jsonl")?;
        let queries = unique(set.queries.iter().map(|q| q.id.as_str()), &options.queries)?;
        for (query, judged) in &set.qrels {
            if !queries.contains(query.as_str()) {
                return Err(Error::input(format!(
                    "{} judges query {query:?}, which {} does not hold",
                    options.qrels, options.queries
                )));
            }
            if let Some(missing) = judged.keys().find(|id| !documents.contains(id.as_str())) {
                return Err(Error::input(format!(
                    "{} judges document {missing:?}, which corpus.jsonl does not hold",
                    options.qrels
                )));
            }
        }
        Ok(set)
    }

    /// Position of every document by id.
    pub fn positions(&self) -> HashMap<&str, usize> {
        self.documents.iter().enumerate().map(|(at, d)| (d.id.as_str(), at)).collect()
    }
}

fn unique<'a>(ids: impl Iterator<Item = &'a str>, file: &str) -> Result<HashSet<&'a str>> {
    let mut seen = HashSet::new();
    for id in ids {
        if !seen.insert(id) {
            return Err(Error::input(format!("{file} has the id {id:?} twice")));
        }
    }
    Ok(seen)
}

/// `query-id <tab> corpus-id <tab> score`, header optional.
fn read_qrels(path: &Path) -> Result<Qrels> {
    let mut qrels = Qrels::new();
    for_each_line(path, |number, line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [query, document, score] = fields[..] else {
            return Err(Error::input(format!("{} fields where 3 are expected", fields.len())));
        };
        match score.trim().parse::<i32>() {
            Ok(score) => {
                qrels.entry(query.to_owned()).or_default().insert(document.to_owned(), score);
            }
            Err(_) if number == 1 => {}
            Err(_) => return Err(Error::input("the score is not a whole number")),
        }
        Ok(())
    })?;
    Ok(qrels)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::error::ErrorKind;

    fn write(dir: &Path, name: &str, text: &str) {
        std::fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn reads_plain_gz_and_xz() {
        let dir = tempfile::tempdir().unwrap();
        let corpus = "{\"_id\":\"a\",\"title\":\"T\",\"text\":\"x\",\"topics\":[]}\n{\"_id\":7,\"text\":\"y\"}\n";
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(corpus.as_bytes()).unwrap();
        std::fs::write(dir.path().join("corpus.jsonl.gz"), gz.finish().unwrap()).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(b"{\"_id\":\"q\",\"text\":\"z\"}\n").unwrap();
        std::fs::write(dir.path().join("queries.jsonl.xz"), xz.finish().unwrap()).unwrap();
        write(dir.path(), "qrels.tsv", "query-id\tcorpus-id\tscore\nq\t7\t2\n");
        let set = RetrievalSet::open(&RetrievalSetOptions::new(dir.path())).unwrap();
        assert_eq!(set.documents[0].render(), "T\nx");
        assert_eq!(set.documents[1].render(), "y");
        assert_eq!(set.qrels["q"]["7"], 2);
    }

    #[test]
    fn bad_sets_are_refused_without_quoting_text() {
        let dir = tempfile::tempdir().unwrap();
        let open = || RetrievalSet::open(&RetrievalSetOptions::new(dir.path())).unwrap_err();
        assert_eq!(open().kind(), ErrorKind::NotFound);
        write(dir.path(), "corpus.jsonl", "{\"_id\":\"a\",\"text\":5}\n");
        write(dir.path(), "queries.jsonl", "{\"_id\":\"q\",\"text\":\"secret\"}\n");
        write(dir.path(), "qrels.tsv", "q\tb\t1\n");
        assert!(open().to_string().contains("corpus.jsonl, line 1"), "{}", open());
        write(dir.path(), "corpus.jsonl", "{\"_id\":\"a\",\"text\":\"x\"}\n");
        assert!(open().to_string().contains("document \"b\""), "{}", open());
        write(dir.path(), "queries.jsonl", "{\"_id\":\"q\",\"text\":\"secret\n");
        assert!(!open().to_string().contains("secret"));
        write(dir.path(), "queries.jsonl", "{\"_id\":\"q\"}\n");
        assert!(open().to_string().contains("missing field `text`"), "{}", open());
    }
}
