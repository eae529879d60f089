//! What `train --out` wrote, put in the place of what a file names.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::named::expand_text;
use crate::tower::TowerOptions;
use crate::train::TrainOptions;
use crate::types::Pooling;

/// The towers of a recipe's queries and documents, with what was trained so far in the place of what the recipe names.
///
/// # Errors
/// As [`put`].
pub(super) fn towers(
    options: &TrainOptions,
    base_dir: &Path,
    trained: Option<&Path>,
) -> Result<(TowerOptions, TowerOptions)> {
    let (mut query, mut document) = (options.query_tower(), options.tower.clone());
    if let Some(path) = trained {
        put(path, base_dir, &mut query, &mut document)?;
    }
    Ok((query, document))
}

/// Puts what is in `path` into both towers: the folder of a run or an export (`adapter/` or `model/`, and beside it
/// `query-adapter/` or `query-model/` where the query side has parameters of its own), or a LoRA adapter for both.
///
/// # Errors
/// Usage for a path that cannot be written into options; NotFound where it leads nowhere; Config where a model of a hub
/// has no tokenizer that could be named.
pub(super) fn put(
    path: &Path,
    base_dir: &Path,
    query: &mut TowerOptions,
    document: &mut TowerOptions,
) -> Result<()> {
    let inside = |name: &str| Some(path.join(name)).filter(|folder| folder.is_dir());
    let tokenizer = |tower: &TowerOptions| tokenizer_of(tower, base_dir);
    match inside("model") {
        Some(folder) => {
            set_model(document, &folder, tokenizer(document)?)?;
            set_model(query, &folder, tokenizer(query)?)?;
        }
        None => {
            let adapter = text(&inside("adapter").unwrap_or_else(|| path.to_owned()))?;
            document.adapter = Some(adapter.clone());
            query.adapter = Some(adapter);
        }
    }
    if let Some(folder) = inside("query-model") {
        if folder.join("tokenizer.json").is_file() {
            // An encoder, with its own tokenizer beside it.
            let max_tokens = query.max_tokens;
            *query =
                TowerOptions { max_tokens, ..TowerOptions::new(text(&folder)?, Pooling::Mean) };
        } else {
            set_model(query, &folder, tokenizer(query)?)?;
        }
    } else if let Some(folder) = inside("query-adapter") {
        query.adapter = Some(text(&folder)?);
    }
    Ok(())
}

/// Exported weights have their layers counted and their adapter merged; their tokenizer is where it was.
fn set_model(tower: &mut TowerOptions, folder: &Path, tokenizer: String) -> Result<()> {
    tower.tokenizer = Some(tokenizer);
    tower.model = text(folder)?;
    (tower.revision, tower.adapter, tower.layers) = (None, None, None);
    Ok(())
}

fn tokenizer_of(tower: &TowerOptions, base_dir: &Path) -> Result<String> {
    if let Some(tokenizer) = &tower.tokenizer {
        return Ok(tokenizer.clone());
    }
    let model = base_dir.join(&*expand_text(&tower.model, base_dir)?);
    let file = if model.is_dir() { model.join("tokenizer.json") } else { model };
    if file.is_file() {
        return text(&file);
    }
    Err(Error::config(format!(
        "the trained weights need the tokenizer of {}; name its tokenizer.json in `tower.tokenizer`",
        tower.model
    )))
}

fn text(path: &Path) -> Result<String> {
    let absolute: PathBuf = std::path::absolute(path)
        .or_error(ErrorKind::Usage, || format!("{} is not a path", path.display()))?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|_| Error::usage(format!("{} is not Unicode", path.display())))
}
