//! One note: its front matter, its title, its tags, its text.

use serde_json::{Map, Value};

use super::fault::{Fault, PLACE};
use super::front::{Parts, parts};
use crate::corpus::options::{ColumnType, TableOptions};
use crate::corpus::source::text::NOT_UTF8;

// Columns that every table of Markdown has.
const TITLE: &str = "title";
const BODY: &str = "body";
const PATH: &str = "path";
pub(super) const TAGS: &str = "tags";

const TITLE_IS_NO_TEXT: &str = "a title that is not a text";
const TAGS_ARE_NO_TEXTS: &str = "tags that are not texts";

/// The characters of a file, with lines that end in LF.
pub(super) fn text(bytes: Vec<u8>) -> Result<String, Fault> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
        Fault { line, place: "the note", reason: NOT_UTF8 }
    })?;
    match text.contains('\r') {
        true => Ok(text.replace("\r\n", "\n").replace('\r', "\n")),
        false => Ok(text),
    }
}

/// The columns of the note that is at `path`.
pub(super) fn note(
    text: &str,
    path: &str,
    table: &TableOptions,
) -> Result<Map<String, Value>, Fault> {
    let Parts { mut fields, body } = parts(text)?;
    let fault = |reason| Fault { line: 1, place: PLACE, reason };
    let tags = tags(fields.remove(TAGS)).ok_or_else(|| fault(TAGS_ARE_NO_TEXTS))?;
    let (title, body) = match fields.remove(TITLE) {
        Some(Value::String(title)) if !title.trim().is_empty() => (title.trim().to_owned(), body),
        None | Some(Value::Null | Value::String(_)) => match heading(body) {
            Some((title, rest)) => (title.to_owned(), rest),
            None => (stem(path).to_owned(), body),
        },
        Some(_) => return Err(fault(TITLE_IS_NO_TEXT)),
    };
    for (name, value) in &mut fields {
        let is_list = table.schema.get(name) == Some(&ColumnType::Strings);
        if is_list && value.is_string() {
            *value = Value::Array(vec![value.take()]);
        }
    }
    for (name, value) in
        [(PATH, path.into()), (TITLE, title.into()), (BODY, body.trim().into()), (TAGS, tags)]
    {
        fields.insert(name.to_owned(), value);
    }
    Ok(fields)
}

/// A list of tags, or a text of them with commas or blanks between, each with or without its `#`.
fn tags(written: Option<Value>) -> Option<Value> {
    let texts: Vec<String> = match written {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) if text.contains(',') => {
            text.split(',').map(str::to_owned).collect()
        }
        Some(Value::String(text)) => text.split_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(items)) => {
            let text = |item| match item {
                Value::String(text) => Some(Some(text)),
                Value::Null => Some(None),
                _ => None,
            };
            items.into_iter().map(text).collect::<Option<Vec<_>>>()?.into_iter().flatten().collect()
        }
        Some(_) => return None,
    };
    let tags = texts.iter().map(|text| text.trim().trim_start_matches('#'));
    Some(tags.filter(|tag| !tag.is_empty()).map(Value::from).collect())
}

/// The first heading outside of code, and the text: without the heading where it is the first thing in it.
fn heading(body: &str) -> Option<(&str, &str)> {
    // The mark of a block of code that is open, and how often it is there.
    let mut fence: Option<(char, usize)> = None;
    // A line that begins a paragraph, and where: underlined it is a heading.
    let mut above: Option<(usize, &str)> = None;
    let (mut blank, mut next) = (true, 0);
    for line in body.split_inclusive('\n') {
        let start = next;
        next += line.len();
        let line = line.trim_end();
        let shown = line.trim_start_matches(' ');
        let is_indented = line.len() - shown.len() > 3;
        let mark = shown.chars().next().filter(|mark| matches!(mark, '`' | '~') && !is_indented);
        let run = shown.chars().take_while(|c| Some(*c) == mark).count();
        if let Some((open, length)) = fence {
            if mark == Some(open) && run >= length && shown.len() == run {
                (fence, blank) = (None, true);
            }
            continue;
        }
        let begins = above.take();
        if let Some(mark) = mark.filter(|_| run >= 3) {
            fence = Some((mark, run));
            continue;
        }
        if let Some(words) = atx(shown).filter(|_| !is_indented) {
            return Some((words, rest(body, start, next)));
        }
        let underlines = |sign: u8| !shown.is_empty() && shown.bytes().all(|byte| byte == sign);
        if let Some((from, words)) = begins.filter(|_| underlines(b'=') || underlines(b'-')) {
            return Some((words, rest(body, from, next)));
        }
        let is_words =
            !shown.is_empty() && !is_indented && !shown.starts_with(['>', '-', '*', '+', '|']);
        above = (blank && is_words).then_some((start, shown));
        blank = shown.is_empty();
    }
    None
}

