//! A judged retrieval set in BEIR layout.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::file::{find, read_jsonl};
use super::oddities::{Oddities, Oddity};
use super::qrels::{Judgement, Qrels, read_qrels};
use crate::error::{Error, Result, ResultExt};
use crate::store::named::{check_there, expand};

const CORPUS: &str = "corpus.jsonl";

/// A document of the corpus.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Line")]
pub struct Document {
    /// Its id.
    pub id: String,
    /// Its title; may be empty.
    pub title: String,
    /// Its text; may be empty.
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
#[serde(try_from = "Line")]
pub struct Query {
    /// Its id.
    pub id: String,
    /// Its text.
    pub text: String,
}

/// A line of either file. Missing and null texts are empty ones.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "_id", default, deserialize_with = "id")]
    id: Option<String>,
    /// What other writers call it.
    #[serde(rename = "id", default, deserialize_with = "id")]
    other_id: Option<String>,
    title: Option<String>,
    text: Option<String>,
}

/// Ids are strings; a whole number is taken as its decimal digits.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Text(String),
        Negative(i64),
        Number(u64),
        Other(serde::de::IgnoredAny),
    }
    Ok(match Id::deserialize(deserializer)? {
        Id::Text(text) => Some(text),
        Id::Negative(number) => Some(number.to_string()),
        Id::Number(number) => Some(number.to_string()),
        Id::Other(_) => None,
    })
}

impl Line {
    fn id(&mut self) -> std::result::Result<String, &'static str> {
        let id = self.id.take().or(self.other_id.take()).filter(|id| !id.is_empty());
        id.ok_or("missing field `_id` (a text or a whole number)")
    }
}

impl TryFrom<Line> for Document {
    type Error = &'static str;

    fn try_from(mut line: Line) -> std::result::Result<Self, Self::Error> {
        let id = line.id()?;
        Ok(Self { id, title: line.title.unwrap_or_default(), text: line.text.unwrap_or_default() })
    }
}

impl TryFrom<Line> for Query {
    type Error = &'static str;

    fn try_from(mut line: Line) -> std::result::Result<Self, Self::Error> {
        Ok(Self { id: line.id()?, text: line.text.unwrap_or_default() })
    }
}

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
    /// Take the document with the query's own id out of its ranking, as BEIR does.
    #[serde(default)]
    pub ignore_identical_ids: bool,
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
        Self {
            path: path.into(),
            queries: queries_file(),
            qrels: qrels_file(),
            ignore_identical_ids: false,
        }
    }

    /// Looks, without reading one, whether its files are there.
    ///
    /// # Errors
    /// NotFound, naming the file; Config for a path that cannot be meant.
    pub fn check_files(&self) -> Result<()> {
        check_there(&self.path)?;
        for name in [CORPUS, &self.queries, &self.qrels] {
            find(&self.path.join(expand(Path::new(name), &self.path)?))?;
        }
        Ok(())
    }
}

/// Corpus, queries and judgements, in memory.
#[derive(Debug, Clone, Default)]
pub struct RetrievalSet {
    /// All documents in file order.
    pub documents: Vec<Document>,
    /// All queries in file order.
    pub queries: Vec<Query>,
    /// The judgements of queries that are there and have a text.
    pub qrels: Qrels,
    /// What was passed over.
    pub oddities: Oddities,
    /// Whether the document with a query's own id is left out of its candidates.
    pub ignore_identical_ids: bool,
}

impl RetrievalSet {
    /// Reads a set. What it should not have is counted in [`RetrievalSet::oddities`].
    ///
    /// # Errors
    /// NotFound for a missing file; Input, naming file and line, for what does not parse, for one id with two contents,
    /// and where no document or no query has a text.
    pub fn open(options: &RetrievalSetOptions) -> Result<Self> {
        let read = || {
            let mut oddities = Oddities::default();
            let documents: Vec<(usize, Document)> = read_jsonl(&options.path.join(CORPUS))?;
            let repeated = Oddity::RepeatedDocument;
            let documents = unique(CORPUS, documents, |one| &one.id, repeated, &mut oddities)?;
            Self::read(options, Some(documents), oddities)
        };
        read().context(|| options.path.display().to_string())
    }

    /// The same without the documents, which are somewhere else: no judgement counts as one of an absent document.
    ///
    /// # Errors
    /// As there, but for the documents.
    pub fn open_judgements(options: &RetrievalSetOptions) -> Result<Self> {
        let read = Self::read(options, None, Oddities::default());
        read.context(|| options.path.display().to_string())
    }

