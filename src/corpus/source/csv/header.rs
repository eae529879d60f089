//! Names of the columns of a CSV file.

use super::tokens::Record;
use crate::corpus::options::TableOptions;
use crate::error::{Error, Result};

/// Most columns of a file.
pub(super) const COLUMNS: usize = 1 << 16;

/// The columns' names: those of the header, else `column_1` and so on, one for each field of the first row.
///
/// # Errors
/// Names that are not UTF-8 or not unique.
pub(super) fn names(first: &Record<'_>, table: &TableOptions) -> Result<Vec<String>> {
    let line = first.line;
    if first.len > COLUMNS {
        return Err(Error::input(format!(
            "line {line}: {} columns, where {COLUMNS} are the most; is the delimiter right?",
            first.len
        )));
    }
    if table.has_header && is_json(first) {
        return Err(Error::input(format!(
            "line {line} is JSON, no header of CSV; set format = \"jsonl\", or call the file .json"
        )));
    }
    if !table.has_header {
        return Ok((1..=first.len).map(|at| format!("column_{at}")).collect());
    }
    let mut names = Vec::with_capacity(first.len);
    for at in 0..first.len {
        let name = str::from_utf8(first.text(at)).map_err(|_| {
            Error::input(format!(
                "line {line}: field {} of the header is not UTF-8; declare the file's encoding, e.g. encoding = \"windows-1252\"",
                at + 1
            ))
        })?;
        names.push(name.to_owned());
    }
    let mut sorted: Vec<usize> = (0..names.len()).collect();
    sorted.sort_by(|a, b| names[*a].cmp(&names[*b]).then(a.cmp(b)));
    let twins = sorted.windows(2).filter(|pair| names[pair[0]] == names[pair[1]]);
    if let Some(pair) = twins.min() {
        // Not the name: where there is no header it is a text of the first note.
        let name = if names[pair[0]].is_empty() { "have no name" } else { "have the same name" };
        return Err(Error::input(format!(
            "line {line}: columns {} and {} {name}; rename one, or set has_header = false and skip_rows = {line} and call them column_{} and column_{}",
            pair[0] + 1,
            pair[1] + 1,
            pair[0] + 1,
            pair[1] + 1
        )));
    }
    Ok(names)
}

/// Whether the first line is one of a JSON file: an object or a list that begins, and not with a name.
fn is_json(first: &Record<'_>) -> bool {
    let text = first.text(0).trim_ascii_start();
    let opened = text.iter().take_while(|byte| b"[{".contains(byte) || byte.is_ascii_whitespace());
    let rest = text.get(opened.count()..).unwrap_or_default();
    text.first().is_some_and(|byte| b"[{".contains(byte)) && (rest.is_empty() || rest[0] == b'"')
}

/// The error of a file without a first row.
pub(super) fn missing(is_empty: bool, table: &TableOptions) -> Error {
    let what = if table.has_header { "header" } else { "row" };
    Error::input(match (is_empty, table.skip_rows) {
        (true, _) => "the file is empty".to_owned(),
        (_, 0) => {
            format!("the file has no {what}: there is nothing but blank or commented lines in it")
        }
        (_, skipped) => {
            format!("the file has no {what} behind the {skipped} lines that skip_rows passes over")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::dialect::Dialect;
    use super::super::tokens::Tokens;
    use super::*;

    fn of(text: &[u8], change: fn(&mut TableOptions)) -> Result<Vec<String>> {
        let mut table = TableOptions::new("notes", "notes.csv");
        change(&mut table);
        let dialect = Dialect::of(&table, false).unwrap();
        names(&Tokens::new(text, dialect, true).next().unwrap().unwrap(), &table)
    }

    #[test]
    fn headers_name_columns() {
        assert_eq!(of(b"id, a b ,\"x,y\",\n", |_| ()).unwrap(), ["id", " a b ", "x,y", ""]);
        let numbered = of(b"7,x\n", |t| t.has_header = false).unwrap();
        assert_eq!(numbered, ["column_1", "column_2"]);
    }

    #[test]
    fn json_is_told_by_its_first_line() {
        for json in [
            "{\"id\":1,\"title\":\"my secret\"}\n",
            "[{\"id\": 1},\n",
            "[\n{\"id\": 1}\n]\n",
            "{\n  \"id\": 1\n}\n",
            " [ { \"id\": 1 } ]\n",
        ] {
            let said = of(json.as_bytes(), |_| ()).unwrap_err().to_string();
            assert!(
                said.contains("line 1 is JSON") && said.contains("format = \"jsonl\""),
                "{said}"
            );
            assert!(!said.contains("secret"), "{said}");
            assert!(of(json.as_bytes(), |t| t.has_header = false).is_ok(), "it may be a note");
        }
        for header in ["id,[tags]\n", "[id],{title}\n", "\"{id}\",b\n"] {
            assert!(of(header.as_bytes(), |_| ()).is_ok(), "{header}");
        }
    }

    #[test]
    fn unusable_headers_are_refused_without_their_text() {
        let said = |text: &[u8]| of(text, |_| ()).unwrap_err().to_string();
        assert!(said(b"id,a,b,a,b\n").contains("columns 2 and 4 have the same name"));
        assert!(said(b"id,my secret,my secret\n").contains("columns 2 and 3 have the same name"));
        assert!(said(b"id,,\n").contains("columns 2 and 3 have no name"));
        assert!(said(b"id,\xdcber\n").contains("field 2 of the header is not UTF-8"));
    }
}
