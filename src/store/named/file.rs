//! Files that a person names are read whole only where they have an end, and written whole or not at all.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Opens a regular file, or a link to one. A pipe would block its reader, a device may have no end, and opening
/// some does something: they are not opened.
///
/// # Errors
/// As the system says; a message of ours for what is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    match kind.is_file() {
        true => File::open(path),
        false => Err(io::Error::other(format!("it is {}; name a regular file", what(kind)))),
    }
}

/// Looks whether there is a file or folder.
///
/// # Errors
/// NotFound; as [`Error::io`] where it cannot be looked at: that is not the same as no file.
pub fn check_there(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(cause)
            if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Err(Error::not_found(format!("there is nothing at {}", path.display())))
        }
        Err(cause) => Err(Error::io(cause, format!("{} cannot be read", path.display()))),
    }
}

fn what(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a directory" } else { "not a regular file" }
}

/// All bytes of a regular file that has at most `most`.
///
/// # Errors
/// As [`open_regular`]; a message of ours where it is larger.
pub fn read_whole(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_all(open_regular(path)?, most)
}

/// [`read_whole`] of a text.
///
/// # Errors
/// As [`read_whole`]; a message of ours where it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    read_text_of(open_regular(path)?, most)
}

/// All of a stream that has at most `most` bytes, as a text.
///
/// # Errors
/// As the stream says; a message of ours where it goes on, or is not UTF-8.
pub fn read_text_of(stream: impl Read, most: u64) -> io::Result<String> {
    String::from_utf8(read_all(stream, most)?).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// All bytes of a stream that has at most `most`.
fn read_all(stream: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::other(format!("it is larger than {}", size(most)))),
        false => Ok(bytes),
    }
}

fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{bytes} bytes"),
        mib => format!("{mib} MiB"),
    }
}

/// What to do with a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is an error of kind `AlreadyExists`.
    Keep,
    /// It is replaced through its links and keeps its permissions.
    Replace,
}

/// Writes a file in one step: nobody ever reads half of it, and where it cannot be written, what was there stays.
///
/// # Errors
/// As the system says.
pub fn write_whole(path: &Path, bytes: impl AsRef<[u8]>, existing: Existing) -> io::Result<()> {
    write_with(path, existing, |out| out.write_all(bytes.as_ref()))
}

/// [`write_whole`] of what `fill` writes.
///
/// # Errors
/// As the system and `fill` say.
pub fn write_with(
    path: &Path,
    existing: Existing,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let there = match std::fs::metadata(path) {
        Ok(_) if existing == Existing::Keep => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(found) if found.is_dir() => return Err(io::Error::other("it is a directory")),
        Ok(found) if is_stream(path, &found) => {
            let mut out = BufWriter::new(OpenOptions::new().append(true).open(path)?);
            fill(&mut out)?;
            return out.flush();
        }
        Ok(found) => Some(found),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
        Err(cause) => return Err(cause),
    };
    let target = match (&there, std::fs::read_link(path)) {
        (Some(_), _) => path.canonicalize()?,
        // A link to what is not there yet.
        (None, Ok(to)) => std::path::absolute(path.parent().unwrap_or(Path::new("")).join(to))?,
        (None, Err(_)) => std::path::absolute(path)?,
    };
    let folder = target.parent().unwrap_or(Path::new("/"));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let part = builder.prefix(".scalingnote-").tempfile_in(folder)?;
    let mut out = BufWriter::new(part);
    fill(&mut out)?;
    let part = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    if let Some(found) = &there {
        part.as_file().set_permissions(found.permissions())?;
    }
    part.as_file().sync_all()?;
    let written = match existing {
        Existing::Keep => part.persist_noclobber(&target),
        Existing::Replace => part.persist(&target),
    };
    written.map(drop).map_err(|failure| failure.error)
}

/// A device, a pipe, or a name of an open file takes what is written; none of them may be replaced.
fn is_stream(path: &Path, found: &std::fs::Metadata) -> bool {
    let open = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"];
    !found.is_file() || open.iter().any(|name| path.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_has_no_end_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(read_whole(&path, 4).unwrap(), b"1234");
        assert_eq!(read_whole(&path, 3).unwrap_err().to_string(), "it is larger than 3 bytes");
        let endless = read_all(io::repeat(0), 2 << 20).unwrap_err();
        assert_eq!(endless.to_string(), "it is larger than 2 MiB");
        std::fs::write(&path, b"\xff").unwrap();
        assert!(read_text(&path, 4).unwrap_err().to_string().contains("UTF-8"));
        let folder = read_whole(folder.path(), 4).unwrap_err();
        assert_eq!(folder.to_string(), "it is a directory; name a regular file");
        assert_eq!(
            read_whole(&path.join("b"), 4).unwrap_err().kind(),
            io::ErrorKind::NotADirectory
        );
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for (path, said) in
            [(pipe.as_path(), "a pipe"), (&link, "a pipe"), (Path::new("/dev/zero"), "a device")]
        {
            let error = read_whole(path, 1 << 20).unwrap_err().to_string();
            assert!(error.contains(said), "{}: {error}", path.display());
        }
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_whole(&path, "one", Existing::Keep).unwrap();
        assert_eq!(
            write_whole(&path, "two", Existing::Keep).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        write_whole(&path, "two", Existing::Replace).unwrap();
        let broken = write_with(&path, Existing::Replace, |out| {
            out.write_all(b"three")?;
            Err(io::Error::other("full"))
        });
        assert_eq!(broken.unwrap_err().to_string(), "full");
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert!(write_whole(folder.path(), "x", Existing::Replace).is_err());
        assert_eq!(names(folder.path()), ["a"], "nothing else is left");
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_stay_and_devices_are_written_to() {
        use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "one").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_whole(&link, "two", Existing::Replace).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        let ahead = folder.path().join("ahead");
        std::os::unix::fs::symlink("later", &ahead).unwrap();
        write_whole(&ahead, "x", Existing::Replace).unwrap();
        assert!(ahead.symlink_metadata().unwrap().is_symlink() && ahead.is_file());

        let device = Path::new("/dev/null");
        write_whole(device, "x", Existing::Replace).unwrap();
        assert!(device.metadata().unwrap().file_type().is_char_device());
        #[cfg(target_os = "linux")]
        {
            let full = write_whole(Path::new("/dev/full"), "x", Existing::Replace).unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        }
    }
}
