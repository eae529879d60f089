//! The cache of downloaded files: a watcher's own folder in it, locked while it runs and kept for its next start; and
//! what nothing has used for a week is removed.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::{FileRef, make_private, private_folder};
use crate::types::Digest256;

/// Watchers of one root on one machine that have a cache each.
const WATCHERS: usize = 64;

/// What nothing has used for this long leaves the cache. Tomorrow's search finds what did not change since today's.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

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
        sweep(base);
        // Where everybody may make folders, such as in /tmp, one of this name may be a trap.
        let shared = std::fs::metadata(base).map_err(failed)?.mode() & 0o002 != 0;
        let make = if shared { private_folder } else { make_private };
        let name = Digest256::of(root_uri.as_bytes()).short();
        for number in 0..WATCHERS {
            let folder = base.join(format!("watch-{name}-{number}"));
            let lock = open_lock(&folder.with_extension("lock")).map_err(failed)?;
            match lock.try_lock() {
                Ok(()) => {
                    // Says when it was used last.
                    let _ = lock.set_modified(SystemTime::now());
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

fn open_lock(path: &Path) -> std::io::Result<File> {
    // Somebody else may have laid a link there, to have a file of ours made or locked elsewhere.
    let mut options = File::options();
    options.create(true).truncate(false).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

/// Removes from the cache `base` what nothing has used for a week: files that [`crate::store::Root::fetch`] left there,
/// and folders of watchers that do not run. Anything else there is not ours. What cannot be removed is left for the next time.
pub(super) fn sweep(base: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(base) else { return 0 };
    let old = |used: SystemTime| used.elapsed().is_ok_and(|age| age > KEPT);
    let removed = |entry: std::fs::DirEntry| -> Option<bool> {
        let name = entry.file_name().into_string().ok()?;
        let found = entry.metadata().ok()?;
        let modified = found.modified().ok()?;
        if !old(modified) {
            return None;
        }
        if found.is_file() && (name.starts_with(".tmp") || FileRef::is_cached_name(&name)) {
            return Some(std::fs::remove_file(entry.path()).is_ok());
        }
        if !found.is_dir() || !name.starts_with("watch-") {
            return None;
        }
        let path = entry.path().with_extension("lock");
        let used = std::fs::symlink_metadata(&path).and_then(|lock| lock.modified()).ok()?;
        // The lock file stays: a watcher that waits for it must not get another than the next one.
        let lock = open_lock(&path).ok()?;
        (old(used) && lock.try_lock().is_ok())
            .then(|| std::fs::remove_dir_all(entry.path()).is_ok())
    };
    entries.flatten().filter_map(removed).filter(|removed| *removed).count()
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
    fn what_nothing_has_used_for_a_week_leaves_the_cache() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        let age = |name: &str, days: u64| {
            let then = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
            File::open(at(name)).unwrap().set_modified(then).unwrap();
        };
        let (old, new) = ("00112233aabbccdd-x.usearch", "10112233aabbccdd-x.usearch");
        for name in [old, new, ".tmpAbC123", "notes.jsonl", "0011-x.usearch"] {
            std::fs::write(at(name), name).unwrap();
            age(name, if name == new { 6 } else { 8 });
        }
        let idle = Cache::claim(base.path(), "s3://a/idle").unwrap().folder().to_owned();
        let running = Cache::claim(base.path(), "s3://a/running").unwrap();
        let fresh = Cache::claim(base.path(), "s3://a/fresh").unwrap().folder().to_owned();
        assert!(!at(old).exists() && !at(".tmpAbC123").exists(), "claiming sweeps");
        for folder in [idle.as_path(), running.folder(), fresh.as_path()] {
            let name = folder.file_name().unwrap().to_str().unwrap();
            std::fs::write(folder.join(new), b"x").unwrap();
            age(name, 8);
            age(&format!("{name}.lock"), if folder == fresh { 6 } else { 8 });
        }
        assert_eq!(sweep(base.path()), 1);
        assert!(!idle.exists() && running.folder().exists() && fresh.exists());
        assert!(at(new).exists() && at("notes.jsonl").exists() && at("0011-x.usearch").exists());
        assert_eq!(Cache::claim(base.path(), "s3://a/idle").unwrap().folder(), idle);
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
