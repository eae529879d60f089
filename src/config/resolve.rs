//! File + environment + flags -> a checked [`Pipeline`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::check::{Schema, check};
use super::defaults::DefaultChange;
use super::document::{Node, Value, parse_file};
use super::file::read;
use super::models::ModelSaid;
use super::origin::{Origin, Origins};
use super::pipeline::{Pipeline, absolute};
use super::problem::{HINT, Problems};
use super::version::PipelineVersion;
use super::{defaults, overrides, places, secret, validate};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// A pipeline with the file that it came from.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The checked configuration, with the origin of every value that was set.
    pub pipeline: Pipeline,
    /// The config file as it was named.
    pub file: PathBuf,
    /// What the models of its towers say, where somebody looked.
    pub models: Vec<ModelSaid>,
}

impl Resolved {
    /// What version 2 changes in this pipeline, with these overrides; nothing if it is of version 2.
    ///
    /// # Errors
    /// Internal.
    pub fn changes(&self) -> Result<Vec<DefaultChange>> {
        defaults::changes(&self.pipeline, &self.pipeline.origins.by_key)
    }
}

/// Reads `file`, lays the environment's `SCALINGNOTE__SECTION__KEY` and then `set`
/// (`section.key=value`) over it, and checks everything.
///
/// # Errors
/// Config that lists every problem with its place; Usage where the file cannot be read.
pub fn resolve(
    file: &Path,
    env: impl IntoIterator<Item = (String, String)>,
    set: &[String],
) -> Result<Resolved> {
    let name = file.display().to_string();
    let (text, base_dir) = read(file, &format!("pipeline file {name}"))?;
    resolve_text(&text, &name, &base_dir, env, set)
}

/// [`resolve`] for a text that was read already; `name` is how messages call it.
///
/// ```
/// use std::path::Path;
///
/// use scalingnote::config::resolve_text;
/// use scalingnote::error::ErrorKind;
///
/// let file = "version = 2\n[tower]\nmodel = \"fake:16\"\npoling = \"mean\"\n";
/// let error = resolve_text(file, "daily.toml", Path::new("."), [], &[]).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Config);
/// // All that is wrong at once, each with its line and the name that was meant.
/// assert!(error.to_string().contains("pooling"), "{error}");
/// ```
///
/// # Errors
/// Config that lists every problem with its place.
pub fn resolve_text(
    text: &str,
    name: &str,
    base_dir: &Path,
    env: impl IntoIterator<Item = (String, String)>,
    set: &[String],
) -> Result<Resolved> {
    let mut problems = Problems::new(name);
    let mut root = parse_file(text, &mut problems);
    // What the parser could not read would only be reported again as missing.
    problems.result()?;
    let schema_json = Pipeline::json_schema();
    let schema = Schema::new(&schema_json);
    check_version(&root, &problems.file)?;
    overrides::apply_env(&mut root, schema, env, &mut problems);
    overrides::apply_flags(&mut root, schema, set, &mut problems);
    check_version(&root, &problems.file)?;
    secret::find(&root, "", &mut problems);
    check(&mut root, schema, "", &mut problems);
    let mut origins = BTreeMap::new();
    collect(&root, String::new(), &mut origins);
    let mut parsed = serde_json::from_value::<Pipeline>(root.to_json());
    if let Ok(pipeline) = &mut parsed {
        defaults::apply(pipeline, &origins)?;
        places::expand(pipeline, base_dir, &root, &mut problems);
        validate::validate(pipeline, &root, &mut problems);
    }
    problems.result()?;
    // The check has found what serde would find; this is the net below it.
    let mut pipeline = parsed
        .or_error(ErrorKind::Config, || format!("{name} does not fit the pipeline format"))?;
    pipeline.base_dir = base_dir.to_path_buf();
    pipeline.file = base_dir.join(Path::new(name).file_name().unwrap_or_default());
    pipeline.publish.root = absolute(&pipeline.publish.root, base_dir);
    for file in &mut pipeline.publish.public_keys {
        *file = absolute(file, base_dir);
    }
    pipeline.origins = Origins { file: name.to_owned(), by_key: origins };
    Ok(Resolved { pipeline, file: PathBuf::from(name), models: Vec::new() })
}

/// A file of another version is refused on its own: its other keys mean nothing to this release.
fn check_version(root: &Node, file: &str) -> Result<()> {
    let Some(node) = root.at("version") else { return Ok(()) };
    let known = match &node.value {
        Value::Integer(version) => PipelineVersion::try_from(*version).map(drop),
        Value::String(text) => match text.parse::<i64>().map(PipelineVersion::try_from) {
            Ok(Ok(_)) => Err(format!("`version` is a number: write `version = {text}`")),
            _ => Ok(()),
        },
        _ => Ok(()),
    };
    known.map_err(|message| {
        Error::config(format!("{}: {message}", node.origin.place(file))).with_hint(HINT)
    })
}

fn collect(node: &Node, path: String, origins: &mut BTreeMap<String, Origin>) {
    let join = |part: &str| if path.is_empty() { part.into() } else { format!("{path}.{part}") };
    let mut is_value = true;
    match &node.value {
        Value::Table(entries) => {
            for entry in entries {
                collect(&entry.node, join(&entry.key), origins);
            }
            is_value = false;
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                collect(item, join(&at.to_string()), origins);
                is_value &= !matches!(item.value, Value::Table(_));
            }
        }
        _ => {}
    }
    if is_value {
        origins.insert(path, node.origin.clone());
    }
}
