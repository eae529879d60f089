//! Training pairs: a query, the document that answers it, optional hard negatives, a weight.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answers::Answers;
use super::file::{check_table, find, for_each_line};
use super::set::{Document, RetrievalSet, RetrievalSetOptions, qrels_file, queries_file};
use crate::error::{Error, Result, ResultExt};
use crate::store::named::expand;
use crate::types::{PairRecord, SplitMix64};

/// Where training pairs come from: a folder in BEIR layout (every judgement above 0 is a pair), a JSON Lines file of
/// `{"query", "text", "title"?, "note_id"?, "negatives"?: [text], "weight"?, "score"?, "negative_scores"?}`, or a table
/// of such columns (Parquet, or with `sql` anything that a corpus table can be).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PairSource {
    /// Folder or file (`.xz` and `.gz` may be left off); of a table a file, folder, glob or object-store URI.
    pub path: PathBuf,
    /// SQL over the table `pairs` that gives the columns `query` and `text`, and `title`, `negatives` and `weight` if
    /// any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// File of the queries, for a folder.
    #[serde(default = "queries_file")]
    pub queries: String,
    /// File of the judgements, for a folder.
    #[serde(default = "qrels_file")]
    pub qrels: String,
    /// Take at most this many pairs, drawn with the seed of the run.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Weight of its pairs in the loss.
    #[serde(default = "one")]
    pub weight: f32,
    /// Leave out pairs whose document id starts with one of these.
    #[serde(default)]
    pub exclude_id_prefix: Vec<String>,
    /// Share of the steps of `train` that take their batch from this source, with `order = "by_source"`. Sources
    /// without one divide what the others leave by their pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Cosines of its queries are divided by it in `train`. Default: the recipe's `temperature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Text before its queries in `train`. Default: the query side's `prompt_prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_prefix: Option<String>,
    /// Text before its documents in `train`. Default: the tower's `prompt_prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_prefix: Option<String>,
    /// Longest document of it in `train`, in tokens, prompt included. Default: the tower's `max_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
}

fn one() -> f32 {
    1.0
}

impl PairSource {
    /// Every pair of a folder or file, at weight 1.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            sql: None,
            queries: queries_file(),
            qrels: qrels_file(),
            limit: None,
            weight: 1.0,
            exclude_id_prefix: Vec::new(),
            share: None,
            temperature: None,
            query_prefix: None,
            document_prefix: None,
            max_tokens: None,
        }
    }

    /// Looks, without reading one, whether its files are there; a store is not asked. Relative paths start from
    /// `base_dir`.
    ///
    /// # Errors
    /// NotFound, naming the file; Config for a path that cannot be meant.
    pub fn check_files(&self, base_dir: &Path) -> Result<()> {
        if self.is_table() {
            return check_table(&self.path, base_dir);
        }
        let path = base_dir.join(expand(&self.path, base_dir)?);
        if !path.is_dir() {
            return find(&path).map(drop);
        }
        let Self { queries, qrels, .. } = self.clone();
        RetrievalSetOptions { queries, qrels, ..RetrievalSetOptions::new(path) }.check_files()
    }

    /// Whether it is read as a table: it names SQL, or Parquet.
    pub fn is_table(&self) -> bool {
        let parquet = self.path.extension().is_some_and(|ending| ending == "parquet");
        self.sql.is_some() || parquet
    }
}

/// One training example; numbers index [`PairSet::documents`].
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The query.
    pub query: String,
    /// The document that answers it.
    pub document: u32,
    /// Documents that look alike and do not answer it.
    pub negatives: Vec<u32>,
    /// How the tower that mined the negatives scored them, each less its score of the document; empty where nobody
    /// says.
    pub margins: Vec<f32>,
    /// Weight in the loss.
    pub weight: f32,
    /// Which source it came from.
    pub source: u32,
}

/// Pairs and the texts of their documents. Equal texts share one number, so a batch can tell false negatives.
#[derive(Debug, Clone, Default)]
pub struct PairSet {
    /// Rendered texts.
    pub documents: Vec<String>,
    /// The pairs.
    pub pairs: Vec<Pair>,
    /// What folders should not have and were read without: a line for people for each kind.
    pub oddities: Vec<String>,
    numbers: HashMap<String, u32>,
    /// Of all pairs that were read, those that a `limit` left out among them: their documents are still here, and
    /// answer.
    answers: Answers,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    query: String,
    text: String,
    title: Option<String>,
    #[serde(default)]
    #[expect(dead_code, reason = "named in the format; equal texts are what decides")]
    note_id: serde_json::Value,
    negatives: Option<Vec<String>>,
    weight: Option<f32>,
    /// What `mine` found the document and its negatives to score.
    score: Option<f32>,
    negative_scores: Option<Vec<f32>>,
}

