//! One file of a web server. It is asked for by just the address that was given, query and all; what is said of it
//! leaves the query out, which may be a signature.

use std::sync::Arc;

use object_store::path::Path as ObjectPath;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt};
use url::Url;

use super::found::{Found, Search};
use super::pattern::WILD;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{StorageOptions, open_web_file, unreadable};

/// The store of the file at an address.
///
/// # Errors
/// As [`WebFile::new`].
pub(super) fn store(
    uri: &str,
    shown: &str,
    storage: &StorageOptions,
) -> Result<Arc<dyn ObjectStore>> {
    open_web_file(&WebFile::new(uri, shown)?.address, storage)
}

/// The address of one file.
pub(super) struct WebFile {
    /// With its query.
    address: Url,
    /// Without.
    shown: Url,
}

impl WebFile {
    /// # Errors
    /// Config for what is not the address of one file.
    pub(super) fn new(uri: &str, shown: &str) -> Result<Self> {
        let address = Url::parse(uri)
            .map_err(|e| Error::config(format!("{shown} is not a URL")).with_source(e))?;
        if address.fragment().is_some() {
            return Err(Error::config(format!(
                "{shown}: a `#` ends an address; write %23 for a `#` in a name"
            )));
        }
        if address.path().ends_with('/') && address.query().is_none() {
            return Err(not_one_file(shown));
        }
        let mut shown = address.clone();
        shown.set_query(None);
        Ok(Self { address, shown })
    }

    /// # Errors
    /// Input where there is no such file, Config where it cannot be one; what the server answers.
    pub(super) async fn find(&self, storage: &StorageOptions) -> Result<Search> {
        let store = open_web_file(&self.address, storage)?;
        let path = self.shown.path();
        let location = ObjectPath::from_url_path(path).unwrap_or_else(|_| ObjectPath::from(path));
        let meta = store.head(&location).await.map_err(|e| self.refused(&e))?;
        let name = location.filename().unwrap_or_default().to_owned();
        let store: Arc<dyn ObjectStore> = store;
        let file = Found { url: self.shown.clone(), store, meta, folders: Vec::new(), name };
        Ok(Search { files: vec![file], named: true, ..Search::default() })
    }

    fn refused(&self, cause: &StoreError) -> Error {
        let shown = self.shown.as_str();
        let missing = matches!(cause, StoreError::NotFound { .. });
        let glob = self.address.query().is_none() && shown.contains(WILD);
        if missing && glob {
            return not_one_file(shown);
        }
        if cause.to_string().contains("Content-Length Header missing") {
            return Error::input(format!(
                "the server does not say how long {shown} is; download it and name the file"
            ));
        }
        let error = unreadable(shown, cause);
        match self.address.query() {
            Some(_) if error.kind() == ErrorKind::Input && !missing => {
                error.context("if the address is signed, its signature may have expired")
            }
            _ => error,
        }
    }
}

fn not_one_file(shown: &str) -> Error {
    Error::config(format!(
        "{shown} is not a single file; a web server does not list its files: make each one a table and UNION ALL them"
    ))
}
