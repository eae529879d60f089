//! Where a value came from: the file, the environment, a flag, or nobody.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result};

/// Variables that override the file start so: `SCALINGNOTE__TOWER__MAX_TOKENS=256`.
pub const ENV_PREFIX: &str = "SCALINGNOTE__";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The config file, counted from 1; columns count characters.
    File {
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// The environment variable of this name.
    Env(String),
    /// The flag `--set` with this key.
    Flag(String),
    /// The model: a file of it, a key of a GGUF, or its page.
    Model(String),
    /// Nobody set it.
    Default,
}

impl Origin {
    /// The place of a byte of a file's text.
    pub(crate) fn at(text: &str, byte: usize) -> Self {
        let mut at = byte.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &text[..at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self::File {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// The dotted key that a variable or a flag sets: such a place names its key itself.
    pub(super) fn key(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Flag(key) => Some(Cow::Borrowed(key.as_str())),
            Self::Env(name) => {
                let key = name.strip_prefix(ENV_PREFIX)?;
                Some(Cow::Owned(key.to_lowercase().replace("__", ".")))
            }
            Self::File { .. } | Self::Model(_) | Self::Default => None,
        }
    }

    /// How messages name the place: `file:line:column`, the variable, or the flag.
    pub fn place(&self, file: &str) -> String {
        match self {
            Self::File { line, column } => format!("{file}:{line}:{column}"),
            Self::Default => file.to_owned(),
            other => other.to_string(),
        }
    }

    pub(super) fn sort_key(&self) -> (u8, usize, usize) {
        match self {
            Self::File { line, column } => (0, *line, *column),
            Self::Default => (1, 0, 0),
            Self::Env(_) => (2, 0, 0),
            Self::Flag(_) => (3, 0, 0),
            Self::Model(_) => (4, 0, 0),
        }
    }
}

/// Where the values of a pipeline came from; empty where it came from no file.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// The file, as it was named.
    pub(super) file: String,
    /// Origin of every scalar and array that somebody set, and of the array's items, by dotted path. What is not in here
    /// has its default.
    pub by_key: BTreeMap<String, Origin>,
}

/// Two pipelines that say the same are the same, wherever it stands.
impl PartialEq for Origins {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Origins {
    /// Of the pipeline as it will be once `[next]` has taken over.
    pub(super) fn after_next(&self) -> Self {
        let mut after = self.clone();
        let is_replaced = |key: &str| key.starts_with("tower.") || key.starts_with("query.");
        after.by_key.retain(|key, _| !is_replaced(key));
        for (key, origin) in &self.by_key {
            let Some(key) = key.strip_prefix("next.") else { continue };
            let key = if key == "template" { "corpus.template" } else { key };
            after.by_key.insert(key.to_owned(), origin.clone());
        }
        after
    }

    /// What was made by the pipeline; an error that is of one of its keys says where that stands, as the errors of the
    /// file's own check do.
    pub(crate) fn placed<T>(&self, made: Result<T>) -> Result<T> {
        made.map_err(|error| self.place(error))
    }

    /// The same for an error alone.
    pub(crate) fn place(&self, error: Error) -> Error {
        match error.key().and_then(|key| self.by_key.get(key)) {
            Some(origin) => error.at(origin.place(&self.file)),
            None => error,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { line, .. } => write!(f, "line {line}"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(key) => write!(f, "--set {key}"),
            Self::Model(page) if page.starts_with("the model's") => f.write_str(page),
            Self::Model(file) => write!(f, "the model's {file}"),
            Self::Default => f.write_str("default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_key_is_told_with_its_place_once() {
        let error = || Err::<(), _>(Error::config("no column named a").of_key("corpus.sql"));
        let said = |error: Result<()>| error.unwrap_err().to_string();
        let none = Origins::default();
        assert_eq!(said(none.placed(error())), "no column named a");
        let by_key = [("corpus.sql".to_owned(), Origin::File { line: 3, column: 7 })].into();
        let origins = Origins { file: "p.toml".to_owned(), by_key };
        let placed = origins.placed(origins.placed(error()));
        assert_eq!(said(placed), "p.toml:3:7: no column named a");
        let other = Err(Error::config("too few").of_key("corpus.template"));
        assert_eq!(said(origins.placed(other)), "too few", "nobody set it");
    }
}
