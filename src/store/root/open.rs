//! From a URI to a [`Root`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreScheme};
use url::Url;

use super::handle::Root;
use crate::error::{Error, ErrorKind, Result, ResultExt, kind_of_io, way_out};
use crate::store::cloud::{self, StorageOptions};
use crate::store::error;
use crate::store::local::DurableLocal;
use crate::store::named::expand_text;

/// Stores behind `memory://name`, shared by this process.
static NAMED_MEMORY: LazyLock<Mutex<BTreeMap<String, Arc<InMemory>>>> =
    LazyLock::new(Mutex::default);

impl Root {
    /// Opens a root with default [`StorageOptions`]: see [`Root::open_with`].
    pub fn open(uri: &str) -> Result<Self> {
        Self::open_with(uri, &StorageOptions::default())
    }

    /// Opens `s3://bucket/prefix`, `gs://`, `az://container/prefix`, `http(s)://` (read only), `file://`, a plain
    /// local path (created if missing), `memory://name` (one store per name and process) or `memory://` (a new one).
    /// Nothing is asked of the network yet.
    ///
    /// # Errors
    /// Config for a URI or option that makes no sense; Input or Resource where a local folder cannot be made.
    pub fn open_with(uri: &str, options: &StorageOptions) -> Result<Self> {
        let expanded = expand_text(uri, Path::new(""))?;
        let uri = &*expanded;
        let Some((scheme, rest)) = uri.split_once("://") else {
            return local(Path::new(uri));
        };
        if scheme == "memory" {
            return memory(rest, uri);
        }
        let url = parse(uri, rest)?;
        if scheme == "file" {
            let path = url.to_file_path().map_err(|()| {
                Error::config(format!("{uri} is not an absolute file URI: write file:///path"))
            })?;
            return local(&path);
        }
        let (cloud, prefix) = open_cloud(&url, options, false)?;
        let mut root = Self::from_store(cloud.store, uri.trim_end_matches('/'), None);
        root.creator = cloud.creator;
        root.web = cloud.web;
        root.prefix = prefix;
        root.repeats = cloud::repeats(options);
        root.proven = Arc::default();
        Ok(root)
    }
}

/// The store of an `s3://`, `gs://`, `az://` or `http(s)://` URL, and what of the URL is a path in it: for readers
/// of objects that are not under a root. Nothing is asked of the network.
///
/// # Errors
/// Config for a URL or option that makes no sense.
pub fn open_store(
    url: &Url,
    options: &StorageOptions,
) -> Result<(Arc<dyn ObjectStore>, ObjectPath)> {
    let (cloud, path) = open_cloud(url, options, true)?;
    Ok((cloud.store, path))
}

/// One file of a web server, by its whole address: every path in the store is this file. What the store says in errors
/// leaves the query out, which may be a signature. Nothing is asked of the network.
///
/// # Errors
/// Config for an option that makes no sense.
pub fn open_web_file(url: &Url, options: &StorageOptions) -> Result<Arc<dyn ObjectStore>> {
    let shown = &url[..url::Position::AfterPath];
    cloud::open_file(url, options)
        .map_err(|cause| error::from_store("open", "", shown, &cause))
        .map_err(|error| Error::config(format!("{error}; check the `storage` options")))
}

fn open_cloud(
    url: &Url,
    options: &StorageOptions,
    roams: bool,
) -> Result<(cloud::Cloud, ObjectPath)> {
    let (kind, path) = ObjectStoreScheme::parse(url).map_err(|cause| {
        Error::config(format!(
            "{url} cannot be opened; known are file://, s3://, gs://, az://, http(s)://, memory:// and a path"
        ))
        .with_source(cause)
    })?;
    let cloud = cloud::open(&kind, url, options, roams)
        .map_err(|cause| error::from_store("open", "", url.as_str(), &cause))
        .map_err(|error| Error::config(format!("{error}; check the `storage` options")))?;
    Ok((cloud, path))
}

