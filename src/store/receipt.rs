//! Receipts: what finished work leaves, so that nobody does it again.
//!
//! Work stores its files under names that end in their own hash, then puts its receipt, if absent, at a key derived
//! from what the work is. So attempts that run at the same time cannot overwrite each other's files, and the first
//! receipt is the one that counts.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FileRef, PutOutcome, Root, hash_file};
use crate::error::{Error, Result, ResultExt, found, unreadable};

/// The receipt of some work.
pub trait Receipt: Serialize + DeserializeOwned {
    /// The files that it names: without them it says nothing.
    fn files(&self) -> Vec<&FileRef> {
        Vec::new()
    }
}

/// Does the work, unless its receipt is there already; returns the receipt that counts: ours, or that of the attempt
/// that was first.
pub async fn once<T: Receipt>(
    root: &Root,
    key: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    once_unless(root, key, || adopt(root, key), work).await
}

/// As [`once`], where `found` looks for a receipt and judges it itself.
pub async fn once_unless<T, F>(
    root: &Root,
    key: &str,
    found: impl Fn() -> F,
    work: impl Future<Output = Result<T>>,
) -> Result<T>
where
    T: Serialize,
    F: Future<Output = Result<Option<T>>>,
{
    if let Some(receipt) = found().await? {
        return Ok(receipt);
    }
    let receipt = work.await?;
    let json = serde_json::to_vec_pretty(&receipt).context(|| "writing a receipt as JSON")?;
    match root.put_if_absent(key, json.into()).await? {
        PutOutcome::Created => Ok(receipt),
        PutOutcome::AlreadyExists => found()
            .await?
            .ok_or_else(|| Error::transient(format!("receipt {key} vanished; run again"))),
    }
}

/// The receipt of finished work. One whose files were collected as garbage since says nothing any more: it is deleted.
async fn adopt<T: Receipt>(root: &Root, key: &str) -> Result<Option<T>> {
    let Some(receipt) = read::<T>(root, key).await? else { return Ok(None) };
    for file in receipt.files() {
        if root.size(&file.path).await? != Some(file.size) {
            root.delete(key).await?;
            return Ok(None);
        }
    }
    Ok(Some(receipt))
}

/// Reads a receipt; `None` where there is none.
///
/// # Errors
/// Corrupt, naming the receipt; Unsupported where a newer release wrote it.
pub async fn read<T: DeserializeOwned>(root: &Root, key: &str) -> Result<Option<T>> {
    let Some(bytes) = found(root.get(key).await)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
        let damaged = format!("receipt {key} cannot be read; delete it to have the task run again");
        unreadable(cause, format!("receipt {key}"), damaged)
    })
}

/// The receipt at `key` of `task`, which other work builds on.
///
/// # Errors
/// Transient, where the task is not finished.
pub async fn of_finished<T: DeserializeOwned>(root: &Root, key: &str, task: &str) -> Result<T> {
    read(root, key)
        .await?
        .ok_or_else(|| Error::transient(format!("{task} has no receipt yet; run that task first")))
}

/// Stores a finished local file under the key that `key` makes of its hash: two attempts that wrote the same bytes
/// share the object, two that did not cannot clash.
pub async fn put_file(
    root: &Root,
    file: &Path,
    key: impl FnOnce(&str) -> String,
) -> Result<FileRef> {
    let hash = hash_file(file)?;
    root.upload(&key(&hash.short()), file).await
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Made(Vec<FileRef>, u32);

    impl Receipt for Made {
        fn files(&self) -> Vec<&FileRef> {
            self.0.iter().collect()
        }
    }

    #[tokio::test]
    async fn work_is_done_once_unless_its_files_are_gone() {
        let root = Root::in_memory();
        let file = root.put("file", "x".into()).await.unwrap();
        let work = |attempt: u32| {
            let made = Made(vec![file.clone()], attempt);
            async move { Ok(made) }
        };
        assert_eq!(once(&root, "receipt", work(1)).await.unwrap().1, 1);
        assert_eq!(once(&root, "receipt", work(2)).await.unwrap().1, 1);
        // Another attempt puts its receipt while this one works.
        let late = async {
            root.put_if_absent("late", serde_json::to_vec(&Made(Vec::new(), 3)).unwrap().into())
                .await?;
            work(4).await
        };
        assert_eq!(once(&root, "late", late).await.unwrap().1, 3);
        root.delete("file").await.unwrap();
        assert_eq!(once(&root, "receipt", work(5)).await.unwrap().1, 5);
        root.put("damaged", "{".into()).await.unwrap();
        let damaged = once(&root, "damaged", work(6)).await.unwrap_err();
        assert!(damaged.to_string().contains("receipt damaged cannot be read"), "{damaged}");
    }
}
