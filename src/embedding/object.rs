//! Part files as Parquet's readers want them: every byte is checked before it is decoded.
//!
//! | reader | checked by |
//! |---|---|
//! | vectors, rewriting, copying rows, of a part whose receipt has hashes of its pieces | these, whenever a piece is read |
//! | the same of a part of an earlier release | the SHA-256 of the receipt, over all of the file, once a process; then by pieces |
//! | the same where the receipt is gone | the start of the SHA-256 in the file's name, likewise |
//! | text hashes of a part whose receipt has hashes of its pieces | these |
//! | text hashes of a part of an earlier release | nothing: a damaged text hash is not a text's, so a look-up misses it, and a later read of a vector of the part hashes all of it. Reading every part whole to plan a day would cost more than the day. |

use super::PartReceipt;
use crate::error::{Error, Result, found};
use crate::store::layout::{self, Key};
use crate::store::{ParquetObject, Root, damaged};

/// What is done about a part whose receipt has no hashes of its pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Without {
    /// All of it is hashed first.
    HashAll,
    /// It is read as it is.
    Trust,
}

/// The file of a part.
///
/// # Errors
/// NotFound where it does not exist; Corrupt where it is not what was written.
pub(super) async fn open(
    root: &Root,
    part: &PartReceipt,
    without: Without,
) -> Result<ParquetObject> {
    let key = part.file.path.as_str();
    let size = size(root, key).await?;
    if size != part.file.size {
        let what = format!("it has {size} bytes, {} were written", part.file.size);
        return Err(damaged(root, key, what));
    }
    let object = ParquetObject::new(root, key, size).by_pages();
    Ok(match (&part.pieces, without) {
        (Some(pieces), _) => object.with_pieces(pieces.clone().into()),
        (None, Without::HashAll) => object.with_pieces(root.pieces_of(&part.file).await?),
        (None, Without::Trust) => object,
    })
}

/// The part file `key`, by its receipt where there is one that names it.
///
/// # Errors
/// As [`open`].
pub(super) async fn open_key(root: &Root, key: &str) -> Result<ParquetObject> {
    let Some(Key::Part { space, shard, part, hash }) = layout::parse(key) else {
        return Err(Error::corrupt(format!("{key} is not a key of a part file")));
    };
    let receipt = layout::part_receipt(&space, shard, &part);
    if let Some(receipt) = found(PartReceipt::read(root, &space, &receipt).await)?
        && receipt.file.path == key
    {
        return open(root, &receipt, Without::HashAll).await;
    }
    let size = size(root, key).await?;
    let pieces = root.pieces_by_name(key, size, &hash).await?;
    Ok(ParquetObject::new(root, key, size).by_pages().with_pieces(pieces))
}

async fn size(root: &Root, key: &str) -> Result<u64> {
    root.size(key).await?.ok_or_else(|| {
        let uri = root.uri();
        Error::not_found(format!(
            "part file {key} is missing in {uri}: restore it, or run `scalingnote snapshot repair {uri}` to have the \
             next run encode its texts again"
        ))
    })
}

pub(super) fn altered(key: &str, what: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("part file {key} {what}: it was altered, encode it again"))
}
