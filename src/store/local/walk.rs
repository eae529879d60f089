//! Listing a folder without following symbolic links: what a link leads to is not the root's.

use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::blocking::blocking;
use crate::store::layout;

/// A file below a root.
#[derive(Debug)]
pub struct LocalFile {
    /// Where it is.
    pub path: PathBuf,
    /// The same from the root on, with `/`; a name that is not Unicode is shown as well as can be.
    pub key: String,
    pub size: u64,
    pub modified: DateTime<Utc>,
}

/// The files below a folder, in no order, and the folders that could not be read.
#[derive(Debug, Default)]
pub struct Walked {
    pub files: Vec<LocalFile>,
    pub closed: Vec<(String, io::Error)>,
}

/// Every file of `root` whose key starts with the folder `below` (empty: every file).
///
/// # Errors
/// InvalidInput where a folder that this program makes at the top of a root is a link: passing it over would look as if
/// everything in it were gone.
pub async fn walk(root: PathBuf, below: String) -> io::Result<Walked> {
    blocking(move || {
        let mut walked = Walked::default();
        let mut folder = root.clone();
        for name in below.split('/').filter(|name| !name.is_empty()) {
            folder.push(name);
            let Some(meta) = there(folder.symlink_metadata())? else { return Ok(walked) };
            if meta.is_symlink() {
                return refuse_top(&root, &folder).map(|()| walked);
            }
            if !meta.is_dir() {
                return Ok(walked);
            }
        }
        walked.look_into(&root, &folder)?;
        Ok(walked)
    })
    .await
}

impl Walked {
    fn look_into(&mut self, root: &Path, folder: &Path) -> io::Result<()> {
        let key = |path: &Path| shown(path.strip_prefix(root).unwrap_or(path));
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.closed.push((key(folder), error));
                }
                return Ok(());
            }
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let Some(kind) = there(entry.file_type())? else { continue };
            if kind.is_symlink() {
                refuse_top(root, &path)?;
            } else if kind.is_dir() {
                self.look_into(root, &path)?;
            } else if kind.is_file()
                // Its time and size; of a file that goes just now there is nothing to say.
                && let Some(meta) = there(entry.metadata())?
            {
                let (key, modified) = (key(&path), meta.modified()?.into());
                self.files.push(LocalFile { key, path, size: meta.len(), modified });
            }
        }
        Ok(())
    }
}

fn shown(path: &Path) -> String {
    let names = path.iter().map(|name| name.to_string_lossy());
    names.collect::<Vec<_>>().join("/")
}

fn refuse_top(root: &Path, link: &Path) -> io::Result<()> {
    let name = link.strip_prefix(root).ok().and_then(Path::to_str).unwrap_or_default();
    if !layout::TOPS.contains(&name) {
        return Ok(());
    }
    let message = format!(
        "{} is a symbolic link, and what a link leads to is not the root's: mount the folder there instead, or put the whole root \
         behind a link",
        link.display()
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Another process may remove it at the same time.
pub(super) fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    async fn keys(root: &Path, below: &str) -> Vec<String> {
        let walked = walk(root.to_owned(), below.to_owned()).await.unwrap();
        let mut keys: Vec<String> = walked.files.into_iter().map(|file| file.key).collect();
        keys.sort();
        keys
    }

    #[tokio::test]
    async fn links_are_passed_over_and_never_for_what_must_be_there() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(inside.path().join("runs/a")).unwrap();
        std::fs::write(inside.path().join("runs/a/plan.json"), "x").unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        symlink(outside.path(), inside.path().join("runs/b")).unwrap();
        symlink(outside.path().join("secret"), inside.path().join("runs/a/report.json")).unwrap();
        symlink(inside.path(), inside.path().join("loop")).unwrap();
        symlink("nowhere", inside.path().join("runs/a/broken")).unwrap();
        for below in ["", "runs", "runs/a"] {
            assert_eq!(keys(inside.path(), below).await, ["runs/a/plan.json"], "{below:?}");
        }
        for below in ["runs/b", "loop/runs", "none", "runs/a/plan.json"] {
            assert!(keys(inside.path(), below).await.is_empty(), "{below:?}");
        }
        // A root may be a link itself.
        let link = outside.path().join("root");
        symlink(inside.path(), &link).unwrap();
        assert_eq!(keys(&link, "runs").await, ["runs/a/plan.json"]);

        symlink(outside.path(), inside.path().join("embeddings")).unwrap();
        for below in ["", "embeddings", "embeddings/x"] {
            let refused = walk(inside.path().to_owned(), below.to_owned()).await.unwrap_err();
            assert!(refused.to_string().contains("embeddings is a symbolic link"), "{refused}");
        }
        assert_eq!(keys(inside.path(), "runs").await, ["runs/a/plan.json"]);
    }
}
