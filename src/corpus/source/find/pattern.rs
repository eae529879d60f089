//! What a `uri` asks for: its parts, and which names below the fixed ones a glob takes.
//!
//! One reading for folders and buckets. Names that begin with `.` or `_` are markers and half-written files, not data
//! (`_SUCCESS`, `_temporary/`), but for Hive folders such as `_day=1`. A glob takes a file `_x.csv` as a shell does.

use glob::{MatchOptions, Pattern};

use crate::error::{Error, Result};

/// Characters that make a part of a `uri` a pattern.
pub(super) const WILD: [char; 3] = ['*', '?', '['];

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Whether a name is a marker, unless it is asked for.
pub(super) fn hidden(name: &str) -> bool {
    name.starts_with('.') || (name.starts_with('_') && !name.contains('='))
}

/// Whether `uri` looks like a URI: a scheme and `://`.
pub(super) fn has_scheme(uri: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    (!scheme.is_empty() && scheme.bytes().all(plain)).then_some((scheme, rest))
}

/// A part of a path between two `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The name that it is where it is not a pattern.
    pub(super) name: String,
    /// The pattern, where it has wild characters.
    pub(super) pattern: Option<String>,
}

/// The parts of a path; of a URI's path, where `escaped`, `%20` stands for a space, and `%2A` for a `*` in a name.
///
/// # Errors
/// Config for an escape that is not UTF-8.
pub(super) fn parts(path: &str, escaped: bool) -> Result<Vec<Part>> {
    let given = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    given
        .map(|part| {
            let wild = part.contains(WILD);
            if !escaped {
                let pattern = wild.then(|| part.to_owned());
                return Ok(Part { name: part.to_owned(), pattern });
            }
            let decode = |text: &str| {
                unescape(text).ok_or_else(|| {
                    Error::config(format!("`{part}` has %-escapes that are not UTF-8"))
                })
            };
            let pattern = wild.then(|| decode(&bracketed(part))).transpose()?;
            Ok(Part { name: decode(part)?, pattern })
        })
        .collect()
}

/// Wild characters that are escaped are meant as they stand: in a pattern, in brackets.
fn bracketed(part: &str) -> String {
    let mut out = part.to_owned();
    for wild in ["*", "?", "[", "]"] {
        let code = wild.as_bytes()[0];
        for escape in [format!("%{code:02X}"), format!("%{code:02x}")] {
            out = out.replace(&escape, &format!("[{wild}]"));
        }
    }
    out
}

/// `%41` -> `A`; a `%` that begins no escape stands for itself. `None` where the bytes are not UTF-8.
pub(super) fn unescape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let escape = if bytes[at] == b'%' { digit(at + 1).zip(digit(at + 2)) } else { None };
        let (byte, length) = match escape {
            // Two digits of four bits.
            Some((high, low)) => ((high << 4 | low) as u8, 3),
            None => (bytes[at], 1),
        };
        out.push(byte);
        at += length;
    }
    String::from_utf8(out).ok()
}

#[derive(Debug)]
enum Step {
    /// `**`: any number of folders; at the end, also every file.
    Any,
    One(Pattern),
}

/// Which names below a folder are asked for.
#[derive(Debug)]
pub(super) struct Below {
    steps: Vec<Step>,
}

/// How far into the steps the folders so far have led: every way that is open.
pub(super) type Reached = Vec<usize>;

impl Below {
    /// Everything but what is hidden.
    pub(super) fn everything() -> Self {
        Self { steps: vec![Step::Any] }
    }

    /// Whether that is everything: no name was asked for in particular.
    pub(super) fn is_everything(&self) -> bool {
        matches!(self.steps.as_slice(), [Step::Any])
    }

    /// What matches these parts of a glob.
    ///
    /// # Errors
    /// Config where `shown` is not a valid glob.
    pub(super) fn glob(parts: &[Part], shown: &str) -> Result<Self> {
        let step = |part: &Part| match part.pattern.as_deref() {
            Some("**") => Ok(Step::Any),
            _ if part.name == ".." => {
                Err(Error::config(format!("{shown}: `..` cannot follow a wildcard")))
            }
            pattern => {
                let literal = Pattern::escape(&part.name);
                Pattern::new(pattern.unwrap_or(&literal)).map(Step::One).map_err(|e| {
                    Error::config(format!("{shown} is not a valid glob")).with_source(e)
                })
            }
        };
        Ok(Self { steps: parts.iter().map(step).collect::<Result<_>>()? })
    }

    /// Where a search begins.
    pub(super) fn start(&self) -> Reached {
        self.opened(vec![0])
    }

