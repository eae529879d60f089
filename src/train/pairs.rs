//! Training pairs from wherever they lie: folders and lines by their own reader, tables by the corpus's.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::corpus::{TableOptions, read_pairs};
use crate::dataset::{PairSet, PairSource, TextSet, TextSource};
use crate::error::{Error, Result};
use crate::observe::{Event, Reporter};
use crate::types::Cancel;

/// Reads every source and reports what folders were read without. Relative paths start from `base_dir`; `seed` decides
/// what a `limit` draws.
///
/// # Errors
/// As [`PairSet::open`] and [`read_pairs`].
pub async fn open_pairs(
    sources: &[PairSource],
    base_dir: &Path,
    seed: u64,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<PairSet> {
    let mut tables = HashMap::new();
    for (at, source) in sources.iter().enumerate().filter(|(_, source)| source.is_table()) {
        let table = table(&source.path)?;
        let sql = source.sql.as_deref().unwrap_or("SELECT * FROM pairs");
        tables.insert(at, read_pairs(&table, sql, base_dir, reporter, cancel).await?);
    }
    let set = PairSet::open_with(sources, base_dir, seed, tables)?;
    set.oddities.iter().for_each(|line| reporter.warn(line.clone()));
    Ok(set)
}

fn table(path: &Path) -> Result<TableOptions> {
    let uri = path
        .to_str()
        .ok_or_else(|| Error::config(format!("the path {} is not Unicode", path.display())))?;
    Ok(TableOptions::new("pairs", uri))
}

/// Reads every source of plain texts. Relative paths start from `base_dir`; `seed` decides what a `limit` draws.
///
/// # Errors
/// As [`TextSet::add`] and [`read_pairs`].
pub(super) async fn open_texts(
    sources: &[TextSource],
    base_dir: &Path,
    seed: u64,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<TextSet> {
    let mut set = TextSet::default();
    for source in sources {
        let mut rows = None;
        if source.is_table() {
            let sql = source.sql.as_deref().unwrap_or("SELECT * FROM pairs");
            let sql = format!("SELECT text AS query, '' AS text FROM ({sql}) AS texts");
            let table = table(&source.path)?;
            let found = read_pairs(&table, &sql, base_dir, reporter, cancel).await?;
            rows = Some(found.into_iter().map(|row| row.query).collect());
        }
        set.add(source, rows, base_dir, seed)?;
    }
    Ok(set)
}

/// Leaves out pairs without a query or without a document: a text of nothing would be trained on as a text like any other.
///
/// # Errors
/// Input where no pair is left.
pub fn keep_answered(set: &mut PairSet, reporter: &Arc<dyn Reporter>) -> Result<()> {
    let before = set.pairs.len();
    match set.drop_empty() {
        0 => Ok(()),
        all if all == before => Err(Error::input("no pair has both a query and a text")),
        some => {
            let message =
                format!("{some} of {before} pairs have no query or no text; they are left out");
            reporter.event(Event::Warning { message });
            Ok(())
        }
    }
}
