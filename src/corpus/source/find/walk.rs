//! Walks a local folder: every real folder and every real file once, however links lead to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::found::{Limits, Passed};
use super::kind::FileKind;
use super::pattern::{Below, Reached, hidden};
use crate::error::{Error, Result};
use crate::types::Cancel;

/// Where to begin and what to look for.
pub(super) struct Walk<'a> {
    /// What the walk takes.
    pub(super) below: &'a Below,
    /// The folder of `publish.root`, which is left out.
    pub(super) root: Option<&'a Path>,
    pub(super) limits: Limits,
    pub(super) cancel: &'a Cancel,
    /// How messages call the table's files.
    pub(super) shown: &'a str,
}

/// A file that was found.
pub(super) struct RealFile {
    /// Without links.
    pub(super) path: PathBuf,
    pub(super) meta: Metadata,
    /// The folders below the start, as the walk came through them.
    pub(super) folders: Vec<String>,
}

/// What a walk found.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) files: Vec<RealFile>,
    /// Every folder that was read, without links.
    pub(super) folders: BTreeSet<PathBuf>,
    pub(super) hidden: Passed,
    pub(super) special: Passed,
    pub(super) left_out_root: bool,
    /// Whether the pattern is the name of a folder.
    pub(super) fits_folder: bool,
}

/// A folder to look into.
struct Folder {
    path: PathBuf,
    real: PathBuf,
    folders: Vec<String>,
    reached: Reached,
}

/// A link to follow, and the folder that it is in.
struct Link {
    name: String,
    folders: Vec<String>,
    reached: Reached,
}

/// The walk so far.
struct State<'a> {
    walk: &'a Walk<'a>,
    tree: Tree,
    todo: Vec<Folder>,
    /// Links come last, so that a file is known by its own folders where they are walked too.
    links: BTreeMap<PathBuf, Link>,
    /// Folders with what was asked of them: a pattern may ask different things of one folder, by different ways to it.
    entered: BTreeSet<(PathBuf, Reached)>,
    taken: BTreeSet<PathBuf>,
    names: usize,
}

impl Walk<'_> {
    /// Everything below `start` that is asked for.
    ///
    /// # Errors
    /// Input, naming the place, for a folder that cannot be read, a link that leads nowhere and a tree beyond the
    /// limits; as [`Cancel::check`].
    pub(super) fn run(&self, start: &Path) -> Result<Tree> {
        let real = start.canonicalize().map_err(|e| unreadable(start, e))?;
        let first = Folder {
            path: start.to_owned(),
            real,
            folders: Vec::new(),
            reached: self.below.start(),
        };
        let mut state = State {
            walk: self,
            tree: Tree::default(),
            todo: vec![first],
            links: BTreeMap::new(),
            entered: BTreeSet::new(),
            taken: BTreeSet::new(),
            names: 0,
        };
        loop {
            if let Some(folder) = state.todo.pop() {
                state.look_into(&folder)?;
            } else if let Some((path, link)) = state.links.pop_first() {
                state.follow(path, link)?;
            } else {
                return Ok(state.tree);
            }
        }
    }
}

