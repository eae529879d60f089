//! Names of the columns of a CSV file.

use super::tokens::Record;
use crate::corpus::options::TableOptions;
use crate::error::{Error, Result};
use crate::observe::format::counted;

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

/// Refuses a file that begins as JSON does, with an object or a list of them, where a header is meant.
pub(super) fn refuse_json(begin: &[u8], table: &TableOptions) -> Result<()> {
    let opened = |byte: &&u8| b"[{".contains(byte) || byte.is_ascii_whitespace();
    let brackets = begin.iter().take_while(opened).count();
    let (before, behind) = begin.split_at(brackets);
    if table.has_header && before.contains(&b'{') && behind.starts_with(b"\"") {
        return Err(Error::input(
            "it is JSON, and has no header of CSV; set format = \"jsonl\", or call the file .json",
        ));
    }
    Ok(())
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
            let lines = counted(skipped, "line");
            format!("the file has no {what} behind the {lines} that skip_rows passes over")
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
    fn json_is_told_by_how_it_begins() {
        let told = |text: &str, has_header| {
            let mut table = TableOptions::new("notes", "notes.csv");
            table.has_header = has_header;
            refuse_json(text.as_bytes(), &table).is_err()
        };
        for json in [
            "{\"id\":1,\"title\":\"a\"}\n",
            "[{\"id\": 1},\n",
            "\n[\n  {\n    \"id\": 1",
            " [ { \"id\": 1 } ]\n",
        ] {
            assert!(told(json, true), "{json}");
            assert!(!told(json, false), "it may be a note: {json}");
        }
        for header in
            ["id,[tags]\n", "[id],{title}\n", "\"{id}\",b\n", "[\"id\"]\n", "{id}\n", "{", ""]
        {
            assert!(!told(header, true), "{header}");
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
