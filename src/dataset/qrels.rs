//! Judgements: lines of query, document and grade.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use super::file::for_each_line;
use crate::error::{Error, Result};

/// Judgements: query id -> document id -> grade. A grade above 0 means relevant.
pub type Qrels = BTreeMap<String, BTreeMap<String, i32>>;

/// A judgement and the line that it is on.
pub(super) struct Judgement {
    pub(super) grade: i32,
    pub(super) line: usize,
}

/// What a file of judgements says.
#[derive(Default)]
pub(super) struct Judgements {
    /// By query id and document id.
    pub(super) by_query: BTreeMap<String, BTreeMap<String, Judgement>>,
    /// Lines that repeat a judgement with the same grade.
    pub(super) repeated: Vec<usize>,
}

/// Places of query, document and grade among the fields of a line.
#[derive(Clone, Copy)]
struct Layout {
    fields: usize,
    query: usize,
    document: usize,
    grade: usize,
}

/// BEIR's layout.
const BEIR: Layout = Layout { fields: 3, query: 0, document: 1, grade: 2 };
/// TREC's, whose second field is not read.
const TREC: Layout = Layout { fields: 4, query: 0, document: 2, grade: 3 };

/// What headers call the fields, in small letters and without marks.
const QUERY: [&str; 7] = ["queryid", "qid", "query", "topicid", "topic", "questionid", "question"];
const DOCUMENT: [&str; 12] = [
    "corpusid",
    "corpus",
    "docid",
    "did",
    "docno",
    "doc",
    "documentid",
    "document",
    "passageid",
    "passage",
    "pid",
    "noteid",
];
const GRADE: [&str; 10] = [
    "score",
    "scores",
    "grade",
    "label",
    "relevance",
    "rel",
    "qrel",
    "judgment",
    "judgement",
    "rating",
];
const UNREAD: [&str; 5] = ["iteration", "iter", "q0", "run", "subtopic"];

