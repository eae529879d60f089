//! Whether files of a local root, copies of which are served, are still as they were when they were copied.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::store::{FileRef, Root};

/// When and how large a file was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    /// `None` where the file is gone, or cannot be looked at: that is no news of its bytes.
    fn take(path: PathBuf) -> Option<Self> {
        let found = std::fs::metadata(&path).ok()?;
        Some(Self { size: found.len(), modified: found.modified().ok(), path })
    }
}

/// Stamps of the files that copies were made from, by key.
#[derive(Debug, Default)]
pub(super) struct Sources(Arc<Mutex<HashMap<String, Stamp>>>);

impl Sources {
    /// Takes the stamps of these files, and forgets those of others. To be called before they are copied: whatever
    /// changes a file later changes its stamp.
    pub async fn watch(&self, root: &Root, files: &[FileRef]) {
        let paths: Vec<(String, PathBuf)> = files
            .iter()
            .filter_map(|file| Some((file.path.clone(), root.local_path(&file.path)?)))
            .collect();
        let stamps = Arc::clone(&self.0);
        let taking = move || {
            let mut stamps = stamps.lock().unwrap_or_else(PoisonError::into_inner);
            let mut old = std::mem::take(&mut *stamps);
            for (key, path) in paths {
                // What is served already was copied under its old stamp.
                let stamp = old.remove(&key).or_else(|| Stamp::take(path));
                stamps.extend(stamp.map(|stamp| (key, stamp)));
            }
        };
        // A failed look is reported by the code that copies the file.
        let _ = tokio::task::spawn_blocking(taking).await;
    }

    /// The files that changed since they were copied, each told once.
    pub async fn changed(&self) -> Vec<String> {
        let stamps = Arc::clone(&self.0);
        let looking = move || {
            let mut stamps = stamps.lock().unwrap_or_else(PoisonError::into_inner);
            let mut changed = Vec::new();
            for (key, stamp) in stamps.iter_mut() {
                let now = Stamp::take(stamp.path.clone()).filter(|now| now != stamp);
                if let Some(now) = now {
                    *stamp = now;
                    changed.push(key.clone());
                }
            }
            changed.sort_unstable();
            changed
        };
        tokio::task::spawn_blocking(looking).await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_changes_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        let mut files = Vec::new();
        for name in ["a", "b", "c"] {
            files.push(root.put(name, "12345".into()).await.unwrap());
        }
        let sources = Sources::default();
        sources.watch(&root, &files).await;
        assert!(sources.changed().await.is_empty());
        std::fs::write(folder.path().join("a"), "123").unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        let open = std::fs::File::options().write(true).open(folder.path().join("b")).unwrap();
        open.set_modified(later).unwrap();
        std::fs::remove_file(folder.path().join("c")).unwrap();
        assert_eq!(sources.changed().await, ["a", "b"]);
        assert!(sources.changed().await.is_empty());
        sources.watch(&root, &files[1..]).await;
        std::fs::write(folder.path().join("a"), "1").unwrap();
        assert!(sources.changed().await.is_empty(), "nobody serves it any more");
        assert!(Sources::default().changed().await.is_empty());
    }
}
