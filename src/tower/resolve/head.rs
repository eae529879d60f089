//! What stands between the pooled state and the vector.

use std::path::Path;

use crate::error::{Error, Result};
use crate::tower::files::sentence::{Card, ModuleFile};
use crate::tower::opened::Model;
use crate::types::{Digest256, Hasher256, HeadModule, Pooling};

/// The modules of a folder of their own, and the digest of their weights.
pub(super) fn own_head(
    folder: &Path,
    model: &Model,
    pooling: Pooling,
) -> Result<(Vec<ModuleFile>, Option<Digest256>)> {
    let card = Card::head(folder, model.width())?;
    if let Some(said) = card.pooling.filter(|said| said.value != pooling) {
        return Err(Error::config(format!(
            "{} in {} is for pooling = \"{}\", and this tower's is \"{}\"",
            said.by,
            folder.display(),
            said.value.name(),
            pooling.name()
        )));
    }
    let mut hasher = Hasher256::new();
    for file in card.modules.iter().flat_map(|module| &module.files) {
        hasher.field(file.digest()?.0);
    }
    Ok((card.modules, Some(hasher.finish())))
}

/// Elements of a vector once a state of `width` elements went through `modules`.
pub(super) fn after(modules: &[ModuleFile], width: u32) -> u32 {
    let last = modules.iter().rev().find_map(|file| match file.module {
        HeadModule::Dense { outputs, .. } => Some(outputs),
        HeadModule::LayerNorm { .. } | HeadModule::Normalize => None,
    });
    last.unwrap_or(width)
}
