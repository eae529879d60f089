//! What is wrong with a configuration, and where; all of it at once.

use std::fmt;

use super::origin::Origin;
use crate::error::{Error, ErrorKind, Result};

/// Where the keys of a pipeline file are listed.
pub(super) const HINT: &str = "`scalingnote schema pipeline` lists every key of a pipeline file";

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where the value came from.
    pub origin: Origin,
    /// What is wrong and the way out.
    pub message: String,
}

impl Problem {
    /// Place and message. A flag or a variable names its key as the place, so the message does not begin with it again.
    fn said(&self, file: &str) -> String {
        let key = self.origin.key();
        let again = key.and_then(|key| {
            let named = [format!("`{key}`: "), format!("`{key}` "), format!("{key}: ")];
            named.iter().find_map(|named| self.message.strip_prefix(named.as_str()))
        });
        format!("{}: {}", self.origin.place(file), again.unwrap_or(&self.message))
    }
}

/// Everything that is wrong with one configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// Name of the config file, as messages show it.
    pub file: String,
    /// In the order of finding.
    pub list: Vec<Problem>,
}

impl Problems {
    /// Without problems.
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), list: Vec::new() }
    }

    /// Adds one problem; the same one is not added twice.
    pub fn push(&mut self, origin: Origin, message: impl Into<String>) {
        let problem = Problem { origin, message: message.into() };
        if !self.list.contains(&problem) {
            self.list.push(problem);
        }
    }

    /// Ok without problems, else one Config error that lists them in the order of the file.
    ///
    /// # Errors
    /// Config.
    pub fn result(&self) -> Result<()> {
        match self.list.is_empty() {
            true => Ok(()),
            false => Err(self.error(ErrorKind::Config).with_hint(HINT)),
        }
    }

    /// One error that lists them in the order of the file.
    pub(super) fn error(&self, kind: ErrorKind) -> Error {
        let mut sorted = self.clone();
        sorted.list.sort_by_key(|problem| problem.origin.sort_key());
        let told = match kind {
            ErrorKind::Config => sorted.to_string(),
            // The configuration is fine: it names what is not there, or not as it should be.
            _ => sorted.told("with what the configuration names"),
        };
        Error::new(kind, told)
    }

    fn told(&self, of: &str) -> String {
        if let [only] = self.list.as_slice() {
            return only.said(&self.file);
        }
        let listed = self.list.iter().map(|problem| format!("\n  {}", problem.said(&self.file)));
        format!("{} problems {of}{}", self.list.len(), listed.collect::<String>())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told("in the configuration"))
    }
}

/// The candidate nearest to `word`, if any is near enough to be what was meant.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_lowercase();
    // `min_recall` is `recall_min` to a person.
    let sorted = |name: &str| {
        let mut words: Vec<&str> = name.split(['_', '-']).collect();
        words.sort_unstable();
        words.join("_")
    };
    let word_sorted = sorted(&word);
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let score = strsim::normalized_damerau_levenshtein(&word, candidate)
            .max(strsim::jaro_winkler(&word, candidate) - 0.25)
            .max(strsim::normalized_damerau_levenshtein(&word_sorted, &sorted(candidate)) - 0.1);
        if score >= 0.6 && best.is_none_or(|(most, _)| score > most) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// `a`, `b` or `c`.
pub(super) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let keys = ["model", "pooling", "max_tokens", "prompt_prefix", "prompt_suffix"];
        assert_eq!(nearest("modle", keys), Some("model"));
        assert_eq!(nearest("maxtokens", keys), Some("max_tokens"));
        assert_eq!(nearest("Pooling", keys), Some("pooling"));
        assert_eq!(nearest("prompt_sufix", keys), Some("prompt_suffix"));
        assert_eq!(nearest("tokens_max", keys), Some("max_tokens"));
        assert_eq!(nearest("zzz", keys), None);
    }

    #[test]
    fn problems_are_listed_in_the_order_of_the_file() {
        let mut problems = Problems::new("a.toml");
        problems.push(Origin::Flag("tower.x".into()), "third");
        problems.push(Origin::File { line: 9, column: 1 }, "second");
        problems.push(Origin::File { line: 2, column: 5 }, "first");
        problems.push(Origin::File { line: 2, column: 5 }, "first");
        let text = problems.result().unwrap_err().to_string();
        assert_eq!(
            text,
            "3 problems in the configuration\n  a.toml:2:5: first\n  a.toml:9:1: second\n  --set tower.x: third"
        );
    }

    #[test]
    fn a_flag_or_a_variable_names_its_key_once() {
        for (key, said) in [
            (Origin::Flag("tower.x".into()), "--set tower.x: "),
            (
                Origin::Env("SCALINGNOTE__TOWER__X".into()),
                "environment variable SCALINGNOTE__TOWER__X: ",
            ),
        ] {
            for message in ["`tower.x`: is bad", "`tower.x` is bad", "tower.x: is bad", "is bad"] {
                let mut problems = Problems::new("a.toml");
                problems.push(key.clone(), message);
                assert_eq!(problems.to_string(), format!("{said}is bad"));
            }
            let mut problems = Problems::new("a.toml");
            problems.push(key, "`tower.x.0` is bad");
            assert_eq!(problems.to_string(), format!("{said}`tower.x.0` is bad"));
        }
        let mut problems = Problems::new("a.toml");
        problems.push(Origin::File { line: 2, column: 5 }, "`tower.x` is bad");
        assert_eq!(problems.to_string(), "a.toml:2:5: `tower.x` is bad");
    }
}
