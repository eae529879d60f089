//! A row as the first pass looks at it: numbers and strings as the file writes them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, MapAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;

use crate::corpus::options::TypeRule;
use crate::corpus::source::text::NOT_UTF8;

/// Commas of a row, at most: a value takes many times the memory of its text.
const COMMAS: usize = 1 << 20;

/// Lists and objects in each other, at most.
const DEEPEST: usize = 128;

/// A value that is JSON, down to its last escape.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(&'a str),
    Number(&'a str),
    /// With its quotes and escapes.
    Text(&'a str),
    List(Vec<Value<'a>>),
    Object(Fields<'a>),
}

/// Fields of an object, each name once.
pub(super) type Fields<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// Why a row cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: &'static str,
    /// Line in the row, from 0, and byte in the line, from 0.
    pub(super) at: Option<(u64, u64)>,
    /// What the parser missed.
    pub(super) missed: Option<String>,
    /// The field of the row.
    pub(super) field: Option<String>,
}

pub(super) const NOT_JSON: &str = "not JSON";
pub(super) const NOT_A_NUMBER: &str = "NaN or Infinity, which is not JSON";
pub(super) const NO_OBJECT: &str = "not a JSON object";
pub(super) const TWO_VALUES: &str = "more than one object in a line";
pub(super) const TWICE: &str = "a field twice in one object";
pub(super) const TOO_DEEP: &str = "lists and objects more than 128 deep";
pub(super) const TOO_MANY: &str = "more than 1,048,576 commas, and so perhaps as many values";
pub(super) const NO_CHARACTER: &str = "half a surrogate pair, which is not a character";

impl Fault {
    pub(super) fn new(reason: &'static str) -> Self {
        Self { reason, at: None, missed: None, field: None }
    }

    /// The same, in a part of the row.
    fn at(mut self, row: &str, part: &str) -> Self {
        let before = (part.as_ptr() as usize).saturating_sub(row.as_ptr() as usize);
        self.at = Some(position(row.as_bytes().get(..before).unwrap_or_default()));
        self
    }

    pub(super) fn in_field(mut self, name: &str) -> Self {
        self.field = Some(name.to_owned());
        self
    }
}

/// Line and byte in the line, from 0, after some bytes.
fn position(before: &[u8]) -> (u64, u64) {
    let lines = before.iter().filter(|byte| **byte == b'\n').count() as u64;
    let line = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    (lines, (before.len() - line) as u64)
}

/// The fields of a row.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(row: &[u8], rule: TypeRule) -> Result<Fields<'_>, Fault> {
    if row.len() > COMMAS && memchr::memchr_iter(b',', row).count() > COMMAS {
        return Err(Fault::new(TOO_MANY));
    }
    let text = std::str::from_utf8(row).map_err(|wrong| {
        let at = Some(position(&row[..wrong.valid_up_to()]));
        Fault { at, ..Fault::new(NOT_UTF8) }
    })?;
    let mut fields = Vec::new();
    match object(text, &mut fields) {
        Ok(()) => Parser { row: text, rule }.fields(fields, 1),
        Err(wrong) => Err(not_json(text, &wrong, fields.last().map(|(name, _)| name))),
    }
}

/// What serde_json says of a row, whose last field that came so far is named.
fn not_json(text: &str, wrong: &serde_json::Error, last: Option<&Cow<'_, str>>) -> Fault {
    if wrong.is_data() {
        return Fault::new(NO_OBJECT);
    }
    let line = wrong.line().saturating_sub(1);
    let begin = text.split_inclusive('\n').take(line).map(str::len).sum::<usize>();
    let at = begin + wrong.column().saturating_sub(1);
    let rest = text.get(at..).unwrap_or_default();
    let said = wrong.to_string();
    let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
    let reason = match said {
        "trailing characters" if rest.starts_with('{') => TWO_VALUES,
        _ if ["NaN", "Infinity"].iter().any(|word| rest.starts_with(word)) => NOT_A_NUMBER,
        _ => NOT_JSON,
    };
    let missed = (reason == NOT_JSON).then(|| said.to_owned());
    let is_inside = said != "trailing characters";
    let field = last.filter(|_| is_inside).map(|name| name.clone().into_owned());
    let at = Some((line as u64, wrong.column().saturating_sub(1) as u64));
    Fault { reason, at, missed, field }
}

/// Names and values of an object, as they are in it.
type RawFields<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// Adds the fields of an object; where it is broken, the last one may have no value.
fn object<'a>(text: &'a str, fields: &mut RawFields<'a>) -> serde_json::Result<()> {
    let mut parser = Deserializer::from_str(text);
    parser.deserialize_map(ObjectVisitor(fields))?;
    parser.end()
}

