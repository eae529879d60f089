//! Takes a file apart into rows, without looking at what is in them.
//!
//! Rows in lines end with their lines. The items of a list and objects that follow each other are taken apart by their
//! brackets; where those do not fit, nobody can say where the next row begins, and that is an error.

use std::io::{BufRead, Chain, Cursor, Read};

use super::layout::{Layout, tell};
use super::scan::{Counted, Found, Scanner, unread};
use crate::corpus::source::text::LONGER;
use crate::error::{Error, Result};
use crate::observe::format;

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) bytes: &'a [u8],
    /// The line that it begins in, from 1.
    pub(super) line: u64,
    /// Bytes before it in that line.
    pub(super) column: u64,
}

/// Where a list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Outside,
    /// After the `[` of a line.
    Begun(u64),
    /// After an item of the list that begins in a line.
    Going(u64),
}

/// The rows of a file, one after another.
pub(super) struct Records<R> {
    text: Counted<Chain<Cursor<Vec<u8>>, R>>,
    layout: Layout,
    list: List,
    record: Vec<u8>,
    most: usize,
}

impl<R: BufRead> Records<R> {
    /// Looks at how the file begins. A row has at most `most` bytes.
    ///
    /// # Errors
    /// What the reader says.
    pub(super) fn new(reader: R, most: usize) -> Result<Self> {
        let mut text = Counted { reader, line: 1, column: 0 };
        let (layout, ahead) = tell(&mut text, most)?;
        let Counted { reader, line, column } = text;
        let text = Counted { reader: Cursor::new(ahead).chain(reader), line, column };
        Ok(Self { text, layout, list: List::Outside, record: Vec::new(), most })
    }

