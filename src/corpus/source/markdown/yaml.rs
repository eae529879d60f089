//! YAML front matter as JSON whose every leaf is text, or null.
//!
//! Made of the parser's events, one after the other: nothing here is recursive, and what could grow without bound (an
//! alias that repeats what an anchor holds) is refused.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

use super::fault::{DEPTH, PLACE, TOO_DEEP};
use crate::error::{ErrorKind, shielded};

pub(super) const NOT_YAML: &str = "not YAML";
const NO_MAPPING: &str = "no list of keys and values";
const NO_KEY: &str = "a key that is not a text";
const TWICE: &str = "a key given twice";
const ALIAS: &str = "an alias (`*name`): write the value out";

/// The line, from 1, and what is wrong with it.
type Wrong = (usize, &'static str);

enum Open {
    List(Vec<Value>),
    Mapping { fields: Map<String, Value>, key: Option<String> },
}

/// Keys and values; none where there are only comments.
pub(super) fn parse(text: &str) -> Result<Map<String, Value>, Wrong> {
    let parsed = shielded(ErrorKind::Input, || PLACE.to_owned(), || Ok(read(text)));
    parsed.unwrap_or(Err((1, NOT_YAML)))
}

fn read(text: &str) -> Result<Map<String, Value>, Wrong> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| (error.marker().line(), NOT_YAML))?;
        let line = span.start.line();
        let value = match event {
            Event::Scalar(text, style, ..) => {
                let is_null = matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                match style == ScalarStyle::Plain && is_null {
                    true => Value::Null,
                    false => Value::String(text.into_owned()),
                }
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() > DEPTH => {
                return Err((line, TOO_DEEP));
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Mapping { fields: Map::new(), key: None });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Value::Array(items),
                Some(Open::Mapping { fields, .. }) => Value::Object(fields),
                None => return Err((line, NOT_YAML)),
            },
            Event::Alias(_) => return Err((line, ALIAS)),
            _ => continue,
        };
        match open.last_mut() {
            Some(Open::List(items)) => items.push(value),
            Some(Open::Mapping { fields, key }) => match (key.take(), value) {
                (None, Value::String(name)) if fields.contains_key(&name) => {
                    return Err((line, TWICE));
                }
                (None, Value::String(name)) => *key = Some(name),
                (None, _) => return Err((line, NO_KEY)),
                (Some(name), value) => drop(fields.insert(name, value)),
            },
            // A second document would need a line of `---`, which ends the front matter.
            None => root = Some(value),
        }
    }
    match root {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(fields)) => Ok(fields),
        Some(_) => Err((1, NO_MAPPING)),
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;

    use super::*;

    const OBSIDIAN: &str = "\
title: \"On: bread\"
aliases: [Loaf, 'a \"second\" one']
tags:
  - food/bread
  - baking
created: 2024-10-01
rating: 007
draft: no
empty:
none: ~
text: |
  two
  lines
folded: >-
  one
  line
nested: {a: 1.10, b: [x, null]}
";

    #[test]
    fn values_are_text_as_they_are_written() {
        let expected = json!({
            "title": "On: bread", "aliases": ["Loaf", "a \"second\" one"], "tags": ["food/bread", "baking"],
            "created": "2024-10-01", "rating": "007", "draft": "no", "empty": null, "none": null,
            "text": "two\nlines\n", "folded": "one line", "nested": {"a": "1.10", "b": ["x", null]},
        });
        assert_eq!(Value::Object(parse(OBSIDIAN).unwrap()), expected);
        assert_eq!(
            Value::Object(parse("a: \"\"\nb: 'null'\n").unwrap()),
            json!({"a": "", "b": "null"})
        );
        for nothing in ["", "# only\n# comments\n", "\n\n", "~\n"] {
            assert_eq!(parse(nothing).unwrap(), Map::new(), "{nothing:?}");
        }
    }

    #[test]
    fn what_is_wrong_has_a_line() {
        let deep = format!("a: 1\nb: {}", "[".repeat(40) + &"]".repeat(40));
        for (text, line, reason) in [
            ("a: 1\nb: c: d\n", 2, NOT_YAML),
            ("a: [1\n", 2, NOT_YAML),
            ("a: *x\n", 1, NOT_YAML),
            ("a: &x secret\nb: *x\n", 2, ALIAS),
            ("a: 1\nb: 2\na: 3\n", 3, TWICE),
            ("a: 1\n? [b]\n: 2\n", 2, NO_KEY),
            ("~: 1\n", 1, NO_KEY),
            ("- a\n- b\n", 1, NO_MAPPING),
            ("just words\n", 1, NO_MAPPING),
            (&deep, 2, TOO_DEEP),
        ] {
            assert_eq!(parse(text), Err((line, reason)), "{text}");
        }
    }

    #[test]
    fn hostile_front_matter_ends_soon() {
        let bomb: String = "a: &a [x, x]\n".to_owned()
            + &(1..60).map(|at| format!("a{at}: &a{at} [*a, *a]\n")).collect::<String>();
        for text in [
            bomb,
            "[".repeat(200_000),
            "{a: ".repeat(100_000),
            "- ".repeat(200_000),
            "? ".repeat(200_000),
            ": ".repeat(200_000),
            "\"a\": ".repeat(100_000),
            "!".repeat(200_000),
            "%".repeat(200_000),
            "a: |\n".to_owned() + &" \n".repeat(200_000),
        ] {
            let began = std::time::Instant::now();
            let _ = parse(&text);
            assert!(began.elapsed().as_secs() < 5, "{}", &text[..20]);
        }
        let mut random = StdRng::seed_from_u64(3);
        let pieces = b"\n:-[]{}'\"&*!|>?#%@ \t~,\\\xc3";
        for _ in 0..20_000 {
            let mut bytes = OBSIDIAN.as_bytes().to_vec();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..3) {
                    0 => drop(bytes.remove(at)),
                    1 => bytes.insert(at, pieces[random.random_range(0..pieces.len())]),
                    _ => bytes[at] = pieces[random.random_range(0..pieces.len())],
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            if let Err((line, _)) = read(&text) {
                assert!(line <= text.lines().count() + 1, "{line} {text}");
            }
        }
    }
}
