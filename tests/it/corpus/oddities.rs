//! Readers x oddities: what each reader makes of each odd file, to the note or to the words of the refusal.

mod csv;
mod folders;
mod json;
mod own;

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use scalingnote::corpus::TableOptions;
use scalingnote::error::{Error, ErrorKind};

use super::{Corpus, read};
use crate::house::hostile::targets::files::{avro, ipc, ipc_stream, parquet};

/// In texts of files that are refused: it must not be in the error.
const SECRET: &str = "SECRET";

/// What a reader must make of a file.
#[derive(Debug, Clone)]
enum Cell {
    /// These ids and texts.
    Notes(Vec<(String, String)>),
    /// An error of this kind with these words and the file's name.
    Refused(ErrorKind, Vec<String>),
    /// One row is too many to be refused, in these words; with `max_rejected = 1` the others are notes.
    Counted(Vec<String>, Vec<(String, String)>),
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn pairs(notes: &[(&str, &str)]) -> Vec<(String, String)> {
    notes.iter().map(|(id, text)| ((*id).to_owned(), (*text).to_owned())).collect()
}

fn notes(notes: &[(&str, &str)]) -> Cell {
    Cell::Notes(pairs(notes))
}

fn refused(words: &[&str]) -> Cell {
    Cell::Refused(ErrorKind::Input, owned(words))
}

fn config(words: &[&str]) -> Cell {
    Cell::Refused(ErrorKind::Config, owned(words))
}

fn counted(words: &[&str], notes: &[(&str, &str)]) -> Cell {
    Cell::Counted(owned(words), pairs(notes))
}

impl Cell {
    /// The same for a file in which every row stands some lines further down.
    fn lower(mut self, lines: usize) -> Self {
        if let Self::Refused(_, words) | Self::Counted(words, _) = &mut self {
            for word in words {
                if let Some(line) = word.strip_prefix("line ").and_then(|n| n.parse::<usize>().ok())
                {
                    *word = format!("line {}", line + lines);
                }
            }
        }
        self
    }
}

/// The cells that are not as they must be.
#[derive(Default)]
struct Table {
    wrong: Vec<String>,
    cells: usize,
}

impl Table {
    async fn came_to(corpus: &Corpus) -> Result<Vec<(String, String)>, Error> {
        let mut all = Vec::new();
        for shard in corpus.prepare().await?.shards {
            let rows = read(&corpus.root, &shard).await?.into_iter();
            all.extend(rows.map(|row| (row.note_id.to_string(), row.text)));
        }
        Ok(all)
    }

    async fn see(&mut self, what: &str, corpus: &mut Corpus, cell: &Cell) {
        self.cells += 1;
        let name = corpus.options.tables[0].uri.clone();
        let what = format!("{what} in {name}");
        let found = Self::came_to(corpus).await;
        let failed = |kind: ErrorKind, words: &[String], error: &Error| {
            let said = error.to_string();
            let all = words.iter().all(|word| said.contains(word.as_str()));
            let name = kind != ErrorKind::Input || said.contains(&name);
            let secret = format!("{error:?}").contains(SECRET);
            all && name && !secret && error.kind() == kind
        };
        let right = match (cell, &found) {
            (Cell::Notes(notes), Ok(found)) => notes == found,
            (Cell::Refused(kind, words), Err(error)) => failed(*kind, words, error),
            (Cell::Counted(words, _), Err(error)) => {
                failed(ErrorKind::Input, words, error) && error.to_string().contains("max_rejected")
            }
            _ => false,
        };
        if !right {
            let found = found.map_err(|e| format!("{:?} {e}", e.kind()));
            self.wrong.push(format!("{what}:\n  {found:?}\n  must be {cell:?}"));
        }
        if let Cell::Counted(_, notes) = cell {
            corpus.options.max_rejected = 1;
            match Self::came_to(corpus).await {
                Ok(found) if found == *notes => {}
                found => {
                    let found = found.map_err(|e| e.to_string());
                    self.wrong.push(format!("{what}, counted:\n  {found:?}\n  must be {notes:?}"));
                }
            }
        }
    }

    /// A text file, plain and packed in each way.
    async fn text(&mut self, what: &str, name: &str, bytes: &[u8], options: &str, cell: &Cell) {
        for packing in ["", ".gz", ".zst"] {
            let name = format!("{name}{packing}");
            let mut corpus = corpus(&name, options).write(&name, pack(bytes, packing));
            self.see(what, &mut corpus, cell).await;
        }
    }

