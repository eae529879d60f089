//! A tower whose model is on this machine: nothing is fetched.

use std::path::Path;
use std::sync::Arc;

use super::{Located, Tower};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::{Reporter, Silent};
use crate::tower::files::hub::Hub;
use crate::tower::files::source::{ModelFiles, ModelSource, files, parse};
use crate::tower::opened::{Opened, open_gguf, open_safetensors};
use crate::tower::understood::fill;
use crate::tower::{TowerOptions, Understood};

fn hub() -> Result<Hub> {
    Hub::from_env().map(Hub::offline)
}

/// Whether the model is on this machine.
fn is_here(options: &TowerOptions, base_dir: &Path) -> Result<bool> {
    match parse(&options.model, base_dir)? {
        ModelSource::Hub { repo, file } => {
            hub()?.holds(&repo, options.revision.as_deref(), file.as_deref())
        }
        _ => Ok(true),
    }
}

impl Tower {
    /// As [`Tower::resolve`], but nothing is fetched: `None` where the model is a hub's and not in its cache.
    ///
    /// # Errors
    /// As [`Tower::resolve`].
    pub async fn resolve_here(
        options: &TowerOptions,
        base_dir: &Path,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<Option<Self>> {
        match is_here(options, base_dir)? {
            true => Self::resolve_with(options, base_dir, reporter, hub).await.map(Some),
            false => Ok(None),
        }
    }

    /// Whether the model is on this machine. Where it is, its options fit it: its files say what they leave out.
    /// They are opened, and their weights are neither loaded nor hashed.
    ///
    /// # Errors
    /// As [`Tower::resolve`], about the model and what its options say of it.
    pub async fn check_here(options: &TowerOptions, base_dir: &Path) -> Result<bool> {
        if !is_here(options, base_dir)? {
            return Ok(false);
        }
        let reporter: Arc<dyn Reporter> = Arc::new(Silent);
        let (mut options, place) = Self::located(options, base_dir, &reporter, hub).await?;
        let checking = move || match place {
            Located::Fake(fake) => Self::fake(options, fake).map(drop),
            Located::Files(path) => understand(&mut options, &path).map(drop),
        };
        tokio::task::spawn_blocking(checking)
            .await
            .or_error(ErrorKind::Internal, || "opening the model")??;
        Ok(true)
    }
}

/// Opens a model's files, and fills in what the options leave to them.
///
/// # Errors
/// As [`Tower::resolve`], about the model and what its options say of it.
pub(super) fn understand(
    options: &mut TowerOptions,
    path: &Path,
) -> Result<(Opened, Vec<Understood>)> {
    let mut opened = match files(path)? {
        ModelFiles::Gguf(path) => open_gguf(&path, options)?,
        ModelFiles::Safetensors { weights, folder, index } => {
            open_safetensors(&weights, index.as_deref(), &folder, options)?
        }
    };
    opened.model.check(options)?;
    opened.model.keep_layers(options.layers)?;
    let limit = opened.model.max_positions();
    let understood = fill(options, &opened.card, limit)?;
    if options.max_tokens() as usize > limit {
        return Err(Error::config(format!(
            "max_tokens is {}, but {} attends over {limit} positions at most",
            options.max_tokens(),
            options.model
        ))
        .of_key("max_tokens"));
    }
    Ok((opened, understood))
}
