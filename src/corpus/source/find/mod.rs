//! Finds the files of a table, local, in a bucket or on a web server: by one reading of `uri`, with the same rules
//! everywhere.
//!
//! Nothing is left out silently: what cannot be notes is refused by name or told in a warning. No file is opened and no
//! object is requested separately, so that the number of files costs no descriptors and no requests.

#[cfg_attr(
    not(all(feature = "delta", feature = "databases")),
    allow(dead_code, reason = "engines ask for it that are not in this build")
)]
mod folder;
mod found;
mod kind;
mod lake;
mod local;
mod partitions;
mod pattern;
mod remote;
mod select;
mod walk;
mod web;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreScheme};
use url::Url;

#[cfg(feature = "delta")]
pub(super) use self::folder::Folder;
use self::found::{Limits, Search};
pub(super) use self::kind::FileKind;
use self::local::LocalSearch;
use self::pattern::{Part, has_scheme, parts};
use self::remote::RemoteSearch;
use self::web::WebFile;
use super::file::SourceFile;
use super::pinned::PinnedTable;
use crate::corpus::options::{TableFormat, TableOptions};
use crate::error::{Error, ErrorKind, Result, unless};
use crate::observe::Reporter;
use crate::store::named::expand_text;
use crate::store::{Root, StorageOptions, open_store};
use crate::types::Cancel;

/// The root that is published to, whose files are not notes.
#[derive(Clone, Copy)]
pub(in crate::corpus) struct Output<'a> {
    pub(in crate::corpus) root: &'a Root,
    /// How it is reached: a bucket of the same name on another server is another one.
    pub(in crate::corpus) storage: &'a StorageOptions,
}

/// Where a `uri` leads.
enum Place {
    /// A path here; of a URI, where `escaped`.
    Local { path: String, escaped: bool },
    /// One file of a web server.
    Web,
    /// A path in a bucket.
    Remote { base: String, path: String },
}

/// Finds the files of tables.
pub(in crate::corpus) struct Finder<'a> {
    base_dir: &'a Path,
    storage: &'a StorageOptions,
    output: Option<Output<'a>>,
    cancel: &'a Cancel,
    reporter: &'a dyn Reporter,
    /// The buckets seen so far.
    buckets: BTreeMap<String, Arc<dyn ObjectStore>>,
    local: Arc<dyn ObjectStore>,
}

impl<'a> Finder<'a> {
    /// Relative paths start from `base_dir`; `storage` is how the tables are reached.
    pub(in crate::corpus) fn new(
        base_dir: &'a Path,
        storage: &'a StorageOptions,
        output: Option<Output<'a>>,
        cancel: &'a Cancel,
        reporter: &'a dyn Reporter,
    ) -> Self {
        let local = Arc::new(LocalFileSystem::new());
        Self { base_dir, storage, output, cancel, reporter, buckets: BTreeMap::new(), local }
    }

    /// The files of a table, at least one, sorted by path, of one store and one kind; none of them is empty.
    ///
    /// # Errors
    /// Config for a `uri` that makes no sense; Input where nothing is found, or what is found is not a table's files;
    /// Unsupported for formats that cannot be read and tables of another engine; what a store answers; as
    /// [`Cancel::check`], within a moment.
    pub(super) async fn find(
        &mut self,
        table: &TableOptions,
    ) -> Result<(Vec<SourceFile>, FileKind)> {
        self.cancel.check()?;
        let cancel = self.cancel;
        let search = cancel.unless_stopped(self.search(table)).await?;
        if let Some(output) = self.output.filter(|_| search.left_out_root) {
            self.reporter.info(format!(
                "table `{}`: left out {}, which is publish.root",
                table.name,
                output.root.uri()
            ));
        }
        select::select(table, search, self.reporter)
    }

