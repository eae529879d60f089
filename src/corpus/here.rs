//! What can be said of tables before a run reads them: whether their files are there, and apart from what is published.

use std::path::Path;

use super::options::{CorpusOptions, TableOptions};
use crate::corpus::source::find::{Finder, Output};
use crate::error::{Result, ResultExt};
use crate::observe::Silent;
use crate::store::{Root, StorageOptions};
use crate::types::Cancel;

/// Looks for the files of a table, if it is one of this machine, and returns whether it is. Relative paths start from
/// `base_dir`.
///
/// # Errors
/// Input, naming the table and the place, where nothing is there or cannot be read.
pub async fn look_for_files(
    table: &TableOptions,
    base_dir: &Path,
    cancel: &Cancel,
) -> Result<bool> {
    let storage = StorageOptions::default();
    let finder = Finder::new(base_dir, &storage, None, cancel, &Silent);
    finder.look_here(table).await.context(|| format!("table `{}`", table.name))
}

/// Refuses tables in the root that is published to. Said before the first object is written there: a lease or a report
/// among notes would make a root of their folder, and stand against the runs that leave it alone.
///
/// # Errors
/// Input, of the key that names the table.
pub async fn refuse_tables_in_root(
    options: &CorpusOptions,
    base_dir: &Path,
    storage: &StorageOptions,
    root: &Root,
) -> Result<()> {
    let cancel = Cancel::new();
    let output = Some(Output { root, storage });
    let of_tables = options.storage.as_ref().unwrap_or(storage);
    let finder = Finder::new(base_dir, of_tables, output, &cancel, &Silent);
    for (at, table) in options.tables.iter().enumerate() {
        // Which files of it count, its engine knows.
        if table.format.is_some_and(|format| format.has_engine()) {
            continue;
        }
        finder.refuse_root(table).await.map_err(|error| {
            let section = format!("corpus.tables.{at}");
            error.context(format!("table `{}`", table.name)).of_key_in(&section, "uri")
        })?;
    }
    Ok(())
}

/// Whether there are Markdown notes where a table is, and no file whose ending names another format. Relative paths
/// start from `base_dir`.
///
/// # Errors
/// Where nothing is there, or cannot be listed.
pub async fn holds_markdown(
    table: &TableOptions,
    base_dir: &Path,
    storage: &StorageOptions,
    cancel: &Cancel,
) -> Result<bool> {
    Finder::new(base_dir, storage, None, cancel, &Silent).holds_markdown(table).await
}
