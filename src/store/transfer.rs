//! Moving whole files in bounded memory, hashing as they go.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::io::AsyncWriteExt;

use super::{FileRef, PutOutcome, Root};
use crate::error::{Error, ErrorKind, Result, ResultExt, kind_of_io};
use crate::types::{Digest256, Hasher256};

/// Smallest part of a multipart upload, and the largest object sent as one put, unless a root says otherwise.
pub(super) const PART: u64 = 8 << 20;
/// Stores allow 10,000 parts.
const MAX_PARTS: u64 = 9_000;
/// Parts in flight: bounds memory to `IN_FLIGHT + 1` parts.
const IN_FLIGHT: usize = 4;

impl Root {
    /// Streams a local file to `key` (an attempt-unique name) and returns its reference. Durable on
    /// local disk when it returns. Holds at most five parts (of 8 MiB for files under 70 GiB) in memory.
    ///
    /// # Errors
    /// NotFound or Input for the local file; Conflict where `key` holds other bytes; what the store says.
    pub async fn upload(&self, key: &str, file: &Path) -> Result<FileRef> {
        self.check_write("upload", key)?;
        let shown = file.display().to_string();
        let opened = blocking({
            let file = file.to_owned();
            move || {
                let opened = std::fs::File::open(file)?;
                let size = opened.metadata()?.len();
                Ok((opened, size))
            }
        });
        let (mut opened, size) = opened.await.map_err(|cause| read_error(&shown, cause))?;
        if size <= self.upload_part {
            let bytes = blocking(move || {
                let mut bytes = Vec::with_capacity(size as usize);
                opened.read_to_end(&mut bytes)?;
                Ok(bytes)
            });
            let bytes = bytes.await.map_err(|cause| read_error(&shown, cause))?;
            return self.put(key, bytes.into()).await;
        }

        let failed = |cause: object_store::Error| self.error("upload", key, &cause);
        let mut upload = self.store.put_multipart(&self.path(key)).await.map_err(failed)?;
        let sent = self.send_parts(key, &shown, &mut *upload, opened, size).await;
        let (hash, length) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                let _ = upload.abort().await; // the first error is the one to tell
                return Err(error);
            }
        };
        upload.complete().await.map_err(failed)?;
        self.written(key);
        Ok(FileRef { path: key.to_owned(), size: length, sha256: hash })
    }

    async fn send_parts(
        &self,
        key: &str,
        shown: &str,
        upload: &mut dyn MultipartUpload,
        mut file: std::fs::File,
        size: u64,
    ) -> Result<(Digest256, u64)> {
        let part = match size.div_ceil(MAX_PARTS) {
            least if least <= self.upload_part => self.upload_part,
            least => least.next_multiple_of(1 << 20),
        };
        let mut hasher = Hasher256::new();
        let mut length = 0;
        let mut parts = FuturesUnordered::new();
        loop {
            let read = blocking(move || {
                let mut bytes = Vec::with_capacity(part as usize);
                (&mut file).take(part).read_to_end(&mut bytes)?;
                hasher.raw(&bytes);
                Ok((file, hasher, bytes))
            });
            let bytes: Vec<u8>;
            (file, hasher, bytes) = read.await.map_err(|cause| read_error(shown, cause))?;
            if bytes.is_empty() {
                break;
            }
            length += bytes.len() as u64;
            parts.push(upload.put_part(PutPayload::from(bytes)));
            while parts.len() >= IN_FLIGHT {
                let sent = parts.next().await.unwrap_or(Ok(()));
                sent.map_err(|cause| self.error("upload", key, &cause))?;
            }
        }
        while let Some(sent) = parts.next().await {
            sent.map_err(|cause| self.error("upload", key, &cause))?;
        }
        if length != size {
            return Err(Error::input(format!(
                "{shown} changed from {size} to {length} bytes while it was uploaded"
            )));
        }
        Ok((hasher.finish(), length))
    }

    /// Stores bytes under `key` (an attempt-unique name) and returns their reference. Durable on
    /// local disk when it returns. Repeating it with the same bytes is fine.
    ///
    /// # Errors
    /// Conflict where `key` holds other bytes: nothing is ever overwritten.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<FileRef> {
        let file = FileRef {
            path: key.to_owned(),
            size: bytes.len() as u64,
            sha256: Digest256::of(&bytes),
        };
        // More than once only where a gc takes the old object away between the two looks at it.
        for _ in 0..8 {
            if self.put_if_absent(key, bytes.clone()).await? == PutOutcome::Created {
                return Ok(file);
            }
            match self.get(key).await {
                Ok(there) if there == bytes => return Ok(file),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!(
                            "{key} in {} exists with other bytes and is never overwritten",
                            self.uri
                        ),
                    ));
                }
            }
        }
        Err(Error::new(
            ErrorKind::Transient,
            format!("{key} in {} comes and goes while it is written; run again", self.uri),
        ))
    }

    /// Creates `key` unless it exists; exactly one of many concurrent callers gets `Created`.
    /// Durable (fsynced) on local disk when it returns. For small objects only.
    ///
    /// An error does not mean that nothing was created: the acknowledgement may have been lost.
    /// `AlreadyExists` may then be about one's own bytes: compare before calling it a loss.
    pub async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        self.check_write("put-if-absent", key)?;
        let payload = PutPayload::from_bytes(bytes);
        match self.store.put_opts(&self.path(key), payload, PutMode::Create.into()).await {
            Ok(_) => {
                self.written(key);
                Ok(PutOutcome::Created)
            }
            Err(object_store::Error::AlreadyExists { .. }) => Ok(PutOutcome::AlreadyExists),
            Err(e) => Err(self.error("put-if-absent", key, &e)),
        }
    }

    /// Makes an object that another writer (a streaming `BufWriter`) finished durable, and returns
    /// its reference; hashes it by reading it back.
    pub async fn seal(&self, key: &str) -> Result<FileRef> {
        self.sync(key).await?;
        let (sha256, size) = self.hash(key).await?;
        Ok(FileRef { path: key.to_owned(), size, sha256 })
    }

    /// Fsyncs an object and its folders where the root is a local folder; a cloud store has nothing to do.
    pub async fn sync(&self, key: &str) -> Result<()> {
        super::key::check(key)?;
        if let Some(local) = &self.durable {
            local.sync(&self.path(key)).await.map_err(|e| self.error("sync", key, &e))?;
        }
        self.written(key);
        Ok(())
    }

    /// SHA-256 and size of an object, read as a stream.
    pub async fn hash(&self, key: &str) -> Result<(Digest256, u64)> {
        super::key::check(key)?;
        let failed = |cause: object_store::Error| self.error("read", key, &cause);
        let reply = self.store.get(&self.path(key)).await.map_err(failed)?;
        let mut stream = reply.into_stream();
        let (mut hasher, mut size) = (Hasher256::new(), 0);
        while let Some(piece) = stream.try_next().await.map_err(failed)? {
            hasher.raw(&piece);
            size += piece.len() as u64;
        }
        Ok((hasher.finish(), size))
    }

    /// A local file with the bytes of `file`. A local root returns the object itself after a look at its size
    /// (`snapshot verify` re-hashes); any other root downloads into `cache`, checking size and SHA-256, and uses
    /// an earlier download again while both still fit.
    ///
    /// # Errors
    /// NotFound; Corrupt where size or SHA-256 differ; Resource where the cache's disk is full.
    pub async fn fetch(&self, file: &FileRef, cache: &Path) -> Result<PathBuf> {
        super::key::check(&file.path)?;
        if let Some(path) = self.local_path(&file.path) {
            return match self.size(&file.path).await? {
                Some(size) if size == file.size => Ok(path),
                Some(size) => Err(self.wrong_size(file, size)),
                None => Err(Error::not_found(format!("{} is missing in {}", file.path, self.uri))),
            };
        }
        let target = cache.join(file.cached_name());
        let shown = target.display().to_string();
        let (expected, reused) = (file.clone(), target.clone());
        let fits = blocking(move || Ok(is_intact(&reused, &expected))).await.unwrap_or(false);
        if !fits {
            self.download(file, cache, &target)
                .await
                .context(|| format!("fetching into {shown}"))?;
        }
        Ok(target)
    }

    async fn download(&self, file: &FileRef, cache: &Path, target: &Path) -> Result<()> {
        let in_cache = |cause: std::io::Error| {
            let kind = kind_of_io(&cause);
            Error::new(kind, format!("cannot write the cache {}", cache.display()))
                .with_source(cause)
        };
        std::fs::create_dir_all(cache).map_err(in_cache)?;
        let staged = tempfile::NamedTempFile::new_in(cache).map_err(in_cache)?;
        let failed = |cause: object_store::Error| self.error("read", &file.path, &cause);
        let reply = self.store.get(&self.path(&file.path)).await.map_err(failed)?;
        if reply.meta.size != file.size {
            return Err(self.wrong_size(file, reply.meta.size));
        }
        let mut out = tokio::fs::File::from_std(staged.reopen().map_err(in_cache)?);
        let (mut hasher, mut size) = (Hasher256::new(), 0);
        let mut stream = reply.into_stream();
        while let Some(piece) = stream.try_next().await.map_err(failed)? {
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
            return Err(Error::corrupt(format!(
                "{} in {} does not have the SHA-256 {} that was recorded",
                file.path,
                self.uri,
                file.sha256.short()
            )));
        }
        // A complete file appears under its name at once, whoever else downloads it too.
        staged.persist(target).map_err(|failed| in_cache(failed.error))?;
        Ok(())
    }

    fn wrong_size(&self, file: &FileRef, size: u64) -> Error {
        Error::corrupt(format!(
            "{} in {} has {size} bytes where {} were recorded",
            file.path, self.uri, file.size
        ))
    }
}

impl FileRef {
    /// Its name in a cache that [`Root::fetch`] fills.
    pub fn cached_name(&self) -> String {
        let name = self.path.rsplit('/').next().unwrap_or("object");
        format!("{}-{name}", self.sha256.short())
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

fn read_error(path: &str, cause: std::io::Error) -> Error {
    Error::new(kind_of_io(&cause), format!("cannot read {path}")).with_source(cause)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(std::io::Error::other(e)))
}