    /// The files of a table that was found before: nothing is looked for.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub(super) fn again(
        &mut self,
        table: &TableOptions,
        known: &PinnedTable,
    ) -> Result<(Vec<SourceFile>, FileKind)> {
        let store = match self.place(table)? {
            Place::Local { .. } => Arc::clone(&self.local),
            Place::Web => web::store(&table.uri, &table.shown_uri(), self.storage)?,
            Place::Remote { base, .. } => {
                let shown = table.shown_uri();
                let base = Url::parse(&base)
                    .map_err(|e| Error::config(format!("{shown} is not a URI")).with_source(e))?;
                self.bucket(&base, &shown)?
            }
        };
        let files = known.files.iter().map(|file| file.again(&table.name, &store));
        let files = files.collect::<Result<Vec<_>>>()?;
        let name = files.first().map_or("", |file| file.path.as_str());
        let kind = FileKind::of(name, table.format)?;
        let kind = kind.ok_or_else(|| Error::corrupt(format!("{name} is not a file of a table")));
        Ok((files, kind?))
    }

    /// Looks whether the files of a table are there, if it is one of this machine. Returns whether it is.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub(in crate::corpus) async fn look_here(&self, table: &TableOptions) -> Result<bool> {
        if matches!(table.format, Some(TableFormat::Postgres | TableFormat::Mysql)) {
            return Ok(false);
        }
        let Place::Local { path, escaped } = self.place(table)? else { return Ok(false) };
        let found = self.local(&path, &table.shown_uri(), escaped).await;
        // Which files of it count, its engine knows.
        let is_delta = table.format == Some(TableFormat::Delta);
        unless(found, |error| is_delta && error.kind() == ErrorKind::Unsupported)?;
        Ok(true)
    }

    /// Refuses a table in the root that is published to, before a file of it is looked for. Of an address that makes no
    /// sense [`Self::find`] says more.
    ///
    /// # Errors
    /// Input, as [`Self::find`].
    pub(in crate::corpus) async fn refuse_root(&self, table: &TableOptions) -> Result<()> {
        let shown = table.shown_uri();
        match self.place(table) {
            Ok(Place::Local { path, escaped }) => match self.local_search(&path, &shown, escaped) {
                Ok(search) => looking(move || search.refuse_root()).await,
                Err(_) => Ok(()),
            },
            Ok(Place::Remote { base, path }) => {
                let (Ok(base), Ok(parts)) = (Url::parse(&base), parts(&path, true)) else {
                    return Ok(());
                };
                let root = self.output.and_then(|output| root_in(&base, output, self.storage));
                remote::refuse_root(&base, &resolved(parts), root.as_deref(), &shown)
            }
            Ok(Place::Web) | Err(_) => Ok(()),
        }
    }

    /// Whether there are Markdown notes where a table is, and no file whose ending names another format.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub(in crate::corpus) async fn holds_markdown(&mut self, table: &TableOptions) -> Result<bool> {
        let search = self.search(table).await?;
        let mut names = search.files.iter().map(|file| file.name.as_str());
        let is_data = names.clone().any(walk::is_data);
        Ok(!is_data && names.any(kind::is_markdown))
    }

    async fn search(&mut self, table: &TableOptions) -> Result<Search> {
        let shown = table.shown_uri();
        match self.place(table)? {
            Place::Local { path, escaped } => self.local(&path, &shown, escaped).await,
            Place::Web => WebFile::new(&table.uri, &shown)?.find(self.storage).await,
            Place::Remote { base, path } => self.remote(&base, &path, &shown).await,
        }
    }

    /// Where a table's `uri` leads.
    fn place(&self, table: &TableOptions) -> Result<Place> {
        let shown = table.shown_uri();
        let uri = expand_text(&table.uri, self.base_dir)?;
        let Some((scheme, rest)) = has_scheme(&uri) else {
            return Ok(Place::Local { path: uri.into_owned(), escaped: false });
        };
        let scheme = &scheme.to_ascii_lowercase();
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        // Never echoed: people paste secrets there.
        if host.contains('@') && !matches!(scheme.as_str(), "abfs" | "abfss") {
            return Err(Error::config(format!(
                "{shown}: a uri must not hold credentials; put them into the environment"
            )));
        }
        match scheme.as_str() {
            "file" if matches!(host, "" | "localhost") => {
                Ok(Place::Local { path: rest[host.len()..].to_owned(), escaped: true })
            }
            "http" | "https" if self.is_web(&table.uri, &shown)? => Ok(Place::Web),
            "s3" | "s3a" | "gs" | "az" | "adl" | "azure" | "abfs" | "abfss" | "http" | "https" => {
                if ["?sig=", "&sig="].iter().any(|part| rest.contains(part)) {
                    return Err(Error::config(format!(
                        "{shown}: a uri must not hold a signature; set AZURE_STORAGE_SAS_TOKEN in the environment"
                    )));
                }
                let path = rest[host.len()..].to_owned();
                Ok(Place::Remote { base: format!("{scheme}://{host}/"), path })
            }
            _ => Err(Error::config(format!(
                "{shown} cannot be read; known are s3://, gs://, az://, http(s)://, file:// with an absolute path, and a path"
            ))),
        }
    }

    async fn local(&self, path: &str, shown: &str, escaped: bool) -> Result<Search> {
        let search = self.local_search(path, shown, escaped)?;
        let store = Arc::clone(&self.local);
        looking(move || search.run(&store)).await
    }

    fn local_search(&self, path: &str, shown: &str, escaped: bool) -> Result<LocalSearch> {
        let absolute = path.starts_with('/');
        let start = match self.base_dir {
            _ if absolute => PathBuf::from("/"),
            base if base.as_os_str().is_empty() => PathBuf::from("."),
            base => base.to_owned(),
        };
        if escaped && !absolute {
            return Err(Error::config(format!(
                "{shown} names no absolute path: write file:///path"
            )));
        }
        let root = self.output.and_then(|output| output.root.local_folder());
        Ok(LocalSearch {
            base: start,
            parts: parts(path, escaped)?,
            shown: shown.to_owned(),
            root: root.map(Path::to_owned),
            cancel: self.cancel.clone(),
        })
    }

    async fn remote(&mut self, base: &str, path: &str, shown: &str) -> Result<Search> {
        let base = Url::parse(base)
            .map_err(|e| Error::config(format!("{shown} is not a URI")).with_source(e))?;
        let path = path.trim_start_matches('/');
        if path.contains("//") {
            return Err(Error::unsupported(format!(
                "{shown}: a path with `//` in it cannot be read"
            )));
        }
        let parts = resolved(parts(path, true)?);
        let root = self.output.and_then(|output| root_in(&base, output, self.storage));
        let store = self.bucket(&base, shown)?;
        let search = RemoteSearch {
            store: &store,
            base: &base,
            parts: &parts,
            is_folder: path.ends_with('/'),
            shown,
            root: root.as_deref(),
            limits: Limits::DEFAULT,
            cancel: self.cancel,
        };
        search.run().await
    }

    fn bucket(&mut self, base: &Url, shown: &str) -> Result<Arc<dyn ObjectStore>> {
        if let Some(store) = self.buckets.get(base.as_str()) {
            return Ok(Arc::clone(store));
        }
        let (store, path) = open_store(&with_path(base), self.storage)?;
        if path.as_ref() != PROBE {
            return Err(Error::unsupported(format!(
                "{shown}: write the bucket as the host, e.g. s3://bucket/path"
            )));
        }
        self.buckets.insert(base.to_string(), Arc::clone(&store));
        Ok(store)
    }

    /// Whether an `http(s)` address is that of a plain file: the clouds' own addresses are asked as their stores,
    /// unless they are signed.
    fn is_web(&self, uri: &str, shown: &str) -> Result<bool> {
        let url = Url::parse(uri)
            .map_err(|e| Error::config(format!("{shown} is not a URL")).with_source(e))?;
        let cloud =
            !matches!(ObjectStoreScheme::parse(&url), Ok((ObjectStoreScheme::Http, _)) | Err(_));
        Ok(url.query().is_some() || !cloud)
    }
}

