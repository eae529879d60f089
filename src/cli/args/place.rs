//! Paths on the command line. A shell expands `~` only at the start of a word: not in `--out=~/x`, not in an environment
//! file, not in quotes.

use std::path::{Path, PathBuf};

use clap::builder::{NonEmptyStringValueParser, PathBufValueParser, TypedValueParser};

use crate::error::Result;
use crate::store::named::{expand, expand_text};

/// Relative paths start where the command was given.
const HERE: &str = "";

/// Parses a path.
pub(crate) fn path() -> impl TypedValueParser<Value = PathBuf> {
    let expanded =
        |path: PathBuf| -> Result<PathBuf> { Ok(expand(&path, Path::new(HERE))?.into_owned()) };
    PathBufValueParser::new().try_map(expanded)
}

/// Parses what may be a path, a URI or the name of a model.
pub(crate) fn text() -> impl TypedValueParser<Value = String> {
    let expanded =
        |text: String| -> Result<String> { Ok(expand_text(&text, Path::new(HERE))?.into_owned()) };
    NonEmptyStringValueParser::new().try_map(expanded)
}
