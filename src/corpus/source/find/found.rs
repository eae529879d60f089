//! What a search hands on: the files, and what it passed over.

use std::sync::Arc;

use object_store::{ObjectMeta, ObjectStore};
use url::Url;

use crate::error::Error;

/// How much a search may look at before it gives up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Names of any kind, files and folders.
    pub(super) names: usize,
    /// Files of the table.
    pub(super) files: usize,
    /// Folders inside each other.
    pub(super) depth: usize,
}

impl Limits {
    pub(super) const DEFAULT: Self = Self { names: 10_000_000, files: 1_000_000, depth: 100 };
}

/// One file that a `uri` names.
pub(super) struct Found {
    /// Without anything secret.
    pub(super) url: Url,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) meta: ObjectMeta,
    /// The folders between the fixed part of the `uri` and the file, as they are called there.
    pub(super) folders: Vec<String>,
    /// The file's name, where its ending stands.
    pub(super) name: String,
}

/// Things of one kind that were passed over: how many, and the first of them by name.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) count: u64,
    pub(super) first: String,
}

impl Passed {
    pub(super) fn add(&mut self, name: impl Into<String>) {
        let name = name.into();
        if self.count == 0 || name < self.first {
            self.first = name;
        }
        self.count += 1;
    }

    /// `3 files, e.g. /data/a.csv`; `None` where there are none.
    pub(super) fn told(&self) -> Option<String> {
        match self.count {
            0 => None,
            1 => Some(format!("1 ({})", self.first)),
            count => Some(format!("{count}, e.g. {}", self.first)),
        }
    }
}

/// Everything that a search found.
#[derive(Default)]
pub(super) struct Search {
    pub(super) files: Vec<Found>,
    /// Whether the `uri` is the name of this one file.
    pub(super) named: bool,
    /// Data that nobody asked for: its name, or its folder's, begins with `.` or `_`.
    pub(super) hidden: Passed,
    /// Pipes, sockets and devices.
    pub(super) special: Passed,
    /// Whether the folder of `publish.root` was left out.
    pub(super) left_out_root: bool,
}

/// The refusal of a table that is in what this program publishes.
pub(super) fn in_root(uri: &str, root: &str) -> Error {
    Error::input(format!(
        "{uri} is in publish.root, {root}: what this program writes there is not notes; give one of the two a folder of its own"
    ))
}