struct ObjectVisitor<'f, 'a>(&'f mut RawFields<'a>);

impl<'a> Visitor<'a> for ObjectVisitor<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name)? {
            self.0.push((name, RawValue::NULL));
            let value = map.next_value::<&'a RawValue>()?;
            if let Some(last) = self.0.last_mut() {
                last.1 = value;
            }
        }
        Ok(())
    }
}

/// The name of a field.
struct Name;

impl<'a> DeserializeSeed<'a> for Name {
    type Value = Cow<'a, str>;

    fn deserialize<D: serde::Deserializer<'a>>(self, parser: D) -> Result<Self::Value, D::Error> {
        parser.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Name {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'a str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// Looks into what serde_json has found the end of.
struct Parser<'a> {
    row: &'a str,
    rule: TypeRule,
}

impl<'a> Parser<'a> {
    fn fields(&self, raw: RawFields<'a>, depth: usize) -> Result<Fields<'a>, Fault> {
        let is_row = depth == 1;
        let mut fields = Vec::with_capacity(raw.len());
        for (name, value) in raw {
            match self.value(value.get(), depth) {
                Ok(value) => fields.push((name, value)),
                Err(fault) if is_row => return Err(fault.in_field(&name)),
                Err(fault) => return Err(fault),
            }
        }
        if !has_twice(&fields) {
            return Ok(fields);
        }
        match self.rule {
            TypeRule::Exact => Err(Fault::new(TWICE)),
            // As 0.1.0 had it: the last value holds.
            TypeRule::Guessed => Ok(last_of_each(fields)),
        }
    }

    fn value(&self, raw: &'a str, depth: usize) -> Result<Value<'a>, Fault> {
        Ok(match raw.as_bytes().first() {
            Some(b'"') => {
                if has_surrogate(raw) && serde_json::from_str::<String>(raw).is_err() {
                    return Err(Fault::new(NO_CHARACTER).at(self.row, raw));
                }
                Value::Text(raw)
            }
            Some(b'n') => Value::Null,
            Some(b't' | b'f') => Value::Bool(raw),
            Some(b'{' | b'[') if depth >= DEEPEST => {
                return Err(Fault::new(TOO_DEEP).at(self.row, raw));
            }
            Some(b'[') => {
                let items = serde_json::from_str::<Vec<&'a RawValue>>(raw);
                let items = items.map_err(|_| Fault::new(NOT_JSON).at(self.row, raw))?;
                let items = items.into_iter().map(|item| self.value(item.get(), depth + 1));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Some(b'{') => {
                let mut fields = Vec::new();
                // A name may be no text, which was not looked at before.
                object(raw, &mut fields).map_err(|_| Fault::new(NO_CHARACTER).at(self.row, raw))?;
                Value::Object(self.fields(fields, depth + 1)?)
            }
            _ => Value::Number(raw),
        })
    }
}

fn has_twice(fields: &Fields<'_>) -> bool {
    if fields.len() <= 16 {
        let mut before = fields.iter().enumerate();
        return before.any(|(at, (name, _))| fields[..at].iter().any(|(other, _)| other == name));
    }
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_ref()).collect();
    names.sort_unstable();
    names.windows(2).any(|two| two[0] == two[1])
}

/// The last value of each name, in the place of the first.
fn last_of_each<'a>(fields: Fields<'a>) -> Fields<'a> {
    let mut places: HashMap<Cow<'a, str>, usize> = HashMap::new();
    let mut kept: Fields<'a> = Vec::new();
    for (name, value) in fields {
        match places.get(&name) {
            Some(at) => kept[*at].1 = value,
            None => {
                places.insert(name.clone(), kept.len());
                kept.push((name, value));
            }
        }
    }
    kept
}

/// Whether a string escapes a half of a character, which may lack the other.
fn has_surrogate(raw: &str) -> bool {
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        match rest.as_bytes()[at + 1..] {
            [b'u', b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..] => return true,
            _ => rest = rest.get(at + 2..).unwrap_or_default(),
        }
    }
    false
}

