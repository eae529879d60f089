//! The queries themselves, read before the work.

use std::collections::BTreeSet;
use std::path::Path;

use super::options::EvaluationOptions;
use crate::corpus::{CorpusMode, PreparedReader};
use crate::dataset::{Query, RetrievalSet, RetrievalSetOptions, read_queries};
use crate::error::{Error, Result, ResultExt};
use crate::stage::plan::Plan;
use crate::store::Root;
use crate::types::{Digest256, hash_json};

/// Most judged queries. Their scores stand in the manifest, which every reader loads.
const MOST: usize = 10_000;

/// What `[evaluation]` asks.
#[derive(Debug, Clone)]
pub struct Questions {
    /// The judged set, where there is one.
    pub(super) judged: Option<Judged>,
    /// Queries without judgements; empty where those of the set are asked.
    pub(super) others: Vec<Query>,
    /// The stored column that changes are told by.
    pub(super) by: Option<String>,
}

/// A judged set over the notes.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    /// Its folder's name.
    pub name: String,
    /// Names queries and judgements: scores of the same digest can be compared.
    pub digest: Digest256,
    /// Without documents; its queries are those that are judged, by ID.
    pub set: RetrievalSet,
}

impl Questions {
    /// Reads what `options` names; relative paths start from `base_dir`.
    ///
    /// # Errors
    /// NotFound or Input, naming file and line; Config for a set that cannot be used.
    pub fn read(options: &EvaluationOptions, base_dir: &Path) -> Result<Self> {
        let judged = match &options.set {
            Some(set) => Some(Judged::read(options, &base_dir.join(set)).context(reading)?),
            None => None,
        };
        let others = match &options.queries {
            Some(file) => read_queries(&base_dir.join(file)).context(reading)?,
            None => Vec::new(),
        };
        Ok(Self { judged, others, by: options.by.clone() })
    }

    /// What a person should know of the set.
    pub fn warnings(&self) -> Vec<String> {
        let lines = |judged: &Judged| {
            let lines = judged.set.oddities.lines();
            lines
                .into_iter()
                .map(|line| format!("[evaluation] set {}: {line}", judged.name))
                .collect()
        };
        self.judged.as_ref().map(lines).unwrap_or_default()
    }

    /// Refuses a set that judges no note of the corpus, before anything is encoded. Not a delta, which does not hold the
    /// notes of its parent: what it leads to is looked at when it is published; nor an empty corpus, which is for a gate.
    ///
    /// # Errors
    /// Config.
    pub async fn check_plan(&self, plan: &Plan, mode: CorpusMode, root: &Root) -> Result<()> {
        let Some(judged) = &self.judged else { return Ok(()) };
        let is_part = mode == CorpusMode::Delta && plan.spec.parent.is_some();
        if is_part || plan.shards.iter().all(|shard| shard.prepared.notes == 0) {
            return Ok(());
        }
        let relevant = judged.relevant();
        for shard in &plan.shards {
            let mut reader = PreparedReader::open(root, &shard.prepared).await?;
            // The first note that is judged ends it: usually in the first batch.
            while let Some(batch) = reader.next().await? {
                let mut rows = batch.rows.iter().filter(|row| !row.deleted);
                if rows.any(|row| relevant.contains(&row.note_id.untagged())) {
                    return Ok(());
                }
            }
        }
        Err(judged.is_of_other_notes())
    }
}

fn reading() -> String {
    "reading [evaluation]".to_owned()
}

impl Judged {
    fn read(options: &EvaluationOptions, folder: &Path) -> Result<Self> {
        let mut set = RetrievalSet::open_judgements(&RetrievalSetOptions {
            qrels: options.qrels.clone(),
            ignore_identical_ids: options.ignore_identical_ids,
            ..RetrievalSetOptions::new(folder)
        })?;
        set.keep_judged();
        set.queries.sort_by(|a, b| a.id.cmp(&b.id));
        let count = set.queries.len();
        if count > MOST {
            return Err(Error::config(format!(
                "{} judges {count} queries, and at most {MOST} are asked of every build: take a sample of them",
                folder.display()
            )));
        }
        let texts: Vec<_> = set.queries.iter().map(|query| (&query.id, &query.text)).collect();
        let digest = hash_json(&(texts, &set.qrels, set.ignore_identical_ids))?;
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        let judged = Self { name, digest, set };
        if judged.relevant().is_empty() {
            let lines = judged.set.oddities.lines();
            let why = lines.iter().map(|line| format!("; {line}")).collect::<String>();
            return Err(Error::config(format!(
                "{} judges no note as relevant to a query that is there: nothing can be measured{why}",
                folder.display()
            )));
        }
        Ok(judged)
    }

    /// The IDs that are judged relevant to any query.
    pub fn relevant(&self) -> BTreeSet<String> {
        let all = self.set.qrels.values().flatten();
        all.filter(|(_, grade)| **grade > 0).map(|(id, _)| id.clone()).collect()
    }

    /// Config: no note is judged.
    pub fn is_of_other_notes(&self) -> Error {
        let first = self.relevant().into_iter().next().unwrap_or_default();
        Error::config(format!(
            "[evaluation] set {}: none of the notes that it judges as relevant is in the corpus (the first is {first:?}): \
             its judgements must name notes by their note_id",
            self.name
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn folder(queries: &str, qrels: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("queries.jsonl"), queries).unwrap();
        std::fs::write(folder.path().join("qrels.tsv"), qrels).unwrap();
        folder
    }

    const QUERIES: &str = "{\"_id\":\"b\",\"text\":\"two\"}\n{\"_id\":\"a\",\"text\":\"one\"}\n\
                           {\"_id\":\"unjudged\",\"text\":\"three\"}\n";

    fn read(folder: &tempfile::TempDir) -> Result<Questions> {
        let options =
            EvaluationOptions { set: Some(".".to_owned()), ..EvaluationOptions::default() };
        Questions::read(&options, folder.path())
    }

    #[test]
    fn a_set_is_named_by_what_it_says_not_by_the_order_of_its_lines() {
        let one = read(&folder(QUERIES, "a\t1\t1\nb\t2\t2\nb\t3\t0\n")).unwrap().judged.unwrap();
        let ids: Vec<&str> = one.set.queries.iter().map(|query| query.id.as_str()).collect();
        assert_eq!(ids, ["a", "b"], "judged ones, by ID");
        assert_eq!(one.relevant().into_iter().collect::<Vec<_>>(), ["1", "2"]);
        let turned: String = QUERIES.lines().rev().map(|line| format!("{line}\n")).collect();
        let same = read(&folder(&turned, "b\t3\t0\nb\t2\t2\na\t1\t1\n")).unwrap().judged.unwrap();
        assert_eq!(same.digest, one.digest);
        let other = read(&folder(QUERIES, "a\t1\t1\nb\t2\t1\nb\t3\t0\n")).unwrap().judged.unwrap();
        assert_ne!(other.digest, one.digest, "another grade");
    }

    #[test]
    fn a_set_that_measures_nothing_is_a_config_error() {
        for (qrels, what) in [
            ("x\t1\t1\n", "judgements of queries that are not there: 1"),
            ("a\t1\t0\n", "judges no note as relevant"),
        ] {
            let error = read(&folder(QUERIES, qrels)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            let said = error.to_string();
            assert!(said.contains(what) && said.contains("[evaluation]"), "{said}");
        }
        let missing =
            EvaluationOptions { set: Some("none".into()), ..EvaluationOptions::default() };
        let error = Questions::read(&missing, Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
