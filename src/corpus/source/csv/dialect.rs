//! How a table's CSV files are written, from its options.

use crate::corpus::options::{ColumnType, TableFormat, TableOptions};
use crate::error::{Error, Result};

/// The bytes that mean something in a CSV file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::corpus::source) struct Dialect {
    pub(super) delimiter: u8,
    /// `None`: quotes are text.
    pub(super) quote: Option<u8>,
    /// Takes away what the next byte means, in quotes and outside. Before a byte that means nothing it is text.
    pub(super) escape: Option<u8>,
    pub(super) comment: Option<u8>,
    /// An escaped letter outside of quotes is a control character, as databases write them: `\t`, `\n`.
    pub(super) letters: bool,
    /// A `.tsv` file that does not say whether it has quotes: its fields decide.
    pub(super) open: bool,
    /// Bytes of a record, at most.
    pub(super) longest: usize,
    /// Bytes of records after which the first pass over a file may end.
    pub(in crate::corpus::source) most: u64,
}

/// The bytes of a record, at most, whatever the memory limit.
const LONGEST: usize = 1 << 30;

impl Dialect {
    /// The dialect of a table; `tabs` where its files end in `.tsv`.
    ///
    /// # Errors
    /// Config: options that are not single characters, or one character with two meanings.
    pub(in crate::corpus::source) fn of(table: &TableOptions, tabs: bool) -> Result<Self> {
        let wrong = |option: &str, given: &str, must: &str| {
            Error::config(format!("table `{}`: {option} {given:?} must be {must}", table.name))
        };
        let one = |option: &'static str, given: char| {
            let byte = u8::try_from(given).ok().filter(u8::is_ascii);
            let byte = byte.filter(|byte| !matches!(byte, b'\n' | b'\r' | 0));
            byte.ok_or_else(|| {
                wrong(option, &given.to_string(), "one ASCII character, and no line break")
            })
        };
        let delimiter = match table.delimiter {
            ',' if tabs => b'\t',
            other => one("delimiter", other)?,
        };
        let quote = match table.quote.as_deref() {
            None => Some(b'"'),
            Some("none") => None,
            Some(given) => {
                let mut chars = given.chars();
                match (chars.next(), chars.next()) {
                    (Some(quote), None) => Some(one("quote", quote)?),
                    _ => return Err(wrong("quote", given, "one ASCII character, or \"none\"")),
                }
            }
        };
        let escape = table.escape.map(|escape| one("escape", escape)).transpose()?;
        let comment = table.comment.map(|comment| one("comment", comment)).transpose()?;
        // A quote that escapes a quote is one that is written twice.
        let escape = escape.filter(|escape| quote != Some(*escape));
        let meanings = [
            ("delimiter", Some(delimiter)),
            ("quote", quote),
            ("escape", escape),
            ("comment", comment),
        ];
        for (at, (option, byte)) in meanings.iter().enumerate() {
            let twin = meanings[..at].iter().find(|(_, other)| byte.is_some() && other == byte);
            if let (Some((twin, _)), Some(byte)) = (twin, byte) {
                return Err(Error::config(format!(
                    "table `{}`: {twin} and {option} are both {:?}; each must be a character of its own",
                    table.name,
                    char::from(*byte)
                )));
            }
        }
        let open = tabs && table.quote.is_none() && delimiter == b'\t';
        let letters = escape == Some(b'\\') && (open || quote.is_none());
        Ok(Self {
            delimiter,
            quote,
            escape,
            comment,
            letters,
            open,
            longest: LONGEST,
            most: u64::MAX,
        })
    }

    /// The same for records of at most this many bytes.
    pub(in crate::corpus::source) fn with_longest(self, longest: usize) -> Self {
        Self { longest, ..self }
    }

    /// Whether a field may be quoted.
    pub(in crate::corpus::source) fn has_quotes(&self) -> bool {
        self.quote.is_some()
    }

    /// The same without quotes.
    pub(in crate::corpus::source) fn without_quotes(self) -> Self {
        Self { quote: None, open: false, ..self }
    }

    /// What an escape and the byte behind it stand for; `None` where the escape is text.
    pub(super) fn escaped(&self, byte: u8, in_quotes: bool) -> Option<u8> {
        let letter = match byte {
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'0' => 0,
            // Writers that know no dialect escape both kinds of quotes.
            b'"' | b'\'' | b'\n' | b'\r' => return Some(byte),
            _ => {
                let meanings = [Some(self.delimiter), self.quote, self.escape, self.comment];
                return meanings.contains(&Some(byte)).then_some(byte);
            }
        };
        (self.letters && !in_quotes).then_some(letter)
    }
}

