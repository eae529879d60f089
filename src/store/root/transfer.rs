//! Hashing and fetching whole files in bounded memory.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use tokio::io::AsyncWriteExt;

use super::checked::damaged;
use super::handle::{PIECE, Root};
use super::object::FileRef;
use crate::error::{Error, Result, ResultExt};
use crate::store::cloud::Repeats;
use crate::store::key;
use crate::store::local::{blocking, make_private};
use crate::types::{Digest256, Hasher256};

/// Pieces read at the same time: bounds memory.
const IN_FLIGHT: usize = 4;

impl Root {
    /// Makes an object that another writer (a streaming `BufWriter`) finished durable, and returns
    /// its reference; hashes it by reading it back.
    pub async fn seal(&self, key: &str) -> Result<FileRef> {
        self.sync(key).await?;
        let (sha256, pieces) = Box::pin(self.cut(key)).await?;
        Ok(FileRef { path: key.to_owned(), size: pieces.size(), sha256 })
    }

    /// Fsyncs an object and its folders where the root is a local folder; a cloud store has nothing to do.
    pub async fn sync(&self, key: &str) -> Result<()> {
        key::check(key)?;
        if let Some(local) = &self.durable {
            local.sync(&self.path(key)).await.map_err(|e| self.error("sync", key, &e))?;
        }
        self.written(key);
        Ok(())
    }

    /// SHA-256 and size of an object, read as a stream.
    pub async fn hash(&self, key: &str) -> Result<(Digest256, u64)> {
        let size = self.size_of(key).await?;
        let mut pieces = self.stream(key, size);
        let (mut hasher, mut length) = (Hasher256::new(), 0);
        while let Some(piece) = pieces.try_next().await? {
            hasher.raw(&piece);
            length += piece.len() as u64;
        }
        Ok((hasher.finish(), length))
    }

