//! Put-if-absent: who wins a race, also where acknowledgements get lost.

use bytes::Bytes;
use object_store::{PutMode, PutOptions, PutPayload};

use super::handle::Root;
use super::object::{FileRef, PutOutcome};
use super::upload::Source;
use crate::error::{Error, ErrorKind, Result};
use crate::store::cloud::{Heard, Repeats};
use crate::store::error;
use crate::types::Digest256;

impl Root {
    /// Stores bytes under `key` (an attempt-unique name) and returns their reference. Durable on
    /// local disk when it returns. Repeating it with the same bytes is fine.
    ///
    /// # Errors
    /// Conflict where `key` holds other bytes: nothing is ever overwritten.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<FileRef> {
        self.check_write("put", key)?;
        let file = FileRef {
            path: key.to_owned(),
            size: bytes.len() as u64,
            sha256: Digest256::of(&bytes),
        };
        if file.size > self.upload_part && self.repeats != Repeats::NONE {
            return self.put_large(file, bytes).await;
        }
        // More than once only where a gc takes the old object away between the two looks at it.
        for _ in 0..8 {
            if self.put_if_absent(key, bytes.clone()).await? == PutOutcome::Created {
                return Ok(file);
            }
            match self.get(key).await {
                Ok(there) if there == bytes => return Ok(file),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(_) => return Err(self.other_bytes(key)),
            }
        }
        Err(self.comes_and_goes(key))
    }

    /// [`Root::put`] of more than one request can carry. Not decided by a race: the name is the attempt's own.
    async fn put_large(&self, file: FileRef, bytes: Bytes) -> Result<FileRef> {
        match self.size(&file.path).await? {
            None => self.in_parts(&file.path, &Source::Memory(bytes)).await,
            Some(_) if self.hash(&file.path).await? == (file.sha256, file.size) => Ok(file),
            Some(_) => Err(self.other_bytes(&file.path)),
        }
    }

    fn other_bytes(&self, key: &str) -> Error {
        Error::conflict(format!(
            "{key} in {} exists with other bytes and is never overwritten",
            self.uri
        ))
    }

    /// Creates `key` unless it exists; exactly one of many concurrent callers gets `Created`.
    /// Durable (fsynced) on local disk when it returns. For small objects only.
    ///
    /// A cloud root repeats what failed in passing. Where an attempt without an answer may have created the object,
    /// the next one finds it there and compares: one's own bytes are `Created`. (Two callers with the same bytes
    /// may then both be told so.)
    ///
    /// # Errors
    /// Unsupported where the store has no conditional create. A Transient error does not mean that nothing was
    /// created: the last acknowledgement may have been lost too.
    pub async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        self.check_write("create", key)?;
        let path = self.path(key);
        let mut attempts = self.attempts();
        // Whether an earlier attempt may have created the object.
        let mut in_doubt = false;
        loop {
            let (heard, extensions) = Heard::new();
            let options = PutOptions { mode: PutMode::Create, extensions, ..PutOptions::default() };
            let payload = PutPayload::from_bytes(bytes.clone());
            let failed = match self.creator.put_opts(&path, payload, options).await {
                Ok(_) => {
                    self.written(key);
                    return Ok(PutOutcome::Created);
                }
                Err(cause) if error::is_undecided(&cause) => self.undecided(key, &cause),
                Err(object_store::Error::AlreadyExists { .. }) if !in_doubt => {
                    // One look more at a cloud store: the caller goes on to read what is said to be there.
                    let there = self.repeats == Repeats::NONE || self.size(key).await?.is_some();
                    if there {
                        return Ok(PutOutcome::AlreadyExists);
                    }
                    self.comes_and_goes(key)
                }
                Err(object_store::Error::AlreadyExists { .. }) => match self.get(key).await {
                    Ok(there) if there == bytes => return Ok(PutOutcome::Created),
                    Ok(_) => return Ok(PutOutcome::AlreadyExists),
                    Err(error) if error.kind() == ErrorKind::NotFound => self.comes_and_goes(key),
                    Err(error) => return Err(error),
                },
                Err(cause) => {
                    in_doubt |= heard.in_doubt();
                    match heard.status() {
                        Some(501) => self.no_conditional_create(Some(&cause)),
                        _ => self.error("create", key, &cause),
                    }
                }
            };
            attempts.again(heard.retry_after(), failed).await?;
        }
    }

    /// Whether this store keeps the promise that everything rests on: of two creates of one name the second fails.
    /// `key` is an object that exists. Asked once of a cloud root; memory and local disk are known to keep it.
    ///
    /// # Errors
    /// Unsupported, with advice, where it does not.
    pub async fn require_conditional_create(&self, key: &str) -> Result<()> {
        let proven = self.proven.get_or_try_init(|| async {
            let other = format!("probe {:016x}", rand::random::<u64>());
            match self.put_if_absent(key, other.into()).await? {
                PutOutcome::AlreadyExists => Ok(()),
                PutOutcome::Created => Err(self.no_conditional_create(None)),
            }
        });
        proven.await.copied()
    }

    /// Whether [`Root::require_conditional_create`] need not ask.
    pub fn creates_conditionally(&self) -> bool {
        self.proven.initialized()
    }

    fn no_conditional_create(&self, cause: Option<&object_store::Error>) -> Error {
        let error = Error::unsupported(format!(
            "the store behind {} does not create objects conditionally (`If-None-Match: *`), so two runs could \
             overwrite each other's snapshots; nothing is published: update the server or take another (Amazon S3, \
             Azure Blob Storage, Google Cloud Storage, or a folder)",
            self.uri
        ));
        match cause {
            Some(cause) => error.with_source(error::describe(cause)),
            None => error,
        }
    }

    fn undecided(&self, key: &str, cause: &object_store::Error) -> Error {
        Error::transient(format!("{} has not decided who creates {key}; run again", self.uri))
            .with_source(error::describe(cause))
    }

    fn comes_and_goes(&self, key: &str) -> Error {
        Error::transient(format!(
            "{key} in {} comes and goes while it is written; run again",
            self.uri
        ))
    }
}