    /// `**` also stands for no folder at all.
    fn opened(&self, mut reached: Reached) -> Reached {
        let mut at = 0;
        while let Some(&step) = reached.get(at) {
            if matches!(self.steps.get(step), Some(Step::Any)) && !reached.contains(&(step + 1)) {
                reached.push(step + 1);
            }
            at += 1;
        }
        reached.sort_unstable();
        reached
    }

    /// Where a folder called `name` leads; empty where nothing in it is asked for.
    pub(super) fn enter(&self, reached: &Reached, name: &str) -> Reached {
        let mut next = Reached::new();
        for &at in reached {
            let to = match self.steps.get(at) {
                Some(Step::Any) if !hidden(name) => at,
                Some(Step::One(pattern)) => {
                    let asked = !hidden(name) || pattern.as_str().starts_with(['.', '_']);
                    if !asked || !pattern.matches_with(name, OPTIONS) {
                        continue;
                    }
                    at + 1
                }
                _ => continue,
            };
            // A pattern that ends with this folder asks for no file in it.
            if to < self.steps.len() && !next.contains(&to) {
                next.push(to);
            }
        }
        if next.is_empty() { next } else { self.opened(next) }
    }

    /// Whether a file called `name` is asked for.
    pub(super) fn takes(&self, reached: &Reached, name: &str) -> bool {
        let last = self.steps.len().saturating_sub(1);
        reached.contains(&last)
            && self.steps.last().is_some_and(|step| match step {
                Step::Any => !hidden(name),
                Step::One(pattern) => pattern.matches_with(name, OPTIONS),
            })
    }

    /// Whether the file at these folders is asked for.
    pub(super) fn takes_at(&self, folders: &[&str], name: &str) -> bool {
        let reached =
            folders.iter().fold(self.start(), |reached, folder| self.enter(&reached, folder));
        self.takes(&reached, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(glob: &str, path: &str) -> bool {
        let below = Below::glob(&parts(glob, false).unwrap(), glob).unwrap();
        let mut folders: Vec<&str> = path.split('/').collect();
        let name = folders.pop().unwrap();
        below.takes_at(&folders, name)
    }

    #[test]
    fn globs_take_what_a_shell_takes() {
        for (glob, yes, no) in [
            ("*.csv", "a.csv", "b/a.csv"),
            ("*.csv", "_a.csv", ".a.csv"),
            ("**/*.csv", "a.csv", "a.tsv"),
            ("**/*.csv", "b/c/a.csv", "b/_c/a.csv"),
            ("**/*.csv", "_day=1/a.csv", "_temporary/a.csv"),
            ("**", "b/c/a.csv", "b/_SUCCESS"),
            ("b/**", "b/c/a.csv", "c/a.csv"),
            ("*/a?.csv", "x/a1.csv", "x/a.csv"),
            ("x*/_old/*", "x1/_old/a", "x1/_new/a"),
            ("lang=*/**/p[0-9].csv", "lang=en/d/e/p1.csv", "lang=en/px.csv"),
            ("a/**/b/**/c.csv", "a/b/b/x/c.csv", "a/x/c.csv"),
            (".x/*", ".x/a", ".y/a"),
        ] {
            assert!(takes(glob, yes), "{glob} takes {yes}");
            assert!(!takes(glob, no), "{glob} does not take {no}");
        }
    }

    #[test]
    fn escapes_are_names_and_wild_characters_are_not() {
        let part = |text: &str| parts(text, true).unwrap().remove(0);
        assert_eq!(part("a%20b.csv"), Part { name: "a b.csv".into(), pattern: None });
        assert_eq!(part("%C3%A4.csv").name, "ä.csv");
        assert_eq!(part("100%.csv").name, "100%.csv");
        assert_eq!(part("100%25.csv").name, "100%.csv");
        assert_eq!(part("what%3f.csv"), Part { name: "what?.csv".into(), pattern: None });
        let mixed = part("%5Bx%5D*.csv").pattern.unwrap();
        assert_eq!(mixed, "[[]x[]]*.csv");
        assert!(Pattern::new(&mixed).unwrap().matches("[x]1.csv"));
        assert!(parts("%ff", true).is_err());
        assert_eq!(parts("//a/./b/", false).unwrap().len(), 2);
        assert_eq!(parts("a%20b", false).unwrap()[0].name, "a%20b");
    }

    #[test]
    fn what_is_no_glob_is_refused() {
        for glob in ["a**/x", "[x", "*/../x"] {
            assert!(Below::glob(&parts(glob, false).unwrap(), glob).is_err(), "{glob}");
        }
    }
}