/// Looks at a disk beside the runtime's threads.
async fn looking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(look)
        .await
        .map_err(|e| Error::internal("looking for files").with_source(e))?
}

/// A path of two parts, to see what of a URL is the bucket.
const PROBE: &str = "a/b";

fn with_path(base: &Url) -> Url {
    let mut url = base.clone();
    url.set_path(PROBE);
    url
}

/// Without `..`.
fn resolved(parts: Vec<Part>) -> Vec<Part> {
    let mut out: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match part.name.as_str() {
            ".." => drop(out.pop()),
            _ => out.push(part),
        }
    }
    out
}

/// The path of the root that is published to, where it is in the bucket `base`.
fn root_in(base: &Url, output: Output<'_>, storage: &StorageOptions) -> Option<String> {
    let root = Url::parse(output.root.uri()).ok()?;
    let scheme =
        |url: &Url| if url.scheme() == "s3a" { "s3".to_owned() } else { url.scheme().to_owned() };
    let authority =
        |url: &Url| url[url::Position::BeforeUsername..url::Position::AfterPort].to_owned();
    let same = scheme(&root) == scheme(base) && authority(&root) == authority(base);
    if !same || output.storage != storage {
        return None;
    }
    let path = ObjectPath::from_url_path(root.path()).ok()?;
    Some(path.as_ref().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Silent;

    fn table(uri: &str) -> TableOptions {
        serde_json::from_value(serde_json::json!({"name": "notes", "uri": uri})).unwrap()
    }

    /// Runs only in a process of its own, which may open 256 files.
    const CHILD: &str = "SCALINGNOTE_TEST_MANY_FILES";

    #[tokio::test]
    async fn twenty_thousand_files_are_found_at_256_descriptors() {
        let Some(dir) = std::env::var_os(CHILD) else {
            let dir = tempfile::tempdir().unwrap();
            for at in 0..20_000 {
                std::fs::write(dir.path().join(format!("{at}.csv")), "x").unwrap();
            }
            let output = std::process::Command::new("sh")
                .args(["-c", "ulimit -n 256 && exec \"$0\" twenty_thousand_files"])
                .arg(std::env::current_exe().unwrap())
                .env(CHILD, dir.path())
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && told.contains("1 passed"), "{output:?}");
            return;
        };
        let (storage, cancel) = (StorageOptions::default(), Cancel::new());
        let mut finder = Finder::new(Path::new(&dir), &storage, None, &cancel, &Silent);
        for uri in ["", "*.csv"] {
            let (files, _) = finder.find(&table(uri)).await.unwrap();
            assert_eq!(files.len(), 20_000);
            assert!(files.is_sorted_by(|a, b| a.meta.location.as_ref() < b.meta.location.as_ref()));
            crate::corpus::source::file::check_unchanged(&files).await.unwrap();
        }
    }

    #[test]
    fn a_root_is_known_in_its_bucket() {
        let storage = StorageOptions::default();
        let at = |root: &str, table: &str, with: &StorageOptions| {
            let root = Root::open_with(root, &storage).unwrap();
            let output = Output { root: &root, storage: &storage };
            root_in(&Url::parse(table).unwrap(), output, with)
        };
        let inside = |root, table| at(root, table, &storage);
        assert_eq!(inside("s3://notes/a%20b/out/", "s3a://notes/"), Some("a b/out".into()));
        assert_eq!(inside("s3://notes", "s3://notes/"), Some(String::new()));
        assert_eq!(inside("s3://notes/out", "s3://other/"), None);
        assert_eq!(inside("gs://notes/out", "s3://notes/"), None);
        let elsewhere = StorageOptions { region: Some("x".into()), ..StorageOptions::default() };
        assert_eq!(at("s3://notes/out", "s3://notes/", &elsewhere), None);
    }
}