/// Reads judgements in BEIR's layout (`query-id <tab> corpus-id <tab> score`, header optional) or TREC's (`query 0
/// document grade`, between tabs or spaces).
///
/// # Errors
/// Input, naming the line, for a grade that is not a whole number, and for two that contradict each other.
pub(super) fn read_qrels(path: &Path) -> Result<Judgements> {
    let mut found = Judgements::default();
    let mut layout = None;
    for_each_line(path, |line, text| {
        let fields = fields(text);
        let layout = match layout {
            Some(layout) => layout,
            None => {
                if let Some(named) = header(&fields) {
                    layout = Some(named);
                    return Ok(());
                }
                *layout.insert(if fields.len() == TREC.fields { TREC } else { BEIR })
            }
        };
        if fields.len() != layout.fields {
            let hint = match text.trim_start().starts_with('{') {
                true => {
                    "; judgements are not read as JSON, but as lines of query-id, corpus-id and score with tabs between"
                }
                false => " (query-id, corpus-id and score with tabs between, or TREC's four)",
            };
            return Err(Error::input(format!(
                "{} fields are expected, not {}{hint}",
                layout.fields,
                fields.len()
            )));
        }
        let (query, document) = (&fields[layout.query], &fields[layout.document]);
        if query.is_empty() || document.is_empty() {
            return Err(Error::input("the id of the query or of the document is empty"));
        }
        let grade = grade(&fields[layout.grade])?;
        let judged = found.by_query.entry(query.clone()).or_default();
        match judged.entry(document.clone()) {
            Entry::Vacant(place) => {
                place.insert(Judgement { grade, line });
            }
            Entry::Occupied(place) if place.get().grade == grade => found.repeated.push(line),
            Entry::Occupied(place) => {
                let Judgement { grade: other, line: first } = place.get();
                return Err(Error::input(format!(
                    "query {query:?} and document {document:?} have grade {grade} here and {other} on line {first}; keep one"
                )));
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// What lies between tabs, or between spaces where there is no tab. Quotes around a field are not part of it, as in
/// BEIR's own reader.
fn fields(line: &str) -> Vec<String> {
    if !line.contains('\t') {
        return line.split_ascii_whitespace().map(str::to_owned).collect();
    }
    let field = |field: &str| {
        let quoted = field.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        quoted.map_or_else(|| field.to_owned(), |inner| inner.replace("\"\"", "\""))
    };
    line.split('\t').map(field).collect()
}

/// The layout that a header names; `None` for a line whose fields are not all header words.
fn header(fields: &[String]) -> Option<Layout> {
    let mut layout = Layout { fields: fields.len(), query: 0, document: 0, grade: 0 };
    let mut seen = [false; 4];
    for (at, field) in fields.iter().enumerate() {
        let word: String = field.chars().filter(|c| c.is_alphanumeric()).collect();
        let word = word.to_ascii_lowercase();
        let lists = [&QUERY[..], &DOCUMENT, &GRADE, &UNREAD];
        let which = lists.iter().position(|list| list.contains(&word.as_str()))?;
        match which {
            0 => layout.query = at,
            1 => layout.document = at,
            2 => layout.grade = at,
            _ => {}
        }
        if std::mem::replace(&mut seen[which], true) {
            return None;
        }
    }
    seen[..3].iter().all(|seen| *seen).then_some(layout)
}

/// A whole number, also as `1.0`.
fn grade(text: &str) -> Result<i32> {
    let text = text.trim();
    if let Ok(grade) = text.parse() {
        return Ok(grade);
    }
    match text.parse::<f64>() {
        Ok(grade) if grade.fract() == 0.0 && grade.abs() <= f64::from(i32::MAX) => Ok(grade as i32),
        Ok(_) => Err(Error::input(format!(
            "the grade {text} is not a whole number of at most {}; trec_eval knows no others",
            i32::MAX
        ))),
        // It may be the text of something else: it is not shown.
        Err(_) => Err(Error::input(
            "the grade is not a number (a header is the first line alone, of words such as query-id, corpus-id, score)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Judgements> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qrels.tsv");
        std::fs::write(&path, text).unwrap();
        read_qrels(&path)
    }

    fn grades(text: &str) -> Vec<(String, String, i32)> {
        let found = read(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let all = found.by_query.iter().flat_map(|(query, judged)| {
            judged.iter().map(|(id, one)| (query.clone(), id.clone(), one.grade))
        });
        all.collect()
    }

    #[test]
    fn layouts_and_headers() {
        let expected = |grade| vec![("q1".to_owned(), "d 1".to_owned(), grade)];
        for (text, grade) in [
            ("q1\td 1\t1\n", 1),
            ("q1\td 1\t1", 1),
            ("q1\td 1\t1.0\n", 1),
            ("q1\td 1\t 2 \r\n\r\n", 2),
            ("\u{feff}query-id\tcorpus-id\tscore\r\nq1\td 1\t-1\r\n", -1),
            ("\n\nquery-id\tcorpus-id\tscore\nq1\td 1\t0\n", 0),
            ("QueryID\tcorpus_id\tRelevance\nq1\td 1\t3.0\n", 3),
            ("corpus-id\tquery-id\tscore\nd 1\tq1\t1e0\n", 1),
            ("score\tquery\tdocument\n+1\tq1\td 1\n", 1),
            ("\"query-id\"\t\"corpus-id\"\t\"score\"\n\"q1\"\t\"d 1\"\t\"1\"\n", 1),
            ("q1\t0\td 1\t1\n", 1),
            ("query-id\titer\tdoc_id\trel\nq1\tQ0\td 1\t1\n", 1),
        ] {
            assert_eq!(grades(text), expected(grade), "{text:?}");
        }
        let plain = vec![("q1".to_owned(), "d1".to_owned(), 1)];
        for text in ["q1 0 d1 1\n", "q1   Q0  d1 1 \n", "q1 d1 1\n", "qid docid label\nq1 d1 1\n"] {
            assert_eq!(grades(text), plain, "{text:?}");
        }
        // Ids may be words of a header, and may look like numbers: they stay texts.
        let ids =
            [("007".to_owned(), "score".to_owned(), 1), ("query".to_owned(), "7".to_owned(), 2)];
        assert_eq!(grades("query\t7\t2\n007\tscore\t1\n"), ids);
        assert_eq!(grades(""), []);
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, what) in [
            ("q\td\t1\nq\te\t2.5\n", "line 2: the grade 2.5 is not a whole number"),
            ("q\td\t2.5\n", "line 1: the grade 2.5 is not a whole number"),
            ("q\td\tnan\n", "the grade nan is not a whole number"),
            ("q\td\t1e10\n", "the grade 1e10 is not a whole number"),
            ("q\td\thigh\n", "line 1: the grade is not a number"),
            ("query-id\tcorpus-id\tmine\nq\td\t1\n", "line 1: the grade is not a number"),
            ("q\td\t1\nquery-id\tcorpus-id\tscore\n", "line 2: the grade is not a number"),
            ("q\td\t\n", "line 1: the grade is not a number"),
            ("q\t\t1\n", "line 1: the id"),
            ("q\td\n", "line 1: 3 fields are expected, not 2"),
            ("q,d,1\n", "line 1: 3 fields are expected, not 1"),
            ("q\td\t1\nq\t0\te\t1\n", "line 2: 3 fields are expected, not 4"),
            ("q\t0\td\t1\te\n", "line 1: 3 fields are expected, not 5"),
            ("{\"query-id\":\"q\",\"corpus-id\":\"d\",\"score\":1}\n", "not read as JSON"),
            (
                "q\td\t1\nr\td\t1\nq\td\t2\n",
                "line 3: query \"q\" and document \"d\" have grade 2 here and 1 on line 1",
            ),
        ] {
            let error = read(text).err().unwrap_or_else(|| panic!("{text:?} was read")).to_string();
            assert!(error.contains(what), "{text:?}: {error}");
        }
        let found = read("q\td\t1\nq\td\t1.0\nq\td\t1\n").unwrap();
        assert_eq!((found.by_query["q"]["d"].line, found.repeated), (1, vec![2, 3]));
    }
}
