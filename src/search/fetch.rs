//! A snapshot's files on this machine.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::store::{FileRef, Root};

/// Where files come from.
pub(super) struct Files<'a> {
    /// Downloads go here; they are always hashed.
    pub cache: &'a Path,
    /// Whether files of a local root, which are mapped where they lie, are hashed too.
    pub hash_local: bool,
}

impl Files<'_> {
    pub async fn fetch(&self, root: &Root, file: &FileRef) -> Result<PathBuf> {
        let path = root.fetch(file, self.cache).await?;
        if self.hash_local && root.local_folder().is_some() {
            let (hash, size) = root.hash(&file.path).await?;
            if (hash, size) != (file.sha256, file.size) {
                return Err(Error::corrupt(format!(
                    "{} in {} does not have the SHA-256 {} that was published",
                    file.path,
                    root.uri(),
                    file.sha256.short()
                )));
            }
        }
        Ok(path)
    }
}
