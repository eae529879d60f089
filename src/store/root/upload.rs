//! Uploading whole files in bounded memory.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryFutureExt};
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};

use super::handle::Root;
use super::object::FileRef;
use super::transfer::read_error;
use crate::error::{Error, ErrorKind, Result};
use crate::store::local::blocking;
use crate::types::{Digest256, Hasher256};

/// Stores allow 10,000 parts.
const MAX_PARTS: u64 = 9_000;
/// Parts in flight: bounds memory to `IN_FLIGHT + 1` parts.
const IN_FLIGHT: usize = 4;

impl Root {
    /// Streams a local file to `key` (an attempt-unique name) and returns its reference. Durable on
    /// local disk when it returns. Holds at most five parts (of 8 MiB for files under 70 GiB) in memory.
    ///
    /// An upload that fails in passing is aborted and started again from the file's first byte. Nothing is visible
    /// under `key` before all of it is there.
    ///
    /// # Errors
    /// NotFound or Input for the local file; Conflict where `key` holds other bytes and the file is small enough
    /// for one put; what the store says.
    pub async fn upload(&self, key: &str, file: &Path) -> Result<FileRef> {
        self.check_write("upload", key)?;
        let shown = file.display().to_string();
        let (path, largest) = (file.to_owned(), self.upload_part);
        let small = blocking(move || {
            let mut opened = std::fs::File::open(path)?;
            let size = opened.metadata()?.len();
            if size > largest {
                return Ok(None);
            }
            let mut bytes = Vec::with_capacity(size as usize);
            opened.read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        });
        if let Some(bytes) = small.await.map_err(|cause| read_error(&shown, cause))? {
            return self.put(key, bytes.into()).await;
        }
        self.in_parts(key, &Source::File(file)).await
    }

    /// Stores what is too large for one request, in parts; starts again where that fails in passing.
    pub(super) async fn in_parts(&self, key: &str, source: &Source<'_>) -> Result<FileRef> {
        let mut attempts = self.attempts();
        loop {
            match self.in_parts_once(key, source).await {
                Ok(file) => return Ok(file),
                Err(error) => attempts.again(None, error).await?,
            }
        }
    }

    async fn in_parts_once(&self, key: &str, source: &Source<'_>) -> Result<FileRef> {
        let reader = source.open().await?;
        let failed = |cause: object_store::Error| self.error("upload", key, &cause);
        let mut upload = self.store.put_multipart(&self.path(key)).await.map_err(failed)?;
        let (sha256, size) = match self.send_parts(key, source, &mut *upload, reader).await {
            Ok(sent) => sent,
            Err(error) => {
                let _ = upload.abort().await; // the first error is the one to report
                return Err(error);
            }
        };
        let file = FileRef { path: key.to_owned(), size, sha256 };
        match upload.complete().await.map_err(failed) {
            Ok(_) => {
                self.written(key);
                Ok(file)
            }
            // The acknowledgement may have been lost. Nobody else writes this name, and it appears as a whole.
            Err(_) if self.local.is_none() && self.size(key).await? == Some(size) => Ok(file),
            Err(error) => {
                let _ = upload.abort().await; // the first error is the one to report
                // A repeated completion is told that there is no such upload: start again.
                Err(match error.kind() {
                    ErrorKind::NotFound => Error::transient(error.to_string()),
                    _ => error,
                })
            }
        }
    }

    async fn send_parts(
        &self,
        key: &str,
        source: &Source<'_>,
        upload: &mut dyn MultipartUpload,
        (size, mut next): (u64, Next),
    ) -> Result<(Digest256, u64)> {
        let part = match size.div_ceil(MAX_PARTS) {
            least if least <= self.upload_part => self.upload_part,
            least => least.next_multiple_of(1 << 20),
        };
        let mut hasher = Hasher256::new();
        let mut length = 0;
        let mut parts = FuturesUnordered::new();
        // Buffers are reused. An allocator with an arena per thread would keep what every reading thread has freed.
        let mut spare = Vec::new();
        loop {
            let buffer = spare.pop().unwrap_or_default();
            let read = blocking(move || {
                let bytes = next(buffer, part)?;
                hasher.raw(&bytes);
                Ok((next, hasher, bytes))
            });
            let bytes: Bytes;
            (next, hasher, bytes) = read.await.map_err(|cause| source.failed(cause))?;
            if bytes.is_empty() {
                break;
            }
            length += bytes.len() as u64;
            let sending = upload.put_part(PutPayload::from_bytes(bytes.clone()));
            parts.push(sending.map_ok(move |()| bytes));
            while parts.len() >= IN_FLIGHT
                && let Some(sent) = parts.next().await
            {
                let bytes = sent.map_err(|cause| self.error("upload", key, &cause))?;
                if bytes.is_unique() {
                    spare.push(bytes.into());
                }
            }
        }
        while let Some(sent) = parts.next().await {
            sent.map_err(|cause| self.error("upload", key, &cause))?;
        }
        if length != size {
            return Err(Error::input(format!(
                "{} changed from {size} to {length} bytes while it was uploaded",
                source.shown()
            )));
        }
        Ok((hasher.finish(), length))
    }
}

/// Where the bytes of an upload come from; it can be read again from its start.
pub(super) enum Source<'a> {
    File(&'a Path),
    Memory(Bytes),
}

impl Source<'_> {
    /// The number of bytes, and what reads them.
    async fn open(&self) -> Result<(u64, Next)> {
        match self {
            Self::Memory(bytes) => {
                let (size, mut rest) = (bytes.len() as u64, bytes.clone());
                let next = move |_, most: u64| Ok(rest.split_to(rest.len().min(most as usize)));
                Ok((size, Box::new(next)))
            }
            Self::File(path) => {
                let path = path.to_path_buf();
                let opened = blocking(move || {
                    let mut file = std::fs::File::open(path)?;
                    let size = file.metadata()?.len();
                    let next: Next = Box::new(move |mut bytes, most| {
                        bytes.clear();
                        bytes.reserve_exact(most as usize);
                        file.by_ref().take(most).read_to_end(&mut bytes)?;
                        Ok(Bytes::from(bytes))
                    });
                    Ok((size, next))
                });
                opened.await.map_err(|cause| self.failed(cause))
            }
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Memory(_) => "memory".to_owned(),
        }
    }

    fn failed(&self, cause: std::io::Error) -> Error {
        read_error(&self.shown(), cause)
    }
}

/// Reads at most this many more bytes into a buffer; none at the end.
type Next = Box<dyn FnMut(Vec<u8>, u64) -> std::io::Result<Bytes> + Send>;