impl State<'_> {
    fn look_into(&mut self, folder: &Folder) -> Result<()> {
        let Walk { below, root, limits, cancel, shown } = self.walk;
        if root.is_some_and(|root| folder.real.starts_with(root)) {
            self.tree.left_out_root = true;
            return Ok(());
        }
        if !self.entered.insert((folder.real.clone(), folder.reached.clone())) {
            return Ok(());
        }
        if folder.folders.len() > limits.depth {
            return Err(Error::input(format!(
                "{} lies more than {} folders deep; name a folder further down",
                folder.path.display(),
                limits.depth
            )));
        }
        self.tree.folders.insert(folder.real.clone());
        for entry in std::fs::read_dir(&folder.path).map_err(|e| unreadable(&folder.path, e))? {
            cancel.check()?;
            let entry = entry.map_err(|e| unreadable(&folder.path, e))?;
            self.names += 1;
            if self.names > limits.names {
                return Err(Error::input(format!(
                    "{shown} leads to more than {} names; name a narrower folder or glob",
                    limits.names
                )));
            }
            let file_name = entry.file_name();
            let name = file_name.to_string_lossy().into_owned();
            let next = below.enter(&folder.reached, &name);
            let takes = below.takes(&folder.reached, &name);
            let kind = entry.file_type().map_err(|e| unreadable(&entry.path(), e))?;
            if next.is_empty() && !takes {
                self.pass_hidden(&entry.path(), &name, kind.is_dir());
            } else if kind.is_symlink() {
                let (folders, reached) = (folder.folders.clone(), folder.reached.clone());
                self.links.insert(entry.path(), Link { name, folders, reached });
            } else if kind.is_dir() {
                self.push(entry.path(), folder.real.join(&file_name), &folder.folders, name, next);
            } else if takes {
                let meta = entry.metadata().map_err(|e| unreadable(&entry.path(), e))?;
                self.take(folder.real.join(&file_name), meta, folder.folders.clone())?;
            }
        }
        Ok(())
    }

    fn push(&mut self, path: PathBuf, real: PathBuf, up: &[String], name: String, next: Reached) {
        if next.is_empty() {
            self.tree.fits_folder = true;
            return;
        }
        let folders = up.iter().cloned().chain([name]).collect();
        self.todo.push(Folder { path, real, folders, reached: next });
    }

    fn follow(&mut self, path: PathBuf, link: Link) -> Result<()> {
        self.walk.cancel.check()?;
        let meta = std::fs::metadata(&path).map_err(|e| unreadable(&path, e))?;
        let real = path.canonicalize().map_err(|e| unreadable(&path, e))?;
        let below = self.walk.below;
        if meta.is_dir() {
            let next = below.enter(&link.reached, &link.name);
            self.push(path, real, &link.folders, link.name, next);
        } else if below.takes(&link.reached, &link.name) {
            self.take(real, meta, link.folders)?;
        }
        Ok(())
    }

    fn take(&mut self, path: PathBuf, meta: Metadata, folders: Vec<String>) -> Result<()> {
        if !meta.is_file() {
            self.tree.special.add(path.display().to_string());
            return Ok(());
        }
        if !self.taken.insert(path.clone()) {
            return Ok(());
        }
        let Limits { files, .. } = self.walk.limits;
        if self.taken.len() > files {
            return Err(Error::input(format!(
                "{} leads to more than {files} files; pack them into fewer, or make them several tables",
                self.walk.shown
            )));
        }
        self.tree.files.push(RealFile { path, meta, folders });
        Ok(())
    }

    /// Remembers what is passed over although it may well be data. What a Mac adds to every file (`._a.csv`) is not.
    fn pass_hidden(&mut self, path: &Path, name: &str, is_dir: bool) {
        let data = match is_dir {
            true => name.starts_with('_'),
            false => hidden(name) && !name.starts_with("._") && is_data(name),
        };
        if data && self.walk.below.is_everything() {
            self.tree.hidden.add(path.display().to_string());
        }
    }
}

/// Whether the ending is that of a table.
pub(super) fn is_data(name: &str) -> bool {
    matches!(FileKind::of(name, None), Ok(Some(_)))
}

/// The error of a path that somebody named and that cannot be looked at.
pub(super) fn missing(path: &Path, cause: std::io::Error) -> Error {
    let is_link = path.symlink_metadata().is_ok();
    if cause.kind() == ErrorKind::NotFound && !is_link {
        return Error::input(format!("{} does not exist", path.display()));
    }
    unreadable(path, cause)
}

