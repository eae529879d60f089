//! CSV files under every option that says how they are written: three bytes choose the options, the file follows.

use scalingnote::corpus::{
    ColumnType, CorpusOptions, PreparedReader, TableOptions, TextEncoding, TypeRule,
};
use scalingnote::error::Result;
use scalingnote::store::Root;

use super::prepared::{corpus, prepared};
use super::{CANARY, Target, block_on};

/// What the bytes before the file choose.
#[derive(Clone, Copy, Default)]
struct Choice {
    delimiter: u8,
    quote: u8,
    escape: bool,
    comment: bool,
    null: bool,
    tsv: bool,
    encoding: u8,
    skip_rows: u8,
    exact: bool,
    nameless: bool,
    schema: bool,
    packed: u8,
}

const DELIMITERS: [char; 4] = [',', ';', '|', '\t'];
const QUOTES: [Option<&str>; 4] = [None, Some("\""), Some("'"), Some("none")];
const ENCODINGS: [Option<TextEncoding>; 8] = [
    None,
    Some(TextEncoding::Utf8),
    Some(TextEncoding::Utf16),
    Some(TextEncoding::Utf16Le),
    Some(TextEncoding::Utf16Be),
    Some(TextEncoding::Latin1),
    Some(TextEncoding::Windows1252),
    None,
];
const PACKED: [&str; 4] = ["", "", ".gz", ".zst"];

impl Choice {
    fn of(bytes: [u8; 3]) -> Self {
        let [a, b, c] = bytes;
        let bit = |byte: u8, at: u8| byte >> at & 1 == 1;
        Self {
            delimiter: a & 3,
            quote: a >> 2 & 3,
            escape: bit(a, 4),
            comment: bit(a, 5),
            null: bit(a, 6),
            tsv: bit(a, 7),
            encoding: b & 7,
            skip_rows: b >> 3 & 3,
            exact: bit(b, 5),
            nameless: bit(b, 6),
            schema: bit(b, 7),
            packed: c & 3,
        }
    }

    fn bytes(self) -> [u8; 3] {
        let bit = |yes: bool, at: u8| u8::from(yes) << at;
        let a = self.delimiter | self.quote << 2 | bit(self.escape, 4) | bit(self.comment, 5);
        let b = self.encoding | self.skip_rows << 3 | bit(self.exact, 5) | bit(self.nameless, 6);
        [a | bit(self.null, 6) | bit(self.tsv, 7), b | bit(self.schema, 7), self.packed]
    }

    fn name(self) -> String {
        let ending = if self.tsv { "tsv" } else { "csv" };
        format!("notes.{ending}{}", PACKED[usize::from(self.packed)])
    }

    fn options(self) -> CorpusOptions {
        let (id, text) = if self.nameless { ("column_1", "column_2") } else { ("id", "text") };
        let mut table = TableOptions::new("notes", &self.name());
        table.delimiter = DELIMITERS[usize::from(self.delimiter)];
        table.quote = QUOTES[usize::from(self.quote)].map(str::to_owned);
        table.escape = self.escape.then_some('\\');
        table.comment = self.comment.then_some('#');
        table.null = self.null.then(|| "\\N".to_owned());
        table.skip_rows = self.skip_rows.into();
        table.encoding = ENCODINGS[usize::from(self.encoding)];
        table.has_header = !self.nameless;
        if self.schema {
            table.schema.insert(id.to_owned(), ColumnType::Integer);
        }
        let types = if self.exact { TypeRule::Exact } else { TypeRule::Guessed };
        corpus(table, format!("select {id} as note_id, {text} as body from notes"), types)
    }

