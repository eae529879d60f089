//! The first pass over a CSV file: its columns, the values in them, and the rows that cannot be read.

use std::io::Read;

use super::super::text::{BadRow, Learned, NOT_DECLARED, NOT_UTF8};
use super::super::types::{Kind, Place, Seen};
use super::dialect::Dialect;
use super::header;
use super::tokens::{Fault, Record, Tokens};
use crate::corpus::names::{called, shown};
use crate::corpus::options::{ColumnType, TableOptions, TypeRule};
use crate::error::{Error, Result};

/// The result of a first pass over a file.
#[derive(Debug)]
pub(super) enum Learning {
    Learned(Learned),
    /// The file does not say whether it has quotes, and these are not those of a CSV writer.
    Misquoted(Error),
    /// A row has not the header's number of fields, where all must.
    Uneven,
}

/// Reads a file to learn what is in it. `even`: the dialect is a guess that one row with a wrong number of fields
/// refutes.
///
/// # Errors
/// A file that cannot be taken apart into rows, or a header that cannot be used.
pub(super) fn learn<R: Read>(
    reader: R,
    dialect: Dialect,
    table: &TableOptions,
    file: usize,
    rule: TypeRule,
    even: bool,
) -> Result<Learning> {
    let mut tokens = Tokens::new(reader, dialect, rule == TypeRule::Exact);
    let mut open = dialect.open;
    match rows(&mut tokens, dialect, (table, rule), file, even, &mut open) {
        Ok(Some(learned)) => Ok(Learning::Learned(learned)),
        Ok(None) => Ok(Learning::Uneven),
        Err(Broken::Fault(fault)) if open && fault.is_of_quotes() => {
            Ok(Learning::Misquoted(fault.into()))
        }
        Err(Broken::Fault(fault)) => Err(fault.into()),
        Err(Broken::Other(error)) => Err(error),
    }
}

enum Broken {
    Fault(Fault),
    Other(Error),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// `None` where a row is uneven and none may be. `open` becomes false where the header says that there are quotes.
fn rows<R: Read>(
    tokens: &mut Tokens<R>,
    dialect: Dialect,
    (table, rule): (&TableOptions, TypeRule),
    file: usize,
    even: bool,
    open: &mut bool,
) -> Result<Option<Learned>, Broken> {
    tokens.skip_lines(table.skip_rows)?;
    header::refuse_json(tokens.ahead()?, table)?;
    let Some(first) = tokens.next()? else {
        return Err(header::missing(tokens.is_empty(), table).into());
    };
    let names = header::names(&first, table)?;
    // Files with headers that somebody put into one. Release 0.1.0 took it for a note.
    let header = (table.has_header && rule == TypeRule::Exact).then(|| first.bytes.to_vec());
    let width = names.len();
    let mut learner = Learner::new(names, table, file);
    if table.has_header {
        *open &= !first.has_quotes();
    } else {
        learner.row(&first);
    }
    tokens.keep(width);
    let mut left = dialect.most;
    while let Some(record) = tokens.next()? {
        left = left.saturating_sub(record.bytes.len() as u64);
        if *open && record.has_quotes() {
            record.is_one_row(dialect.delimiter)?;
        }
        if even && record.len != width {
            return Ok(None);
        }
        match header.as_deref() == Some(record.bytes) && width > 1 {
            true => learner.bad(record.line, "the header again", "the row".to_owned()),
            false => learner.row(&record),
        }
        if left == 0 {
            learner.learned.is_cut = true;
            break;
        }
    }
    let columns = learner.columns.into_iter().map(|column| (column.name, column.seen));
    Ok(Some(Learned { columns: columns.collect(), ..learner.learned }))
}

struct Watched<'a> {
    name: String,
    declared: Option<&'a ColumnType>,
    seen: Seen,
}

struct Learner<'a> {
    columns: Vec<Watched<'a>>,
    table: &'a TableOptions,
    file: usize,
    learned: Learned,
}

impl<'a> Learner<'a> {
    fn new(names: Vec<String>, table: &'a TableOptions, file: usize) -> Self {
        let watched = |name: String| {
            let declared = table.schema.get(&name);
            Watched { name, declared, seen: Seen::default() }
        };
        let columns = names.into_iter().map(watched).collect();
        Self { columns, table, file, learned: Learned::default() }
    }

    fn bad(&mut self, line: u64, reason: &'static str, place: String) {
        self.learned.bad.add(self.learned.rows, BadRow { line, reason, place });
        self.learned.rows += 1;
    }

    fn row(&mut self, record: &Record<'_>) {
        if let Some((reason, place)) = self.fault(record) {
            return self.bad(record.line, reason, place);
        }
        self.learned.rows += 1;
        let place = Place { file: self.file, line: record.line };
        for (at, column) in self.columns.iter_mut().enumerate() {
            if column.declared.is_none()
                && !column.seen.is_text()
                && let Some(value) = value(record, at, self.table)
            {
                column.seen.see(Kind::of(value), place);
            }
        }
    }

    /// Why a row cannot be read, and where in it.
    fn fault(&self, record: &Record<'_>) -> Option<(&'static str, String)> {
        let width = self.columns.len();
        if record.len != width {
            let first = if self.table.has_header { "header" } else { "first row" };
            let place = match record.len {
                1 => format!("1 field, the {first} has {width}"),
                len => format!("{len} fields, the {first} has {width}"),
            };
            return Some(("wrong number of fields", place));
        }
        let mut columns = self.columns.iter().enumerate();
        if str::from_utf8(record.bytes).is_err() {
            let wrong = columns.find(|(at, _)| str::from_utf8(record.text(*at)).is_err());
            let fits = shown(self.columns.iter().map(|column| column.name.as_str()));
            let place = wrong.map_or_else(String::new, |(at, c)| called(&c.name, at, fits));
            return Some((NOT_UTF8, place));
        }
        columns.find_map(|(at, column)| {
            let declared = column.declared?;
            let fits = value(record, at, self.table).is_none_or(|value| declared.holds(value));
            (!fits).then(|| {
                let place = format!("column `{}`: not {}", column.name, declared.value());
                (NOT_DECLARED, place)
            })
        })
    }
}

/// The value of a field that has one. An empty text is a value of text only, and says nothing about the type.
fn value<'a>(record: &Record<'a>, at: usize, table: &TableOptions) -> Option<&'a str> {
    if record.is_null(at, table.null.as_deref().map(str::as_bytes)) {
        return None;
    }
    str::from_utf8(record.text(at)).ok().filter(|text| !text.is_empty())
}