/// `## Words ##` without its signs.
fn atx(line: &str) -> Option<&str> {
    let words = line.trim_start_matches('#');
    let level = line.len() - words.len();
    if !(1..=6).contains(&level) || !(words.is_empty() || words.starts_with([' ', '\t'])) {
        return None;
    }
    let words = words.trim();
    let open = words.trim_end_matches('#');
    let words = match open.is_empty() || open.ends_with([' ', '\t']) {
        true => open.trim_end(),
        false => words,
    };
    (!words.is_empty()).then_some(words)
}

/// The text without its bytes from `start` to `end`, where nothing is before them.
fn rest(body: &str, start: usize, end: usize) -> &str {
    if body[..start].trim().is_empty() { &body[end..] } else { body }
}

/// The name of a file without its ending.
fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        let table = TableOptions::new("notes", "notes");
        Value::Object(note(text, "a/On bread.md", &table).unwrap())
    }

    #[track_caller]
    fn titled(text: &str, title: &str, body: &str) {
        let note = read(text);
        assert_eq!((&note["title"], &note["body"]), (&json!(title), &json!(body)), "{text}");
    }

    #[test]
    fn the_title_is_the_front_matters_a_heading_or_the_name() {
        titled("---\ntitle: ' A '\n---\n# B\ntext", "A", "# B\ntext");
        titled("---\ntitle:\n---\n\n# B #\n\ntext\n", "B", "text");
        titled("+++\ntitle = \"A\"\n+++\ntext", "A", "text");
        titled("words\n\n### C# and #d\nmore", "C# and #d", "words\n\n### C# and #d\nmore");
        titled("words\n", "On bread", "words");
        titled("Title\n=====\ntext", "Title", "text");
        titled("  Title\n---\ntext", "Title", "text");
        titled("text\n\nTitle\n--\nmore", "Title", "text\n\nTitle\n--\nmore");
        titled(
            "```sh\n# no heading\n```\n~~~~\n# nor this\n```\n~~~\n~~~~\n# B",
            "B",
            "```sh\n# no heading\n```\n~~~~\n# nor this\n```\n~~~\n~~~~\n# B",
        );
        for none in [
            "#tag\ntext",
            "####### seven",
            "    # code",
            "#",
            "# #",
            "a\nb\n---\nc",
            "- a\n---\nb",
            "\n---\nb",
            "```\n# open",
        ] {
            titled(none, "On bread", none.trim());
        }
    }

    #[test]
    fn tags_are_a_list_however_they_are_written() {
        for (front, tags) in [
            ("tags: [a, '#b/c', '', ~]", json!(["a", "b/c"])),
            ("tags: 'a, #b c,'", json!(["a", "b c"])),
            ("tags: a b", json!(["a", "b"])),
            ("tags:", json!([])),
            ("other: 1", json!([])),
        ] {
            assert_eq!(read(&format!("---\n{front}\n---\nx"))["tags"], tags, "{front}");
        }
        for wrong in ["tags: [{a: 1}]", "tags: {a: 1}", "tags: [[a]]"] {
            let table = TableOptions::new("notes", "notes");
            let fault = note(&format!("---\n{wrong}\n---\n"), "a.md", &table).unwrap_err();
            assert_eq!(fault.reason, TAGS_ARE_NO_TEXTS);
        }
    }

    #[test]
    fn other_keys_are_columns_and_ours_are_ours() {
        let front = "---\npath: /x\nbody: y\naliases: one\nDate: 2024-10-01\n---\nwords";
        let mut table = TableOptions::new("notes", "notes");
        table.schema.insert("aliases".into(), ColumnType::Strings);
        let note = Value::Object(note(front, "a/b.md", &table).unwrap());
        let expected = json!({
            "path": "a/b.md", "title": "b", "body": "words", "tags": [], "aliases": ["one"], "Date": "2024-10-01",
        });
        assert_eq!(note, expected);
    }

    #[test]
    fn lines_and_characters() {
        assert_eq!(text(b"a\r\nb\rc\n".to_vec()).unwrap(), "a\nb\nc\n");
        let fault = text(b"a\nb\xff".to_vec()).unwrap_err();
        assert_eq!((fault.line, fault.reason), (2, NOT_UTF8));
        titled("---\ntitle: A\n---\n", "A", "");
        titled("", "On bread", "");
    }
}
