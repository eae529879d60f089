//! Models of a hub: the commit that names the very files.

use std::path::Path;

use crate::error::Result;
use crate::tower::files::hub::{Hub, is_commit};
use crate::tower::files::source::{ModelSource, parse};
use crate::tower::{Tower, TowerOptions};

impl TowerOptions {
    /// Whether a commit says which files of a hub's repository are meant. A branch or a tag may lead to others
    /// tomorrow.
    pub fn is_pinned(&self) -> bool {
        self.revision.as_deref().is_some_and(is_commit)
    }

    /// Whether the model is that of a hub and a push to its repository makes it another one.
    ///
    /// # Errors
    /// As [`TowerOptions::check_files`] about the model.
    pub fn may_move(&self, base_dir: &Path) -> Result<bool> {
        let hub = matches!(parse(&self.model, base_dir)?, ModelSource::Hub { .. });
        Ok(hub && !self.is_pinned())
    }

    /// The commit that a hub's model is at: of the files in the cache, which a run here would take if it were offline,
    /// else as the hub says. `None` where neither tells, and for a model that is not a hub's.
    ///
    /// # Errors
    /// As [`TowerOptions::may_move`]; Config where the hub cannot be set up.
    pub async fn commit(&self, base_dir: &Path) -> Result<Option<String>> {
        let ModelSource::Hub { repo, file } = parse(&self.model, base_dir)? else {
            return Ok(None);
        };
        Hub::from_env()?.commit(&repo, self.revision.as_deref(), file.as_deref()).await
    }
}

impl Tower {
    /// The repository of a hub and its commit that the files are of; `None` for files of one's own.
    pub fn commit(&self) -> Option<(&str, &str)> {
        let options = self.options();
        options.model.strip_prefix("hf:").zip(options.revision.as_deref())
    }
}
