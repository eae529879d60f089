//! Giving a finished file its name, unless the name is taken: what every race in a local root is decided by.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Renames `staged` to `path` at once and whole; of several callers one succeeds.
///
/// By a hard link, and where the file system has none (exFAT, SMB shares, some FUSE mounts) by a rename that replaces
/// nothing. `staged` is gone afterwards, whatever the outcome; gc takes what cannot be removed now.
///
/// # Errors
/// AlreadyExists; Unsupported where the file system can do neither.
pub fn name_new(staged: &Path, path: &Path) -> io::Result<()> {
    let named = match std::fs::hard_link(staged, path) {
        Err(error) if has_no_links(&error) => match rename_new(staged, path) {
            Ok(()) => return Ok(()),
            Err(error) if is_unknown_here(&error) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this file system has neither hard links nor renames that replace nothing",
            )),
            Err(error) => Err(error),
        },
        linked => linked,
    };
    let _ = std::fs::remove_file(staged); // gc takes what cannot be removed now
    named
}

/// `EPERM` is what link(2) says of a file system without hard links.
fn has_no_links(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EMLINK | libc::EINVAL)
    )
}

fn is_unknown_here(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
}

#[cfg(target_os = "linux")]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (from, to) = (text(from)?, text(to)?);
    let here = libc::AT_FDCWD;
    // By its number: not every C library has a function for it.
    // SAFETY: both texts end in a zero byte and outlive the call.
    let done = unsafe {
        let (from, to) = (from.as_ptr(), to.as_ptr());
        libc::syscall(libc::SYS_renameat2, here, from, here, to, libc::RENAME_NOREPLACE)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn rename_new(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Naming = fn(&Path, &Path) -> io::Result<()>;

    #[test]
    fn a_name_is_taken_once_and_nothing_is_replaced() {
        let ways: [Naming; 2] = [name_new, rename_new];
        for name in ways {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("named");
            let stage = |text: &str| {
                let staged = folder.path().join(text);
                std::fs::write(&staged, text).unwrap();
                staged
            };
            name(&stage("first"), &path).unwrap();
            let second = stage("second");
            let refused = name(&second, &path).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "first");
            assert!(!folder.path().join("first").exists());
        }
    }

    #[test]
    fn refusals_that_mean_no_hard_links_are_known() {
        let error = io::Error::from_raw_os_error;
        assert!(has_no_links(&error(libc::EPERM)) && has_no_links(&error(libc::EOPNOTSUPP)));
        // Those are told as what they are.
        for other in [libc::EEXIST, libc::ENOSPC, libc::EROFS, libc::EACCES, libc::ENOENT] {
            assert!(!has_no_links(&error(other)), "{other}");
        }
    }
}