    fn end(self, cells: usize) {
        assert!(self.wrong.is_empty(), "{} cells:\n{}", self.wrong.len(), self.wrong.join("\n"));
        assert_eq!(self.cells, cells, "a table has all its cells");
    }
}

pub fn pack(bytes: &[u8], packing: &str) -> Vec<u8> {
    match packing {
        ".gz" => {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        }
        ".zst" => zstd::encode_all(bytes, 3).unwrap(),
        _ => bytes.to_vec(),
    }
}

/// A corpus of one file; `options` are the table's as JSON, and `sql`.
fn corpus(name: &str, options: &str) -> Corpus {
    let mut options: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(options).unwrap();
    let sql = options.remove("sql");
    let sql = sql.as_ref().and_then(|sql| sql.as_str());
    let none_is_seen = "SELECT id AS note_id, coalesce(title, 'none') AS title FROM notes";
    let mut corpus = Corpus::new(name, sql.unwrap_or(none_is_seen));
    options.insert("name".into(), "notes".into());
    options.insert("uri".into(), name.into());
    let table: TableOptions = serde_json::from_value(options.into()).unwrap();
    corpus.options.tables = vec![table];
    corpus.options.template = "{{ title }}".into();
    corpus
}

pub const TEXTS: [&str; 4] = ["csv", "tsv", "jsonl", "json"];
pub const OWN: [&str; 3] = ["parquet", "arrow", "avro"];

/// Notes as a format writes them; JSON objects stand in lines of their own.
pub fn written(format: &str, rows: &[(i64, &str)]) -> Vec<u8> {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
    let batch = RecordBatch::try_from_iter([("id", ids), ("title", texts)]).unwrap();
    let object = |(id, title): &(i64, &str)| format!("{{\"id\": {id}, \"title\": \"{title}\"}}");
    let objects: Vec<String> = rows.iter().map(object).collect();
    let lines = |tab: &str| {
        let row = |(id, title): &(i64, &str)| format!("{id}{tab}{title}\n");
        format!("id{tab}title\n{}", rows.iter().map(row).collect::<String>()).into_bytes()
    };
    match format {
        "csv" => lines(","),
        "tsv" => lines("\t"),
        "jsonl" => objects.iter().map(|row| format!("{row}\n")).collect::<String>().into_bytes(),
        "json" => format!("[\n{}\n]\n", objects.join(",\n")).into_bytes(),
        "parquet" => parquet(&batch),
        "arrow" => ipc(&batch),
        "stream" => ipc_stream(&batch),
        "avro" => avro(&batch),
        _ => unreachable!("{format}"),
    }
}

fn wide(text: &[u8], unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    str::from_utf8(text).unwrap().encode_utf16().flat_map(unit).collect()
}

fn replaced(text: &[u8], from: &str, to: &str) -> Vec<u8> {
    str::from_utf8(text).unwrap().replace(from, to).into_bytes()
}

/// The line of the first note.
fn first_line(format: &str) -> usize {
    if format == "jsonl" { 1 } else { 2 }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_files_of_every_spelling() {
    let mut table = Table::default();
    let both = notes(&[("i:1", "Über"), ("i:2", "b")]);
    for format in TEXTS {
        let name = format!("n.{format}");
        let plain = written(format, &[(1, "Über"), (2, "b")]);
        let secret = written(format, &[(1, "Über SECRET"), (2, "b")]);
        let is_json = format.starts_with("json");
        let lower = first_line(format) - 1;
        let mark = "\u{feff}".as_bytes();
        let marked = [mark, &plain].concat();
        let latin: Vec<u8> = str::from_utf8(&secret).unwrap().chars().map(|c| c as u8).collect();
        let field = if is_json { "column " } else { "column `title`" };
        let not_utf8 = counted(&["line 1", "not UTF-8", field], &[("i:2", "b")]).lower(lower);
        let zero = match is_json {
            true => {
                counted(&["line 1", "not JSON", "control character"], &[("i:2", "b")]).lower(lower)
            }
            false => notes(&[("i:1", "Ü\0ber"), ("i:2", "b")]),
        };
        let no_row = match format {
            "jsonl" => b"\n \n".to_vec(),
            _ => written(format, &[]),
        };
        let mut cut_off = written(format, &[(1, "Über"), (2, "long")]);
        cut_off.truncate(cut_off.windows(4).position(|word| word == b"long").unwrap() + 3);
        let cut = match format {
            "jsonl" => counted(&["line 2", "not JSON", "column"], &[("i:1", "Über")]),
            "json" => refused(&["what begins in line 3", "is the file whole?"]),
            // Nothing tells a short text from one that is cut off.
            _ => notes(&[("i:1", "Über"), ("i:2", "lon")]),
        };
        let u16le = |text: &[u8]| wide(text, u16::to_le_bytes);
        let u16be = |text: &[u8]| wide(text, u16::to_be_bytes);
        let cells: Vec<(&str, Vec<u8>, &str, Cell)> = vec![
            ("a plain file", plain.clone(), "{}", both.clone()),
            ("an empty file", vec![], "{}", refused(&["is empty"])),
            ("a mark alone", mark.to_vec(), "{}", refused(&["is empty"])),
            ("no row", no_row, "{}", notes(&[])),
            ("a byte order mark", marked.clone(), "{}", both.clone()),
            ("two marks", [mark, &marked].concat(), "{}", both.clone()),
            ("CRLF", replaced(&plain, "\n", "\r\n"), "{}", both.clone()),
            ("lone CR", replaced(&plain, "\n", "\r"), "{}", both.clone()),
            ("blank lines", replaced(&plain, "\n", "\n\r\n\n"), "{}", both.clone()),
            ("no last line end", plain.trim_ascii_end().to_vec(), "{}", both.clone()),
            ("UTF-16LE with a mark", u16le(&marked), "{}", both.clone()),
            ("UTF-16BE with a mark", u16be(&marked), "{}", both.clone()),
            ("UTF-16 declared", u16le(&plain), r#"{"encoding": "utf-16"}"#, both.clone()),
            ("UTF-16LE declared", u16le(&plain), r#"{"encoding": "utf-16le"}"#, both.clone()),
            ("UTF-16BE declared", u16be(&plain), r#"{"encoding": "utf-16be"}"#, both.clone()),
            ("UTF-16LE unsaid", u16le(&secret), "{}", refused(&["encoding = \"utf-16le\""])),
            ("UTF-16BE unsaid", u16be(&secret), "{}", refused(&["encoding = \"utf-16be\""])),
            (
                "half a character of UTF-16",
                u16le(&secret)[..9].to_vec(),
                r#"{"encoding": "utf-16"}"#,
                refused(&["line ", "begins no character of UTF-16LE", "is `encoding` right?"]),
            ),
            (
                "UTF-8 declared, and a mark of UTF-16",
                u16le(&marked),
                r#"{"encoding": "utf-8"}"#,
                refused(&["byte order mark of UTF-16LE", "leave `encoding` out"]),
            ),
            (
                "UTF-32",
                [&[0xff, 0xfe, 0, 0], &secret[..]].concat(),
                "{}",
                Cell::Refused(ErrorKind::Unsupported, owned(&["UTF-32LE", "iconv"])),
            ),
            ("Latin-1 unsaid", latin.clone(), "{}", not_utf8),
            (
                "Latin-1",
                latin.clone(),
                r#"{"encoding": "latin-1"}"#,
                notes(&[("i:1", "Über SECRET"), ("i:2", "b")]),
            ),
            (
                "Windows-1252",
                replaced(&plain, "Über", "x")
                    .into_iter()
                    .map(|byte| if byte == b'x' { 0x80 } else { byte })
                    .collect(),
                r#"{"encoding": "windows-1252"}"#,
                notes(&[("i:1", "€"), ("i:2", "b")]),
            ),
            ("a NUL", replaced(&plain, "Ü", "Ü\0"), "{}", zero),
            ("a file cut off", cut_off, "{}", cut),
            ("gzip in it", pack(&secret, ".gz"), "{}", refused(&["must end in .gz"])),
            ("zstd in it", pack(&secret, ".zst"), "{}", refused(&["must end in .zst"])),
            ("zip in it", b"PK\x03\x04SECRET".to_vec(), "{}", refused(&["a zip archive"])),
            ("bzip2 in it", b"BZh91AY&SYSECRET".to_vec(), "{}", refused(&["bzip2"])),
        ];
        for (what, bytes, options, cell) in cells {
            table.text(what, &name, &bytes, options, &cell).await;
        }
    }
    table.end(4 * 3 * 29);
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_files_that_are_broken() {
    let mut table = Table::default();
    for format in TEXTS {
        let text = written(format, &[(1, SECRET), (2, "b")]);
        for packing in [".gz", ".zst"] {
            let name = format!("n.{format}{packing}");
            let packed = pack(&text, packing);
            let cut = packed[..packed.len() - 6].to_vec();
            let followed = [&packed[..], b"SECRET SECRET"].concat();
            let cells: [(&str, Vec<u8>, Cell); 4] = [
                ("a packed file cut off", cut, refused(&["is cut off"])),
                ("something behind it", followed, refused(&["bytes of text"])),
                ("plain text", text.clone(), refused(&["is no"])),
                ("no byte at all", vec![], refused(&["is empty"])),
            ];
            for (what, bytes, cell) in cells {
                let mut corpus = corpus(&name, "{}").write(&name, bytes);
                table.see(what, &mut corpus, &cell).await;
            }
        }
    }
    table.end(4 * 2 * 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_describe_themselves() {
    let mut table = Table::default();
    for format in OWN.into_iter().chain(["stream"]) {
        let cut = match format {
            "arrow" => refused(&["is not a complete Arrow IPC file", "write it again"]),
            "stream" => refused(&["is not a complete stream of Arrow messages", "write it again"]),
            _ => refused(&["reading"]),
        };
        let plain = written(format, &[(1, "Über"), (2, "b\0")]);
        let both = notes(&[("i:1", "Über"), ("i:2", "b\0")]);
        let secret = written(format, &[(1, SECRET)]);
        let ending = if format == "stream" { "arrow" } else { format };
        let name = format!("n.{ending}");
        let is_no = format!("is not a valid {}{} file", ending[..1].to_uppercase(), &ending[1..]);
        let option = |option: &str| config(&[option, "leave it out"]);
        let cells: Vec<(&str, Vec<u8>, &str, Cell)> = vec![
            ("a plain file", plain.clone(), "{}", both),
            ("an empty file", vec![], "{}", refused(&["is empty"])),
            ("the schema alone", written(format, &[]), "{}", notes(&[])),
            ("a file cut off", secret[..secret.len() - 9].to_vec(), "{}", cut.clone()),
            ("a file cut in half", secret[..secret.len() / 2].to_vec(), "{}", cut),
            ("a few bytes", secret[..4].to_vec(), "{}", refused(&[&is_no])),
            ("a mark before it", [b"\xef\xbb\xbf", &secret[..]].concat(), "{}", refused(&[&is_no])),
            ("an encoding", plain.clone(), r#"{"encoding": "utf-8"}"#, option("encoding")),
            ("a quote", plain.clone(), r#"{"quote": "none"}"#, option("quote")),
            ("a null marker", plain.clone(), r#"{"null": "x"}"#, option("null")),
            ("rows to skip", plain.clone(), r#"{"skip_rows": 1}"#, option("skip_rows")),
        ];
        for (what, bytes, options, cell) in cells {
            let mut corpus = corpus(&name, options).write(&name, bytes);
            table.see(what, &mut corpus, &cell).await;
        }
        for packing in [".gz", ".zst"] {
            let name = format!("{name}{packing}");
            let mut corpus = corpus(&name, "{}").write(&name, pack(&plain, packing));
            let words = owned(&["only CSV and JSON lines may be compressed"]);
            table
                .see("a packed file", &mut corpus, &Cell::Refused(ErrorKind::Unsupported, words))
                .await;
        }
    }
    table.end(4 * 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_under_every_ending() {
    let mut table = Table::default();
    let formats = || TEXTS.into_iter().chain(OWN);
    for format in formats() {
        for ending in formats() {
            let bytes = written(format, &[(1, SECRET), (2, "b")]);
            let is_own = |format: &str| OWN.contains(&format);
            let is_no =
                format!("is not a valid {}{} file", ending[..1].to_uppercase(), &ending[1..]);
            let set = format!("set format = \"{format}\"");
            let json = |format: &str| format.starts_with("json");
            let cell = match (format, ending) {
                _ if format == ending || json(format) && json(ending) => {
                    notes(&[("i:1", SECRET), ("i:2", "b")])
                }
                _ if is_own(ending) => refused(&[&is_no]),
                _ if is_own(format) => refused(&["is not text but", &set]),
                _ if json(ending) => refused(&["none of its rows", "line 1", "not JSON"]),
                _ if json(format) => refused(&["it is JSON", "format = \"jsonl\""]),
                _ => config(&["no column named id", "of another format"]),
            };
            let name = format!("n.{ending}");
            let mut corpus = corpus(&name, "{}").write(&name, bytes);
            table.see(&format!("{format} data"), &mut corpus, &cell).await;
        }
    }
    table.end(7 * 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_are_whole() {
    let long = "ü".repeat(1 << 20);
    for format in TEXTS.into_iter().chain(OWN) {
        let name = format!("n.{format}");
        let bytes = written(format, &[(1, &long), (2, "b")]);
        let corpus = corpus(&name, "{}").write(&name, bytes);
        let found = Table::came_to(&corpus).await.unwrap();
        assert!(found == pairs(&[("i:1", &long), ("i:2", "b")]), "{name}");
    }
}