impl PairSet {
    /// Reads sources that are folders or lines. Relative paths start from `base_dir`; `seed` decides what a `limit`
    /// draws.
    ///
    /// # Errors
    /// NotFound or Input, naming file and line; Input where nothing is left or a weight is not positive; Config for a
    /// table.
    pub fn open(sources: &[PairSource], base_dir: &Path, seed: u64) -> Result<Self> {
        Self::open_with(sources, base_dir, seed, HashMap::new())
    }

    /// The same with the rows of those sources that are tables, by their number.
    ///
    /// # Errors
    /// As [`PairSet::open`]; Config for a table whose rows are not there.
    pub fn open_with(
        sources: &[PairSource],
        base_dir: &Path,
        seed: u64,
        mut tables: HashMap<usize, Vec<PairRecord>>,
    ) -> Result<Self> {
        let mut set = Self::default();
        for (at, source) in sources.iter().enumerate() {
            let start = set.pairs.len();
            let path = base_dir.join(expand(&source.path, base_dir).context(|| "pairs.path")?);
            let above_0 = |what: &str| {
                Err(Error::config(format!("{what} of pairs {} must be above 0", path.display())))
            };
            if !(source.weight.is_finite() && source.weight > 0.0) {
                return above_0("weight");
            }
            if source.limit == Some(0) {
                return above_0("limit");
            }
            if source.is_table() {
                let rows = tables.remove(&at).ok_or_else(|| {
                    Error::config(format!(
                        "pairs {} are a table, which is not read here",
                        path.display()
                    ))
                })?;
                for row in rows {
                    set.add(row, source.weight, at as u32)
                        .context(|| format!("pairs {}", path.display()))?;
                }
            } else if path.is_dir() {
                set.read_folder(source, &path, at as u32)?;
            } else {
                set.read_lines(source, &path, at as u32)?;
            }
            if let Some(limit) = source.limit
                && set.pairs.len() - start > limit
            {
                SplitMix64::new(seed ^ (at as u64 + 1)).shuffle(&mut set.pairs[start..]);
                set.pairs.truncate(start + limit);
            }
            if set.pairs.len() == start {
                let why = set.oddities.iter().map(|line| format!("; {line}")).collect::<String>();
                return Err(Error::input(format!(
                    "{} holds no training pair{why}",
                    path.display()
                )));
            }
        }
        Ok(set)
    }

    /// Leaves out pairs without a query or a document, and texts of nothing among documents and negatives. Gives the
    /// number of pairs that were dropped.
    pub fn drop_empty(&mut self) -> usize {
        let full = |text: &str| !text.trim().is_empty();
        let mut kept = 0..;
        let numbers: Vec<Option<u32>> =
            self.documents.iter().map(|text| if full(text) { kept.next() } else { None }).collect();
        let renumber = |document: &mut u32| match numbers[*document as usize] {
            Some(number) => {
                *document = number;
                true
            }
            None => false,
        };
        self.documents.retain(|text| full(text));
        self.numbers.retain(|_, document| renumber(document));
        self.answers.renumber(renumber);
        let before = self.pairs.len();
        self.pairs.retain_mut(|pair| {
            let mut at = 0..;
            pair.margins.retain(|_| {
                at.next().is_some_and(|at| numbers[pair.negatives[at] as usize].is_some())
            });
            pair.negatives.retain_mut(renumber);
            full(&pair.query) && renumber(&mut pair.document)
        });
        before - self.pairs.len()
    }

    /// Adds a pair; its document answers its query from now on, whatever becomes of the pair.
    pub fn push(&mut self, pair: Pair) {
        self.answers.add(&pair.query, pair.document);
        self.pairs.push(pair);
    }

    /// Documents known to answer a query, however it is spelt (see [`super::normalized`]).
    pub fn answers(&self, query: &str) -> &[u32] {
        self.answers.of(query)
    }

    /// Number of a text, new or known.
    pub fn intern(&mut self, text: String) -> u32 {
        if let Some(&number) = self.numbers.get(&text) {
            return number;
        }
        let number = self.documents.len() as u32;
        self.documents.push(text.clone());
        self.numbers.insert(text, number);
        number
    }

