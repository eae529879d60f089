//! Uploading whole files in bounded memory.

use std::io::Read;
use std::path::Path;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};

use super::transfer::{PIECE, blocking, read_error};
use super::{FileRef, Root};
use crate::error::{Error, ErrorKind, Result};
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
        let path = file.to_owned();
        let small = blocking(move || {
            let mut opened = std::fs::File::open(path)?;
            let size = opened.metadata()?.len();
            if size > PIECE {
                return Ok(None);
            }
            let mut bytes = Vec::with_capacity(size as usize);
            opened.read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        });
        if let Some(bytes) = small.await.map_err(|cause| read_error(&shown, cause))? {
            return self.put(key, bytes.into()).await;
        }
        let mut attempts = self.attempts();
        loop {
            match self.upload_parts(key, file, &shown).await {
                Ok(file) => return Ok(file),
                Err(error) => attempts.again(None, error).await?,
            }
        }
    }

    async fn upload_parts(&self, key: &str, file: &Path, shown: &str) -> Result<FileRef> {
        let path = file.to_owned();
        let opened = blocking(move || {
            let opened = std::fs::File::open(path)?;
            let size = opened.metadata()?.len();
            Ok((opened, size))
        });
        let (opened, size) = opened.await.map_err(|cause| read_error(shown, cause))?;
        let failed = |cause: object_store::Error| self.error("upload", key, &cause);
        let mut upload = self.store.put_multipart(&self.path(key)).await.map_err(failed)?;
        let sent = self.send_parts(key, shown, &mut *upload, opened, size).await;
        let (sha256, size) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                let _ = upload.abort().await; // the first error is the one to tell
                return Err(error);
            }
        };
        let file = FileRef { path: key.to_owned(), size, sha256 };
        match upload.complete().await.map_err(failed) {
            Ok(_) => Ok(file),
            // The acknowledgement may have been lost. Nobody else writes this name, and it appears as a whole.
            Err(_) if self.local.is_none() && self.size(key).await? == Some(size) => Ok(file),
            Err(error) => {
                let _ = upload.abort().await; // the first error is the one to tell
                // A repeated completion is told that there is no such upload: start again.
                Err(match error.kind() {
                    ErrorKind::NotFound => Error::new(ErrorKind::Transient, error.to_string()),
                    _ => error,
                })
            }
        }
    }

    async fn send_parts(
        &self,
        key: &str,
        shown: &str,
        upload: &mut dyn MultipartUpload,
        mut file: std::fs::File,
        size: u64,
    ) -> Result<(Digest256, u64)> {
        let part = PIECE.max(size.div_ceil(MAX_PARTS).next_multiple_of(1 << 20));
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
}
