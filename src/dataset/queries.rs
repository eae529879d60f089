//! Queries without judgements.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use super::file::for_each_line;
use super::set::Query;
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "_id")]
    id: Option<String>,
    text: String,
}

/// The queries of a file: JSON Lines of `{"_id", "text"}` where its name says so (`queries.jsonl` of a retrieval set),
/// else a query a line. `.xz` and `.gz` may be left off. A query without an id is called by the number of its line.
///
/// # Errors
/// NotFound or Input, naming file and line; Input where an id comes twice, and where nothing is left.
pub fn read_queries(path: &Path) -> Result<Vec<Query>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".xz").or(name.strip_suffix(".gz")).unwrap_or(&name);
    let is_json = [".jsonl", ".ndjson", ".json"].iter().any(|ending| name.ends_with(ending));
    let (mut queries, mut ids) = (Vec::new(), HashSet::new());
    for_each_line(path, |number, line| {
        let found = match is_json {
            false => Line { id: None, text: line.to_owned() },
            true => serde_json::from_str(line).map_err(|cause| {
                Error::input(format!(
                    "no query (column {}): it reads {{\"_id\": id, \"text\": text}}",
                    cause.column()
                ))
            })?,
        };
        let id = found.id.unwrap_or_else(|| number.to_string());
        if !ids.insert(id.clone()) {
            return Err(Error::input(format!("query {id} is there twice")));
        }
        if !found.text.trim().is_empty() {
            queries.push(Query { id, text: found.text });
        }
        Ok(())
    })?;
    if queries.is_empty() {
        return Err(Error::input(format!("{} holds no query", path.display())));
    }
    Ok(queries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_json_lines_are_queries() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let found = read_queries(&path).map_err(|error| error.to_string());
            found.map(|all| {
                all.into_iter().map(|q| format!("{} {}", q.id, q.text)).collect::<Vec<_>>()
            })
        };
        assert_eq!(read("q.txt", "bread\n\n{rye}\n").unwrap(), ["1 bread", "3 {rye}"]);
        let lines = "{\"_id\":\"a\",\"text\":\"bread\"}\n{\"text\":\"rye\",\"kind\":1}\n{\"_id\":\"c\",\"text\":\" \"}\n";
        assert_eq!(read("q.jsonl", lines).unwrap(), ["a bread", "2 rye"]);
        let error = read("q.jsonl", "{\"text\": secret}\n").unwrap_err();
        assert!(error.contains("line 1") && !error.contains("secret"), "{error}");
        let twice = "{\"_id\":\"a\",\"text\":\"x\"}\n".repeat(2);
        assert!(read("q.jsonl", &twice).unwrap_err().contains("query a is there twice"));
        assert!(read("q.txt", "\n").unwrap_err().contains("holds no query"));
    }
}