/// Refuses options that mean nothing for the format of the table.
///
/// # Errors
/// Config, with the option.
pub(in crate::corpus::source) fn check_options(
    table: &TableOptions,
    format: TableFormat,
) -> Result<()> {
    let csv = format == TableFormat::Csv;
    let text = csv || matches!(format, TableFormat::Jsonl | TableFormat::Markdown);
    let engine = format.has_engine();
    let given = [
        ("quote", table.quote.is_some(), csv, "CSV files"),
        ("escape", table.escape.is_some(), csv, "CSV files"),
        ("comment", table.comment.is_some(), csv, "CSV files"),
        ("null", table.null.is_some(), csv, "CSV files"),
        ("skip_rows", table.skip_rows > 0, csv, "CSV files"),
        ("encoding", table.encoding.is_some(), text, "CSV files, JSON lines and Markdown"),
        ("version", table.version.is_some(), format == TableFormat::Delta, "Delta tables"),
        ("table", table.table.is_some(), format.is_database(), "tables of databases"),
        ("changed_at", table.changed_at.is_some(), format.is_database(), "tables of databases"),
    ];
    if let Some((option, .., whose)) =
        given.iter().find(|(_, given, belongs, _)| *given && !belongs)
    {
        return Err(Error::config(format!(
            "table `{}`: {option} is for {whose}, but its files are {format:?}; leave it out",
            table.name
        ))
        .of_key(*option));
    }
    if let Some(column) = table.schema.keys().next().filter(|_| engine) {
        return Err(Error::config(format!(
            "table `{}`: schema.{column}: a {format:?} table says itself of what types its columns are; CAST in corpus.sql",
            table.name
        ))
        .of_key(format!("schema.{column}")));
    }
    match table.schema.iter().find(|(_, declared)| csv && **declared == ColumnType::Strings) {
        Some((column, _)) => Err(Error::config(format!(
            "table `{}`: schema.{column}: strings are for JSON lines; a CSV column of lists is a string, which corpus.sql can split",
            table.name
        ))
        .of_key(format!("schema.{column}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut TableOptions);

    fn table(change: impl FnOnce(&mut TableOptions)) -> TableOptions {
        let mut table = TableOptions::new("notes", "notes.csv");
        change(&mut table);
        table
    }

    #[test]
    fn defaults_are_those_of_the_ending() {
        let csv = Dialect::of(&table(|_| ()), false).unwrap();
        let expected = Dialect {
            delimiter: b',',
            quote: Some(b'"'),
            escape: None,
            comment: None,
            letters: false,
            open: false,
            longest: LONGEST,
            most: u64::MAX,
        };
        assert_eq!(csv, expected);
        let tsv = Dialect::of(&table(|_| ()), true).unwrap();
        assert_eq!(tsv, Dialect { delimiter: b'\t', open: true, ..expected });
        let given = Dialect::of(&table(|t| t.quote = Some("\"".into())), true).unwrap();
        assert_eq!(given, Dialect { delimiter: b'\t', ..expected });
        let semicolons = Dialect::of(&table(|t| t.delimiter = ';'), true).unwrap();
        assert_eq!(semicolons, Dialect { delimiter: b';', ..expected });
    }

    #[test]
    fn letters_are_escaped_where_no_quotes_are_declared() {
        let of = |quote: Option<&str>, tabs| {
            let table = table(|t| {
                t.escape = Some('\\');
                t.quote = quote.map(str::to_owned);
            });
            Dialect::of(&table, tabs).unwrap()
        };
        assert!(of(None, true).letters && of(Some("none"), false).letters);
        assert!(!of(None, false).letters && !of(Some("\""), true).letters);
        let text = of(Some("none"), false);
        assert_eq!(text.escaped(b'n', false), Some(b'\n'));
        assert_eq!(text.escaped(b',', false), Some(b','));
        assert_eq!(text.escaped(b'q', false), None);
        let quoted = of(None, false);
        assert_eq!(quoted.escaped(b'n', true), None);
        assert_eq!(quoted.escaped(b'"', true), Some(b'"'));
        let twice = table(|t| t.escape = Some('"'));
        assert_eq!(Dialect::of(&twice, false).unwrap().escape, None);
    }

    #[test]
    fn options_that_cannot_be_are_named() {
        let cases: [(Change, &str); 8] = [
            (|t| t.delimiter = '→', "delimiter \"→\" must be one ASCII character"),
            (|t| t.delimiter = '\n', "no line break"),
            (
                |t| t.quote = Some("''".into()),
                "quote \"''\" must be one ASCII character, or \"none\"",
            ),
            (|t| t.quote = Some(String::new()), "quote \"\""),
            (|t| t.escape = Some('é'), "escape \"é\""),
            (|t| t.quote = Some(",".into()), "delimiter and quote are both ','"),
            (|t| t.comment = Some('"'), "quote and comment are both '\"'"),
            (|t| (t.escape, t.comment) = (Some('\\'), Some('\\')), "escape and comment are both"),
        ];
        for (change, said) in cases {
            let error = Dialect::of(&table(change), false).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn options_of_other_formats_are_refused() {
        let refused = |change: Change, format| {
            check_options(&table(change), format).err().map(|e| e.to_string())
        };
        let escape: Change = |t| t.escape = Some('\\');
        assert_eq!(refused(escape, TableFormat::Csv), None);
        assert!(refused(escape, TableFormat::Jsonl).unwrap().contains("escape is for CSV files"));
        let schema: Change = |t| {
            t.schema.insert("tags".into(), ColumnType::Strings);
        };
        assert_eq!(refused(schema, TableFormat::Jsonl), None);
        assert!(refused(schema, TableFormat::Csv).unwrap().contains("schema.tags"));
        assert_eq!(refused(schema, TableFormat::Parquet), None);
    }
}
