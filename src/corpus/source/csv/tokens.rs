//! Records and fields of a CSV file.
//!
//! Records end in `\n`, `\r\n` or a lone `\r`; blank lines and lines of comment are passed over. A field that begins
//! with a quote ends with the next one that is not written twice or escaped. What a quote in the wrong place would do
//! to the rows behind it nobody sees: a quoted field that stays open, or that text follows, is an error.

use std::io::{self, Read};

use memchr::{memchr, memchr_iter, memchr2, memchr2_iter, memchr3};

use super::super::text::{LONGER, failed};
use super::dialect::Dialect;
use crate::error::Error;
use crate::observe::format;

/// What is read at first; it grows with the longest record.
const BUFFER: usize = 1 << 17;

/// Why a file cannot be taken apart.
#[derive(Debug)]
pub(super) enum Fault {
    /// A quoted field is still open at the end of the file.
    Open {
        opened: u64,
    },
    /// Text follows a quoted field.
    Behind {
        opened: u64,
        closed: u64,
    },
    /// A quoted field goes on over what would be whole rows if quotes were text.
    Rows {
        opened: u64,
        closed: u64,
    },
    /// A record that is too long.
    Long {
        line: u64,
        longest: usize,
    },
    Unread(io::Error),
}

impl Fault {
    /// Whether it is the quotes that are wrong.
    pub(super) fn is_of_quotes(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Behind { .. } | Self::Rows { .. })
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        const WAYS_OUT: &str = "if its quotes are plain text set quote = \"none\", if they are escaped by a backslash set escape = \"\\\\\"";
        Self::input(match fault {
            Fault::Open { opened } => format!(
                "line {opened}: the quoted field that opens here is still open at the end of the file; {WAYS_OUT}"
            ),
            Fault::Behind { opened, closed } if opened == closed => {
                format!("line {closed}: text follows the closing quote of a field; {WAYS_OUT}")
            }
            Fault::Behind { opened, closed } => format!(
                "line {closed}: text follows the closing quote of the field that opens in line {opened}; {WAYS_OUT}"
            ),
            Fault::Rows { opened, closed } => format!(
                "lines {opened} to {closed}: a quoted field makes them one row, but each has the fields of a whole row; if its quotes are plain text set quote = \"none\", if they are not set quote = \"\\\"\""
            ),
            Fault::Long { line, longest } => format!(
                "line {line}: the row that begins here is longer than {}: is the delimiter right, or does a quote open that nothing closes? {}",
                format::bytes(longest as u64),
                LONGER
            ),
            Fault::Unread(cause) => return failed(cause),
        })
    }
}

/// A field: its place in the buffer, without quotes, and that of its text where the two differ.
#[derive(Debug, Clone, Copy)]
struct Field {
    start: u32,
    end: u32,
    /// Its place in the scratch.
    text: Option<(u32, u32)>,
    quoted: bool,
}

/// One record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    /// The line that it begins in, from 1.
    pub(super) line: u64,
    /// How many fields it has. Those beyond what the reader keeps have no text.
    pub(super) len: usize,
    /// All of it, as it is in the file.
    pub(super) bytes: &'a [u8],
    buffer: &'a [u8],
    scratch: &'a [u8],
    fields: &'a [Field],
}

impl<'a> Record<'a> {
    /// The text of a field, without quotes and escapes.
    pub(super) fn text(&self, at: usize) -> &'a [u8] {
        match self.fields.get(at) {
            Some(Field { text: Some((start, end)), .. }) => {
                &self.scratch[*start as usize..*end as usize]
            }
            _ => self.written(at),
        }
    }

    /// A field as it is in the file, between its quotes if it has some.
    pub(super) fn written(&self, at: usize) -> &'a [u8] {
        self.fields.get(at).map_or(&[], |f| &self.buffer[f.start as usize..f.end as usize])
    }

    /// Whether a field has no value; by default an empty one.
    pub(super) fn is_null(&self, at: usize, marker: Option<&[u8]>) -> bool {
        match marker {
            // As it is written: an escaped `\N` is text.
            Some(marker) => self.written(at) == marker,
            None => self.text(at).is_empty(),
        }
    }

    /// Whether any field is quoted.
    pub(super) fn has_quotes(&self) -> bool {
        self.fields.iter().any(|field| field.quoted)
    }

    /// Refuses a record of several lines each of which is a row of its own if quotes are text.
    pub(super) fn is_one_row(&self, delimiter: u8) -> Result<(), Fault> {
        let lines = line_ends(self.bytes);
        if lines == 0 || self.len < 2 {
            return Ok(());
        }
        let mut rows = self.bytes.split(|byte| matches!(byte, b'\n' | b'\r'));
        let whole =
            |row: &[u8]| row.is_empty() || memchr_iter(delimiter, row).count() + 1 == self.len;
        match rows.all(whole) {
            true => Err(Fault::Rows { opened: self.line, closed: self.line + lines }),
            false => Ok(()),
        }
    }
}