    /// A file of [`texts`] as it is written under these options.
    fn file(self) -> Vec<u8> {
        let tab = self.tsv && self.delimiter == 0;
        let delimiter = if tab { '\t' } else { DELIMITERS[usize::from(self.delimiter)] };
        let quote = match QUOTES[usize::from(self.quote)] {
            None => Some('"'),
            Some("none") => None,
            Some(given) => given.chars().next(),
        };
        let written = |text: &str| {
            let mut out = String::new();
            for c in text.chars() {
                match (quote, self.escape) {
                    (Some(quote), false) if c == quote => out.push(quote),
                    (Some(quote), true) if c == quote || c == '\\' => out.push('\\'),
                    (None, _) if c == delimiter || c == '\n' || c == '\\' => out.push('\\'),
                    _ => {}
                }
                out.push(c);
            }
            quote.map_or(out.clone(), |quote| format!("{quote}{out}{quote}"))
        };
        let mut text = "not a \"row\n".repeat(self.skip_rows.into());
        if !self.nameless {
            text += &format!("id{delimiter}text\n");
        }
        for (id, body) in texts().iter().enumerate() {
            if self.comment {
                text += "# \"not a row\n";
            }
            text += &format!("{id}{delimiter}{}\r\n", written(body));
        }
        let bytes = match ENCODINGS[usize::from(self.encoding)] {
            Some(TextEncoding::Utf16 | TextEncoding::Utf16Le) => {
                text.encode_utf16().flat_map(u16::to_le_bytes).collect()
            }
            Some(TextEncoding::Utf16Be) => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            Some(TextEncoding::Latin1 | TextEncoding::Windows1252) => {
                // All that the texts hold is in both at the place of its number.
                text.chars().map(|c| u32::from(c) as u8).collect()
            }
            _ => text.into_bytes(),
        };
        let bytes: Vec<u8> = bytes;
        [self.bytes().to_vec(), bytes].concat()
    }
}

fn texts() -> Vec<String> {
    let parts = [
        "plain",
        "a, b; c | d\te",
        "say \"stop\" twice",
        "it's \\n C:\\",
        "two\nlines",
        "naïve Ü",
        "7",
    ];
    parts.iter().map(|part| format!("{CANARY} {part}.")).collect()
}

/// A corpus of one CSV file.
pub struct Dialects {
    folder: tempfile::TempDir,
    seeds: Vec<Vec<u8>>,
}

impl Dialects {
    pub fn new() -> Self {
        let choice = Choice { exact: true, ..Choice::default() };
        let seeds = [
            choice,
            Choice { delimiter: 1, quote: 2, comment: true, skip_rows: 2, ..choice },
            Choice { escape: true, null: true, schema: true, ..choice },
            Choice { tsv: true, encoding: 2, nameless: true, ..choice },
            Choice { delimiter: 2, quote: 3, escape: true, encoding: 4, ..choice },
            Choice { encoding: 5, exact: false, ..choice },
        ];
        let seeds = seeds.map(Choice::file).to_vec();
        Self { folder: tempfile::tempdir().unwrap(), seeds }
    }
}

impl Target for Dialects {
    fn seeds(&self) -> Vec<Vec<u8>> {
        self.seeds.clone()
    }

    fn read(&mut self, data: &[u8]) -> Result<()> {
        let mut chosen = [0; 3];
        let (before, file) = data.split_at(data.len().min(3));
        chosen[..before.len()].copy_from_slice(before);
        let choice = Choice::of(chosen);
        std::fs::write(self.folder.path().join(choice.name()), file).unwrap();
        let (options, root) = (choice.options(), Root::in_memory());
        block_on(async {
            let outcome = prepared(&options, self.folder.path(), &root).await?;
            let mut reader = PreparedReader::open(&root, &outcome.shards[0]).await?;
            let mut found = Vec::new();
            while let Some(batch) = reader.next().await? {
                found.extend(batch.rows.into_iter().map(|row| row.text));
            }
            if self.seeds.iter().any(|seed| seed == data) {
                assert_eq!(found, texts(), "a well-formed file has other rows");
            }
            Ok(())
        })
    }

    fn names(&self) -> Vec<String> {
        vec![
            "notes.csv".to_owned(),
            "notes.tsv".to_owned(),
            "rejected, corpus.max_rejected".to_owned(),
        ]
    }
}