    /// The next row.
    ///
    /// # Errors
    /// Input where it is not clear where the row ends, or where it is too long.
    pub(super) fn next(&mut self) -> Result<Option<Record<'_>>> {
        self.record.clear();
        let begins = match self.layout {
            Layout::Lines => self.next_line()?,
            Layout::List => self.next_item()?,
            Layout::Objects => self.next_value()?,
        };
        Ok(begins.map(|(line, column)| Record { bytes: &self.record, line, column }))
    }

    /// Whether nothing was there to read, not even a blank.
    pub(super) fn is_empty(&self) -> bool {
        (self.text.line, self.text.column) == (1, 0)
    }

    fn next_line(&mut self) -> Result<Option<(u64, u64)>> {
        loop {
            self.record.clear();
            let (line, column) = (self.text.line, self.text.column);
            let mut limited = self.text.by_ref().take(self.most as u64 + 1);
            let taken = limited.read_until(b'\n', &mut self.record);
            if taken.map_err(|e| unread(e, line))? == 0 {
                return Ok(None);
            }
            if self.record.len() > self.most {
                return Err(self.too_long(line));
            }
            self.record.truncate(self.record.trim_ascii_end().len());
            if !self.record.is_empty() {
                return Ok(Some((line, column)));
            }
        }
    }

    fn next_item(&mut self) -> Result<Option<(u64, u64)>> {
        loop {
            let next = self.skip_blank()?;
            match (self.list, next) {
                (List::Outside, None) => return Ok(None),
                (List::Outside, Some(b'[')) => self.list = List::Begun(self.text.line),
                (List::Outside, Some(_)) => {
                    return Err(self.wrong("something follows the end of the list"));
                }
                (List::Begun(_) | List::Going(_), Some(b']')) => self.list = List::Outside,
                (List::Begun(line) | List::Going(line), None) => {
                    return Err(self.ends_early("the list that begins", line));
                }
                (List::Begun(line), Some(_)) => {
                    self.list = List::Going(line);
                    return self.next_value();
                }
                (List::Going(line), Some(b',')) => {
                    self.text.consume(1);
                    return match self.skip_blank()? {
                        None => Err(self.ends_early("the list that begins", line)),
                        Some(b']' | b',') => {
                            Err(self.wrong("nothing stands after a comma of the list"))
                        }
                        Some(_) => self.next_value(),
                    };
                }
                (List::Going(_), Some(_)) => {
                    return Err(self.wrong("a comma is missing between two items of the list"));
                }
            }
            // A bracket.
            self.text.consume(1);
        }
    }

    /// One value, up to its last byte.
    fn next_value(&mut self) -> Result<Option<(u64, u64)>> {
        if self.skip_blank()?.is_none() {
            return Ok(None);
        }
        let (line, column) = (self.text.line, self.text.column);
        let mut scanner = Scanner::default();
        loop {
            let bytes = self.text.fill_buf().map_err(|e| unread(e, line))?;
            if bytes.is_empty() {
                return match scanner.may_end() {
                    true => Ok(Some((line, column))),
                    false => Err(self.ends_early("what begins", line)),
                };
            }
            let (found, count) = scanner.scan(bytes);
            self.record.extend_from_slice(&bytes[..count]);
            self.text.consume(count);
            match found {
                _ if self.record.len() > self.most => return Err(self.too_long(line)),
                Found::More => {}
                Found::End => return Ok(Some((line, column))),
                Found::LineInString => return Err(self.wrong("a string does not end in its line")),
                Found::Mismatch => {
                    return Err(self.wrong("a bracket is closed by one of another kind"));
                }
            }
        }
    }

    fn skip_blank(&mut self) -> Result<Option<u8>> {
        self.text.skip_blank().map_err(|e| unread(e, self.text.line))
    }

    fn wrong(&self, what: &str) -> Error {
        Error::input(format!("line {}, column {}: {what}", self.text.line, self.text.column + 1))
    }

    fn ends_early(&self, what: &str, line: u64) -> Error {
        Error::input(format!(
            "{what} in line {line} does not end before the file does, in line {}: is the file whole?",
            self.text.line
        ))
    }

    fn too_long(&self, line: u64) -> Error {
        Error::input(format!(
            "line {line}: a row of more than {}; if one object holds the whole list, write the list alone; {LONGER}",
            format::bytes(self.most as u64)
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// Rows with their line and column, and the error that ends them.
    fn rows(text: &str, size: usize) -> (Vec<(String, u64, u64)>, Option<String>) {
        let reader = BufReader::with_capacity(size, text.as_bytes());
        let mut records = Records::new(reader, 64).unwrap();
        let mut rows = Vec::new();
        loop {
            match records.next() {
                Ok(Some(Record { bytes, line, column })) => {
                    rows.push((String::from_utf8(bytes.to_vec()).unwrap(), line, column));
                }
                Ok(None) => return (rows, None),
                Err(e) => return (rows, Some(e.to_string())),
            }
        }
    }

    fn check(text: &str, expected: &[(&str, u64, u64)], error: Option<&str>) {
        let expected: Vec<_> = expected
            .iter()
            .map(|(row, line, column)| ((*row).to_owned(), *line, *column))
            .collect();
        for size in [1, 2, 3, 5, 8192] {
            let (rows, failed) = rows(text, size);
            assert_eq!(rows, expected, "{text} in pieces of {size}");
            match (failed, error) {
                (None, None) => {}
                (Some(said), Some(part)) if said.contains(part) => {}
                (said, _) => panic!("{text} in pieces of {size}: {said:?}"),
            }
        }
    }

    #[test]
    fn lines() {
        check("", &[], None);
        check(" \n\r\n", &[], None);
        let rows = [("{\"a\": 1}", 2, 1), ("{\"a\": 2}", 4, 0), ("nonsense}", 5, 0), ("[1]", 6, 0)];
        check("\n {\"a\": 1}\r\n  \r\n{\"a\": 2} \nnonsense}\n[1]", &rows, None);
        // Broken ones are rows, too.
        let cut = [("{\"a\":", 1, 0), ("{\"a\": 2}", 2, 0), ("{\"a\": 3}", 3, 0)];
        check("{\"a\":\n{\"a\": 2}\n{\"a\": 3}\n", &cut, None);
        let cut = [("{\"a\": \"b", 1, 0), ("{\"a\": 2}", 2, 0)];
        check("{\"a\": \"b\n{\"a\": 2}", &cut, None);
    }

    #[test]
    fn lists() {
        check("[]", &[], None);
        check(" [ \n ] \n", &[], None);
        let rows = [("{\"a\": [1,\n2]}", 2, 1), ("3", 3, 6), ("\"x, ]\"", 4, 0), ("[]", 4, 7)];
        check("[\n {\"a\": [1,\n2]} , 3,\n\"x, ]\",[]]\n", &rows, None);
        // One after another.
        check("[1][2]\n[]\n[3]", &[("1", 1, 1), ("2", 1, 4), ("3", 3, 1)], None);
        check("[1]\n{\"a\": 1}", &[("1", 1, 1)], Some("line 2, column 1: something follows"));
        check("[1 2]", &[("1", 1, 1)], Some("line 1, column 4: a comma is missing"));
        check("[1,]", &[("1", 1, 1)], Some("line 1, column 4: nothing stands after a comma"));
        check("[1,,2]", &[("1", 1, 1)], Some("line 1, column 4: nothing stands after a comma"));
        check("[1\n", &[("1", 1, 1)], Some("the list that begins in line 1 does not end"));
        check("[1,\n", &[("1", 1, 1)], Some("the list that begins in line 1 does not end"));
        check("\n[", &[], Some("the list that begins in line 2 does not end"));
        check("[\n{\"a\": 1\n", &[], Some("what begins in line 2 does not end"));
        check("[{\"a\": \"b\n\"}]", &[], Some("line 1, column 10: a string does not end"));
        check("[{\"a\": 1]}", &[], Some("line 1, column 9: a bracket is closed"));
    }

    #[test]
    fn objects() {
        let rows = [("{\n\"a\": 1\n}", 1, 0), ("{\n\"a\": 2}", 3, 2), ("{}", 4, 8)];
        check("{\n\"a\": 1\n} {\n\"a\": 2} {}\n", &rows, None);
        check("{\"a\": 1}{\"a\": 2}", &[("{\"a\": 1}", 1, 0), ("{\"a\": 2}", 1, 8)], None);
        // What is none is a row, too.
        let rows = [("{}", 1, 0), ("{}", 1, 2), (",", 1, 4), ("{}", 2, 0), ("x", 2, 2)];
        check("{}{},\n{}x", &rows, None);
        check("{\n\"a\": 1\n", &[], Some("what begins in line 1 does not end"));
    }

    #[test]
    fn a_row_has_a_longest_size() {
        let long = "x".repeat(70);
        for text in [
            format!("{{\"a\": \"{long}\"}}\n"),
            format!("[{{\"a\": \"{long}\"}}]"),
            format!("{{\n\"a\": \"{long}\"}}\n"),
            long,
        ] {
            for size in [1, 8, 8192] {
                let (rows, failed) = rows(&text, size);
                assert!(rows.is_empty());
                assert!(failed.unwrap().starts_with("line 1: a row of more than"), "{text}");
            }
        }
    }
}
