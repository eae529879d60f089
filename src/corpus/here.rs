//! Whether the files of a table are there, before a run looks for them.

use std::path::Path;

use super::options::TableOptions;
use crate::corpus::source::find::Finder;
use crate::error::{Result, ResultExt};
use crate::observe::Silent;
use crate::store::StorageOptions;
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
