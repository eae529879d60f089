//! Where a reader is in its file, and where a JSON value ends in it.

use std::io::{self, BufRead, Read};

use crate::corpus::source::text::failed;
use crate::error::Error;

/// Counts what is taken out of a reader.
pub(super) struct Counted<R> {
    pub(super) reader: R,
    /// The line of the next byte, from 1.
    pub(super) line: u64,
    /// Bytes before it in its line.
    pub(super) column: u64,
}

impl<R: BufRead> Counted<R> {
    /// The next byte that is not white space, which is not taken yet.
    pub(super) fn skip_blank(&mut self) -> io::Result<Option<u8>> {
        loop {
            let bytes = self.fill_buf()?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let blank = bytes.len() - bytes.trim_ascii_start().len();
            let next = bytes.get(blank).copied();
            self.consume(blank);
            if next.is_some() {
                return Ok(next);
            }
        }
    }
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // What is consumed is in the buffer still.
        if let Ok(bytes) = self.reader.fill_buf() {
            let taken = &bytes[..count.min(bytes.len())];
            match taken.iter().rposition(|byte| *byte == b'\n') {
                None => self.column += taken.len() as u64,
                Some(at) => {
                    self.line += taken.iter().filter(|byte| **byte == b'\n').count() as u64;
                    self.column = (taken.len() - at - 1) as u64;
                }
            }
        }
        self.reader.consume(count);
    }
}

/// What a reader says that fails in a line.
pub(super) fn unread(cause: io::Error, line: u64) -> Error {
    match cause.downcast::<Error>() {
        Ok(ours) => ours,
        Err(cause) => failed(cause).context(format!("after line {line}")),
    }
}

/// What was found in a piece of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The value goes on.
    More,
    /// It ends with the bytes taken.
    End,
    /// A line ends in a string. Strings write that `\n`.
    LineInString,
    /// A bracket is closed by one of another kind.
    Mismatch,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Begin,
    /// In a list or an object.
    Inside,
    String,
    Escape,
    /// In a number or a word.
    Word,
}

/// Finds the end of a value by its brackets and quotes; whether it is JSON is not looked at.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    state: State,
    /// What closes the lists and objects that are open.
    open: Vec<u8>,
}

impl Scanner {
    /// Whether the value may end with the file: a number or a word has no last byte of its own.
    pub(super) fn may_end(&self) -> bool {
        self.state == State::Word
    }

    /// Takes bytes of the value, and says how many.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> (Found, usize) {
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            match self.state {
                State::Escape if byte == b'\n' => return (Found::LineInString, at),
                State::Escape => self.state = State::String,
                State::String => {
                    let ends = |byte: &u8| matches!(byte, b'"' | b'\\' | b'\n');
                    let Some(skipped) = bytes[at..].iter().position(ends) else {
                        return (Found::More, bytes.len());
                    };
                    at += skipped;
                    match bytes[at] {
                        b'\\' => self.state = State::Escape,
                        b'\n' => return (Found::LineInString, at),
                        _ if self.open.is_empty() => return (Found::End, at + 1),
                        _ => self.state = State::Inside,
                    }
                }
                State::Word => {
                    if byte.is_ascii_whitespace() || b",[]{}\"".contains(&byte) {
                        return (Found::End, at);
                    }
                }
                State::Begin | State::Inside => match byte {
                    b'{' | b'[' => {
                        self.open.push(byte + 2);
                        self.state = State::Inside;
                    }
                    b'"' => self.state = State::String,
                    b'}' | b']' if self.state == State::Inside => {
                        if self.open.pop() != Some(byte) {
                            return (Found::Mismatch, at);
                        }
                        if self.open.is_empty() {
                            return (Found::End, at + 1);
                        }
                    }
                    _ if self.state == State::Begin => self.state = State::Word,
                    _ => {}
                },
            }
            at += 1;
        }
        (Found::More, bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a text that comes in pieces of a size, and how much of it is taken.
    fn scanned(text: &str, size: usize) -> (Found, usize) {
        let mut scanner = Scanner::default();
        let mut taken = 0;
        for piece in text.as_bytes().chunks(size) {
            let (found, count) = scanner.scan(piece);
            taken += count;
            if found != Found::More {
                return (found, taken);
            }
        }
        (Found::More, taken)
    }

    #[test]
    fn values_end_where_their_brackets_do() {
        for (text, found, taken) in [
            (r#"{"a": [1, {"b": "}]"}]} {"#, Found::End, 23),
            (r#"{"a": "\"}", "b": "\\"}{"#, Found::End, 23),
            ("[[], []]]", Found::End, 8),
            ("12, 13", Found::End, 2),
            ("null]", Found::End, 4),
            ("}]", Found::End, 1),
            (r#""a\"b" "#, Found::End, 6),
            (r#"{"a": ["#, Found::More, 7),
            (r#"{"a": 1]"#, Found::Mismatch, 7),
            ("{\"a\": \"b\n\"}", Found::LineInString, 8),
            ("{\"a\": \"b\\\n\"}", Found::LineInString, 9),
        ] {
            for size in [1, 2, 3, 100] {
                assert_eq!(scanned(text, size), (found, taken), "{text} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_reader_knows_where_it_is() {
        let mut counted = Counted {
            reader: io::BufReader::with_capacity(3, &b"ab\n \n  cd"[..]),
            line: 1,
            column: 0,
        };
        let mut two = [0; 2];
        counted.read_exact(&mut two).unwrap();
        assert_eq!((counted.line, counted.column), (1, 2));
        assert_eq!(counted.skip_blank().unwrap(), Some(b'c'));
        assert_eq!((counted.line, counted.column), (3, 2));
        let mut rest = String::new();
        counted.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), counted.line, counted.column), ("cd", 3, 4));
    }

    #[test]
    fn an_error_of_our_own_goes_through_a_reader() {
        let ours = unread(io::Error::other(Error::transient("the store is away")), 3);
        assert_eq!(ours.to_string(), "the store is away");
        let theirs = unread(io::Error::new(io::ErrorKind::InvalidData, "no gzip"), 3);
        assert_eq!(theirs.to_string(), "after line 3: no gzip");
    }
}
