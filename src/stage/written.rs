//! What plans say of the prepared files that they name, which have no hash in their names.

use std::collections::HashMap;

use serde::Deserialize;

use crate::error::Result;
use crate::store::layout::{self, Key};
use crate::store::{FileRef, Listed, Root};

/// Prepared files as they were written, by key.
#[derive(Debug, Default)]
pub(crate) struct Written(HashMap<String, FileRef>);

/// A plan of any release, as far as it is read here.
#[derive(Deserialize)]
struct Plan {
    shards: Vec<Shard>,
}

#[derive(Deserialize)]
struct Shard {
    prepared: Prepared,
}

#[derive(Deserialize)]
struct Prepared {
    file: FileRef,
}

impl Written {
    /// Reads the plans among these objects. Of a run that never had one, or whose plan cannot be read, nothing is known.
    ///
    /// # Errors
    /// A failing store.
    pub(crate) async fn of(root: &Root, objects: &[Listed]) -> Result<Self> {
        let mut written = HashMap::new();
        for object in objects {
            if !matches!(layout::parse(&object.key), Some(Key::Plan { .. })) {
                continue;
            }
            let plan = match root.get(&object.key).await {
                Err(error) if error.is_retryable() => return Err(error),
                bytes => bytes.ok().and_then(|bytes| serde_json::from_slice::<Plan>(&bytes).ok()),
            };
            let files = plan.into_iter().flat_map(|plan| plan.shards);
            let files = files.map(|shard| shard.prepared.file);
            written.extend(files.map(|file| (file.path.clone(), file)));
        }
        Ok(Self(written))
    }

    pub(super) fn get(&self, key: &str) -> Option<&FileRef> {
        self.0.get(key)
    }
}
