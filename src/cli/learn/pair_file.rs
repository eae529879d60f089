//! The query tower and the document tower that a file names.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{recipe, trained};
use crate::cli::args::resolve;
use crate::error::{Error, Result};
use crate::index::{Builder, IndexOptions};
use crate::tower::TowerOptions;
use crate::train::TrainOptions;

/// The towers that a file names, and the index that it would build.
pub(super) struct Named {
    pub(super) query: TowerOptions,
    pub(super) document: TowerOptions,
    pub(super) index: IndexOptions,
    pub(super) base_dir: PathBuf,
}

/// A file that names towers and nothing else.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TowerFile {
    tower: TowerOptions,
    query: Option<QueryKeys>,
}

/// How queries are encoded: with a tower of their own, or the document tower with another prompt and length.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct QueryKeys {
    tower: Option<TowerOptions>,
    prompt_prefix: Option<String>,
    prompt_suffix: Option<String>,
    max_tokens: Option<u32>,
}

impl TowerFile {
    fn missing_files(&self, base_dir: &Path) -> Vec<(String, Error)> {
        let query = self.query.as_ref().and_then(|query| query.tower.as_ref());
        let towers = [("tower", Some(&self.tower)), ("query.tower", query)];
        let mut missing = Vec::new();
        for (section, tower) in towers.into_iter().filter_map(|(key, tower)| Some((key, tower?))) {
            let found = tower.missing_files(base_dir).into_iter();
            missing.extend(found.map(|(key, error)| (format!("{section}.{key}"), error)));
        }
        missing
    }

    fn query_tower(&self) -> Result<TowerOptions> {
        let mut tower = self.tower.clone();
        let Some(query) = &self.query else { return Ok(tower.for_queries()) };
        if let Some(own) = &query.tower {
            let beside = query.prompt_prefix.is_some() || query.prompt_suffix.is_some();
            if beside || query.max_tokens.is_some() {
                return Err(Error::config(
                    "[query] has a tower of its own; set prompt and max_tokens in [query.tower]",
                ));
            }
            return Ok(own.clone().for_queries());
        }
        // As in a pipeline file: what is not named is the document tower's.
        tower.prompt_prefix = query.prompt_prefix.clone().or(tower.prompt_prefix);
        tower.prompt_suffix = query.prompt_suffix.clone().or(tower.prompt_suffix);
        tower.max_tokens = query.max_tokens.or(tower.max_tokens);
        Ok(tower.for_queries())
    }
}

/// Reads a pipeline file, a training recipe or a tower file, and puts what was trained (`path`) into its towers.
///
/// # Errors
/// As the reader of that kind of file.
pub(super) fn read(file: &Path, path: Option<&Path>) -> Result<Named> {
    let (text, base_dir) = recipe::read(file)?;
    // What the file is, its sections say; what is wrong with it, the reader of that kind of file.
    let keys = toml::from_str::<toml::Table>(&text).unwrap_or_default();
    let mut index = IndexOptions { builder: Builder::Scalingnote, ..IndexOptions::default() };
    let (mut query, mut document) = if keys.contains_key("corpus") || keys.contains_key("publish") {
        let pipeline = resolve(file, &[])?.pipeline;
        index = pipeline.index.index();
        (pipeline.query_tower(), pipeline.tower)
    } else if keys.contains_key("pairs") || keys.contains_key("method") {
        let written = recipe::parse::<TrainOptions>(&text, file)?;
        let missing = written.options.missing_files(&base_dir);
        recipe::check(&written, Vec::new(), missing, |section| {
            path.is_none() && matches!(section, "tower" | "query")
        })?;
        (written.options.query_tower(), written.options.tower)
    } else {
        let written = recipe::parse::<TowerFile>(&text, file)?;
        let missing = written.options.missing_files(&base_dir);
        recipe::check(&written, Vec::new(), missing, |_| path.is_none())?;
        let towers = written.options;
        (recipe::naming(file, towers.query_tower())?, towers.tower)
    };
    if let Some(path) = path {
        trained::put(path, &base_dir, &mut query, &mut document)?;
    }
    Ok(Named { query, document, index, base_dir })
}
