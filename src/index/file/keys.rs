//! Which notes' vectors a file holds, without opening it for search.

use std::path::Path;

use super::format::{FREE_KEY, Layout};
use super::sidecar::{Sidecar, map_file};
use crate::error::{Result, ResultExt};

/// What a usearch file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKeys {
    /// Keys of its vectors, by slot.
    pub keys: Vec<u64>,
    /// Vectors without a key: removed in place, still in the file. No index that this program builds has any.
    pub unlabelled: usize,
}

/// The keys in a usearch file.
///
/// # Errors
/// NotFound; Corrupt where the file is not a whole usearch index.
pub fn stored_keys(index: &Path) -> Result<StoredKeys> {
    let bytes = map_file(index)?;
    let layout = Layout::parse(&bytes).context(|| format!("reading {}", index.display()))?;
    let keys = (0..layout.size).map(|slot| layout.key(&bytes, slot));
    let keys: Vec<u64> = keys.filter(|key| *key != FREE_KEY).collect();
    Ok(StoredKeys { unlabelled: layout.size - keys.len(), keys })
}

/// The keys in an f16 sidecar, ascending.
///
/// # Errors
/// NotFound; Corrupt where the file is not a whole sidecar.
pub fn sidecar_keys(sidecar: &Path) -> Result<Vec<u64>> {
    Ok(Sidecar::open(sidecar)?.keys().to_vec())
}
