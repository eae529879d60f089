//! Sets single keys in the text of a TOML file. Comments, order and layout stay as they are.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// `text` with `value` (TOML) at `path`: in the place of the value there, or as a new key where its table begins, with
/// `comment` behind it if it has a line of its own. None where this finds no place for it.
pub(super) fn set(text: &str, path: &str, value: &str, comment: &str) -> Option<String> {
    let document = DeTable::parse(text).ok()?;
    let parts: Vec<&str> = path.split('.').collect();
    // The last node on the way that is there, and the innermost inline table, with how many parts lead to them.
    let (mut node, mut depth) = (None::<&Spanned<DeValue<'_>>>, 0);
    let mut inline = None;
    for part in &parts {
        let next = match node.map(Spanned::get_ref) {
            None => document.get_ref().get(*part),
            Some(DeValue::Table(table)) => table.get(*part),
            Some(DeValue::Array(items)) => Some(items.get(part.parse::<usize>().ok()?)?),
            Some(_) => return None,
        };
        let Some(found) = next else { break };
        (node, depth) = (Some(found), depth + 1);
        if let DeValue::Table(table) = found.get_ref()
            && text[found.span().start..].starts_with('{')
        {
            inline = Some((found.span().start + 1, depth, table.is_empty()));
        }
    }
    let rest = parts[depth..].join(".");
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let line = format!("{rest} = {value}{comment}{newline}");
    let (range, new) = match (node, inline) {
        (Some(found), _) if depth == parts.len() => (found.span(), value.to_owned()),
        (_, Some((at, depth, empty))) => {
            let comma = if empty { " " } else { "," };
            (at..at, format!(" {} = {value}{comma}", parts[depth..].join(".")))
        }
        // Keys of no section are before the first.
        (None, None) if parts.len() == 1 => (0..0, line),
        (Some(found), None) if text[found.span().start..].starts_with('[') => {
            let end = line_end(text, found.span().end);
            let broken = if text[..end].ends_with('\n') { "" } else { newline };
            (end..end, format!("{broken}{line}"))
        }
        (Some(found), None) if !in_header(text, found.span().start) => {
            // `a.b = 1` makes the table `a`: another key of it is written like this one.
            let start = line_start(text, found.span().start);
            (start..start, format!("{}.{line}", &text[start..found.span().end]))
        }
        // A section of its own, at the end: there is none, or only sections inside it.
        _ => {
            let (key, section) = parts.split_last()?;
            let gap = if text.ends_with('\n') { newline.to_owned() } else { newline.repeat(2) };
            let end = text.len();
            let header = format!("{gap}[{}]{newline}", section.join("."));
            (end..end, format!("{header}{key} = {value}{comment}{newline}"))
        }
    };
    Some([&text[..range.start], &new, &text[range.end..]].concat())
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Behind the line's end.
fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

fn in_header(text: &str, at: usize) -> bool {
    text[line_start(text, at)..].trim_start().starts_with('[')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_set_where_its_table_is_written() {
        for (text, path, expected) in [
            ("a = 1 # one\nb = 2\n", "a", "a = 9 # one\nb = 2\n"),
            ("a = 1\n", "b", "b = 9 # new\na = 1\n"),
            // A header, with and without a line end.
            ("[t] # that\nx = 1\n", "t.k", "[t] # that\nk = 9 # new\nx = 1\n"),
            ("a = 1\n[t]", "t.k", "a = 1\n[t]\nk = 9 # new\n"),
            ("[t]\r\nx = 1\r\n", "t.k", "[t]\r\nk = 9 # new\r\nx = 1\r\n"),
            ("[t]\nx = 1\n[u]\n", "t.s.k", "[t]\ns.k = 9 # new\nx = 1\n[u]\n"),
            // Items of an array.
            ("[[l]]\nx = 1\n[[l]]\nx = 2\n", "l.1.k", "[[l]]\nx = 1\n[[l]]\nk = 9 # new\nx = 2\n"),
            (
                "l = [\n {x = 1},\n {x = 2},\n]\n",
                "l.1.k",
                "l = [\n {x = 1},\n { k = 9,x = 2},\n]\n",
            ),
            // Inline tables and dotted keys.
            ("t = { x = 1 }\n", "t.k", "t = { k = 9, x = 1 }\n"),
            ("t = {}\n", "t.k", "t = { k = 9 }\n"),
            ("t = { s.x = 1 }\n", "t.s.k", "t = { s.k = 9, s.x = 1 }\n"),
            ("t.x = 1\n[u]\n", "t.k", "t.k = 9 # new\nt.x = 1\n[u]\n"),
            ("[t]\n  s.x = 1\n", "t.s.k", "[t]\n  s.k = 9 # new\n  s.x = 1\n"),
            // No section yet, or only one inside it.
            ("a = 1", "t.k", "a = 1\n\n[t]\nk = 9 # new\n"),
            ("[t.s]\nx = 1\n", "t.k", "[t.s]\nx = 1\n\n[t]\nk = 9 # new\n"),
            // Quoted keys, and brackets and braces in texts.
            ("\"t\".\"x\" = '[{'\n", "t.k", "\"t\".k = 9 # new\n\"t\".\"x\" = '[{'\n"),
            ("[ t ]\nx = '''\n[t]\n'''\n", "t.k", "[ t ]\nk = 9 # new\nx = '''\n[t]\n'''\n"),
        ] {
            let found = set(text, path, "9", " # new").expect(text);
            assert_eq!(found, expected);
            toml::from_str::<toml::Table>(&found).expect(&found);
        }
        assert_eq!(set("a = [1]\n", "a.7.k", "9", ""), None);
        assert_eq!(set("a = 1\n", "a.k", "9", ""), None);
        assert_eq!(set("a = \n", "a", "9", ""), None);
    }
}