    fn read_folder(&mut self, source: &PairSource, path: &Path, at: u32) -> Result<()> {
        let set = RetrievalSet::open(&RetrievalSetOptions {
            path: path.to_owned(),
            queries: source.queries.clone(),
            qrels: source.qrels.clone(),
            ignore_identical_ids: false,
        })?;
        let lines = set.oddities.lines();
        self.oddities.extend(lines.iter().map(|line| format!("{}: {line}", path.display())));
        let positions = set.positions();
        for query in &set.queries {
            let Some(judged) = set.qrels.get(&query.id) else { continue };
            for (id, _) in judged.iter().filter(|(_, grade)| **grade > 0) {
                if source.exclude_id_prefix.iter().any(|prefix| id.starts_with(prefix.as_str())) {
                    continue;
                }
                let Some(&document) = positions.get(id.as_str()) else { continue };
                let text = set.documents[document].render();
                if text.is_empty() || query.text.trim().is_empty() {
                    continue;
                }
                let document = self.intern(text);
                self.push(Pair {
                    query: query.text.clone(),
                    document,
                    negatives: Vec::new(),
                    margins: Vec::new(),
                    weight: source.weight,
                    source: at,
                });
            }
        }
        Ok(())
    }

    fn read_lines(&mut self, source: &PairSource, path: &Path, at: u32) -> Result<()> {
        for_each_line(path, |_, line| {
            let line: Line =
                serde_json::from_str(line).map_err(|cause| wrong_line(path, &cause))?;
            let Line { query, text, title, negatives, weight, score, negative_scores, .. } = line;
            let (title, negatives) = (title.unwrap_or_default(), negatives.unwrap_or_default());
            let margins = match (score, negative_scores) {
                (Some(own), Some(scores)) if scores.len() == negatives.len() => {
                    scores.into_iter().map(|score| score - own).collect()
                }
                (None, None) => Vec::new(),
                _ => {
                    return Err(Error::input(
                        "score and negative_scores go together: one for the text, one for each of the negatives",
                    ));
                }
            };
            self.add(PairRecord { query, title, text, negatives, weight }, source.weight, at)?;
            if let Some(pair) = self.pairs.last_mut() {
                pair.margins = margins;
            }
            Ok(())
        })
    }

    fn add(&mut self, row: PairRecord, weight: f32, source: u32) -> Result<()> {
        let weight = weight * row.weight.unwrap_or(1.0);
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(Error::input("weight must be a number, and not negative"));
        }
        let document = Document { id: String::new(), title: row.title, text: row.text };
        let document = self.intern(document.render());
        let negatives = row.negatives.into_iter().map(|text| self.intern(text)).collect();
        let (query, margins) = (row.query, Vec::new());
        self.push(Pair { query, document, negatives, margins, weight, source });
        Ok(())
    }
}

