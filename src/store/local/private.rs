//! Folders of this user alone: caches, which are trusted once they were checked.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Makes `folder` and what is missing above it, so that nobody else may look into it. One that is there stays as it is.
pub fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// [`make_private`], and refuses a folder that is somebody else's: for a place where everybody may make one, such as
/// `/tmp`. Anyone who may write to a cache can swap a file after it was checked, so nobody else may from now on.
///
/// # Errors
/// PermissionDenied where it is a symbolic link or another user's.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    make_private(folder)?;
    let found = std::fs::symlink_metadata(folder)?;
    // SAFETY: geteuid takes nothing, touches no memory of this program and cannot fail.
    let own = unsafe { libc::geteuid() };
    let told = match found.is_dir() {
        false => "is a symbolic link, or no folder",
        true if found.uid() != own => "belongs to another user",
        true if found.mode() & 0o022 == 0 => return Ok(()),
        true => return std::fs::set_permissions(folder, Permissions::from_mode(0o700)),
    };
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{} {told}; remove it, or set XDG_CACHE_HOME to a folder of yours",
            folder.display()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_that_others_could_have_prepared_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let mine = base.path().join("a/b");
        private_folder(&mine).unwrap();
        assert_eq!(std::fs::metadata(&mine).unwrap().mode() & 0o777, 0o700);
        private_folder(&mine).unwrap();

        let link = base.path().join("link");
        symlink(&mine, &link).unwrap();
        let open = base.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        private_folder(&open).unwrap();
        assert_eq!(std::fs::metadata(&open).unwrap().mode() & 0o777, 0o700);
        let refused = private_folder(&link).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains("symbolic link"), "{refused}");
        // A user that runs as root owns what is made here; anybody else does not own the root of all folders.
        if std::fs::metadata(base.path()).unwrap().uid() != 0 {
            let refused = private_folder(Path::new("/")).unwrap_err();
            assert!(refused.to_string().contains("another user"), "{refused}");
        }
    }
}
