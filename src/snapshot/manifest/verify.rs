//! Re-hashing everything a snapshot names.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::format::Manifest;
use crate::error::{ErrorKind, Result};
use crate::store::{FileRef, Root};

/// Files hashed at the same time.
const READERS: usize = 4;

/// A file that is not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its key.
    pub path: String,
    /// What is wrong, for people.
    pub problem: String,
}

/// Reads every file of the snapshot and compares size and SHA-256; `progress` is called with the bytes of each
/// file done. Returns what does not fit, sorted by path; empty means that every byte is as published.
///
/// # Errors
/// Only where a file cannot be looked at (a failing store): that says nothing about its bytes.
pub async fn verify_hashes(
    root: &Root,
    manifest: &Manifest,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Problem>> {
    verify_other_hashes(root, manifest, &HashSet::new(), progress).await
}

/// [`verify_hashes`] of all files but those whose keys are in `hashed`, which the caller has hashed in this root just now.
///
/// # Errors
/// As [`verify_hashes`].
pub async fn verify_other_hashes(
    root: &Root,
    manifest: &Manifest,
    hashed: &HashSet<String>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Problem>> {
    let others = manifest.content.files().filter(|file| !hashed.contains(&file.path));
    let checks: Vec<_> = others.map(|file| check(root, file, progress)).collect();
    let checks = futures::stream::iter(checks).buffer_unordered(READERS);
    let found: Vec<Option<Problem>> = checks.try_collect().await?;
    let mut found: Vec<Problem> = found.into_iter().flatten().collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

async fn check(
    root: &Root,
    file: &FileRef,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Option<Problem>> {
    let hashed = root.hash(&file.path).await;
    progress(file.size);
    let problem = match hashed {
        Err(error) if error.kind() == ErrorKind::NotFound => "it is missing".to_owned(),
        Err(error) => return Err(error),
        Ok((_, size)) if size != file.size => {
            format!("it has {size} bytes where {} were published", file.size)
        }
        Ok((hash, _)) if hash != file.sha256 => {
            format!("it has SHA-256 {} where {} was published", hash.short(), file.sha256.short())
        }
        Ok(_) => return Ok(None),
    };
    Ok(Some(Problem { path: file.path.clone(), problem }))
}