    /// The bytes of an object of `size` bytes in order, at most four pieces of 8 MiB of them in memory.
    pub(in crate::store) fn stream<'a>(
        &'a self,
        key: &'a str,
        size: u64,
    ) -> BoxStream<'a, Result<Bytes>> {
        // Disk and memory give one stream; so do web servers, which need not know ranges.
        if self.repeats == Repeats::NONE || self.is_read_only() {
            let failed = |cause: object_store::Error| self.error("read", key, &cause);
            let reply = async move {
                let reply = self.store.get(&self.path(key)).await.map_err(failed)?;
                Ok::<_, Error>(reply.into_stream().map_err(failed))
            };
            return futures::stream::once(reply).try_flatten().boxed();
        }
        let pieces = (0..size.div_ceil(PIECE))
            .map(move |at| self.get_range(key, at * PIECE..size.min((at + 1) * PIECE)));
        futures::stream::iter(pieces).buffered(IN_FLIGHT).boxed()
    }

    pub(in crate::store) async fn size_of(&self, key: &str) -> Result<u64> {
        self.size(key).await?.ok_or_else(|| self.missing(key))
    }

    fn missing(&self, key: &str) -> Error {
        // What an index is made of can be made again from the embeddings.
        let of_index = [".f16", ".usearch", ".ids.parquet"].iter().any(|end| key.ends_with(end));
        let uri = &self.uri;
        let way_out = match of_index && !self.is_read_only() {
            true => {
                format!("; after `scalingnote snapshot repair {uri}` the next run makes it again")
            }
            false => String::new(),
        };
        Error::not_found(format!("{key} is missing in {uri}{way_out}"))
    }

    /// A local file with the bytes of `file`, all of them checked: the object itself where the root is a local folder,
    /// else as [`Root::copy`]. Any process that can write to a local root can change that file afterwards.
    ///
    /// # Errors
    /// As [`Root::copy`].
    pub async fn fetch(&self, file: &FileRef, cache: &Path) -> Result<PathBuf> {
        key::check(&file.path)?;
        let Some(path) = self.local_path(&file.path) else {
            return Box::pin(self.copy(file, cache)).await;
        };
        self.check_size(file).await?;
        match self.hash(&file.path).await? == (file.sha256, file.size) {
            true => Ok(path),
            false => Err(self.other_hash(&file.path, &file.sha256.short())),
        }
    }

    /// A file in `cache` with the bytes of `file`, size and SHA-256 checked; one that is there already is used again
    /// while both still fit, and its time of change says so. Nothing that happens to the root later changes it. A local object is copied by the system:
    /// a file system that shares blocks between copies (Btrfs, XFS) takes no room for it.
    ///
    /// # Errors
    /// NotFound; Corrupt where size or SHA-256 differ; Resource where the cache's disk is full.
    pub async fn copy(&self, file: &FileRef, cache: &Path) -> Result<PathBuf> {
        key::check(&file.path)?;
        let target = cache.join(file.cached_name());
        let shown = target.display().to_string();
        let (expected, reused) = (file.clone(), target.clone());
        let fits = blocking(move || Ok::<_, std::io::Error>(is_reusable(&reused, &expected)))
            .await
            .unwrap_or(false);
        if !fits {
            let done = match self.local_path(&file.path) {
                Some(from) => self.copy_local(file, from, cache, &target).await,
                None => self.download(file, cache, &target).await,
            };
            done.context(|| format!("fetching into {shown}"))?;
        }
        Ok(target)
    }

    async fn copy_local(
        &self,
        file: &FileRef,
        from: PathBuf,
        cache: &Path,
        target: &Path,
    ) -> Result<()> {
        make_private(cache).map_err(|cause| not_cached(cache, cause))?;
        self.check_size(file).await?;
        let staged =
            tempfile::NamedTempFile::new_in(cache).map_err(|cause| not_cached(cache, cause))?;
        let (to, expected) = (staged.path().to_owned(), file.clone());
        let opened = std::fs::File::open(&from);
        let mut from = opened.map_err(|cause| read_error(&from.display().to_string(), cause))?;
        let copying = blocking(move || {
            // Not the original's permissions: a copy of a read-only file could not be replaced.
            std::io::copy(&mut from, &mut std::fs::File::create(&to)?)?;
            Ok::<_, std::io::Error>(is_intact(&to, &expected))
        });
        let failed = |cause: std::io::Error| {
            Error::io(cause, format!("cannot copy {} into {}", file.path, cache.display()))
        };
        if !copying.await.map_err(failed)? {
            return Err(self.other_hash(&file.path, &file.sha256.short()));
        }
        staged.persist(target).map(drop).map_err(|failed| not_cached(cache, failed.error))
    }

    async fn download(&self, file: &FileRef, cache: &Path, target: &Path) -> Result<()> {
        let in_cache = |cause| not_cached(cache, cause);
        make_private(cache).map_err(in_cache)?;
        let staged = tempfile::NamedTempFile::new_in(cache).map_err(in_cache)?;
        self.check_size(file).await?;
        let mut out = tokio::fs::File::from_std(staged.reopen().map_err(in_cache)?);
        let (mut hasher, mut size) = (Hasher256::new(), 0);
        let mut pieces = self.stream(&file.path, file.size);
        while let Some(piece) = pieces.try_next().await? {
            hasher.raw(&piece);
            size += piece.len() as u64;
            if size > file.size {
                return Err(self.wrong_size(file, size));
            }
            out.write_all(&piece).await.map_err(in_cache)?;
        }
        out.flush().await.map_err(in_cache)?;
        if size != file.size {
            return Err(self.wrong_size(file, size));
        }
        if hasher.finish() != file.sha256 {
            return Err(self.other_hash(&file.path, &file.sha256.short()));
        }
        // A complete file appears under its name at once, even if another process downloads it too.
        staged.persist(target).map_err(|failed| in_cache(failed.error))?;
        Ok(())
    }

    async fn check_size(&self, file: &FileRef) -> Result<()> {
        match self.size(&file.path).await? {
            Some(size) if size == file.size => Ok(()),
            Some(size) => Err(self.wrong_size(file, size)),
            None => Err(self.missing(&file.path)),
        }
    }

    fn wrong_size(&self, file: &FileRef, size: u64) -> Error {
        let what = format!("it has {size} bytes where {} were recorded", file.size);
        damaged(self, &file.path, what)
    }
}

fn not_cached(cache: &Path, cause: std::io::Error) -> Error {
    Error::io(cause, format!("cannot write the cache {}", cache.display()))
}

/// Whether a file of the cache is as it should be. It counts as used now, before anything else looks at how old it is.
fn is_reusable(path: &Path, expected: &FileRef) -> bool {
    let used = std::fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    match used {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => false,
        // Also where the time cannot be set: it is fetched again after a week then.
        _ => is_intact(path, expected),
    }
}

fn is_intact(path: &Path, expected: &FileRef) -> bool {
    let size = std::fs::metadata(path).map(|metadata| metadata.len());
    size.is_ok_and(|size| size == expected.size)
        && hash_file(path).is_ok_and(|hash| hash == expected.sha256)
}

/// SHA-256 of a local file, read in pieces of 1 MiB.
pub fn hash_file(path: &Path) -> Result<Digest256> {
    let shown = path.display();
    let failed = |cause| read_error(&shown.to_string(), cause);
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut hasher = Hasher256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hasher.finish()),
            read => hasher.raw(&buffer[..read]),
        };
    }
}

pub(super) fn read_error(path: &str, cause: std::io::Error) -> Error {
    Error::io(cause, format!("cannot read {path}"))
}
