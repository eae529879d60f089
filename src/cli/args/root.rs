//! The ROOT argument: a root URI, a path, or a pipeline file whose root it names.

use std::path::{Path, PathBuf};

use super::pipeline::resolve;
use crate::config::Pipeline;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::snapshot::{Manifest, newest, read};
use crate::store::{Keys, Root, private_folder};

/// An opened root, with the pipeline where the argument named one.
pub(crate) struct Opened {
    pub root: Root,
    pub pipeline: Option<Pipeline>,
}

impl Opened {
    /// The manifest with this number, or the newest.
    pub async fn manifest(&self, number: Option<u64>) -> Result<Manifest> {
        match number {
            Some(number) => read(&self.root, number).await,
            None => newest(&self.root).await?.ok_or_else(|| {
                let uri = self.root.uri();
                Error::not_found(format!(
                    "{uri} holds no snapshot yet; `scalingnote run` publishes one"
                ))
            }),
        }
    }

    /// The model that a flag names, and the folder that the snapshot's own paths start from. A flag's path starts where
    /// the command was given, as in other flags; a pipeline's starts at its file.
    pub fn tower_files(&self, model: Option<String>) -> Result<(Option<String>, PathBuf)> {
        let here = std::env::current_dir().or_error(ErrorKind::Input, || "finding this folder")?;
        let model = model.map(|model| match here.join(&model) {
            path if path.exists() => path.to_string_lossy().into_owned(),
            _ => model,
        });
        let base_dir = self.pipeline.as_ref().map_or(here, |pipeline| pipeline.base_dir.clone());
        Ok((model, base_dir))
    }
}

/// Where files of a remote root are kept between searches.
///
/// # Errors
/// Input if there is no home directory and the fallback directory in `/tmp` is owned by another user.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    let ours = match base {
        Some(base) => base.join("scalingnote"),
        None => own_temp_folder()?,
    };
    Ok(ours.join("snapshots"))
}

/// Everybody may make a folder in `/tmp`, and follow or swap what is in one that is not theirs.
fn own_temp_folder() -> Result<PathBuf> {
    // SAFETY: geteuid takes nothing, touches no memory of this program and cannot fail.
    let user = unsafe { libc::geteuid() };
    let folder = std::env::temp_dir().join(format!("scalingnote-{user}"));
    private_folder(&folder)
        .map_err(|cause| Error::io(cause, format!("cannot use the cache {}", folder.display())))?;
    Ok(folder)
}

/// Opens what the argument names. A path that ends in `.toml` is a pipeline file.
pub(crate) fn open(argument: &str) -> Result<Opened> {
    if is_pipeline(argument) {
        let pipeline = resolve(Path::new(argument), &[])?.pipeline;
        let root = pipeline.open_root()?;
        return Ok(Opened { root, pipeline: Some(pipeline) });
    }
    // `Root::open` creates a missing folder, which is right for who begins a root only.
    if !argument.contains("://") && Path::new(argument).is_file() {
        return Err(Error::not_found(format!(
            "{argument} is a file; name the folder of a root, a URI or a pipeline file, which ends in .toml"
        )));
    }
    if !argument.contains("://") && !Path::new(argument).is_dir() {
        return Err(Error::not_found(format!(
            "there is no root {argument}; name a folder, a URI or a pipeline file"
        )));
    }
    open_or_begin(argument)
}

/// [`open`] for a command that writes, unless it is only to say what it would do.
///
/// # Errors
/// As [`open`]; Config where the root can only be read.
pub(crate) fn open_to_write(argument: &str, dry_run: bool) -> Result<Opened> {
    let opened = open(argument)?;
    if !dry_run {
        opened.root.require_writable()?;
    }
    Ok(opened)
}

/// [`open`] where a folder that is missing is made.
pub(crate) fn open_or_begin(argument: &str) -> Result<Opened> {
    if is_pipeline(argument) {
        return open(argument);
    }
    let root = Root::open(argument)?.with_keys(Keys::load(&[] as &[PathBuf])?);
    Ok(Opened { root, pipeline: None })
}

fn is_pipeline(argument: &str) -> bool {
    !argument.contains("://") && argument.ends_with(".toml")
}

/// [`open`] for who reads: with keys, no manifest is trusted that none of them, and none of the pipeline's, signed.
pub(crate) fn open_trusting(argument: &str, public_keys: &[PathBuf]) -> Result<Opened> {
    let opened = open(argument)?;
    let mut keys = opened.root.keys().clone();
    keys.trusted.extend(Keys::load(public_keys)?.trusted);
    Ok(Opened { root: opened.root.with_keys(keys), ..opened })
}
