//! What training and distilling have in common: the errors and the folder of a long run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::recipe;
use crate::error::{Error, ErrorKind, Result};

/// Errors as the command line means them: running again does not help against a folder of another run.
pub(super) fn named<T>(recipe: &Path, result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::Conflict => Err(Error::usage(error.to_string())),
        // Only the recipe names files that are read.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(error.context(recipe.display().to_string()))
        }
        other => recipe::naming(recipe, other),
    }
}

/// The folder of the run: the one named, or one of the recipe's name.
pub(super) fn output(named: Option<PathBuf>, recipe: &Path) -> Result<PathBuf> {
    let stem = recipe.file_stem().unwrap_or("recipe".as_ref());
    let folder = named.unwrap_or_else(|| Path::new(".cache/train").join(stem));
    if folder.exists() && !folder.is_dir() {
        let message = format!("{} is a file; --out names a folder", folder.display());
        return Err(Error::usage(message));
    }
    Ok(folder)
}

/// What is said where a run or an export has written everything and only its report cannot be printed.
pub(super) fn unprinted(folder: &Path) -> impl FnOnce() -> String {
    move || {
        format!(
            "everything is done and is in {}; only the report could not be printed",
            folder.display()
        )
    }
}

/// What a run or an export has written into its folder.
pub(super) fn outputs(folder: &Path) -> Vec<PathBuf> {
    let names = ["adapter", "query-adapter", "model", "query-model", "student", "report.html"];
    names.iter().map(|name| folder.join(name)).filter(|path| path.exists()).collect()
}

pub(super) fn listing(folder: &Path) -> String {
    let mut text = String::new();
    for path in outputs(folder) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let _ = writeln!(text, "  {name:<16} {}", path.display());
    }
    text
}
