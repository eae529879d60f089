//! Looking into every stored object, whatever it is, for traces of the notes.

use std::collections::HashMap;
use std::path::PathBuf;

use chrono::DateTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::target::Target;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::index;
use crate::stage::rows::{WHOSE, visit};
use crate::stage::written::Written;
use crate::store::layout::{self, Key};
use crate::store::{Foreign, Listed, Root, key};
use crate::types::TextHash;

/// Bytes of a text file looked at together.
const WINDOW: u64 = 4 << 20;
/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scanned {
    /// Objects, all of them.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Parquet files, by their `note_id`, `text_hash` and `key` columns.
    pub parquet_files: u64,
    /// Rows of those.
    pub rows: u64,
    /// usearch files and f16 sidecars, by their keys.
    pub index_files: u64,
    /// Keys in those.
    pub keys: u64,
    /// Everything else (JSON, pages), by ids and text hashes as words.
    pub text_files: u64,
    /// Files below the root that this program did not make, by the same words and the notes' texts, as far as these
    /// were stored.
    #[serde(default)]
    pub foreign_files: u64,
}

/// What an object holds of the notes. In order of weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holds {
    /// Nothing.
    Nothing,
    /// Nothing that could be seen, but vectors that say not whose they are.
    Unlabelled,
    /// A hash of their text, or a vector under it.
    Text,
    /// Their id or key.
    Note,
}

/// Looks into one object.
///
/// # Errors
/// NotFound where it was deleted in the meantime; Corrupt where it cannot be read.
pub(super) async fn look(
    root: &Root,
    object: &Listed,
    written: &Written,
    target: &Target,
    scanned: &mut Scanned,
) -> Result<Holds> {
    let holds = match extension(&object.key) {
        // What a tower read is beside it; in its weights, words occur by chance.
        _ if is_tower(&object.key) => Holds::Nothing,
        "parquet" => {
            scanned.parquet_files += 1;
            let mut holds = Holds::Nothing;
            visit(root, (&object.key, object.size), written, &WHOSE, &mut |row| {
                scanned.rows += 1;
                let note = row.note.is_some_and(|note| target.notes.contains(note))
                    || row.key.is_some_and(|key| target.keys.contains(&key));
                let text = row.hash.is_some_and(|hash| target.hashes.contains(&hash));
                let found = match (note, text) {
                    (true, _) => Holds::Note,
                    (_, true) => Holds::Text,
                    _ => Holds::Nothing,
                };
                holds = holds.max(found);
            })
            .await?;
            holds
        }
        // Of a run that was stopped while it prepared: nobody will read them.
        "rows" => return Err(Error::unsupported("rows that no shard has gathered yet")),
        kind @ ("usearch" | "f16") => {
            if let Some(short) = layout::hash_in_name(&object.key) {
                root.hashes_to(&object.key, &short).await?;
            }
            let (path, _folder) = local(root, object).await?;
            let (keys, unlabelled) = if kind == "usearch" {
                let stored = index::stored_keys(&path)?;
                (stored.keys, stored.unlabelled > 0)
            } else {
                (index::sidecar_keys(&path)?, false)
            };
            scanned.index_files += 1;
            scanned.keys += keys.len() as u64;
            match keys.iter().any(|key| target.keys.contains(key)) {
                true => Holds::Note,
                false if unlabelled => Holds::Unlabelled,
                false => Holds::Nothing,
            }
        }
        _ => {
            scanned.text_files += 1;
            // What a query tower read: a note whose id was damaged would be passed over, and its weights with it.
            if let Some(short) = layout::hash_in_name(&object.key) {
                root.hashes_to(&object.key, &short).await?;
            }
            let read = |range| root.get_range(&object.key, range);
            match windows(object.size, target, read, |bytes| target.stands_in(bytes)).await? {
                true => Holds::Note,
                false => Holds::Nothing,
            }
        }
    };
    scanned.objects += 1;
    scanned.bytes += object.size;
    Ok(holds)
}

