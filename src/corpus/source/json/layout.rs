//! How the rows of a file are laid out, told by how the file begins.

use std::io::{BufRead, Read};

use serde::de::IgnoredAny;

use super::scan::{Counted, Found, Scanner, unread};
use crate::error::Result;

/// How rows are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One in each line. What is wrong with one is no matter of the next.
    Lines,
    /// The items of a list.
    List,
    /// Objects that follow each other, over several lines each or many in a line.
    Objects,
}

/// This many lines tell an object over several lines from one that is cut off.
const LINES: usize = 16;

/// Tells the layout, and gives back what was read ahead for that: the reader counts as if it were not.
///
/// # Errors
/// Those of the reader.
pub(super) fn tell<R: BufRead>(text: &mut Counted<R>, most: usize) -> Result<(Layout, Vec<u8>)> {
    let mut ahead = Vec::new();
    let first = text.skip_blank().map_err(|e| unread(e, text.line))?;
    let (line, column) = (text.line, text.column);
    let layout = match first {
        Some(b'[') => Layout::List,
        Some(b'{') => {
            let mut limited = text.by_ref().take(most as u64);
            object(&mut limited, &mut ahead).map_err(|e| unread(e, line))?
        }
        _ => Layout::Lines,
    };
    (text.line, text.column) = (line, column);
    Ok((layout, ahead))
}

/// Follows the first object up to its end or that of its line.
fn object(text: &mut impl BufRead, ahead: &mut Vec<u8>) -> std::io::Result<Layout> {
    let mut scanner = Scanner::default();
    loop {
        let bytes = text.fill_buf()?;
        let line = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
        let (found, count) = scanner.scan(&bytes[..line]);
        let (is_last, line_ends) = (bytes.is_empty(), bytes[..count].ends_with(b"\n"));
        ahead.extend_from_slice(&bytes[..count]);
        text.consume(count);
        match found {
            Found::End => return behind(text, ahead),
            Found::LineInString | Found::Mismatch => return Ok(Layout::Lines),
            Found::More if line_ends => return further(text, ahead),
            Found::More if is_last => return Ok(Layout::Lines),
            Found::More => {}
        }
    }
}

/// An object that ends in its line: where another follows it there, lines mean nothing.
fn behind(text: &mut impl BufRead, ahead: &mut Vec<u8>) -> std::io::Result<Layout> {
    loop {
        match text.fill_buf()?.first() {
            Some(b'{') => return Ok(Layout::Objects),
            Some(blank @ (b' ' | b'\t' | b'\r')) => {
                ahead.push(*blank);
                text.consume(1);
            }
            _ => return Ok(Layout::Lines),
        }
    }
}

/// A line that ends before its object does: either the object goes on, or the line is cut off and another object begins
/// where none can.
fn further(text: &mut impl BufRead, ahead: &mut Vec<u8>) -> std::io::Result<Layout> {
    let mut layout = Layout::Lines;
    for _ in 0..LINES {
        let begun = ahead.len();
        if text.read_until(b'\n', ahead)? == 0 {
            break;
        }
        let line = &ahead[begun..];
        let blank = line.len() - line.trim_ascii_start().len();
        if blank == line.len() {
            continue;
        }
        layout = Layout::Objects;
        let Err(wrong) = serde_json::from_slice::<IgnoredAny>(ahead) else { break };
        if wrong.is_eof() {
            continue;
        }
        let place = ahead[..begun].iter().filter(|byte| **byte == b'\n').count() + 1;
        let at_once = (wrong.line(), wrong.column()) == (place, blank + 1);
        if at_once && ahead[begun + blank] == b'{' {
            layout = Layout::Lines;
        }
        break;
    }
    Ok(layout)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn told(text: &str) -> Layout {
        let told = [1, 7, 8192].map(|size| {
            let reader = BufReader::with_capacity(size, text.as_bytes());
            let mut counted = Counted { reader, line: 1, column: 0 };
            let (layout, mut all) = tell(&mut counted, 1 << 20).unwrap();
            counted.read_to_end(&mut all).unwrap();
            assert_eq!(all, text.trim_ascii_start().as_bytes(), "nothing is lost");
            layout
        });
        assert_eq!(told, [told[0]; 3], "{text}");
        told[0]
    }

    #[test]
    fn lines_lists_and_objects_are_told_apart() {
        for (text, layout) in [
            ("", Layout::Lines),
            ("\n \n", Layout::Lines),
            ("{\"a\": 1}", Layout::Lines),
            ("{\"a\": 1}\n{\"a\": 2}\n", Layout::Lines),
            ("{\"a\": 1} \r\n{\"a\": 2}\r\n", Layout::Lines),
            ("{\"a\": 1},\n{\"a\": 2}\n", Layout::Lines),
            ("id,text\n1,a\n", Layout::Lines),
            // Cut off, or otherwise broken: the next line is a row of its own.
            ("{\"a\": 1,\n{\"a\": 2}\n", Layout::Lines),
            ("{\"a\": \n{\"a\": 2}\n{\"a\": 3}\n", Layout::Lines),
            ("{\"a\": \"b\n{\"a\": 2}\n", Layout::Lines),
            ("{\"a\": 1]\n{\"a\": 2}\n", Layout::Lines),
            ("{\"a\": 1\n", Layout::Lines),
            ("{\"a\": 1,\n\n", Layout::Lines),
            (" [\n{\"a\": 1}]", Layout::List),
            ("[]", Layout::List),
            ("{\"a\": 1}{\"a\": 2}", Layout::Objects),
            ("{\"a\": 1} {\"a\": 2}\n{\"a\": 3}\n", Layout::Objects),
            ("{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}\n", Layout::Objects),
            ("\n{\n\n\"a\": [\n{\n\"b\": 1}]}", Layout::Objects),
            // Broken further on: brackets tell.
            ("{\n  \"a\": NaN,\n  \"b\": 1\n}\n", Layout::Objects),
            ("{\n  \"a\": 1\n", Layout::Objects),
        ] {
            assert_eq!(told(text), layout, "{text}");
        }
    }
}
