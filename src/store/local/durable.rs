//! A local folder as an object store whose objects survive a power cut.
//!
//! `object_store` never fsyncs. Here a created object is written to a staged name, fsynced, given its name
//! (which fails if the name is taken) and its folder fsynced; a finished multipart upload and a copy are
//! fsynced with their folders before they are reported done.
//!
//! No time stamp is ever set: the file system, a file server for instance, stamps what is written by its own
//! clock, so the ages of objects do not depend on the machine that wrote them. An object is as old as its bytes, which
//! are staged a moment before the name appears. Permissions are left to the umask.

use std::collections::HashSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart,
};

use super::blocking::blocking;
use super::link::name_new;
use crate::store::{Border, layout};

/// See the module's docs. Keys have passed [`crate::store::key::check`].
pub struct DurableLocal {
    inner: LocalFileSystem,
    folder: Arc<Folder>,
}

const STOOD_STILL: &str =
    "this process was suspended for so long that a gc removed what it was about to name";

/// The root folder and which of its folders are known to be durable.
#[derive(Debug)]
struct Folder {
    root: PathBuf,
    synced: Mutex<HashSet<PathBuf>>,
}

impl DurableLocal {
    /// Opens `root`, an existing folder.
    pub fn open(root: &Path) -> Result<Self> {
        let inner = LocalFileSystem::new_with_prefix(root)?;
        let folder = Folder { root: root.to_owned(), synced: Mutex::default() };
        Ok(Self { inner, folder: Arc::new(folder) })
    }

    /// Fsyncs an object that something else wrote, its folder and the folders above it.
    pub async fn sync(&self, location: &ObjectPath) -> Result<()> {
        let path = self.inner.path_to_filesystem(location)?;
        let folder = Arc::clone(&self.folder);
        blocking(move || folder.sync_file(&path).map_err(|e| local_error(&path, e))).await
    }
}

impl Folder {
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()?;
        self.sync_above(path)
    }

    /// Fsyncs the folder of `path`, and once per process the folders above it up to the root.
    fn sync_above(&self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        sync_folder(parent)?;
        let mut folder = parent;
        while folder != self.root && folder.starts_with(&self.root) {
            // The folder's own name is in the folder above it.
            if !self.known().insert(folder.to_owned()) {
                break;
            }
            let Some(above) = folder.parent() else { break };
            if let Err(error) = sync_folder(above) {
                self.known().remove(folder);
                return Err(error);
            }
            folder = above;
        }
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the folder of `path`; a folder made again is not known to be durable, whatever was before.
    fn make_parent(&self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if parent.is_dir() {
            return Ok(());
        }
        let mut missing = parent;
        while missing.starts_with(&self.root) && !missing.is_dir() {
            self.known().remove(missing);
            let Some(above) = missing.parent() else { break };
            missing = above;
        }
        std::fs::create_dir_all(parent)
    }

    /// Writes `payload` to a staged name beside `path`, durable but not yet visible.
    fn stage(&self, path: &Path, payload: &PutPayload) -> io::Result<PathBuf> {
        let mut name = path.as_os_str().to_owned();
        name.push(layout::staged(rand::random()));
        let staged = PathBuf::from(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let mut file = match options.open(&staged) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_parent(path)?;
                options.open(&staged)?
            }
            other => other?,
        };
        let write = |file: &mut File| {
            for piece in payload.iter() {
                let (first, rest) = piece.split_at(piece.len() / 2);
                file.write_all(first)?;
                Border::Torn.pass();
                file.write_all(rest)?;
            }
            file.sync_all()
        };
        let written = write(&mut file);
        match written {
            Ok(()) => Ok(staged),
            Err(error) => {
                let _ = std::fs::remove_file(&staged); // gc takes what cannot be removed now
                Err(error)
            }
        }
    }

    fn put(&self, path: &Path, payload: &PutPayload, create: bool) -> Result<()> {
        let failed = |error: io::Error| local_error(path, error);
        let staged = self.stage(path, payload).map_err(failed)?;
        let named = match create {
            true => name_new(&staged, path),
            false => std::fs::rename(&staged, path),
        };
        match named {
            Ok(()) => self.sync_above(path).map_err(failed),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                // The winner may still be about to fsync: what this caller sees must be durable too.
                self.sync_above(path).map_err(failed)?;
                Err(Error::AlreadyExists {
                    path: path.display().to_string(),
                    source: Box::new(source),
                })
            }
            // Only a gc removes what is staged, a day later.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(failed(io::Error::new(io::ErrorKind::TimedOut, STOOD_STILL)))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn local_error(path: &Path, error: io::Error) -> Error {
    let source = Box::new(error);
    match source.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path: path.display().to_string(), source },
        io::ErrorKind::Unsupported => Error::NotSupported { source },
        _ => Error::Generic { store: "DurableLocal", source },
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "conditional update".into(),
                    implementer: self.to_string(),
                });
            }
        };
        let path = self.inner.path_to_filesystem(location)?;
        let folder = Arc::clone(&self.folder);
        blocking(move || folder.put(&path, &payload, create)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let path = self.inner.path_to_filesystem(location)?;
        let folder = Arc::clone(&self.folder);
        let parent = path.clone();
        blocking(move || folder.make_parent(&parent).map_err(|e| local_error(&parent, e))).await?;
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(DurableUpload { inner, path, folder: Arc::clone(&self.folder) }))
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: CopyOptions,
    ) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.sync(to).await
    }

    async fn rename_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: RenameOptions,
    ) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        self.sync(to).await
    }
}

impl fmt::Debug for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DurableLocal({})", self.folder.root.display())
    }
}

/// A multipart upload that is durable once `complete` returns. Until then it has a staged name; between the
/// rename and the fsync the object may be seen, which is harmless: nothing names it before `complete` returns.
#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    path: PathBuf,
    folder: Arc<Folder>,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let done = self.inner.complete().await?;
        let (folder, path) = (Arc::clone(&self.folder), self.path.clone());
        blocking(move || folder.sync_file(&path).map_err(|e| local_error(&path, e))).await?;
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn a_folder_made_anew_is_synced_anew_and_staged_files_are_hidden() {
        let root = tempfile::tempdir().unwrap();
        let store = DurableLocal::open(root.path()).unwrap();
        let key = ObjectPath::from("runs/a/plan.json");
        store.put_opts(&key, "x".into(), PutMode::Create.into()).await.unwrap();
        let folder = root.path().join("runs/a");
        assert!(store.folder.known().contains(&folder));
        std::fs::remove_dir_all(&folder).unwrap();
        store.folder.make_parent(&root.path().join("runs/a/plan.json")).unwrap();
        assert!(!store.folder.known().contains(&folder));
        assert!(store.folder.known().contains(&root.path().join("runs")));

        store.folder.stage(&root.path().join("runs/a/b"), &"torn".into()).unwrap();
        let listed = store.list_with_delimiter(Some(&"runs/a".into())).await.unwrap();
        assert!(listed.objects.is_empty(), "{listed:?}");
        assert!(store.head(&"runs/a/b".into()).await.is_err());
    }
}
