//! What is said of a stored object.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::Digest256;

/// What a put-if-absent found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// This call created the object.
    Created,
    /// The object was there already and is unchanged.
    AlreadyExists,
}

/// A stored object: where it is and what its bytes must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Key below the root, e.g. `indexes/6f0c…/00017/3a….usearch`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the bytes.
    pub sha256: Digest256,
}

impl FileRef {
    /// The keys of some files.
    pub(crate) fn paths<'a>(files: impl Iterator<Item = &'a Self>) -> HashSet<&'a str> {
        files.map(|file| file.path.as_str()).collect()
    }

    /// Its name in a cache that [`super::Root::fetch`] fills.
    pub fn cached_name(&self) -> String {
        let name = self.path.rsplit('/').next().unwrap_or("object");
        format!("{}-{name}", self.sha256.short())
    }

    /// Whether [`FileRef::cached_name`] gives such names.
    pub fn is_cached_name(name: &str) -> bool {
        let hash = name.split('-').next().unwrap_or_default();
        hash.len() == 16 && hash.len() < name.len() && hash.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

/// One row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Key below the root.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// Last modification as the store says.
    pub modified: chrono::DateTime<chrono::Utc>,
}
