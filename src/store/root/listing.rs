//! What is under a root: what this program made, which it may delete, and what is somebody else's.

use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStoreExt};

use super::handle::Root;
use super::object::Listed;
use crate::error::{Error, Result};
use crate::store::local::{self, LocalFile, Swept};
use crate::store::{key, layout};

/// A file under the root that this program did not make: it is read, never changed.
#[derive(Debug)]
pub struct Foreign {
    /// Where it is, from the root on.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Local(PathBuf),
    Object(ObjectPath),
}

/// What is somebody else's under a root.
#[derive(Debug, Default)]
pub struct Foreigners {
    /// Its files.
    pub files: Vec<Foreign>,
    /// Folders that could not be read, each with the reason.
    pub closed: Vec<(String, String)>,
}

impl Root {
    /// Every object whose key starts with the folder `prefix` (empty: every object), sorted by key. In a local root
    /// symbolic links are passed over.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        if !prefix.is_empty() {
            key::check(prefix)?;
        }
        let mut found: Vec<Listed> = match self.durable {
            Some(_) => {
                let (files, closed) = self.walk(prefix).await?;
                if let Some((folder, cause)) = closed.into_iter().next() {
                    return Err(self.unlisted(&folder, cause));
                }
                let listed = |file: LocalFile| Listed {
                    key: file.key,
                    size: file.size,
                    modified: file.modified,
                };
                let whole = |file: &LocalFile| layout::staged_for(&file.key).is_none();
                files.into_iter().filter(whole).map(listed).collect()
            }
            None => self.metas(prefix).await?.iter().map(|meta| self.listed(meta)).collect(),
        };
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Every object that this program made, sorted by key: what it may delete. Roots below this one and other people's
    /// files are not among them, however they are called.
    pub async fn own_objects(&self) -> Result<Vec<Listed>> {
        let mut own = Vec::new();
        for top in layout::TOPS {
            own.extend(self.list(top).await?);
        }
        own.retain(|object| layout::parse(&object.key).is_some());
        own.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(own)
    }

    /// Everything else under this root, sorted by key. Half-written files are not among it.
    pub async fn foreigners(&self) -> Result<Foreigners> {
        let is_own = |key: &str| layout::parse(key).or_else(|| layout::staged_for(key)).is_some();
        let mut found = Foreigners::default();
        if self.durable.is_some() {
            let (files, closed) = self.walk("").await?;
            found.files.extend(files.into_iter().map(|file| Foreign {
                key: file.key,
                size: file.size,
                place: Place::Local(file.path),
            }));
            found.closed = closed.into_iter().map(|(key, why)| (key, why.to_string())).collect();
        } else {
            found.files.extend(self.metas("").await?.into_iter().map(|meta| {
                let Listed { key, size, .. } = self.listed(&meta);
                Foreign { key, size, place: Place::Object(meta.location) }
            }));
        }
        found.files.retain(|file| !is_own(&file.key));
        found.files.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// The bytes `range` of a file that this program did not make, whatever its name.
    pub async fn foreign_range(&self, file: &Foreign, range: Range<u64>) -> Result<Bytes> {
        match &file.place {
            Place::Object(path) => {
                let read = || self.store.get_range(path, range.clone());
                self.repeated("get a range of", &file.key, read).await
            }
            Place::Local(path) => {
                let path = path.clone();
                let read = local::blocking(move || read_range(&path, range));
                read.await.map_err(|cause| {
                    let message = format!("cannot read {} in {}", file.key, self.uri);
                    Error::io(cause, message)
                })
            }
        }
    }

    /// Removes half-written files last written before `before`, and empty folders as old, where they are this
    /// program's. A root that is not a local folder has none; unfinished multipart uploads in a bucket are for its
    /// lifecycle rule.
    pub async fn sweep_staged(&self, before: DateTime<Utc>, dry_run: bool) -> Result<Swept> {
        let Some(folder) = self.local.clone() else { return Ok(Swept::default()) };
        local::sweep(folder, before, dry_run)
            .await
            .map_err(|cause| Error::io(cause, format!("cannot sweep {}", self.uri)))
    }

    async fn walk(&self, prefix: &str) -> Result<(Vec<LocalFile>, Vec<(String, std::io::Error)>)> {
        let folder = self.local.clone().unwrap_or_default();
        match local::walk(folder, prefix.to_owned()).await {
            Ok(walked) => Ok((walked.files, walked.closed)),
            Err(refused) if refused.kind() == std::io::ErrorKind::InvalidInput => {
                Err(Error::input(refused.to_string()))
            }
            Err(cause) => Err(self.unlisted(prefix, cause)),
        }
    }

    fn unlisted(&self, folder: &str, cause: std::io::Error) -> Error {
        let source = Box::new(cause);
        self.error("list", folder, &object_store::Error::Generic { store: "local", source })
    }

    async fn metas(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        let full = self.path(prefix);
        // A web server that does not list says so at once: no use in asking again.
        let store = if self.is_read_only() { &self.creator } else { &self.store };
        let listing = || async { store.list(Some(&full)).try_collect().await };
        self.repeated("list", prefix, listing).await
    }

    fn listed(&self, meta: &ObjectMeta) -> Listed {
        let key = self.key_of(&meta.location);
        Listed { key, size: meta.size, modified: meta.last_modified }
    }

    fn key_of(&self, location: &ObjectPath) -> String {
        let full = location.as_ref();
        full.strip_prefix(self.prefix.as_ref()).unwrap_or(full).trim_start_matches('/').to_owned()
    }
}

fn read_range(path: &std::path::Path, range: Range<u64>) -> std::io::Result<Bytes> {
    use std::io::{Read, Seek, SeekFrom};

    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(range.start))?;
    let mut bytes = Vec::new();
    file.take(range.end - range.start).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
