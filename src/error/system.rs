//! What an error of the operating system means: its kind, and the way out where its own text does not tell.

use std::error::Error;
use std::io;

use super::ErrorKind;

/// The way out where a process has as many files and connections open as it may.
pub const TOO_MANY_FILES: &str = "this process has too many files and connections open; raise its limit (`ulimit -n`, \
    `LimitNOFILE` of a service) or let it do less at once";

/// Error numbers, what they mean for the caller, and the way out.
const KNOWN: [(&[i32], ErrorKind, &str); 11] = [
    (
        &[libc::ENOSPC, libc::EDQUOT],
        ErrorKind::Resource,
        "the disk or quota is full; free space, or let TMPDIR name a folder on another disk for temporary files, and run again",
    ),
    (&[libc::EMFILE], ErrorKind::Resource, TOO_MANY_FILES),
    (
        &[libc::ENFILE],
        ErrorKind::Resource,
        "all processes of this machine together have too many files open; raise fs.file-max or end some of them",
    ),
    (&[libc::EROFS], ErrorKind::Input, "the file system is mounted read-only"),
    (
        &[libc::ESTALE],
        ErrorKind::Transient,
        "the file server no longer knows this file or folder; run again, and mount the folder again if that does not help",
    ),
    (
        &[libc::ENOTCONN, libc::EHOSTDOWN, libc::EHOSTUNREACH, libc::ENETDOWN, libc::ENETUNREACH],
        ErrorKind::Transient,
        "the server cannot be reached; check the network and, for a network folder, its mount",
    ),
    (
        &[libc::EIO],
        ErrorKind::Resource,
        "the disk or the file server failed; the log of the system (dmesg) says more",
    ),
    (&[libc::ENAMETOOLONG], ErrorKind::Input, "the path is longer than its file system allows"),
    (
        &[libc::ELOOP],
        ErrorKind::Input,
        "a symbolic link stands where none may be, or links form a loop",
    ),
    (
        &[libc::EBUSY, libc::ETXTBSY, libc::EAGAIN],
        ErrorKind::Transient,
        "another process holds it at this moment; run again",
    ),
    (
        &[libc::ENOLCK],
        ErrorKind::Resource,
        "the file system gives no locks; take a folder on another one, or let its server lock",
    ),
];

fn known(error: &io::Error) -> Option<&'static (&'static [i32], ErrorKind, &'static str)> {
    let number = error.raw_os_error()?;
    KNOWN.iter().find(|(numbers, ..)| numbers.contains(&number))
}

/// The way out where the error's own text does not say.
pub fn way_out(error: &io::Error) -> Option<&'static str> {
    known(error).map(|(_, _, way_out)| *way_out)
}

/// [`way_out`] of the operating system's error that is or caused this one.
pub fn way_out_of(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let links = std::iter::successors(Some(error), |error| (**error).source());
    links.filter_map(|error| error.downcast_ref::<io::Error>()).find_map(way_out)
}

/// Whether it is for want of room on a disk.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Error kind that fits an [`std::io::Error`]: a full disk is a resource, a missing file is not found.
pub fn kind_of_io(error: &io::Error) -> ErrorKind {
    use io::ErrorKind as Io;
    if let Some((_, kind, _)) = known(error) {
        return *kind;
    }
    match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        // A library's own word for a full disk has no number.
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge | Io::OutOfMemory => {
            ErrorKind::Resource
        }
        Io::Interrupted | Io::TimedOut | Io::ConnectionReset | Io::ConnectionRefused => {
            ErrorKind::Transient
        }
        Io::UnexpectedEof | Io::InvalidData => ErrorKind::Corrupt,
        Io::Unsupported => ErrorKind::Unsupported,
        _ => ErrorKind::Input,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn what_the_system_refuses_is_told_as_what_it_is() {
        for (number, kind, says) in [
            (libc::EMFILE, ErrorKind::Resource, "ulimit -n"),
            (libc::ENFILE, ErrorKind::Resource, "fs.file-max"),
            (libc::EROFS, ErrorKind::Input, "read-only"),
            (libc::ESTALE, ErrorKind::Transient, "mount"),
            (libc::ENAMETOOLONG, ErrorKind::Input, "longer than"),
            (libc::EIO, ErrorKind::Resource, "dmesg"),
            (libc::ENOSPC, ErrorKind::Resource, "full"),
            (libc::EDQUOT, ErrorKind::Resource, "full"),
        ] {
            let error = Error::io(io::Error::from_raw_os_error(number), "cannot read x");
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().starts_with("cannot read x: "), "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        for (number, kind) in [
            (libc::ENOENT, ErrorKind::NotFound),
            (libc::EACCES, ErrorKind::Input),
            (libc::EPERM, ErrorKind::Input),
            (libc::EOPNOTSUPP, ErrorKind::Unsupported),
        ] {
            let error = Error::io(io::Error::from_raw_os_error(number), "cannot read x");
            assert_eq!((error.kind(), error.message()), (kind, "cannot read x"));
        }
    }
}
