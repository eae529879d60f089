//! What a file system says of a file's bytes without reading them: equal stamps of a settled file, equal bytes.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::types::Digest256;

/// File systems keep times in ticks, of 2 seconds at worst: a file may change twice within one.
pub(crate) const TICK: Duration = Duration::from_secs(3);

/// Inode, size and times of a file. The time of its last change cannot be set, as the one of its last modification can
/// (`touch`, `cp -p`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    size: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of an open file.
    pub(crate) fn of(file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Bytes in the file.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether every later change will show, as far as this machine's clock says: a file that was touched just now may change
    /// again within one tick.
    pub(crate) fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.is_ok_and(|now| now.saturating_sub(TICK).as_secs() as i64 > self.changed.0)
    }
}

/// The digest of a settled file, remembered in the user's cache folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Remembered {
    path: PathBuf,
    stamp: Stamp,
    digest: Digest256,
}

impl Remembered {
    /// What is remembered of the file at `path` with this stamp.
    pub(crate) fn find(path: &Path, stamp: &Stamp, folder: &Path) -> Option<Digest256> {
        let path = path.canonicalize().ok()?;
        let found: Self =
            serde_json::from_slice(&std::fs::read(place(&path, folder)).ok()?).ok()?;
        (found.path == path && found.stamp == *stamp).then_some(found.digest)
    }

    /// A cache: what cannot be kept is hashed again the next time.
    pub(crate) fn keep(path: &Path, stamp: Stamp, digest: Digest256, folder: &Path) {
        let Ok(path) = path.canonicalize() else { return };
        let at = place(&path, folder);
        let kept = std::fs::create_dir_all(folder).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer(&mut file, &Self { path, stamp, digest })?;
            file.persist(at).map_err(|failed| failed.error)?;
            Ok(())
        });
        if let Err(cause) = kept {
            tracing::debug!(%cause, "the digest of a weight file is not remembered");
        }
    }
}

fn place(path: &Path, folder: &Path) -> PathBuf {
    folder.join(format!("{}.json", Digest256::of(path.as_os_str().as_encoded_bytes()).short()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_file_changes_its_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("weights"), folder.path().join("other"));
        std::fs::write(&path, b"weights").unwrap();
        let file = File::open(&path).unwrap();
        let stamp = Stamp::of(&file).unwrap();
        assert!(!stamp.is_settled(), "written just now");
        assert_eq!(Stamp::of(&file).unwrap(), stamp);
        // Ticks are of some milliseconds.
        let wait = || std::thread::sleep(Duration::from_millis(30));
        // The same size and, by `touch`, the same time of modification.
        wait();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, b"WEIGHTS").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let touched = Stamp::of(&file).unwrap();
        assert_eq!((touched.size, touched.modified), (stamp.size, stamp.modified));
        assert_ne!(touched, stamp);
        // Another file takes its name: the open one is what it was, and says that something happened to it.
        wait();
        std::fs::write(&other, b"others.").unwrap();
        std::fs::rename(&other, &path).unwrap();
        let replaced = Stamp::of(&file).unwrap();
        assert_eq!((replaced.inode, replaced.modified), (touched.inode, touched.modified));
        assert_ne!(Stamp::of(&File::open(&path).unwrap()).unwrap().inode, replaced.inode);
    }

    #[test]
    fn what_is_remembered_is_of_this_very_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let (path, cache) = (folder.path().join("weights"), folder.path().join("cache"));
        std::fs::write(&path, b"weights").unwrap();
        let stamp = Stamp::of(&File::open(&path).unwrap()).unwrap();
        let digest = Digest256::of(b"as remembered");
        assert_eq!(Remembered::find(&path, &stamp, &cache), None);
        Remembered::keep(&path, stamp, digest, &cache);
        assert_eq!(Remembered::find(&path, &stamp, &cache), Some(digest));
        for other in [
            Stamp { size: 8, ..stamp },
            Stamp { device: stamp.device + 1, ..stamp },
            Stamp { inode: stamp.inode + 1, ..stamp },
            Stamp { modified: (stamp.modified.0, stamp.modified.1 + 1), ..stamp },
            Stamp { changed: (stamp.changed.0, stamp.changed.1 + 1), ..stamp },
        ] {
            assert_eq!(Remembered::find(&path, &other, &cache), None, "{other:?}");
        }
    }
}