/// Takes a file apart.
pub(super) struct Tokens<R> {
    reader: R,
    dialect: Dialect,
    /// Text may not follow a closing quote. Else it may where the quoted field is in one line, and belongs to it.
    strict: bool,
    buffer: Vec<u8>,
    /// What of the buffer is read: the next record begins at `at`, `filled` is the end.
    at: usize,
    filled: usize,
    /// Nothing comes after what is in the buffer.
    ended: bool,
    empty: bool,
    line: u64,
    fields: Vec<Field>,
    scratch: Vec<u8>,
    /// This many fields of a record are kept.
    keep: usize,
}

enum Scan {
    Record {
        end: usize,
        next: usize,
        len: usize,
        lines: u64,
    },
    /// More of the file is needed.
    More,
    End,
}

/// The end of a field; `None` where more of the file is needed.
type Ended = Result<Option<usize>, Fault>;

impl<R: Read> Tokens<R> {
    pub(super) fn new(reader: R, dialect: Dialect, strict: bool) -> Self {
        Self::with_buffer(reader, dialect, strict, BUFFER)
    }

    fn with_buffer(reader: R, dialect: Dialect, strict: bool, bytes: usize) -> Self {
        Self {
            reader,
            dialect,
            strict,
            buffer: vec![0; bytes],
            at: 0,
            filled: 0,
            ended: false,
            empty: true,
            line: 1,
            fields: Vec::new(),
            scratch: Vec::new(),
            keep: 1 << 16,
        }
    }

    /// Keeps no more than this many fields of a record.
    pub(super) fn keep(&mut self, fields: usize) {
        self.keep = fields;
    }

    /// Whether no byte was read yet.
    pub(super) fn is_empty(&self) -> bool {
        self.empty
    }

    /// What comes next, as far as it is read.
    pub(super) fn ahead(&mut self) -> Result<&[u8], Fault> {
        if self.at == self.filled && !self.ended {
            self.fill()?;
        }
        Ok(&self.buffer[self.at..self.filled])
    }

    /// Passes over whole lines, whatever is in them.
    pub(super) fn skip_lines(&mut self, count: u64) -> Result<(), Fault> {
        let mut left = count;
        while left > 0 {
            let data = &self.buffer[self.at..self.filled];
            let end = memchr2(b'\n', b'\r', data).map(|n| self.at + n);
            match end.map(|end| self.behind_line(end)) {
                Some(Some(next)) => {
                    self.at = next;
                    self.line += 1;
                    left -= 1;
                }
                None | Some(None) if !self.ended => {
                    // The text of the line is not needed, but a `\r` at the end may have a `\n` behind it.
                    self.at = end.unwrap_or(self.filled);
                    self.fill()?;
                }
                _ => {
                    self.at = self.filled;
                    break;
                }
            }
        }
        Ok(())
    }

