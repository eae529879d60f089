//! Roots that are inside each other: what one of them purges or counts is also the other's, so no new one is begun
//! there.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;

use super::handle::Root;
use crate::error::{Error, Result};
use crate::store::layout;
use crate::store::local::blocking;

/// Folders above that are checked, the nearest first.
const ABOVE: usize = 32;
/// How deep below the root is looked.
const DEPTH: usize = 3;
/// Folders below a bucket's root that are checked; each is a request.
const REQUESTS: usize = 64;
/// Entries below a local root that are looked at.
const ENTRIES: usize = 20_000;
/// Names in a folder `snapshots` that are looked at: one page of a bucket.
const NAMES: usize = 1000;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Root {
    /// The nearest folder above this root that is a root: it holds a snapshot. What may not be listed, or takes too
    /// long, is passed over.
    pub async fn root_above(&self) -> Option<String> {
        if let Some(folder) = self.local.clone().filter(|_| self.durable.is_some()) {
            let look = move || -> std::io::Result<_> {
                let above = folder.ancestors().skip(1).take(ABOVE).find(|above| is_root(above));
                Ok(above.map(|above| above.display().to_string()))
            };
            return blocking(look).await.ok().flatten();
        }
        let names: Vec<_> = self.prefix.parts().collect();
        for above in (0..names.len()).rev().take(ABOVE) {
            let above: ObjectPath = names[..above].iter().cloned().collect();
            if has_manifest(&*self.creator, &above).await {
                let name = if above.as_ref().is_empty() { "/" } else { above.as_ref() };
                return Some(self.shown(name));
            }
        }
        None
    }

    /// A folder below this root that is a root, as far as a bounded look finds one.
    pub async fn root_below(&self) -> Option<String> {
        if let Some(folder) = self.local.clone().filter(|_| self.durable.is_some()) {
            let look = move || -> std::io::Result<_> { Ok(local_below(&folder)) };
            return blocking(look).await.ok().flatten().map(|below| below.display().to_string());
        }
        let mut folders = VecDeque::from([(0, self.prefix.clone())]);
        for _ in 0..REQUESTS {
            let (depth, folder) = folders.pop_front()?;
            let listing = self.creator.list_with_delimiter(Some(&folder));
            let Ok(Ok(listed)) = tokio::time::timeout(PATIENCE, listing).await else { continue };
            for below in listed.common_prefixes {
                let name = below.filename().unwrap_or_default();
                if depth > 0
                    && name == layout::SNAPSHOTS
                    && has_manifest(&*self.creator, &folder).await
                {
                    return Some(self.shown(folder.as_ref()));
                }
                let own = depth == 0 && layout::TOPS.contains(&name);
                if depth < DEPTH && !own {
                    folders.push_back((depth + 1, below));
                }
            }
        }
        None
    }

    /// Refuses to begin a root inside another one, or around one.
    ///
    /// # Errors
    /// Config, naming the other root.
    pub async fn refuse_nesting(&self) -> Result<()> {
        let (side, other) = match self.root_above().await {
            Some(above) => ("inside", above),
            None => match self.root_below().await {
                Some(below) => ("around", below),
                None => return Ok(()),
            },
        };
        Err(Error::config(format!(
            "{} would be {side} the root {other}: roots must not be in each other; choose a folder beside that one",
            self.uri
        )))
    }

    /// A path of this store for people.
    fn shown(&self, path: &str) -> String {
        let start = self.uri.strip_suffix(self.prefix.as_ref()).unwrap_or(&self.uri);
        format!("{}/{}", start.trim_end_matches('/'), path.trim_matches('/'))
    }
}

