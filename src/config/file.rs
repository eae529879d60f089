//! Reads files that somebody wrote by hand: pipelines, recipes.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::store::named::read_text;

/// Largest file that is read: anything bigger was not written by hand.
const MAX_FILE: u64 = 4 << 20;

/// The text of a file and the folder that its relative paths start from. `called` names it in messages.
///
/// # Errors
/// Usage, naming the file.
pub(crate) fn read(file: &Path, called: &str) -> Result<(String, PathBuf)> {
    let failed =
        |cause: std::io::Error| Error::usage(format!("{called} cannot be read")).with_source(cause);
    let text = read_text(file, MAX_FILE).map_err(failed)?;
    let absolute = std::path::absolute(file).map_err(failed)?;
    Ok((text, absolute.parent().unwrap_or(Path::new("/")).to_path_buf()))
}
