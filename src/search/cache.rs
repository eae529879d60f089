//! A watcher's own cache folder: locked while it runs, kept for its next start, cleared of what nobody has open.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::{FileRef, make_private, private_folder};
use crate::types::Digest256;

/// Watchers of one root on one machine that have a cache each.
const WATCHERS: usize = 64;

/// A folder that no other process writes to or clears.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Locked as long as it is open; the system lets go when the process ends, however it ends.
    _lock: File,
}

impl Cache {
    /// The first free folder for this root below `base`.
    ///
    /// # Errors
    /// Input or Resource where the folder cannot be written.
    pub fn claim(base: &Path, root_uri: &str) -> Result<Self> {
        let failed = |cause: std::io::Error| {
            Error::io(cause, format!("cannot use the cache {}", base.display()))
        };
        make_private(base).map_err(failed)?;
        // Where everybody may make folders, such as in /tmp, one of this name may be a trap.
        let shared = std::fs::metadata(base).map_err(failed)?.mode() & 0o002 != 0;
        let make = if shared { private_folder } else { make_private };
        let name = Digest256::of(root_uri.as_bytes()).short();
        for number in 0..WATCHERS {
            let folder = base.join(format!("watch-{name}-{number}"));
            // Somebody else may have laid a link there, to have a file of ours made or locked elsewhere.
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(folder.with_extension("lock"))
                .map_err(failed)?;
            match lock.try_lock() {
                Ok(()) => {
                    make(&folder).map_err(failed)?;
                    return Ok(Self { folder, _lock: lock });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(cause)) => return Err(failed(cause)),
            }
        }
        Err(Error::resource(format!(
            "{WATCHERS} watchers of {root_uri} use {} already",
            base.display()
        )))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes every file but those of `keep`. Not while something downloads into it.
    pub fn trim<'a>(&self, keep: impl Iterator<Item = &'a FileRef>) -> Result<usize> {
        let keep: HashSet<String> = keep.map(FileRef::cached_name).collect();
        let mut removed = 0;
        let clearing = || format!("clearing the cache {}", self.folder.display());
        for entry in std::fs::read_dir(&self.folder).or_error(ErrorKind::Resource, clearing)? {
            let entry = entry.or_error(ErrorKind::Resource, clearing)?;
            let kept = entry.file_name().to_str().is_some_and(|name| keep.contains(name));
            if !kept {
                // One that cannot be deleted now is deleted next time.
                removed += usize::from(std::fs::remove_file(entry.path()).is_ok());
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_do_not_share_and_restarts_come_back() {
        let base = tempfile::tempdir().unwrap();
        let first = Cache::claim(base.path(), "s3://a/b").unwrap();
        let second = Cache::claim(base.path(), "s3://a/b").unwrap();
        assert_ne!(first.folder(), second.folder());
        let folder = first.folder().to_owned();
        let file =
            FileRef { path: "indexes/o/00000/x.f16".into(), size: 1, sha256: Digest256::of(b"x") };
        std::fs::write(folder.join(file.cached_name()), b"x").unwrap();
        std::fs::write(folder.join("left behind"), b"y").unwrap();
        drop(first);
        let again = Cache::claim(base.path(), "s3://a/b").unwrap();
        assert_eq!(again.folder(), folder);
        assert_eq!(again.trim([&file].into_iter()).unwrap(), 1);
        assert!(folder.join(file.cached_name()).exists());
    }

    #[test]
    fn links_that_others_laid_are_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let everybodys = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        std::fs::set_permissions(base.path(), everybodys).unwrap();
        let elsewhere = base.path().join("elsewhere");
        let name = Digest256::of(b"s3://a/b").short();
        let lay = |at: &str| std::os::unix::fs::symlink(&elsewhere, base.path().join(at)).unwrap();
        lay(&format!("watch-{name}-0.lock"));
        let refused = Cache::claim(base.path(), "s3://a/b").unwrap_err();
        assert!(refused.to_string().contains("symbolic link"), "{refused}");
        assert!(!elsewhere.exists(), "nothing was made through the link");

        std::fs::remove_file(base.path().join(format!("watch-{name}-0.lock"))).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        lay(&format!("watch-{name}-0"));
        let refused = Cache::claim(base.path(), "s3://a/b").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Input);
    }
}