async fn has_manifest(store: &dyn ObjectStore, root: &ObjectPath) -> bool {
    let folder = root.clone().join(layout::SNAPSHOTS);
    let mut listed = store.list(Some(&folder)).take(NAMES);
    let found = async {
        while let Some(Ok(meta)) = listed.next().await {
            if meta.location.filename().is_some_and(is_manifest) {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or(false)
}

fn is_manifest(name: &str) -> bool {
    layout::manifest_number(&format!("{}/{name}", layout::SNAPSHOTS)).is_some()
}

fn is_root(folder: &Path) -> bool {
    let Ok(names) = std::fs::read_dir(folder.join(layout::SNAPSHOTS)) else { return false };
    let mut names = names.take(NAMES).flatten().map(|entry| entry.file_name());
    names.any(|name| name.to_str().is_some_and(is_manifest))
}

fn local_below(root: &Path) -> Option<PathBuf> {
    let mut folders = VecDeque::from([(0, root.to_owned())]);
    let mut left = ENTRIES;
    while let Some((depth, folder)) = folders.pop_front() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            left = left.checked_sub(1)?;
            let own = depth == 0
                && entry.file_name().to_str().is_some_and(|name| layout::TOPS.contains(&name));
            // A link is not a folder.
            if own || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if is_root(&entry.path()) {
                return Some(entry.path());
            }
            if depth + 1 < DEPTH {
                folders.push_back((depth + 1, entry.path()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    fn bucket(store: &Arc<InMemory>, prefix: &str) -> Root {
        let uri = format!("s3://bucket/{prefix}").trim_end_matches('/').to_owned();
        let mut root = Root::from_store(Arc::clone(store) as _, &uri, None);
        root.prefix = ObjectPath::from(prefix);
        root
    }

    async fn publish(root: &Root) {
        root.put(&layout::manifest(7), "{}".into()).await.unwrap();
    }

    #[tokio::test]
    async fn a_bucket_s_roots_are_found_above_and_below() {
        let store = Arc::new(InMemory::new());
        publish(&bucket(&store, "team/notes")).await;
        let told = |prefix: &str| {
            let root = bucket(&store, prefix);
            async move { root.refuse_nesting().await.err().map(|error| error.to_string()) }
        };
        for (inside, other) in [("team/notes/a", "notes"), ("team/notes/a/b/c", "notes")] {
            let told = told(inside).await.unwrap();
            assert!(told.contains("inside the root s3://bucket/team/notes:"), "{other}: {told}");
        }
        for around in ["", "team"] {
            let told = told(around).await.unwrap();
            assert!(told.contains("around the root s3://bucket/team/notes:"), "{told}");
        }
        for beside in ["team/notes-2", "team/other/deep", "other", "team/notes"] {
            assert_eq!(told(beside).await, None, "{beside}");
        }
        // The whole bucket is a root.
        let store = Arc::new(InMemory::new());
        publish(&bucket(&store, "")).await;
        let told = bucket(&store, "a").refuse_nesting().await.unwrap_err().to_string();
        assert!(told.contains("inside the root s3://bucket/:"), "{told}");
        // Only what this program calls a manifest is one.
        let store = Arc::new(InMemory::new());
        let hub = bucket(&store, "models");
        hub.put("snapshots/0123abc/config.json", "{}".into()).await.unwrap();
        hub.put("snapshots/7.json", "{}".into()).await.unwrap();
        assert!(bucket(&store, "models/a").refuse_nesting().await.is_ok());
        assert!(bucket(&store, "").refuse_nesting().await.is_ok());
    }

    #[tokio::test]
    async fn folders_are_looked_into_both_ways() {
        let place = tempfile::tempdir().unwrap();
        let open = |name: &str| Root::open(place.path().join(name).to_str().unwrap()).unwrap();
        publish(&open("a/b/notes")).await;
        for (nested, word) in
            [("a/b/notes/x", "inside"), ("a/b/notes/x/y", "inside"), ("a", "around")]
        {
            let told = open(nested).refuse_nesting().await.unwrap_err().to_string();
            assert!(
                told.contains(&format!("{word} the root")) && told.contains("a/b/notes:"),
                "{told}"
            );
        }
        for beside in ["a/b/other", "c", "a/b/notes"] {
            assert!(open(beside).refuse_nesting().await.is_ok(), "{beside}");
        }
    }
}
