//! Local files: one, a folder's, or what a glob matches.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;
use url::Url;

use super::found::{Found, Limits, Search, in_root};
use super::lake::LocalOwners;
use super::pattern::{Below, Part};
use super::walk::{RealFile, Tree, Walk, missing, unreadable};
use crate::corpus::source::file::local_meta;
use crate::error::{Error, Result};
use crate::store::layout;
use crate::types::Cancel;

const NO_BRACES: &str = "; a glob has `*`, `**`, `?` and `[abc]`, but no `{a,b}`";

/// What to look for, and where.
pub(super) struct LocalSearch {
    /// Folder that the parts start from.
    pub(super) base: PathBuf,
    pub(super) parts: Vec<Part>,
    /// The `uri` for messages.
    pub(super) shown: String,
    /// The folder of `publish.root`, as it was named.
    pub(super) root: Option<PathBuf>,
    pub(super) cancel: Cancel,
}

impl LocalSearch {
    /// Blocks while it looks.
    ///
    /// # Errors
    /// Input, naming the place, where something is missing or is not a table's files; Unsupported for tables of another
    /// engine; as [`Cancel::check`].
    pub(super) fn run(&self, store: &Arc<dyn ObjectStore>) -> Result<Search> {
        self.refuse_root()?;
        let (start, wild) = self.fixed();
        let meta = std::fs::metadata(&start).map_err(|e| self.missing(&start, e))?;
        let below = match wild {
            [] if meta.is_dir() => Below::everything(),
            [] if meta.is_file() => return self.single(&start, meta, store),
            [] => {
                return Err(Error::input(format!(
                    "{} is a pipe, socket or device, and notes are read more than once; write them to a file",
                    start.display()
                )));
            }
            wild if meta.is_dir() => Below::glob(wild, &self.shown)?,
            _ => {
                return Err(Error::input(format!(
                    "{} matches no file: {} is not a folder",
                    self.shown,
                    start.display()
                )));
            }
        };
        let root = self.real_root();
        let inside = root.as_deref().filter(|root| {
            start.canonicalize().is_ok_and(|start| root.starts_with(&start) && *root != start)
        });
        let walk = Walk {
            below: &below,
            root: inside,
            limits: Limits::DEFAULT,
            cancel: &self.cancel,
            shown: &self.shown,
        };
        let tree = walk.run(&start)?;
        self.check_owners(&below, &tree)?;
        if tree.files.is_empty() {
            return Err(self.no_file(&tree));
        }
        let found = |file: RealFile| found(file, store);
        Ok(Search {
            files: tree.files.into_iter().map(found).collect::<Result<_>>()?,
            named: false,
            hidden: tree.hidden,
            special: tree.special,
            left_out_root: tree.left_out_root,
        })
    }

    /// The path up to the first part that is a pattern, and the parts from there on. A name with a `*` in it that exists
    /// is meant as it stands.
    fn fixed(&self) -> (PathBuf, &[Part]) {
        let mut path = self.base.clone();
        for (at, part) in self.parts.iter().enumerate() {
            let next = path.join(&part.name);
            if part.pattern.is_some() && next.symlink_metadata().is_err() {
                return (path, &self.parts[at..]);
            }
            path = next;
        }
        (path, &[])
    }

    fn single(
        &self,
        path: &Path,
        meta: std::fs::Metadata,
        store: &Arc<dyn ObjectStore>,
    ) -> Result<Search> {
        let real = path.canonicalize().map_err(|e| unreadable(path, e))?;
        let parent = real.parent().unwrap_or(&real);
        LocalOwners::default().check(parent)?;
        let file = RealFile { path: real, meta, folders: Vec::new() };
        Ok(Search { files: vec![found(file, store)?], named: true, ..Search::default() })
    }

    /// What this program publishes is not a note. Blocks while it looks.
    ///
    /// # Errors
    /// Input.
    pub(super) fn refuse_root(&self) -> Result<()> {
        let (start, _) = self.fixed();
        let (Some(root), Ok(start)) = (self.real_root(), start.canonicalize()) else {
            return Ok(());
        };
        let Ok(below) = start.strip_prefix(&root) else { return Ok(()) };
        let below = below.join("file");
        let ours = layout::folder(&below.to_string_lossy()).is_some();
        if start == root || ours {
            return Err(in_root(&self.shown, &root.display().to_string()));
        }
        Ok(())
    }

    /// The folder of `publish.root` without links.
    fn real_root(&self) -> Option<PathBuf> {
        let root = self.root.as_deref()?;
        Some(root.canonicalize().unwrap_or_else(|_| root.to_owned()))
    }

    fn check_owners(&self, below: &Below, tree: &Tree) -> Result<()> {
        let parents: BTreeSet<&Path> =
            tree.files.iter().filter_map(|file| file.path.parent()).collect();
        let mut owners = LocalOwners::default();
        parents.into_iter().try_for_each(|folder| owners.check(folder))?;
        if below.is_everything() {
            tree.folders.iter().try_for_each(|folder| owners.check(folder))?;
        }
        Ok(())
    }

    fn missing(&self, path: &Path, cause: std::io::Error) -> Error {
        let is_missing = cause.kind() == std::io::ErrorKind::NotFound;
        let error = missing(path, cause);
        match is_missing && self.shown.contains('{') {
            true => Error::input(format!("{}{NO_BRACES}", error.message())),
            false => error,
        }
    }

    fn no_file(&self, tree: &Tree) -> Error {
        let uri = &self.shown;
        let hint = if tree.fits_folder {
            format!(
                "; it fits folders: write {}/** for the files in them",
                uri.trim_end_matches('/')
            )
        } else if uri.contains('{') {
            NO_BRACES.to_owned()
        } else if let Some(hidden) = tree.hidden.told() {
            format!("; names that begin with `.` or `_` do not count: {hidden}")
        } else if let Some(special) = tree.special.told() {
            format!("; pipes, sockets and devices do not count: {special}")
        } else {
            format!(" (relative paths start from {})", self.base.display())
        };
        Error::input(format!("{uri} matches no file{hint}"))
    }
}

fn found(file: RealFile, store: &Arc<dyn ObjectStore>) -> Result<Found> {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let strange = |what: &str| {
        Error::input(format!("the name of {} {what}; rename the file", file.path.display()))
    };
    let url = Url::from_file_path(&file.path)
        .map_err(|()| Error::internal(format!("{} is not absolute", file.path.display())))?;
    let location = ObjectPath::from_url_path(url.path())
        .map_err(|e| strange("is not UTF-8, or has control characters").with_source(e))?;
    // The reader takes such names for half-written files.
    if layout::staged_for(&name).is_some() {
        return Err(strange("ends in `#` and digits"));
    }
    let meta = local_meta(&file.meta, location);
    Ok(Found { url, store: Arc::clone(store), meta, folders: file.folders, name })
}
