//! Reads and rewrites files that somebody wrote by hand: pipelines, recipes.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Largest file that is read: anything bigger was not written by hand.
const MAX_FILE: u64 = 4 << 20;

/// The text of a file and the folder that its relative paths start from. `called` names it in messages, `kind` is what
/// it should be.
///
/// # Errors
/// Usage, naming the file.
pub(crate) fn read(file: &Path, called: &str, kind: &str) -> Result<(String, PathBuf)> {
    let failed =
        |cause: std::io::Error| Error::usage(format!("{called} cannot be read")).with_source(cause);
    let other = |message: String| failed(std::io::Error::other(message));
    if file.is_dir() {
        return Err(other("it is a directory; name the .toml file in it".to_owned()));
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(other(format!("it is larger than 4 MiB, which no {kind} is")));
    }
    let text = String::from_utf8(bytes).map_err(|_| other("it is not UTF-8 text".to_owned()))?;
    let absolute = std::path::absolute(file).map_err(failed)?;
    Ok((text, absolute.parent().unwrap_or(Path::new("/")).to_path_buf()))
}

/// Writes a file in one step: nobody ever reads half of it. One that is there is replaced through its links and keeps
/// its permissions; with `new` it is an error of kind `AlreadyExists`.
pub(crate) fn write(file: &Path, text: &str, new: bool) -> std::io::Result<()> {
    let target = if new { std::path::absolute(file) } else { file.canonicalize() }?;
    let folder = target.parent().unwrap_or(Path::new("/"));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut part = builder.prefix(".scalingnote-").tempfile_in(folder)?;
    part.write_all(text.as_bytes())?;
    if !new {
        part.as_file().set_permissions(target.metadata()?.permissions())?;
    }
    part.as_file().sync_all()?;
    let written = if new { part.persist_noclobber(&target) } else { part.persist(&target) };
    written.map(drop).map_err(|failure| failure.error)
}
