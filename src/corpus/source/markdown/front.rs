//! Front matter: YAML between lines of `---`, TOML between lines of `+++`.

use serde_json::{Map, Value};

use super::fault::{DEPTH, Fault, PLACE, TOO_DEEP};
use super::yaml;

const NOT_TOML: &str = "not TOML";
const NOT_CLOSED: &str = "without a closing +++";

/// What is before the text, and the text.
#[derive(Debug, PartialEq)]
pub(super) struct Parts<'a> {
    pub(super) fields: Map<String, Value>,
    pub(super) body: &'a str,
}

/// Takes a note apart. `---` without a second one is a line across the page, as Markdown has it.
pub(super) fn parts(text: &str) -> Result<Parts<'_>, Fault> {
    let whole = || Ok(Parts { fields: Map::new(), body: text });
    let Some((first, rest)) = text.split_once('\n') else { return whole() };
    let fault = |(line, reason): (usize, &'static str)| Fault {
        // The first line of the front matter is the file's second.
        line: line as u64 + 1,
        place: PLACE,
        reason,
    };
    match first.trim_end() {
        "---" => match closed(rest, |line| matches!(line, "---" | "...")) {
            Some((front, body)) => Ok(Parts { fields: yaml::parse(front).map_err(fault)?, body }),
            None => whole(),
        },
        "+++" => {
            let (front, body) =
                closed(rest, |line| line == "+++").ok_or_else(|| fault((0, NOT_CLOSED)))?;
            Ok(Parts { fields: toml(front).map_err(fault)?, body })
        }
        _ => whole(),
    }
}

/// What is before the first line that closes, and behind it.
fn closed(text: &str, closes: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if closes(line.trim_end()) {
            return Some((&text[..at], &text[at + line.len()..]));
        }
        at += line.len();
    }
    None
}

fn toml(text: &str) -> Result<Map<String, Value>, (usize, &'static str)> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let lines = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
        (lines + 1, NOT_TOML)
    })?;
    match texts(toml::Value::Table(table), 0)? {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}

/// Every value as the text that TOML writes for it.
fn texts(value: toml::Value, depth: usize) -> Result<Value, (usize, &'static str)> {
    if depth > DEPTH {
        return Err((1, TOO_DEEP));
    }
    Ok(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Array(items) => {
            let items = items.into_iter().map(|item| texts(item, depth + 1));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let fields = table.into_iter().map(|(key, value)| Ok((key, texts(value, depth + 1)?)));
            Value::Object(fields.collect::<Result<_, _>>()?)
        }
        other => Value::String(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn front(text: &str) -> (Value, &str) {
        let parts = parts(text).unwrap();
        (Value::Object(parts.fields), parts.body)
    }

    #[test]
    fn notes_with_and_without_front_matter() {
        assert_eq!(front("---\na: 1\n---\nbody\n"), (json!({"a": "1"}), "body\n"));
        assert_eq!(front("---  \na: 1\n...\nbody"), (json!({"a": "1"}), "body"));
        assert_eq!(front("---\n---\nbody"), (json!({}), "body"));
        assert_eq!(front("---\n# a comment\n---"), (json!({}), ""));
        for plain in [
            "",
            "body",
            "---",
            "\n---\na: 1\n---\n",
            "--- a\nb\n---\n",
            "---\nno second\n",
            " ---\na: 1\n---\n",
        ] {
            assert_eq!(front(plain), (json!({}), plain));
        }
        // An indented line closes nothing, nor does one behind the front matter open any.
        let text = "---\na: |\n  x\n  ---\n  y\nb: z\n---\nc\n---\n";
        assert_eq!(front(text), (json!({"a": "x\n---\ny\n", "b": "z"}), "c\n---\n"));
    }

    #[test]
    fn toml_is_read_as_it_is_written() {
        let text = "+++\ntitle = \"A\"\ndate = 2024-10-01T07:00:00-08:00\nday = 2024-10-01\nweight = 7\nscore = 1.5\n\
            draft = true\ntags = [\"a\", \"b\"]\n[taxonomies]\ncategories = [\"c\"]\n+++\n\nbody";
        let expected = json!({
            "title": "A", "date": "2024-10-01T07:00:00-08:00", "day": "2024-10-01", "weight": "7", "score": "1.5",
            "draft": "true", "tags": ["a", "b"], "taxonomies": {"categories": ["c"]},
        });
        assert_eq!(front(text), (expected, "\nbody"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_its_text() {
        let deep = format!("+++\na = 1\nb = {}{}\n+++\n", "[".repeat(40), "]".repeat(40));
        for (text, line, reason) in [
            ("+++\ntitle = \"A\"\n", 1, NOT_CLOSED),
            ("+++\ntitle = \"A\"\nsecret\n+++\n", 3, NOT_TOML),
            ("+++\na = 1\na = 2\n+++\n", 3, NOT_TOML),
            ("+++\na = \"x\n+++\n", 2, NOT_TOML),
            (&deep, 2, TOO_DEEP),
            ("---\na: 1\nb: c: d\n---\n", 3, yaml::NOT_YAML),
        ] {
            assert_eq!(parts(text).unwrap_err(), Fault { line, place: PLACE, reason }, "{text}");
        }
    }
}
