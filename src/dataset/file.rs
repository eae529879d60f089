//! Line-wise reading of plain, gzip and xz files.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result, ResultExt, unless};
use crate::store::named::{check_there, expand, open_regular};

/// A longer line is refused: it would be held in memory whole.
const LONGEST_LINE: u64 = 64 << 20;

/// `path`, or `path` + `.xz` or `.gz` where the plain file is missing.
///
/// # Errors
/// NotFound; as [`check_there`] where it cannot be looked at.
pub(super) fn find(path: &Path) -> Result<PathBuf> {
    let mut tried = vec![path.to_owned()];
    for suffix in [".xz", ".gz"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        tried.push(name.into());
    }
    let is_there = |fits: fn(&Path) -> bool| tried.iter().find(|candidate| fits(candidate));
    if let Some(found) = is_there(Path::is_file).or_else(|| is_there(Path::exists)) {
        return Ok(found.clone());
    }
    unless(check_there(path), |error| error.kind() == ErrorKind::NotFound)?;
    Err(Error::not_found(format!(
        "there is nothing at {}, nor with .xz or .gz added",
        path.display()
    )))
}

/// Looks whether the path of a table leads anywhere. A store is not asked, nor what a pattern matches.
///
/// # Errors
/// As [`check_there`] and [`expand`].
pub(super) fn check_table(path: &Path, base_dir: &Path) -> Result<()> {
    let text = path.to_string_lossy();
    match text.contains("://") || text.contains(['*', '?', '[']) {
        true => Ok(()),
        false => check_there(&base_dir.join(expand(path, base_dir)?)),
    }
}

/// Opens what [`find`] finds.
fn open(path: &Path) -> Result<(PathBuf, Box<dyn BufRead>)> {
    let found = find(path)?;
    let file = open_regular(&found)
        .map_err(|e| Error::io(e, "cannot be opened"))
        .context(|| found.display().to_string())?;
    let reader: Box<dyn Read> = match found.extension().and_then(|e| e.to_str()) {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new_multi_decoder(BufReader::new(file))),
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))),
        _ => Box::new(file),
    };
    Ok((found, Box::new(BufReader::with_capacity(1 << 16, reader))))
}

/// Calls `each` with the number (from 1) and the text of every line that is not blank.
pub(super) fn for_each_line(
    path: &Path,
    mut each: impl FnMut(usize, &str) -> Result<()>,
) -> Result<()> {
    let (path, mut reader) = open(path)?;
    let at = |number: usize| format!("{}, line {number}", path.display());
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .map_err(|e| Error::io(e, "cannot be read"))
            .context(|| at(number))?;
        if read == 0 {
            break;
        }
        if read as u64 == LONGEST_LINE && line.last() != Some(&b'\n') {
            return Err(Error::input("a line may have at most 64 MiB").context(at(number)));
        }
        let text = std::str::from_utf8(&line)
            .or_error(ErrorKind::Input, || "not valid UTF-8")
            .context(|| at(number))?
            .trim_end_matches(['\n', '\r']);
        // Editors of one maker begin a file with a byte order mark.
        let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        if !text.trim().is_empty() {
            each(number, text).context(|| at(number))?;
        }
    }
    Ok(())
}

/// Reads a JSON Lines file (plain, or with `.xz` or `.gz` added to its name) whole, each row with the number of its line.
///
/// # Errors
/// NotFound; Input, naming file and line, for what does not parse.
pub(super) fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    let mut rows = Vec::new();
    for_each_line(path, |number, line| {
        let row = serde_json::from_str(line)
            .map_err(|e| Error::input(format!("not the expected JSON: {}", category(&e))))?;
        rows.push((number, row));
        Ok(())
    })?;
    Ok(rows)
}

/// What serde_json says, unless it would quote the text of a note.
fn category(error: &serde_json::Error) -> String {
    if error.is_data() {
        let text = error.to_string();
        if text.starts_with("missing field") {
            return text.split(" at line ").next().unwrap_or_default().to_owned();
        }
        return format!("wrong type of a field at column {}", error.column());
    }
    format!("syntax error at column {}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_told_without_reading() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        std::fs::write(base.join("a.jsonl.gz"), "").unwrap();
        assert_eq!(find(&base.join("a.jsonl")).unwrap(), base.join("a.jsonl.gz"));
        // The second leads through a file.
        for gone in ["b.jsonl", "a.jsonl.gz/b"] {
            let error = find(&base.join(gone)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            let error = check_table(Path::new(gone), base).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        for fine in ["a.jsonl.gz", "b*.parquet", "s3://bucket/b.parquet", "."] {
            check_table(Path::new(fine), base).unwrap();
        }
    }
}