/// The error of a path that was met and cannot be looked at.
pub(super) fn unreadable(path: &Path, cause: std::io::Error) -> Error {
    let shown = path.display();
    let dangling = std::fs::read_link(path).ok().filter(|_| cause.kind() == ErrorKind::NotFound);
    if let Some(target) = dangling {
        return Error::input(format!(
            "{shown} is a link to {}, which does not exist; restore that or remove the link: its notes would be missing",
            target.display()
        ));
    }
    let message = match cause.kind() {
        ErrorKind::NotFound => format!("{shown} went away while it was looked for; run again"),
        ErrorKind::PermissionDenied => {
            format!("{shown} cannot be read; check its owner and mode: its notes would be missing")
        }
        ErrorKind::NotADirectory => {
            let file = path.ancestors().find(|above| above.is_file()).unwrap_or(path);
            format!("{shown} does not exist: {} is a file, not a folder", file.display())
        }
        _ if cause.raw_os_error() == Some(libc::ELOOP) => {
            format!("{shown} is a link that leads back to itself; remove it")
        }
        _ => return Error::io(cause, format!("{shown} cannot be read")),
    };
    Error::input(message).with_source(cause)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::corpus::source::find::pattern::parts;

    const LIMITS: Limits = Limits { names: 1000, files: 100, depth: 5 };

    fn walk(start: &Path, glob: &str, limits: Limits, cancel: &Cancel) -> Result<Tree> {
        let below = match glob {
            "" => Below::everything(),
            glob => Below::glob(&parts(glob, false).unwrap(), glob).unwrap(),
        };
        Walk { below: &below, root: None, limits, cancel, shown: "notes" }.run(start)
    }

    fn found(start: &Path, glob: &str) -> Vec<String> {
        let start = start.canonicalize().unwrap();
        let tree = walk(&start, glob, LIMITS, &Cancel::new()).unwrap();
        let mut names: Vec<String> = tree
            .files
            .iter()
            .map(|file| file.path.strip_prefix(&start).unwrap_or(&file.path).display().to_string())
            .collect();
        names.sort();
        names
    }

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        dir
    }

    #[test]
    fn links_to_the_folder_itself_end_the_walk_at_once() {
        let dir = tree(&["a.csv", "sub/b.csv"]);
        symlink(".", dir.path().join("l1")).unwrap();
        symlink(".", dir.path().join("l2")).unwrap();
        symlink("..", dir.path().join("sub/up")).unwrap();
        symlink("sub", dir.path().join("again")).unwrap();
        symlink("a.csv", dir.path().join("same.csv")).unwrap();
        assert_eq!(found(dir.path(), ""), ["a.csv", "sub/b.csv"]);
        assert_eq!(found(dir.path(), "**/*.csv"), ["a.csv", "sub/b.csv"]);
        // Both links lead to a folder that the glob asks for.
        assert_eq!(found(dir.path(), "l*/*.csv"), ["a.csv"]);
    }

    #[test]
    fn one_folder_is_asked_different_things_by_different_ways() {
        // By `a/d` the glob wants a folder `x` in it; by the link `a/e/x` it wants the files.
        let dir = tree(&["a/d/n.csv", "a/e/keep.txt"]);
        symlink("../d", dir.path().join("a/e/x")).unwrap();
        assert_eq!(found(dir.path(), "a/*/x/*.csv"), ["a/d/n.csv"]);
    }

    #[test]
    fn links_out_of_the_folder_are_followed() {
        let other = tree(&["real.csv", "deep/er.csv"]);
        let dir = tree(&["a.csv"]);
        symlink(other.path().join("real.csv"), dir.path().join("here.csv")).unwrap();
        symlink(other.path().join("deep"), dir.path().join("lang=en")).unwrap();
        let real = other.path().canonicalize().unwrap();
        let real = |name: &str| real.join(name).display().to_string();
        let mut expected = vec!["a.csv".to_owned(), real("real.csv"), real("deep/er.csv")];
        expected.sort();
        assert_eq!(found(dir.path(), ""), expected);
        let tree = walk(dir.path(), "", LIMITS, &Cancel::new()).unwrap();
        let deep = tree.files.iter().find(|file| file.path.ends_with("er.csv")).unwrap();
        assert_eq!(deep.folders, ["lang=en"], "as the table names it");
    }

    #[test]
    fn what_may_not_be_read_is_not_said_to_be_missing() {
        let dir = tree(&["a.csv"]);
        let said = |name: &str, kind: ErrorKind| {
            missing(&dir.path().join(name), kind.into()).message().to_owned()
        };
        let denied = said("a.csv", ErrorKind::PermissionDenied);
        assert!(denied.contains("a.csv cannot be read; check its owner and mode"), "{denied}");
        assert!(said("gone.csv", ErrorKind::NotFound).ends_with("gone.csv does not exist"));
        let through = said("a.csv/b/c", ErrorKind::NotADirectory);
        assert!(through.contains("a.csv/b/c does not exist: "), "{through}");
        assert!(through.ends_with("a.csv is a file, not a folder"), "{through}");
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        let dir = tree(&["a.csv"]);
        let link = dir.path().join("gone");
        symlink("nowhere", &link).unwrap();
        let error = walk(dir.path(), "", LIMITS, &Cancel::new()).err().unwrap().to_string();
        assert!(error.contains("gone is a link to nowhere"), "{error}");
        assert_eq!(found(dir.path(), "*.csv"), ["a.csv"], "nobody asks for the link");
        std::fs::remove_file(&link).unwrap();
        symlink("gone", &link).unwrap();
        let error = walk(dir.path(), "", LIMITS, &Cancel::new()).err().unwrap().to_string();
        assert!(error.contains("leads back to itself"), "{error}");
    }

    #[test]
    fn markers_pipes_and_sockets_are_passed_over() {
        let dir =
            tree(&["a.csv", "_SUCCESS", ".x.csv", "._a.csv", "_old/b.csv", "_b.csv", ".git/c.csv"]);
        std::os::unix::net::UnixListener::bind(dir.path().join("socket.csv")).unwrap();
        let tree = walk(dir.path(), "", LIMITS, &Cancel::new()).unwrap();
        assert_eq!((tree.files.len(), tree.special.count, tree.hidden.count), (1, 1, 3));
        assert!(tree.special.first.ends_with("socket.csv"));
        assert_eq!(found(dir.path(), "*.csv"), ["_b.csv", "a.csv"], "as a shell does");
    }

    #[test]
    fn limits_and_cancellation_stop_it() {
        let dir = tree(&["a/b/c/d/e/f/n.csv", "m.csv", "o.csv"]);
        let says = |limits: Limits, words: &str| {
            let error = walk(dir.path(), "", limits, &Cancel::new()).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        };
        says(LIMITS, "more than 5 folders deep");
        says(Limits { depth: 10, names: 3, ..LIMITS }, "more than 3 names");
        says(Limits { depth: 10, files: 1, ..LIMITS }, "more than 1 files");
        let cancel = Cancel::new();
        cancel.cancel();
        let error = walk(dir.path(), "", LIMITS, &cancel).err().unwrap();
        assert_eq!(error.kind(), crate::error::ErrorKind::Cancelled);
    }
}