    fn read(
        options: &RetrievalSetOptions,
        documents: Option<Vec<Document>>,
        mut oddities: Oddities,
    ) -> Result<Self> {
        let RetrievalSetOptions { path, queries, qrels, ignore_identical_ids } = options;
        let is_whole = documents.is_some();
        let documents = documents.unwrap_or_default();
        let file =
            |name: &str| -> Result<PathBuf> { Ok(path.join(expand(Path::new(name), path)?)) };
        let asked: Vec<(usize, Query)> = read_jsonl(&file(queries)?)?;
        let asked = unique(queries, asked, |one| &one.id, Oddity::RepeatedQuery, &mut oddities)?;
        let found = read_qrels(&file(qrels)?)?;
        let full = |text: &str| !text.trim().is_empty();
        let nothing = |file: &str, what: &str| {
            Err(Error::input(format!(
                "no line of {file} has {what}: it may call it something else"
            )))
        };
        if !documents.is_empty() && !documents.iter().any(|one| full(&one.title) || full(&one.text))
        {
            return nothing(CORPUS, "a `title` or a `text`");
        }
        if !asked.is_empty() && !asked.iter().any(|query| full(&query.text)) {
            return nothing(queries, "a `text`");
        }
        for line in found.repeated {
            oddities.add(Oddity::RepeatedJudgement, || format!("{qrels}, line {line}"));
        }
        let mut set = Self {
            documents,
            queries: asked,
            ignore_identical_ids: *ignore_identical_ids,
            ..Self::default()
        };
        let positions = set.positions();
        let texts: HashMap<&str, &str> =
            set.queries.iter().map(|query| (query.id.as_str(), query.text.as_str())).collect();
        let mut kept = Qrels::new();
        for (query, judged) in found.by_query {
            let Some(text) = texts.get(query.as_str()) else {
                for Judgement { line, .. } in judged.values() {
                    oddities
                        .add(Oddity::AbsentQuery, || format!("{qrels}, line {line}: {query:?}"));
                }
                continue;
            };
            if !full(text) {
                oddities.add(Oddity::QueryWithoutText, || format!("{queries}: {query:?}"));
                continue;
            }
            for (id, Judgement { line, .. }) in &judged {
                if is_whole && !positions.contains_key(id.as_str()) {
                    oddities
                        .add(Oddity::AbsentDocument, || format!("{qrels}, line {line}: {id:?}"));
                }
            }
            kept.insert(query, judged.into_iter().map(|(id, one)| (id, one.grade)).collect());
        }
        (set.qrels, set.oddities) = (kept, oddities);
        Ok(set)
    }

    /// Leaves the queries that have a judgement.
    pub fn keep_judged(&mut self) {
        let Self { queries, qrels, .. } = self;
        queries.retain(|query| qrels.contains_key(&query.id));
    }

    /// Position of every document by id.
    pub fn positions(&self) -> HashMap<&str, usize> {
        self.documents.iter().enumerate().map(|(at, d)| (d.id.as_str(), at)).collect()
    }

    /// Whether a document of this id may be found for a query.
    pub fn is_candidate(&self, query: &Query, document: &str) -> bool {
        !(self.ignore_identical_ids && query.id == document)
    }
}