fn parse(uri: &str, rest: &str) -> Result<Url> {
    let scheme = uri.split_once("://").map_or("", |(scheme, _)| scheme);
    // Neither is echoed: both are where people paste secrets.
    if rest.split('/').next().is_some_and(|host| host.contains('@'))
        && !matches!(scheme, "abfs" | "abfss")
    {
        return Err(Error::config(format!(
            "a {scheme}:// root must not hold credentials; put them into the environment"
        )));
    }
    if uri.contains(['?', '#']) {
        return Err(Error::config(format!(
            "a {scheme}:// root must not have a query or fragment; put signatures and tokens into the environment"
        )));
    }
    Url::parse(uri).map_err(|cause| Error::config(format!("{uri} is not a URI")).with_source(cause))
}

fn memory(name: &str, uri: &str) -> Result<Root> {
    let name = name.trim_matches('/');
    if name.is_empty() {
        return Ok(Root::in_memory());
    }
    let mut stores = NAMED_MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let store = Arc::clone(stores.entry(name.to_owned()).or_default());
    Ok(Root::from_store(store, uri, None))
}

/// What to say where a file stands in the place of a root's folder, or of one above it.
pub(crate) fn file_in_the_way(folder: &Path) -> Option<String> {
    let file = folder.ancestors().find(|path| path.exists()).filter(|at| !at.is_dir())?;
    Some(match file == folder {
        true => format!("{} is a file; a root is a folder", file.display()),
        false => format!(
            "{} is a file, so the folder {} cannot be made",
            file.display(),
            folder.display()
        ),
    })
}

fn local(path: &Path) -> Result<Root> {
    if path.as_os_str().is_empty() {
        return Err(Error::config("the root is empty; name a folder or a URI"));
    }
    // Of such a file the system would say that it exists, which is not what is wrong.
    if let Some(found) = file_in_the_way(path) {
        return Err(Error::input(found));
    }
    let made = std::fs::create_dir_all(path).and_then(|()| path.canonicalize());
    let folder: PathBuf = made.map_err(|cause| {
        let kind = match kind_of_io(&cause) {
            ErrorKind::Resource => ErrorKind::Resource,
            _ => ErrorKind::Input,
        };
        let way_out = way_out(&cause).unwrap_or("check its owner and mode");
        let message = format!("cannot make the root folder {}; {way_out}", path.display());
        Error::new(kind, message).with_source(cause)
    })?;
    let uri = Url::from_directory_path(&folder)
        .map_or_else(|()| folder.display().to_string(), |url| url.to_string());
    let uri = uri.trim_end_matches('/').to_owned();
    let store = DurableLocal::open(&folder)
        .or_error(ErrorKind::Input, || format!("cannot open the root folder {}", path.display()))?;
    let store = Arc::new(store);
    let mut root = Root::from_store(Arc::clone(&store) as _, &uri, Some(folder));
    root.durable = Some(store);
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_open_offline_and_secrets_are_not_echoed() {
        let options = StorageOptions {
            endpoint: Some("http://localhost:9".into()),
            region: Some("eu-west-1".into()),
            path_style: Some(true),
            ..StorageOptions::default()
        };
        let root = Root::open_with("s3://bucket/deep/prefix/", &options).unwrap();
        assert_eq!(root.uri(), "s3://bucket/deep/prefix");
        assert_eq!(root.object("snapshots/1").1.as_ref(), "deep/prefix/snapshots/1");
        assert!(root.local_path("snapshots/1").is_none());
        let http = Root::open("https://example.com/pub").unwrap();
        assert!(http.is_read_only());

        for uri in [
            "s3://AKIA:verysecret@bucket/x",
            "https://user:verysecret@host/x",
            "https://host/c?sig=verysecret",
            "az://container/x?sig=verysecret",
        ] {
            let error = Root::open(uri).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(!format!("{error:?}").contains("verysecret"), "{error:?}");
        }
        assert_eq!(Root::open("ftp://host/x").unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(Root::open("").unwrap_err().kind(), ErrorKind::Config);
    }
}
