//! The configuration as a tree in which every key and value knows where it came from.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::origin::Origin;
use super::problem::Problems;

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub value: Value,
    pub origin: Origin,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Bool(bool),
    Integer(i64),
    Float(f64),
    String(String),
    Datetime(String),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table with its place and value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub key_origin: Origin,
    pub node: Node,
}

impl Value {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::String(_) => "a string",
            Self::Datetime(_) => "a date or time",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    pub(super) fn empty_table(origin: Origin) -> Self {
        Self { value: Value::Table(Vec::new()), origin }
    }

    /// The node at a dotted path; numbers index arrays.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, part| match &node.value {
            Value::Table(entries) => {
                entries.iter().find(|entry| entry.key == part).map(|entry| &entry.node)
            }
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// The place of `path`, or of its nearest ancestor that somebody wrote.
    pub(super) fn origin_of(&self, path: &str) -> Origin {
        let mut paths = std::iter::successors(Some(path), |path| Some(path.rsplit_once('.')?.0));
        paths.find_map(|path| self.at(path)).unwrap_or(self).origin.clone()
    }

    /// As JSON, for serde. Floats that JSON has no number for were refused by the check.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::String(value) | Value::Datetime(value) => value.as_str().into(),
            Value::Array(items) => items.iter().map(Self::to_json).collect(),
            Value::Table(entries) => serde_json::Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect(),
            ),
        }
    }
}

/// Parses a file. Syntax errors become problems, as many as the parser finds.
pub(super) fn parse_file(text: &str, problems: &mut Problems) -> Node {
    let place = |span: &Range<usize>| Origin::at(text, span.start);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let origin = error.span().map_or(Origin::Default, |span| place(&span));
        problems.push(origin, format!("not TOML: {}", error.message().replace('\n', ", ")));
    }
    let start = Origin::File { line: 1, column: 1 };
    let value = convert_table(table.get_ref(), &place, problems);
    Node { value, origin: start }
}

/// Parses one TOML value of an override; every place in it is `origin`.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Result<Node, String> {
    let value = DeValue::parse(text).map_err(|error| error.message().replace('\n', ", "))?;
    let mut problems = Problems::new("");
    let node = convert(&value, &|_| origin.clone(), &mut problems);
    problems.list.pop().map_or(Ok(node), |problem| Err(problem.message))
}

type Place<'a> = dyn Fn(&Range<usize>) -> Origin + 'a;

fn convert(value: &Spanned<DeValue<'_>>, place: &Place<'_>, problems: &mut Problems) -> Node {
    let origin = place(&value.span());
    let converted = match value.get_ref() {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        DeValue::Integer(integer) => {
            let parsed = i64::from_str_radix(integer.as_str(), integer.radix());
            Value::Integer(parsed.unwrap_or_else(|_| {
                problems.push(origin.clone(), "an integer must fit into 64 bits");
                0
            }))
        }
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| convert(item, place, problems)).collect())
        }
        DeValue::Table(table) => convert_table(table, place, problems),
    };
    Node { value: converted, origin }
}

fn convert_table(table: &DeTable<'_>, place: &Place<'_>, problems: &mut Problems) -> Value {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_origin: place(&key.span()),
            node: convert(value, place, problems),
        })
        .collect();
    // The parser's map sorts by key; people read in the order of the file.
    entries.sort_by_key(|entry| entry.key_origin.sort_key());
    Value::Table(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let mut problems = Problems::new("x");
        let text = "a = 1\n[t]\n\"\u{952e}\" = [1, {b = 0x10}]\n[[t.list]]\nc = true\n";
        let root = parse_file(text, &mut problems);
        assert!(problems.list.is_empty(), "{problems}");
        assert_eq!(root.origin_of("a"), Origin::File { line: 1, column: 5 });
        assert_eq!(root.origin_of("t.\u{952e}.1.b"), Origin::File { line: 3, column: 16 });
        assert_eq!(root.origin_of("t.list.0.c"), Origin::File { line: 5, column: 5 });
        assert!(matches!(root.at("t.\u{952e}.1.b").unwrap().value, Value::Integer(16)));
        let near = root.origin_of("t.list.0.missing");
        assert!(matches!(near, Origin::File { line: 4, .. }), "{near:?}");
    }

    #[test]
    fn all_syntax_errors_are_told() {
        let mut problems = Problems::new("x");
        parse_file("a = \nb = [1,\nc = 99999999999999999999\n", &mut problems);
        assert!(!problems.list.is_empty());
        assert!(problems.list.iter().all(|p| matches!(p.origin, Origin::File { .. })));
    }
}
