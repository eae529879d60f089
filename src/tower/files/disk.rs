//! Weight files on disk: positional reads (no memory map, so a file that is cut off while in use is
//! an error and no crash) and digests.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::named::{open_regular, read_whole};
use crate::types::{Digest256, Hasher256};

/// Files below this are hashed every time: it takes a fraction of a second.
const CACHED_FROM: u64 = 256 << 20;

/// A file read at any position from any thread.
#[derive(Debug)]
pub(crate) struct ReadAt {
    file: File,
    path: PathBuf,
    size: u64,
}

/// Opens a regular file for positional reads.
pub(crate) fn open(path: &Path) -> Result<ReadAt> {
    let opened = open_regular(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (size, file) =
        opened.map_err(|cause| Error::io(cause, format!("cannot open {}", path.display())))?;
    Ok(ReadAt { file, path: path.to_owned(), size })
}

impl ReadAt {
    /// Bytes in the file when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.size
    }

    /// A second handle that reads from the start.
    pub(crate) fn reopen(&self) -> Result<File> {
        File::open(&self.path)
            .or_error(ErrorKind::Input, || format!("cannot open {}", self.path.display()))
    }

    /// Fills `buffer` from position `at`.
    pub(crate) fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, at).map_err(|cause| {
            Error::io(
                cause,
                format!("cannot read {} bytes at {at} of {}", buffer.len(), self.path.display()),
            )
        })
    }
}

/// Reads a small text file (configuration, tokenizer), refusing absurd sizes.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_whole(path, limit)
        .map_err(|cause| Error::io(cause, format!("cannot read {}", path.display())))
}

/// SHA-256 of each file, in the given order, several at once.
pub(crate) fn digests(paths: &[PathBuf]) -> Result<Vec<Digest256>> {
    paths.par_iter().map(|path| digest(path)).collect()
}

/// SHA-256 of one file. That of a big file is remembered in the user's cache folder, keyed by
/// everything that changes when its bytes do.
pub(crate) fn digest(path: &Path) -> Result<Digest256> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(std::env::home_dir()?.join(".cache")));
    digest_with(path, cache.map(|cache| cache.join("scalingnote").join("digests")), CACHED_FROM)
}

fn digest_with(path: &Path, folder: Option<PathBuf>, cached_from: u64) -> Result<Digest256> {
    let look = || Remembered::of(path, folder.as_deref()?, cached_from);
    let remembered = look();
    if let Some((entry, at)) = &remembered
        && let Ok(bytes) = std::fs::read(at)
        && let Ok(found) = serde_json::from_slice::<Remembered>(&bytes)
        && found.stamp == entry.stamp
    {
        return Ok(found.digest);
    }
    let digest = hash(path)?;
    // Hashing must not straddle a change, and a file touched just now may change within one tick
    // of its timestamp: neither is remembered.
    if let Some((mut entry, at)) = remembered
        && look().is_some_and(|(now, _)| now.stamp == entry.stamp)
        && entry.stamp.settled()
    {
        entry.digest = digest;
        entry.store(&at);
    }
    Ok(digest)
}

fn hash(path: &Path) -> Result<Digest256> {
    let failed = || format!("cannot read {}", path.display());
    let mut file = open_regular(path).or_error(ErrorKind::Input, failed)?;
    let mut buffer = vec![0; 1 << 20];
    let mut hasher = Hasher256::new();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => {
                hasher.raw(&buffer[..length]);
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(Error::io(cause, failed())),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    size: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.is_ok_and(|now| {
            now.saturating_sub(Duration::from_secs(3)).as_secs() as i64 > self.changed.0
        })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Remembered {
    stamp: Stamp,
    digest: Digest256,
}

impl Remembered {
    /// The entry for this file and where it is kept; `None` where the file is small, cannot be asked,
    /// or the path has no real form.
    fn of(path: &Path, folder: &Path, cached_from: u64) -> Option<(Self, PathBuf)> {
        let path = path.canonicalize().ok()?;
        let metadata = std::fs::metadata(&path).ok().filter(|m| m.len() >= cached_from)?;
        let name = Digest256::of(path.as_os_str().as_encoded_bytes()).short();
        let stamp = Stamp {
            path,
            size: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        Some((Self { stamp, digest: Digest256([0; 32]) }, folder.join(format!("{name}.json"))))
    }

    /// A cache: what cannot be kept is hashed again next time.
    fn store(&self, at: &Path) {
        let Some(folder) = at.parent() else { return };
        let written = std::fs::create_dir_all(folder).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer(&mut file, self)?;
            file.persist(at).map_err(|failed| failed.error)?;
            Ok(())
        });
        if let Err(cause) = written {
            tracing::debug!(%cause, "the digest of a weight file is not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_follow_the_given_order() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = ["b", "a"].map(|name| folder.path().join(name)).to_vec();
        for path in &paths {
            std::fs::write(path, path.file_name().unwrap().as_encoded_bytes()).unwrap();
        }
        assert_eq!(digests(&paths).unwrap(), [Digest256::of(b"b"), Digest256::of(b"a")]);
        let missing = digest(&folder.path().join("c")).unwrap_err();
        assert!(missing.to_string().contains("cannot read"));
    }

    #[test]
    fn a_remembered_digest_holds_while_the_file_is_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let (path, cache) = (folder.path().join("weights"), folder.path().join("cache"));
        std::fs::write(&path, b"weights").unwrap();
        let digest = || digest_with(&path, Some(cache.clone()), 1).unwrap();
        // Written just now: hashed, and not remembered.
        assert_eq!(digest(), Digest256::of(b"weights"));
        assert!(!cache.exists());
        let (mut entry, at) = Remembered::of(&path, &cache, 1).unwrap();
        entry.digest = Digest256::of(b"as remembered");
        entry.store(&at);
        assert_eq!(digest(), Digest256::of(b"as remembered"));
        std::fs::write(&path, b"WEIGHTS").unwrap();
        assert_eq!(digest(), Digest256::of(b"WEIGHTS"), "same size, other bytes");
        assert!(Remembered::of(&path, &cache, 8).is_none(), "small files are always hashed");
    }

    #[test]
    fn a_file_cut_off_in_use_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, [7; 64]).unwrap();
        let file = open(&path).unwrap();
        std::fs::write(&path, [7; 8]).unwrap();
        let error = file.read_at(0, &mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