/// The text of a string that [`parse`] has looked at.
pub(super) fn unescaped(raw: &str) -> Cow<'_, str> {
    match raw.contains('\\') {
        false => Cow::Borrowed(raw.trim_matches('"')),
        true => serde_json::from_str::<String>(raw).unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(row: &str, rule: TypeRule) -> Fault {
        parse(row.as_bytes(), rule).unwrap_err()
    }

    #[test]
    fn rows_keep_their_numbers_and_strings() {
        let row = r#" {"a": 1.10, "b\u0041": "x\"\ud83d\ude00", "c": [true, null, {"d": -0}], "e": 12345678901234567890} "#;
        let fields = parse(row.as_bytes(), TypeRule::Exact).unwrap();
        let inner = vec![("d".into(), Value::Number("-0"))];
        let list = Value::List(vec![Value::Bool("true"), Value::Null, Value::Object(inner)]);
        let expected: Fields<'_> = vec![
            ("a".into(), Value::Number("1.10")),
            ("bA".into(), Value::Text(r#""x\"\ud83d\ude00""#)),
            ("c".into(), list),
            ("e".into(), Value::Number("12345678901234567890")),
        ];
        assert_eq!(fields, expected);
        assert_eq!(unescaped(r#""x\"\ud83d\ude00""#), "x\"😀");
        assert_eq!(unescaped(r#""""#), "");
    }

    #[test]
    fn what_is_wrong_has_a_place() {
        let deep = format!(r#"{{"a": {}{}}}"#, "[".repeat(128), "]".repeat(128));
        for (row, reason, at, field) in [
            (r#"{"a": 1"#, NOT_JSON, Some((0, 6)), Some("a")),
            (r#"{"a": 1, }"#, NOT_JSON, Some((0, 9)), Some("a")),
            (r#"{"a" 1}"#, NOT_JSON, Some((0, 5)), Some("a")),
            (r#"{"a": 01}"#, NOT_JSON, Some((0, 7)), Some("a")),
            (r#"{"a": "x" "b": 1}"#, NOT_JSON, Some((0, 10)), Some("a")),
            ("{\"a\": 1,\n \"b\": x}", NOT_JSON, Some((1, 6)), Some("b")),
            ("{\"a\": \"\t\"}", NOT_JSON, Some((0, 6)), Some("a")),
            (r#"{"a": "\x"}"#, NOT_JSON, Some((0, 8)), Some("a")),
            (r#"{"a": 1}, "#, NOT_JSON, Some((0, 8)), None),
            ("id,text", NOT_JSON, Some((0, 0)), None),
            (r#"{"a": NaN}"#, NOT_A_NUMBER, Some((0, 6)), Some("a")),
            (r#"{"a": [1, -Infinity]}"#, NOT_A_NUMBER, Some((0, 11)), Some("a")),
            (r#"{"a": 1}{"a": 2}"#, TWO_VALUES, Some((0, 8)), None),
            ("[1]", NO_OBJECT, None, None),
            ("null", NO_OBJECT, None, None),
            (r#"{"b": 1, "a": "\ud800"}"#, NO_CHARACTER, Some((0, 14)), Some("a")),
            (r#"{"b": 1, "a": ["\uDC00\uD800"]}"#, NO_CHARACTER, Some((0, 15)), Some("a")),
            (r#"{"a": {"\ud800": 1}}"#, NO_CHARACTER, Some((0, 6)), Some("a")),
            (deep.as_str(), TOO_DEEP, Some((0, 133)), Some("a")),
        ] {
            for rule in [TypeRule::Guessed, TypeRule::Exact] {
                let fault = fault(row, rule);
                let found = (fault.reason, fault.at, fault.field.as_deref());
                assert_eq!(found, (reason, at, field), "{row}");
                assert_eq!(fault.missed.is_some(), reason == NOT_JSON, "{row}");
            }
        }
        assert_eq!(
            parse(b"{\"a\": \"\xff\"}", TypeRule::Exact).unwrap_err(),
            Fault { at: Some((0, 7)), ..Fault::new(NOT_UTF8) }
        );
        let least = format!(r#"{{"a": {}{}}}"#, "[".repeat(127), "]".repeat(127));
        assert!(parse(least.as_bytes(), TypeRule::Exact).is_ok());
    }

    #[test]
    fn of_a_field_given_twice_the_last_value_holds_or_the_row_is_bad() {
        let many: String = (0..20).map(|at| format!(r#", "f{at}": {at}"#)).collect();
        for row in [
            r#"{"a": 1, "b": 2, "a": "x"}"#.to_owned(),
            format!(r#"{{"a": 1, "b": 2, "\u0061": "x"{many}}}"#),
        ] {
            let fields = parse(row.as_bytes(), TypeRule::Guessed).unwrap();
            assert_eq!(fields[0], ("a".into(), Value::Text("\"x\"")));
            assert_eq!(fields[1], ("b".into(), Value::Number("2")));
            assert_eq!(fault(&row, TypeRule::Exact).reason, TWICE);
        }
        let nested = r#"{"a": [{"b": 1, "b": 2}]}"#;
        assert_eq!(fault(nested, TypeRule::Exact).field.as_deref(), Some("a"));
        assert!(parse(nested.as_bytes(), TypeRule::Guessed).is_ok());
    }
}
