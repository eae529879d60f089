//! The one place that a table's `uri` names, where its own engine reads what is in it.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;
use url::Url;

use super::pattern::{Part, parts};
use super::walk::missing;
use super::{Finder, Place, resolved};
use crate::corpus::options::TableOptions;
use crate::error::{Error, Result};

/// A folder of a store, or a file that only its own engine can read.
pub(in crate::corpus::source) struct Folder {
    /// The store, from its top.
    pub(in crate::corpus::source) store: Arc<dyn ObjectStore>,
    /// Where the folder is in it.
    pub(in crate::corpus::source) path: ObjectPath,
    /// Its address, with a `/` at the end.
    pub(in crate::corpus::source) url: Url,
}

impl Finder<'_> {
    /// The folder that a table's `uri` names.
    ///
    /// # Errors
    /// Config for a `uri` that names no folder, or several; Input where there is none here.
    pub(in crate::corpus::source) async fn folder(
        &mut self,
        table: &TableOptions,
    ) -> Result<Folder> {
        let shown = table.shown_uri();
        let wrong = |e| Error::config(format!("{shown} is not a URI")).with_source(e);
        match self.place(table)? {
            Place::Local { path, escaped } => {
                let folder = self.local_path(&path, escaped, &shown)?;
                let real = tokio::fs::canonicalize(&folder).await;
                let folder = real.map_err(|e| missing(&folder, e))?;
                let no_address = || {
                    Error::input(format!("{} is not a folder that can be read", folder.display()))
                };
                let url = Url::from_directory_path(&folder).map_err(|()| no_address())?;
                let path = ObjectPath::from_absolute_path(&folder)
                    .map_err(|e| no_address().with_source(e))?;
                Ok(Folder { store: Arc::clone(&self.local), path, url })
            }
            Place::Web => Err(Error::config(format!(
                "{shown}: a web server does not list its files, so that no table with a log can be read from it; copy the \
                 table to a bucket or a folder"
            ))),
            Place::Remote { base, path } => {
                let parts = resolved(names(&path, true, &shown)?);
                let base = Url::parse(&base).map_err(wrong)?;
                let store = self.bucket(&base, &shown)?;
                let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
                let path = ObjectPath::from_iter(names.iter().copied());
                let mut url = base;
                url.path_segments_mut()
                    .map_err(|()| Error::config(format!("{shown} is not a URI")))?
                    .pop_if_empty()
                    .extend(names)
                    .push("");
                Ok(Folder { store, path, url })
            }
        }
    }

    /// The file that a table's `uri` names, on this machine.
    ///
    /// # Errors
    /// Config for a `uri` that names none here, or several.
    pub(in crate::corpus::source) fn local_file(&self, table: &TableOptions) -> Result<PathBuf> {
        let shown = table.shown_uri();
        match self.place(table)? {
            Place::Local { path, escaped } => self.local_path(&path, escaped, &shown),
            _ => Err(Error::config(format!(
                "{shown}: a database file is read where it is; copy it to this machine and name that copy"
            ))),
        }
    }

    fn local_path(&self, path: &str, escaped: bool, shown: &str) -> Result<PathBuf> {
        let mut out = match path.starts_with('/') {
            true => PathBuf::from("/"),
            false => self.base_dir.to_owned(),
        };
        out.extend(names(path, escaped, shown)?.into_iter().map(|part| part.name));
        Ok(out)
    }
}

/// The parts of a path that must not be a pattern.
fn names(path: &str, escaped: bool, shown: &str) -> Result<Vec<Part>> {
    let parts = parts(path, escaped)?;
    match parts.iter().any(|part| part.pattern.is_some()) {
        true => Err(Error::config(format!(
            "{shown} names several places by a pattern, but a table is in one; write one [[corpus.tables]] each"
        ))),
        false => Ok(parts),
    }
}
