//! Plain texts to learn from, without pairs.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file::{check_table, find, for_each_line};
use crate::error::{Error, Result, ResultExt};
use crate::store::named::expand;
use crate::types::SplitMix64;

/// Where plain texts come from: a JSON Lines file of `{"text", ...}` (other keys are passed over), or a table (Parquet,
/// or with `sql` anything that a corpus table can be). A text that is there twice is taken once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextSource {
    /// File (`.xz` and `.gz` may be left off); of a table a file, folder, glob or object-store URI.
    pub path: PathBuf,
    /// SQL over the table `pairs` that gives the column `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// Take at most this many texts, drawn with the seed of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Share of the steps that take their batch from this source. Sources without one divide what the others leave by
    /// their pairs and texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Read them as queries, with the query side's prompt and length, instead of as documents.
    #[serde(default)]
    pub as_queries: bool,
    /// Text before each of them. Default: the side's `prompt_prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Longest of them in tokens, prompt included. Default: the side's `max_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
}

impl TextSource {
    /// Every text of a file, as documents.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            sql: None,
            limit: None,
            share: None,
            as_queries: false,
            prefix: None,
            max_tokens: None,
        }
    }

    /// Looks, without reading one, whether its files are there; a store is not asked. Relative paths start from
    /// `base_dir`.
    ///
    /// # Errors
    /// NotFound, naming the file; Config for a path that cannot be meant.
    pub fn check_files(&self, base_dir: &Path) -> Result<()> {
        match self.is_table() {
            true => check_table(&self.path, base_dir),
            false => find(&base_dir.join(expand(&self.path, base_dir)?)).map(drop),
        }
    }

    /// Whether it is read as a table: it names SQL, or Parquet.
    pub fn is_table(&self) -> bool {
        let parquet = self.path.extension().is_some_and(|ending| ending == "parquet");
        self.sql.is_some() || parquet
    }
}

/// The texts of every source, in the order of the sources.
#[derive(Debug, Clone, Default)]
pub struct TextSet {
    /// One list for each source; no text is empty.
    pub sources: Vec<Vec<String>>,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

impl TextSet {
    /// Adds the next source: `rows` are its texts where it is a table. Relative paths start from `base_dir`; `seed`
    /// decides what a `limit` draws.
    ///
    /// # Errors
    /// NotFound or Input, naming file and line; Input where nothing is left; Config for a limit of 0.
    pub fn add(
        &mut self,
        source: &TextSource,
        rows: Option<Vec<String>>,
        base_dir: &Path,
        seed: u64,
    ) -> Result<()> {
        let path = base_dir.join(expand(&source.path, base_dir).context(|| "texts.path")?);
        if source.limit == Some(0) {
            return Err(Error::config(format!(
                "limit of texts {} must be above 0",
                path.display()
            )));
        }
        let (mut texts, mut seen) = (Vec::new(), HashSet::new());
        let mut add = |text: String| {
            if !text.trim().is_empty() && seen.insert(text.clone()) {
                texts.push(text);
            }
        };
        match rows {
            Some(rows) => rows.into_iter().for_each(&mut add),
            None => for_each_line(&path, |_, line| {
                let line: Line = serde_json::from_str(line).map_err(|cause| {
                    Error::input(format!(
                        "no text (column {}): it reads {{\"text\": text}}",
                        cause.column()
                    ))
                })?;
                add(line.text);
                Ok(())
            })?,
        }
        if texts.is_empty() {
            return Err(Error::input(format!("{} holds no text", path.display())));
        }
        if let Some(limit) = source.limit
            && texts.len() > limit
        {
            let at = self.sources.len() as u64;
            SplitMix64::new(seed ^ 0x5445_5854 ^ (at + 1)).shuffle(&mut texts);
            texts.truncate(limit);
        }
        self.sources.push(texts);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_once_each_and_a_limit_draws() {
        let dir = tempfile::tempdir().unwrap();
        let lines = "{\"text\":\"a\",\"kind\":\"x\"}\n{\"text\":\" \"}\n{\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"text\":\"c\"}\n";
        std::fs::write(dir.path().join("texts.jsonl"), lines).unwrap();
        let mut source = TextSource::new("texts.jsonl");
        let mut set = TextSet::default();
        set.add(&source, None, dir.path(), 1).unwrap();
        assert_eq!(set.sources[0], ["a", "b", "c"]);
        source.limit = Some(2);
        set.add(&source, None, dir.path(), 1).unwrap();
        let mut again = TextSet { sources: vec![vec![]] };
        again.add(&source, None, dir.path(), 1).unwrap();
        assert_eq!((set.sources[1].len(), &set.sources[1]), (2, &again.sources[1]));
        set.add(&source, Some(vec!["z".into(), "z".into()]), dir.path(), 1).unwrap();
        assert_eq!(set.sources[2], ["z"]);
        assert!(set.add(&source, Some(vec![" ".into()]), dir.path(), 1).is_err());
        std::fs::write(dir.path().join("texts.jsonl"), "{\"query\":\"secret\"}\n").unwrap();
        let error = set.add(&source, None, dir.path(), 1).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("secret"), "{error}");
    }
}