/// Looks into a file that this program did not make: whatever it is, its bytes, and where it is called like one of
/// ours, what it would hold then.
///
/// # Errors
/// NotFound where it was deleted in the meantime; what keeps it from being read.
pub(super) async fn look_at_foreign(
    root: &Root,
    file: &Foreign,
    target: &Target,
    scanned: &mut Scanned,
) -> Result<Holds> {
    let (key, size) = (file.key.clone(), file.size);
    let named = matches!(extension(&key), "parquet" | "usearch" | "f16");
    if named && key::check(&key).is_ok() {
        let object = Listed { key, size, modified: DateTime::UNIX_EPOCH };
        match look(root, &object, &Written::default(), target, scanned).await {
            Ok(holds) => return Ok(holds),
            Err(error) if error.is_retryable() => return Err(error),
            // It is not what it is called.
            Err(_) => {}
        }
    }
    let holds = windows(
        size,
        target,
        |range| root.foreign_range(file, range),
        |bytes| target.stands_in_foreign(bytes),
    );
    let holds = holds.await?;
    scanned.foreign_files += 1;
    scanned.bytes += size;
    Ok(if holds { Holds::Note } else { Holds::Nothing })
}

fn is_tower(key: &str) -> bool {
    let Some(key) = layout::parse(key) else { return false };
    matches!(key, Key::TowerWeights { .. } | Key::TowerConfig { .. } | Key::TowerTokenizer { .. })
}

fn extension(key: &str) -> &str {
    key.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, end)| end)
}

/// Which texts the target's notes have or had, by a Parquet file that names both; with the note that has it. The target
/// learns the texts themselves where they are stored.
pub(super) async fn texts(
    root: &Root,
    object: &Listed,
    written: &Written,
    target: &mut Target,
    found: &mut HashMap<TextHash, String>,
) -> Result<()> {
    if extension(&object.key) != "parquet" {
        return Ok(());
    }
    let mut any = false;
    visit(root, (&object.key, object.size), written, &WHOSE, &mut |row| {
        if let (Some(note), Some(hash)) = (row.note, row.hash)
            && target.notes.contains(note)
        {
            any = true;
            found.entry(hash).or_insert_with(|| note.to_owned());
        }
    })
    .await?;
    if !any || !matches!(layout::parse(&object.key), Some(Key::Prepared { .. })) {
        return Ok(());
    }
    let mut texts = Vec::new();
    visit(root, (&object.key, object.size), written, &["note_id", "text"], &mut |row| {
        if row.note.is_some_and(|note| target.notes.contains(note)) {
            texts.extend(row.text.map(str::to_owned));
        }
    })
    .await?;
    texts.iter().for_each(|text| target.add_text(text));
    Ok(())
}

/// Looks for words in a file of any size, a window at a time.
async fn windows<F>(
    size: u64,
    target: &Target,
    read: impl Fn(std::ops::Range<u64>) -> F,
    holds: impl Fn(&[u8]) -> bool,
) -> Result<bool>
where
    F: Future<Output = Result<bytes::Bytes>>,
{
    let overlap = target.overlap() as u64;
    let mut from = 0;
    while from < size {
        if holds(&read(from..size.min(from + WINDOW + overlap)).await?) {
            return Ok(true);
        }
        from += WINDOW;
    }
    Ok(false)
}

/// The object as a local file: itself, or a copy that is deleted with the folder.
async fn local(root: &Root, object: &Listed) -> Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(path) = root.local_path(&object.key) {
        return Ok((path, None));
    }
    let full = || format!("copying {} to the folder for temporary files (TMPDIR)", object.key);
    let folder = tempfile::tempdir().or_error(ErrorKind::Resource, full)?;
    let path = folder.path().join("object");
    let mut out = tokio::fs::File::create(&path).await.or_error(ErrorKind::Resource, full)?;
    let mut from = 0;
    while from < object.size {
        let to = object.size.min(from + WINDOW);
        let bytes = root.get_range(&object.key, from..to).await?;
        out.write_all(&bytes).await.or_error(ErrorKind::Resource, full)?;
        from = to;
    }
    out.flush().await.or_error(ErrorKind::Resource, full)?;
    Ok((path, Some(folder)))
}
