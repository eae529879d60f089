//! A snapshot's files on this machine: all of them hashed before anything is made of them.
//!
//! | who opens | files of a local root | of any other |
//! |---|---|---|
//! | `search`, `snapshot verify`, a publisher that asks `[evaluation]`, [`super::Snapshot::open`] | mapped where they are: a short look | downloaded into the cache (`verify`: into a folder of its own, so that each file is read once) |
//! | `serve`, [`super::SnapshotWatcher`] | copied into the watcher's own cache folder, the copy is mapped | the same |
//! | the same with `in_place` (`serve --in-place`) | mapped where they are, for as long as they are served | the same |
//!
//! This program never changes a published file, but somebody else can: an editor, `> file`, `rsync --inplace`, another
//! machine that writes to a shared folder. A mapped file that is cut short ends the process with SIGBUS, and no check
//! beforehand helps; one that is written over gives wrong answers, or leads usearch, which follows the links in it
//! without looking, out of the file (SIGSEGV). So what is served for long is a copy that nobody else knows of. The
//! cache folder is locked by its watcher and holds what is open and what is being fetched; where the root's file system
//! shares blocks between copies and the cache is on it, the copies take no room. The files of a query tower are read
//! into memory when it is loaded; nothing of them is mapped.
//!
//! Everything else that maps files of a root, or copies of them, is a command that ends soon: the measuring of a shard
//! in a build (`stage::build`), a purge's look at the keys of an index.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::store::{FileRef, Root};

/// Where files come from.
pub(super) struct Files<'a> {
    /// Copies go here.
    pub cache: &'a Path,
    /// Whether those of a local root are mapped where they are.
    pub in_place: bool,
}

impl Files<'_> {
    pub async fn fetch(&self, root: &Root, file: &FileRef) -> Result<PathBuf> {
        match self.in_place {
            true => root.fetch(file, self.cache).await,
            false => root.copy(file, self.cache).await,
        }
    }
}
