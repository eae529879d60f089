//! One file of a table, and whether it is still what it was.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use crate::corpus::outcome::InputFile;
use crate::error::{Error, Result};
use crate::store::unreadable;

/// How many requests to a store run at once.
pub(super) const REQUESTS: usize = 16;

/// A file of a table as it was before the run.
#[derive(Clone)]
pub(in crate::corpus) struct SourceFile {
    pub(in crate::corpus) table: String,
    pub(in crate::corpus) url: Url,
    pub(in crate::corpus) store: Arc<dyn ObjectStore>,
    pub(in crate::corpus) meta: ObjectMeta,
}

impl SourceFile {
    /// What the report says of the file.
    pub(in crate::corpus) fn input(&self) -> InputFile {
        InputFile {
            table: self.table.clone(),
            uri: self.url.to_string(),
            size: self.meta.size,
            etag: self.meta.e_tag.clone(),
            modified: self.meta.last_modified.to_rfc3339(),
        }
    }

    /// Whether the file is still what it was.
    async fn unchanged(&self) -> Result<bool> {
        match self.store.head(&self.meta.location).await {
            Ok(now) => Ok((now.size, &now.e_tag, now.last_modified)
                == (self.meta.size, &self.meta.e_tag, self.meta.last_modified)),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(unreadable(self.url.as_str(), &e)),
        }
    }
}

/// Input error where a file changed since it was listed: what was read may be half old, half new.
pub(in crate::corpus) async fn check_unchanged(files: &[SourceFile]) -> Result<()> {
    let mut checks = futures::stream::iter(files.iter().cloned())
        .map(|file| async move { Ok::<_, Error>((file.unchanged().await?, file)) })
        .buffered(REQUESTS);
    while let Some((same, file)) = checks.try_next().await? {
        if !same {
            return Err(Error::input(format!(
                "{} of table `{}` changed while it was read; run again once nobody writes to it",
                file.url, file.table
            )));
        }
    }
    Ok(())
}
