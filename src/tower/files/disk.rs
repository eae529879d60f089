//! Weight files on disk: positional reads (no memory map, so a file that is cut off while in use is an error and no
//! crash), digests, and the proof that what is read is what was hashed.
//!
//! A file is opened once. Its header, its digest and its tensors come through that one handle, so a file that takes its
//! name changes nothing; one that is written into is found out by its [`Stamp`] at the next read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rayon::prelude::*;

use super::stamp::{Remembered, Stamp, TICK};
use super::whole::{MAX_POINTER, refuse_pointer};
use crate::error::{Error, Result};
use crate::store::named::{open_regular, read_whole};
use crate::types::{Digest256, Hasher256};

/// Files below this are hashed every time: it takes a fraction of a second.
const CACHED_FROM: u64 = 256 << 20;
/// Reads that begin again because the file was touched meanwhile.
const ATTEMPTS: u32 = 3;

/// A file read at any position from any thread. Clones share the handle.
#[derive(Debug, Clone)]
pub(crate) struct ReadAt(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    file: File,
    path: PathBuf,
    /// As it was opened.
    stamp: Stamp,
    hashed: Mutex<Option<Hashed>>,
}

/// What hashing the file gave.
#[derive(Debug, Clone, Copy)]
struct Hashed {
    digest: Digest256,
    /// Before the first byte was read.
    stamp: Stamp,
    /// When that stamp was first seen.
    since: Instant,
    /// Whether every change after the first byte was read shows in the stamp.
    settled: bool,
}

impl Hashed {
    /// Whether a change from now on shows in the stamp: it is an old one, by this machine's clock or, where a server's
    /// is ahead of that, because it has been seen for a while.
    fn settles(&self) -> bool {
        self.stamp.is_settled() || self.since.elapsed() > TICK
    }
}

/// Opens a regular file for positional reads.
pub(crate) fn open(path: &Path) -> Result<ReadAt> {
    let opened = open_regular(path).and_then(|file| Ok((Stamp::of(&file)?, file)));
    let (stamp, file) =
        opened.map_err(|cause| Error::io(cause, format!("cannot open {}", path.display())))?;
    if stamp.size() < MAX_POINTER {
        let mut head = vec![0; stamp.size() as usize];
        // If it is shortened in the meantime, the stamp shows it.
        if file.read_exact_at(&mut head, 0).is_ok() {
            refuse_pointer(path, &head)?;
        }
    }
    let opened = Opened { file, path: path.to_owned(), stamp, hashed: Mutex::default() };
    let file = ReadAt(Arc::new(opened));
    if !stamp.is_settled() {
        // A change that its stamp does not show may come between the header and the tensors: with the digest taken
        // before either, it is found when the tensors are there.
        file.digest()?;
    }
    Ok(file)
}