/// Leaves the first of lines that say the same.
///
/// # Errors
/// Input for two lines with the same id that do not.
fn unique<T: PartialEq>(
    file: &str,
    lines: Vec<(usize, T)>,
    id: fn(&T) -> &String,
    kind: Oddity,
    oddities: &mut Oddities,
) -> Result<Vec<T>> {
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(lines.len());
    let mut repeated = vec![false; lines.len()];
    for (at, (line, one)) in lines.iter().enumerate() {
        let first = *places.entry(id(one)).or_insert(at);
        if first == at {
            continue;
        }
        let (first, other) = &lines[first];
        if other != one {
            return Err(Error::input(format!(
                "{file} has the id {:?} on lines {first} and {line}, with different texts; give each its own",
                id(one)
            )));
        }
        oddities.add(kind, || format!("{file}, line {line}"));
        repeated[at] = true;
    }
    Ok(lines
        .into_iter()
        .zip(repeated)
        .filter(|(_, repeated)| !repeated)
        .map(|((_, one), _)| one)
        .collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

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
        for (queries, what) in [
            ("{\"_id\":\"q\",\"text\":\"secret\n", "line 1: not the expected JSON: syntax error"),
            (
                "{\"_id\":\"q\",\"text\":[\"secret\"]}\n",
                "line 1: not the expected JSON: wrong type",
            ),
            ("{\"_id\":\"q\",\"question\":\"secret\"}\n", "no line of queries.jsonl has a `text`"),
            ("\n{\"text\":\"secret\"}\n", "line 2: not the expected JSON: missing field `_id`"),
            ("{\"_id\":1.5,\"text\":\"secret\"}\n", "missing field `_id`"),
            ("{\"_id\":\"\",\"text\":\"secret\"}\n", "missing field `_id`"),
            (
                "{\"_id\":7,\"text\":\"x\"}\n\n{\"_id\":\"7\",\"text\":\"secret\"}\n",
                "\"7\" on lines 1 and 3",
            ),
        ] {
            write(dir.path(), "queries.jsonl", queries);
            let said = open().to_string();
            assert!(said.contains(what) && !said.contains("secret"), "{queries}: {said}");
        }
        write(dir.path(), "queries.jsonl", "{\"_id\":\"q\",\"text\":\"x\"}\n");
        write(dir.path(), "corpus.jsonl", "{\"_id\":\"a\",\"contents\":\"x\"}\n");
        assert!(open().to_string().contains("a `title` or a `text`"), "{}", open());
    }

    #[test]
    fn lines_of_other_writers_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let corpus = "\u{feff}{\"_id\":\"a b\",\"title\":null,\"text\":\"x\"}\r\n\r\n{\"id\":7,\"title\":\"t\",\"text\":null}\r\n\
            {\"_id\":18446744073709551615,\"id\":[1],\"text\":\"z\"}\r\n{\"_id\":-7}";
        write(dir.path(), "corpus.jsonl", corpus);
        write(dir.path(), "queries.jsonl", "{\"id\":\"q\",\"text\":\"y\",\"metadata\":{}}");
        write(dir.path(), "qrels.tsv", "q\ta b\t1.0\nq\t7\t1\n");
        let set = RetrievalSet::open(&RetrievalSetOptions::new(dir.path())).unwrap();
        let all: Vec<(&str, String)> =
            set.documents.iter().map(|one| (one.id.as_str(), one.render())).collect();
        let expected = [("a b", "x"), ("7", "t"), ("18446744073709551615", "z"), ("-7", "")];
        assert_eq!(all, expected.map(|(id, text)| (id, text.to_owned())));
        assert_eq!(set.qrels["q"].values().collect::<Vec<_>>(), [&1, &1]);
        assert!(set.oddities.is_empty());
    }

    #[test]
    fn oddities_are_counted_and_refused_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let line = |id: &str, text: &str| format!("{{\"_id\":\"{id}\",\"text\":\"{text}\"}}\n");
        write(dir.path(), "corpus.jsonl", &(line("a", "x") + &line("b", "y") + &line("a", "x")));
        let queries =
            line("q", "x") + &line("r", " ") + &line("q", "x") + "{\"_id\":\"s\",\"text\":null}\n";
        write(dir.path(), "queries.jsonl", &queries);
        let judged =
            "q\ta\t1\nq\tgone\t1\nq\ta\t1.0\nnobody\ta\t1\nnobody\tb\t1\nr\ta\t1\ns\ta\t0\n";
        write(dir.path(), "qrels.tsv", judged);
        let set = RetrievalSet::open(&RetrievalSetOptions::new(dir.path())).unwrap();
        assert_eq!((set.documents.len(), set.queries.len()), (2, 3));
        // trec_eval knows of the document that is not there, and of no query that was never asked.
        assert_eq!(serde_json::to_string(&set.qrels).unwrap(), "{\"q\":{\"a\":1,\"gone\":1}}");
        let found = |kind: Oddity| {
            let found = set.oddities.of(kind);
            (found.count, found.first.join("; "))
        };
        for (kind, count, places) in [
            (Oddity::AbsentDocument, 1, "qrels.tsv, line 2: \"gone\""),
            (
                Oddity::AbsentQuery,
                2,
                "qrels.tsv, line 4: \"nobody\"; qrels.tsv, line 5: \"nobody\"",
            ),
            (Oddity::QueryWithoutText, 2, "queries.jsonl: \"r\"; queries.jsonl: \"s\""),
            (Oddity::RepeatedJudgement, 1, "qrels.tsv, line 3"),
            (Oddity::RepeatedDocument, 1, "corpus.jsonl, line 3"),
            (Oddity::RepeatedQuery, 1, "queries.jsonl, line 3"),
        ] {
            assert_eq!(found(kind), (count, places.to_owned()), "{kind:?}");
        }
        assert_eq!(set.oddities.lines().len(), 6);
        std::fs::remove_file(dir.path().join("corpus.jsonl")).unwrap();
        let judged = RetrievalSet::open_judgements(&RetrievalSetOptions::new(dir.path())).unwrap();
        assert_eq!((judged.documents.len(), judged.qrels), (0, set.qrels.clone()));
        assert_eq!(judged.oddities.of(Oddity::AbsentDocument).count, 0);
        assert_eq!(judged.oddities.of(Oddity::AbsentQuery).count, 2);
        let refused = set.oddities.refuse().unwrap_err().to_string();
        assert!(refused.contains("judgements of queries that are not there: 2 ("), "{refused}");
        assert!(refused.contains("line 2: \"gone\"") && refused.contains("--strict"), "{refused}");
        Oddities::default().refuse().unwrap();
    }
}
