//! One file of a table, and whether it is still what it was.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use chrono::DateTime;
use datafusion::common::ScalarValue;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use crate::corpus::outcome::InputFile;
use crate::error::{Error, Result};
use crate::store::unreadable;

/// How many requests to a store run at once.
pub(super) const REQUESTS: usize = 16;

/// A column that a folder's name gives (`lang=en`), and its value.
pub(in crate::corpus) type Partition = (String, Option<String>);

/// A file of a table as it was before the run.
#[derive(Clone)]
pub(in crate::corpus) struct SourceFile {
    pub(in crate::corpus) table: String,
    /// Where it is, without the query of a web address: that may be a signature.
    pub(in crate::corpus) url: Url,
    /// The same for all files of a table.
    pub(in crate::corpus) store: Arc<dyn ObjectStore>,
    pub(in crate::corpus) meta: ObjectMeta,
    /// Its name, with the folders between the fixed part of the table's `uri` and it.
    pub(in crate::corpus) path: String,
    /// The columns that its Hive folders give, the same in all files of a table; null for Hive's default.
    pub(in crate::corpus) partitions: Vec<Partition>,
}

impl SourceFile {
    /// The values of the columns that its folders give, by their places among its partitions.
    pub(super) fn folder_values(&self, places: &[usize]) -> Vec<ScalarValue> {
        let value = |at: &usize| self.partitions.get(*at).and_then(|(_, value)| value.clone());
        places.iter().map(|at| ScalarValue::Utf8(value(at))).collect()
    }

    /// What the report says of the file.
    pub(in crate::corpus) fn input(&self) -> InputFile {
        InputFile {
            table: self.table.clone(),
            uri: self.url.to_string(),
            size: self.meta.size,
            etag: self.meta.e_tag.clone(),
            modified: self.meta.last_modified.to_rfc3339(),
            version: None,
            read: None,
        }
    }

    /// Whether a remote file is still what it was.
    async fn unchanged(&self) -> Result<bool> {
        match self.store.head(&self.meta.location).await {
            Ok(now) => Ok(same(&self.meta, &now)),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(unreadable(self.url.as_str(), &e)),
        }
    }

    /// Whether a local file is still what it was. It is not opened: there may be more files than descriptors.
    fn unchanged_here(&self) -> Result<bool> {
        let path = self.url.to_file_path();
        let path =
            path.map_err(|()| Error::internal(format!("{} is not a local file", self.url)))?;
        match std::fs::metadata(&path) {
            Ok(now) => Ok(local_meta(&now, self.meta.location.clone()) == self.meta),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io(e, format!("{} cannot be read", path.display()))),
        }
    }

    fn changed(&self) -> Error {
        Error::input(format!(
            "{} of table `{}` changed while it was read; run again once nobody writes to it",
            self.url, self.table
        ))
    }
}

/// What a store would say of a local file.
pub(super) fn local_meta(file: &Metadata, location: ObjectPath) -> ObjectMeta {
    let (seconds, nanoseconds) = (file.mtime(), file.mtime_nsec());
    let modified = u32::try_from(nanoseconds)
        .ok()
        .and_then(|nanoseconds| DateTime::from_timestamp(seconds, nanoseconds))
        .unwrap_or_default();
    let tag = format!("{:x}-{seconds:x}.{nanoseconds:x}-{:x}", file.ino(), file.len());
    ObjectMeta {
        location,
        last_modified: modified,
        size: file.len(),
        e_tag: Some(tag),
        version: None,
    }
}

/// Whether two answers are about the same object. A listing and a look at one object may differ in the quotes around a
/// tag, and in the fractions of a second.
fn same(before: &ObjectMeta, now: &ObjectMeta) -> bool {
    let tag = |meta: &ObjectMeta| meta.e_tag.as_deref().map(|tag| tag.trim_matches('"').to_owned());
    before.size == now.size
        && tag(before).zip(tag(now)).is_none_or(|(before, now)| before == now)
        && before.last_modified.timestamp() == now.last_modified.timestamp()
}

/// Input error where a file changed since it was listed: what was read may be half old, half new.
pub(in crate::corpus) async fn check_unchanged(files: &[SourceFile]) -> Result<()> {
    let is_local = |file: &SourceFile| file.url.scheme() == "file";
    let (local, remote): (Vec<SourceFile>, Vec<SourceFile>) =
        files.iter().cloned().partition(is_local);
    let looking = tokio::task::spawn_blocking(move || {
        local.iter().try_for_each(|file| match file.unchanged_here()? {
            true => Ok(()),
            false => Err(file.changed()),
        })
    });
    looking.await.map_err(|e| Error::internal("looking at files again").with_source(e))??;
    let mut checks = futures::stream::iter(remote)
        .map(|file| async move { Ok::<_, Error>((file.unchanged().await?, file)) })
        .buffered(REQUESTS);
    while let Some((same, file)) = checks.try_next().await? {
        if !same {
            return Err(file.changed());
        }
    }
    Ok(())
}

#[cfg(test)]
impl SourceFile {
    /// A file of the table `notes` with these bytes.
    pub(super) async fn in_memory(name: &str, bytes: Vec<u8>) -> Self {
        let store = object_store::memory::InMemory::new();
        let location = ObjectPath::from(name);
        store.put(&location, bytes.into()).await.expect("memory takes everything");
        let meta = store.head(&location).await.expect("the file was just put there");
        let url = Url::parse(&format!("memory:///{name}")).expect("the test gives a plain name");
        let (table, store, partitions) = ("notes".to_owned(), Arc::new(store), Vec::new());
        Self { table, url, store, meta, path: name.to_owned(), partitions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_fractions_of_a_second_are_no_change() {
        let meta = |tag: Option<&str>, millis: i64, size: u64| ObjectMeta {
            location: ObjectPath::from("a"),
            last_modified: DateTime::from_timestamp_millis(millis).unwrap(),
            size,
            e_tag: tag.map(str::to_owned),
            version: None,
        };
        let listed = meta(Some("0x8D"), 5_250, 3);
        for (now, equal) in [
            (meta(Some("\"0x8D\""), 5_000, 3), true),
            (meta(None, 5_000, 3), true),
            (meta(Some("0x8E"), 5_250, 3), false),
            (meta(Some("0x8D"), 6_000, 3), false),
            (meta(Some("0x8D"), 5_250, 4), false),
        ] {
            assert_eq!(same(&listed, &now), equal, "{now:?}");
        }
    }
}