impl ReadAt {
    /// Bytes in the file when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.0.stamp.size()
    }

    /// Reads from the start.
    pub(crate) fn reader(&self) -> impl Read + use<> {
        Reader { file: self.clone(), at: 0 }
    }

    /// Fills `buffer` from position `at`: with the bytes that were hashed, where the file was hashed before.
    ///
    /// # Errors
    /// Input where they are others by now; Transient where it is being written.
    pub(crate) fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let before = self.stamp()?;
            let read = self.0.file.read_exact_at(buffer, at);
            // That a file is another one says more than what cannot be read of it.
            if self.confirm()? == before {
                return read.map_err(|cause| {
                    let what =
                        format!("cannot read {} bytes at {at} of {}", buffer.len(), self.name());
                    Error::io(cause, what)
                });
            }
            // The same bytes again, but they may have been others while they were read.
        }
        Err(self.moving())
    }

    /// SHA-256 of its bytes. That of a big file is remembered in the user's cache folder, keyed by everything that
    /// changes when its bytes do.
    ///
    /// # Errors
    /// Transient where it is being written.
    pub(crate) fn digest(&self) -> Result<Digest256> {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(std::env::home_dir()?.join(".cache")));
        let folder = cache.map(|cache| cache.join("scalingnote").join("digests"));
        self.digest_with(folder.as_deref(), CACHED_FROM)
    }

    fn digest_with(&self, folder: Option<&Path>, cached_from: u64) -> Result<Digest256> {
        let mut hashed = self.0.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hashed) = &*hashed {
            return Ok(hashed.digest);
        }
        let (path, stamp) = (&self.0.path, self.0.stamp);
        let settled = stamp.is_settled();
        let folder = folder.filter(|_| settled && stamp.size() >= cached_from);
        let known = folder.and_then(|folder| Remembered::find(path, &stamp, folder));
        let digest = known.map_or_else(|| self.hash(), Ok)?;
        if self.stamp()? != stamp {
            return Err(self.moving());
        }
        if let (Some(folder), None) = (folder, known) {
            Remembered::keep(path, stamp, digest, folder);
        }
        *hashed = Some(Hashed { digest, stamp, since: Instant::now(), settled });
        Ok(digest)
    }

    /// Checks that the bytes are those of the digest, where it is taken: by the stamp where that proves it, else by
    /// hashing them again.
    fn confirm(&self) -> Result<Stamp> {
        let mut hashed = self.0.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.stamp()?;
        let Some(known) = *hashed else { return Ok(stamp) };
        let known = match known.stamp == stamp {
            true if known.settled => return Ok(stamp),
            true => known,
            false => Hashed { stamp, since: Instant::now(), ..known },
        };
        let settled = known.settles();
        if self.hash()? != known.digest {
            return Err(Error::input(format!(
                "{} was written into after it was hashed: it is another model's now, whose vectors must not mix with the \
                 first one's; bring the file back, or start again with what it is now",
                self.name()
            )));
        }
        if self.stamp()? != stamp {
            return Err(self.moving());
        }
        *hashed = Some(Hashed { settled, ..known });
        Ok(stamp)
    }

    fn stamp(&self) -> Result<Stamp> {
        // A network file system asks its server when a file is opened, and otherwise trusts its cache. A name that
        // leads nowhere or elsewhere by now is no matter: the handle stays.
        drop(File::open(&self.0.path));
        Stamp::of(&self.0.file)
            .map_err(|cause| Error::io(cause, format!("cannot look at {}", self.name())))
    }

    fn hash(&self) -> Result<Digest256> {
        let mut reader = self.reader();
        let mut buffer = vec![0; 1 << 20];
        let mut hasher = Hasher256::new();
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(length) => {
                    hasher.raw(&buffer[..length]);
                }
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
                Err(cause) => {
                    return Err(Error::io(cause, format!("cannot read {}", self.name())));
                }
            }
        }
    }

    fn moving(&self) -> Error {
        Error::transient(format!(
            "{} changes while it is read; wait until its writer is done, and try again",
            self.name()
        ))
    }

    fn name(&self) -> std::path::Display<'_> {
        self.0.path.display()
    }
}