/// Why a line is not a pair, without quoting it: it may be somebody's note.
fn wrong_line(path: &Path, cause: &serde_json::Error) -> Error {
    let column = cause.column();
    if !cause.is_data() {
        let hint = match path.extension().and_then(|ending| ending.to_str()) {
            Some("jsonl" | "json" | "xz" | "gz") => "",
            _ => "; a table of another format needs `sql`: SELECT a AS query, b AS text FROM pairs",
        };
        return Error::input(format!("not JSON (column {column}){hint}"));
    }
    // A missing field is one of ours; an unknown one is the line's, and a value is quoted where its type is wrong.
    let text = cause.to_string();
    let said = match (text.starts_with("missing field"), text.starts_with("unknown field")) {
        (true, _) => text.split(" at line").next().unwrap_or_default(),
        (_, true) => "it has another field",
        _ => "a value is of a wrong type, or a field is there twice",
    };
    Error::input(format!(
        "no pair (column {column}): {said}; it reads {{\"query\": text, \"text\": text, \"title\"?, \"negatives\"?: [text], \"weight\"?: number}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_goes_and_the_rest_keeps_its_texts() {
        let mut set = PairSet::default();
        let mut add = |query: &str, text: &str, negatives: &[&str]| {
            let negatives = negatives.iter().map(|text| (*text).to_owned()).collect();
            let (query, text) = (query.to_owned(), text.to_owned());
            set.add(PairRecord { query, text, negatives, ..PairRecord::default() }, 1.0, 0)
                .unwrap();
        };
        add("none", "", &[]);
        add(" ", "a", &["b"]);
        add("q", "c", &[" ", "b"]);
        assert_eq!(set.drop_empty(), 2);
        // Documents that no pair names are candidates all the same.
        assert_eq!(set.documents, ["a", "b", "c"]);
        assert_eq!((set.pairs.len(), set.pairs[0].document), (1, 2));
        assert_eq!(set.pairs[0].negatives, [1]);
        assert_eq!((set.intern("b".into()), set.intern("d".into())), (1, 3));
        assert_eq!(set.drop_empty(), 0);
    }

    #[test]
    fn lines_and_folders_share_document_numbers_by_text() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pairs.jsonl");
        std::fs::write(
            &file,
            "{\"query\":\"a\",\"text\":\"same\",\"negatives\":[\"other\"],\"weight\":0.5}\n\
             {\"query\":\"b\",\"text\":\"same\",\"title\":null,\"negatives\":null,\"weight\":null}\n",
        )
        .unwrap();
        let folder = dir.path().join("set");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(
            folder.join("corpus.jsonl"),
            "{\"_id\":\"en-1\",\"text\":\"same\"}\n{\"_id\":\"zh-1\",\"text\":\"x\"}\n",
        )
        .unwrap();
        std::fs::write(folder.join("queries.jsonl"), "{\"_id\":\"q\",\"text\":\"c\"}\n").unwrap();
        std::fs::write(folder.join("qrels.tsv"), "q\ten-1\t1\nq\tzh-1\t1\nq\tgone\t1\n").unwrap();
        let mut from_folder = PairSource::new("set");
        from_folder.exclude_id_prefix = vec!["zh-".into()];
        let set =
            PairSet::open(&[PairSource::new("pairs.jsonl"), from_folder], dir.path(), 1).unwrap();
        assert_eq!(set.documents, ["same", "other"]);
        assert_eq!(set.pairs.iter().map(|p| p.document).collect::<Vec<_>>(), [0, 0, 0]);
        assert_eq!(set.pairs[0].negatives, [1]);
        assert_eq!(set.pairs[0].weight, 0.5);
        assert_eq!(set.oddities.len(), 1);
        assert!(
            set.oddities[0].contains("set: judgements of documents that the corpus lacks: 1"),
            "{:?}",
            set.oddities
        );
        let mut limited = PairSource::new("pairs.jsonl");
        limited.limit = Some(1);
        let one = PairSet::open(std::slice::from_ref(&limited), dir.path(), 3).unwrap();
        assert_eq!(one.pairs.len(), 1);
        assert_eq!(PairSet::open(&[limited], dir.path(), 3).unwrap().pairs, one.pairs);
    }

    #[test]
    fn what_a_limit_leaves_out_still_answers() {
        let dir = tempfile::tempdir().unwrap();
        let lines: String = (0..9)
            .map(|at| {
                format!("{{\"query\":\"What is it{}\",\"text\":\"{at}\"}}\n", ["", "?"][at % 2])
            })
            .collect();
        std::fs::write(dir.path().join("pairs.jsonl"), lines).unwrap();
        let limited = PairSource { limit: Some(1), ..PairSource::new("pairs.jsonl") };
        let set = PairSet::open(&[limited], dir.path(), 3).unwrap();
        assert_eq!((set.pairs.len(), set.documents.len()), (1, 9));
        assert_eq!(set.answers("what is it"), (0..9).collect::<Vec<u32>>());
    }

    #[test]
    fn scores_of_mined_negatives_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let line = "{\"query\":\"a\",\"text\":\"b\",\"negatives\":[\" \",\"c\"],\"score\":0.75,\
                    \"negative_scores\":[0.25,0.5]}";
        std::fs::write(dir.path().join("mined.jsonl"), line).unwrap();
        let open = || PairSet::open(&[PairSource::new("mined.jsonl")], dir.path(), 0);
        let mut set = open().unwrap();
        assert_eq!(set.pairs[0].margins, [-0.5, -0.25]);
        assert_eq!((set.drop_empty(), &set.pairs[0].margins[..]), (0, &[-0.25][..]));
        std::fs::write(dir.path().join("mined.jsonl"), line.replace("0.25,", "")).unwrap();
        assert!(open().unwrap_err().to_string().contains("negative_scores go together"));
    }
}
