//! Which objects a content names, and which are in some JSON.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{self, Result};
use crate::snapshot::manifest::Content;
use crate::store::{FileRef, Listed, Root, layout};

/// Receipts and plans read at the same time.
const READERS: usize = 32;
/// Receipts and plans above this size are not read: what they name is then protected by age alone.
const MAX_JSON: u64 = 256 << 20;

/// Every key that a content needs, its frozen scale included.
pub(super) fn named_by(content: &Content) -> impl Iterator<Item = String> + '_ {
    let calibration = layout::calibration(&content.index.options_id, &content.space_id);
    content.files().map(|file| file.path.clone()).chain([calibration])
}

/// For each JSON object the keys of embeddings and indexes that are in it as strings, whatever its format.
pub(super) async fn read_names<'a>(
    root: &Root,
    files: impl Iterator<Item = &'a Listed>,
) -> Result<Vec<(String, Vec<String>)>> {
    let reads: Vec<_> = files.map(|file| names_in(root, file.clone())).collect();
    futures::stream::iter(reads).buffered(READERS).try_collect().await
}

async fn names_in(root: &Root, file: Listed) -> Result<(String, Vec<String>)> {
    let mut named = strings_in(root, &file, layout::is_file).await?;
    named.remove(&file.key);
    Ok((file.key, named.into_iter().collect()))
}

/// The strings of a stored JSON object that `wanted` picks; none where it is gone or too large. A torn or foreign
/// file has none either.
pub(crate) async fn strings_in(
    root: &Root,
    file: &Listed,
    wanted: fn(&str) -> bool,
) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    if let Some(value) = json_of(root, file).await? {
        collect(&value, wanted, &mut found);
    }
    Ok(found)
}

/// The files that a stored JSON object names with their hashes, as [`strings_in`] does without.
pub(in crate::snapshot) async fn files_in(
    root: &Root,
    file: &Listed,
    wanted: fn(&str) -> bool,
) -> Result<Vec<FileRef>> {
    let mut found = Vec::new();
    if let Some(value) = json_of(root, file).await? {
        collect_files(&value, wanted, &mut found);
    }
    Ok(found)
}

async fn json_of(root: &Root, file: &Listed) -> Result<Option<Value>> {
    if file.size > MAX_JSON {
        return Ok(None);
    }
    let bytes = error::found(root.get(&file.key).await)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn collect(value: &Value, wanted: fn(&str) -> bool, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if wanted(text) => drop(found.insert(text.clone())),
        Value::Array(items) => items.iter().for_each(|item| collect(item, wanted, found)),
        Value::Object(map) => map.values().for_each(|item| collect(item, wanted, found)),
        _ => {}
    }
}

fn collect_files(value: &Value, wanted: fn(&str) -> bool, found: &mut Vec<FileRef>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_files(item, wanted, found)),
        Value::Object(map) => {
            map.values().for_each(|item| collect_files(item, wanted, found));
            found.extend(FileRef::deserialize(value).ok().filter(|file| wanted(&file.path)));
        }
        _ => {}
    }
}