struct Reader {
    file: ReadAt,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.file.0.file.read_at(buffer, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// Reads a small text file (configuration, tokenizer), refusing absurd sizes.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let bytes = read_whole(path, limit)
        .map_err(|cause| Error::io(cause, format!("cannot read {}", path.display())))?;
    refuse_pointer(path, &bytes)?;
    Ok(bytes)
}

/// SHA-256 of each file, in the given order, several at once.
pub(crate) fn digests(files: &[ReadAt]) -> Result<Vec<Digest256>> {
    files.par_iter().map(ReadAt::digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn digests_follow_the_given_order() {
        let folder = tempfile::tempdir().unwrap();
        let files =
            ["b", "a"].map(|name| open(&written(folder.path(), name, name.as_bytes())).unwrap());
        assert_eq!(digests(&files).unwrap(), [Digest256::of(b"b"), Digest256::of(b"a")]);
        let missing = open(&folder.path().join("c")).unwrap_err();
        assert!(missing.to_string().contains("cannot open"));
    }

    #[test]
    fn a_remembered_digest_is_of_a_settled_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), "weights", b"weights");
        let cache = folder.path().join("cache");
        let digest = |from| {
            let file = open(&path).unwrap();
            *file.0.hashed.lock().unwrap() = None;
            (file.digest_with(Some(&cache), from).unwrap(), file.0.stamp)
        };
        // Written just now: hashed, and not remembered, nor trusted.
        let (found, stamp) = digest(1);
        assert_eq!(found, Digest256::of(b"weights"));
        assert!(!cache.exists());
        Remembered::keep(&path, stamp, Digest256::of(b"as remembered"), &cache);
        assert_eq!(digest(1).0, Digest256::of(b"weights"));
        std::thread::sleep(std::time::Duration::from_secs(5));
        assert_eq!(digest(1).0, Digest256::of(b"as remembered"));
        assert_eq!(digest(8).0, Digest256::of(b"weights"), "small files are always hashed");
        std::fs::write(&path, b"WEIGHTS").unwrap();
        assert_eq!(digest(1).0, Digest256::of(b"WEIGHTS"), "same size, other bytes");
    }

    #[test]
    fn a_file_cut_off_in_use_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), "weights", &[7; 64]);
        let file = open(&path).unwrap();
        std::fs::write(&path, [7; 8]).unwrap();
        *file.0.hashed.lock().unwrap() = None;
        let error = file.read_at(0, &mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }

    fn read(file: &ReadAt) -> Result<Vec<u8>> {
        let mut bytes = vec![0; file.len() as usize];
        file.read_at(0, &mut bytes).map(|()| bytes)
    }

    #[test]
    fn what_is_read_is_what_was_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), "weights", b"weights");
        let file = open(&path).unwrap();
        assert_eq!(file.digest().unwrap(), Digest256::of(b"weights"));
        assert_eq!(read(&file).unwrap(), b"weights");
        // Another file takes its name: the open one is what was hashed.
        let other = written(folder.path(), "other", b"another");
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(read(&file).unwrap(), b"weights");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&file).unwrap(), b"weights");
        // Bytes are written over; size and time of modification are the old ones.
        let path = written(folder.path(), "weights", b"another");
        let file = open(&path).unwrap();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let write = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        };
        write(b"ANOTHER");
        for _ in 0..2 {
            let error = read(&file).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input, "{error}");
            assert!(error.to_string().contains("written into after it was hashed"), "{error}");
        }
        // Cut off, it says the same and not that it is short.
        write(b"AN");
        assert_eq!(read(&file).unwrap_err().kind(), ErrorKind::Input);
        // Brought back, it is the same file again.
        write(b"another");
        assert_eq!(read(&file).unwrap(), b"another");
    }

    #[test]
    fn a_settled_file_is_proven_by_its_stamp_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), "weights", b"weights");
        std::thread::sleep(std::time::Duration::from_secs(5));
        let file = open(&path).unwrap();
        assert!(file.0.hashed.lock().unwrap().is_none(), "not hashed until it is asked for");
        file.digest().unwrap();
        let believed = Digest256::of(b"believed");
        file.0.hashed.lock().unwrap().as_mut().unwrap().digest = believed;
        assert_eq!(read(&file).unwrap(), b"weights", "nothing is hashed again");
        // A link to it changes its stamp, so it is hashed again.
        std::fs::hard_link(&path, folder.path().join("link")).unwrap();
        assert_eq!(read(&file).unwrap_err().kind(), ErrorKind::Input);
        file.0.hashed.lock().unwrap().as_mut().unwrap().digest = Digest256::of(b"weights");
        assert_eq!(read(&file).unwrap(), b"weights");
    }
}