    /// The next record.
    pub(super) fn next(&mut self) -> Result<Option<Record<'_>>, Fault> {
        loop {
            match self.scan()? {
                Scan::More => self.fill()?,
                Scan::End => return Ok(None),
                Scan::Record { end, next, len, lines } => {
                    let (start, line) = (self.at, self.line);
                    self.at = next;
                    self.line += lines;
                    return Ok(Some(Record {
                        line,
                        len,
                        bytes: &self.buffer[start..end],
                        buffer: &self.buffer,
                        scratch: &self.scratch,
                        fields: &self.fields,
                    }));
                }
            }
        }
    }

    /// Reads until the buffer is full, so that a long record is not scanned again for every piece of it.
    fn fill(&mut self) -> Result<(), Fault> {
        self.buffer.copy_within(self.at..self.filled, 0);
        self.filled -= self.at;
        self.at = 0;
        if self.filled == self.buffer.len() {
            let longest = self.dialect.longest;
            if self.filled >= longest {
                return Err(Fault::Long { line: self.line, longest });
            }
            // Not twice as much as it has to.
            let size = (self.filled * 2).min(longest.max(BUFFER));
            self.buffer.reserve_exact(size.saturating_sub(self.filled));
            self.buffer.resize(size, 0);
        }
        while self.filled < self.buffer.len() && !self.ended {
            match self.reader.read(&mut self.buffer[self.filled..]) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.filled += count;
                    self.empty = false;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Fault::Unread(e)),
            }
        }
        Ok(())
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.buffer[..self.filled].get(at).copied()
    }

    /// What follows the line that ends at `at`; `None` where more of the file is needed to tell.
    fn behind_line(&self, at: usize) -> Option<usize> {
        match (self.byte(at), self.byte(at + 1)) {
            (Some(b'\r'), Some(b'\n')) => Some(at + 2),
            (Some(b'\r'), None) if !self.ended => None,
            _ => Some(at + 1),
        }
    }

    fn scan(&mut self) -> Result<Scan, Fault> {
        loop {
            let line_end = match self.byte(self.at) {
                None if self.ended => return Ok(Scan::End),
                None => return Ok(Scan::More),
                Some(b'\n' | b'\r') => self.at,
                byte if byte == self.dialect.comment => {
                    match memchr2(b'\n', b'\r', &self.buffer[self.at..self.filled]) {
                        Some(count) => self.at + count,
                        None if self.ended => return Ok(Scan::End),
                        None => return Ok(Scan::More),
                    }
                }
                Some(_) => break,
            };
            let Some(next) = self.behind_line(line_end) else { return Ok(Scan::More) };
            self.at = next;
            self.line += 1;
        }
        self.fields.clear();
        self.scratch.clear();
        let (mut at, mut len, mut lines) = (self.at, 0, 0);
        loop {
            let ended = if self.dialect.quote.is_some() && self.byte(at) == self.dialect.quote {
                self.quoted(at, &mut lines)?
            } else {
                self.plain(at, &mut lines)?
            };
            let Some(end) = ended else { return Ok(Scan::More) };
            len += 1;
            match self.byte(end) {
                Some(byte) if byte == self.dialect.delimiter => at = end + 1,
                Some(_) => {
                    let Some(next) = self.behind_line(end) else { return Ok(Scan::More) };
                    return Ok(Scan::Record { end, next, len, lines: lines + 1 });
                }
                None => return Ok(Scan::Record { end, next: end, len, lines: lines + 1 }),
            }
        }
    }

    fn push(&mut self, place: (usize, usize), text: Option<usize>, quoted: bool) {
        if self.fields.len() < self.keep {
            // A record fits the buffer, and the buffer is not longer than LONGEST.
            let (start, end) = (place.0 as u32, place.1 as u32);
            let text = text.map(|start| (start as u32, self.scratch.len() as u32));
            self.fields.push(Field { start, end, text, quoted });
        }
    }

    /// Where a field without quotes ends.
    fn plain_end(&self, at: usize) -> Option<usize> {
        let mut from = at;
        loop {
            let data = &self.buffer[from..self.filled];
            let Some(count) = memchr3(self.dialect.delimiter, b'\n', b'\r', data) else {
                return self.ended.then_some(self.filled);
            };
            let end = from + count;
            if self.dialect.escape.is_none() || self.buffer[end] != b'\r' {
                return Some(end);
            }
            // MySQL escapes the second half of `\r\n` only.
            match (self.byte(end + 1), self.byte(end + 2)) {
                (Some(byte), Some(b'\n')) if Some(byte) == self.dialect.escape => from = end + 1,
                (None, _) | (_, None) if !self.ended => return None,
                _ => return Some(end),
            }
        }
    }

    fn plain(&mut self, at: usize, lines: &mut u64) -> Ended {
        let Some(end) = self.plain_end(at) else { return Ok(None) };
        if self.dialect.escape.is_none_or(|e| memchr(e, &self.buffer[at..end]).is_none()) {
            self.push((at, end), None, false);
            return Ok(Some(end));
        }
        let text = self.scratch.len();
        let Some(end) = self.unescape(at) else { return Ok(None) };
        *lines += line_ends(&self.buffer[at..end]);
        self.push((at, end), Some(text), false);
        Ok(Some(end))
    }

    /// Appends the text of a field without quotes, and returns where it ends.
    fn unescape(&mut self, mut at: usize) -> Option<usize> {
        loop {
            let end = self.plain_end(at)?;
            let found = self.dialect.escape.and_then(|e| memchr(e, &self.buffer[at..end]));
            let Some(count) = found else {
                self.scratch.extend_from_slice(&self.buffer[at..end]);
                return Some(end);
            };
            let escape = at + count;
            self.scratch.extend_from_slice(&self.buffer[at..escape]);
            at = self.escape(escape, false)?;
        }
    }

    /// Appends what the escape at `at` stands for, and returns what follows.
    fn escape(&mut self, at: usize, in_quotes: bool) -> Option<usize> {
        let escape = self.buffer[at];
        let Some(byte) = self.byte(at + 1) else {
            self.scratch.push(escape);
            return self.ended.then_some(at + 1);
        };
        match self.dialect.escaped(byte, in_quotes) {
            // A line break of two bytes is escaped as one.
            Some(b'\r') if byte == b'\r' => {
                let next = self.behind_line(at + 1)?;
                self.scratch.extend_from_slice(&self.buffer[at + 1..next]);
                return Some(next);
            }
            Some(meant) => self.scratch.push(meant),
            None => self.scratch.extend([escape, byte]),
        }
        Some(at + 2)
    }

    fn quoted(&mut self, opened: usize, lines: &mut u64) -> Ended {
        let Some(quote) = self.dialect.quote else { return self.plain(opened, lines) };
        let (start, text) = (opened + 1, self.scratch.len());
        let opened_in = self.line + *lines;
        let (mut at, mut copied) = (start, false);
        let close = loop {
            let data = &self.buffer[at..self.filled];
            let found = match self.dialect.escape {
                Some(escape) => memchr2(quote, escape, data),
                None => memchr(quote, data),
            };
            let Some(found) = found.map(|count| at + count) else {
                return if self.ended { Err(Fault::Open { opened: opened_in }) } else { Ok(None) };
            };
            if self.buffer[found] != quote {
                self.scratch.extend_from_slice(&self.buffer[at..found]);
                copied = true;
                match self.escape(found, true) {
                    Some(next) => at = next,
                    None => return Ok(None),
                }
                continue;
            }
            match self.byte(found + 1) {
                None if !self.ended => return Ok(None),
                Some(next) if next == quote => {
                    self.scratch.extend_from_slice(&self.buffer[at..=found]);
                    copied = true;
                    at = found + 2;
                }
                _ => break found,
            }
        };
        if copied {
            self.scratch.extend_from_slice(&self.buffer[at..close]);
        }
        let inside = line_ends(&self.buffer[start..close]);
        *lines += inside;
        let mut end = close + 1;
        match self.byte(end) {
            None | Some(b'\n' | b'\r') => {}
            Some(byte) if byte == self.dialect.delimiter => {}
            _ if self.strict || inside > 0 => {
                return Err(Fault::Behind { opened: opened_in, closed: opened_in + inside });
            }
            _ => {
                if !copied {
                    self.scratch.extend_from_slice(&self.buffer[start..close]);
                }
                let Some(behind) = self.unescape(end) else { return Ok(None) };
                *lines += line_ends(&self.buffer[end..behind]);
                end = behind;
                self.push((start, end), Some(text), true);
                return Ok(Some(end));
            }
        }
        self.push((start, close), copied.then_some(text), true);
        Ok(Some(end))
    }
}

/// How many lines end in these bytes.
fn line_ends(bytes: &[u8]) -> u64 {
    let ends = memchr2_iter(b'\n', b'\r', bytes);
    ends.filter(|at| bytes[*at] == b'\n' || bytes.get(at + 1) != Some(&b'\n')).count() as u64
}

#[cfg(test)]
mod tests;
