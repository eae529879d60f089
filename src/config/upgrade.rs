//! Writes a pipeline file in the newest version of its format.

use std::path::Path;

use super::defaults::DefaultChange;
use super::edit;
use super::file::read;
use super::origin::Origin;
use super::resolve::resolve_text;
use super::version::PipelineVersion;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// A pipeline file as version 2 has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Upgrade {
    /// The version that the file has.
    pub before: PipelineVersion,
    /// The new text; comments and layout are as they were.
    pub text: String,
    /// The defaults that version 2 changes in this file: their values of version 1 are written into it, or, if that
    /// was asked for, those of version 2 hold from now on.
    pub changes: Vec<DefaultChange>,
}

/// Rewrites the text of `file` for version 2, and proves that nothing else changes: the new text resolves to the same
/// pipeline, apart from the version and, with `new_defaults`, the defaults that version 2 changes. A file of version 2
/// stays as it is. Nothing is written.
///
/// # Errors
/// As [`crate::config::resolve`]; Usage if the environment sets the version; Config where a value cannot be put into the
/// text.
pub fn upgrade(file: &Path, env: &[(String, String)], new_defaults: bool) -> Result<Upgrade> {
    let name = file.display().to_string();
    let (old, base_dir) = read(file, &format!("pipeline file {name}"))?;
    let resolve =
        |text: &str, set: &[String]| resolve_text(text, &name, &base_dir, env.iter().cloned(), set);
    let before = resolve(&old, &[])?;
    if let Some(origin @ Origin::Env(_)) = before.pipeline.origins.by_key.get("version") {
        let message = format!("the version comes from {origin}; unset it first");
        return Err(Error::usage(message));
    }
    let version = before.pipeline.version;
    if version == PipelineVersion::V2 {
        return Ok(Upgrade { before: version, text: old, changes: Vec::new() });
    }
    let changes = before.changes()?;
    let by_hand = |key: &str, value: &str| {
        Error::config(format!(
            "{name}: `{key} = {value}` has no place in this file that could be found; write it there and try again"
        ))
    };
    let mut text = edit::set(&old, "version", "2", "").ok_or_else(|| by_hand("version", "2"))?;
    for change in changes.iter().filter(|_| !new_defaults) {
        let value = toml::Value::try_from(&change.now)
            .or_error(ErrorKind::Internal, || format!("writing {} as TOML", change.key))?
            .to_string();
        text = edit::set(&text, &change.key, &value, " # as in version 1")
            .ok_or_else(|| by_hand(&change.key, &value))?;
    }
    let mut expected = match new_defaults {
        true => resolve(&old, &["version=2".to_owned()])?.pipeline,
        false => before.pipeline,
    };
    expected.version = PipelineVersion::V2;
    if resolve(&text, &[])?.pipeline != expected {
        return Err(Error::internal(format!("{name}, rewritten, would mean something else")));
    }
    Ok(Upgrade { before: version, text, changes })
}
