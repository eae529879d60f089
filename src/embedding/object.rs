//! Part files as Parquet's readers want them, and their errors as ours.

use parquet::errors::ParquetError;

use crate::error::{Error, ErrorKind, Result};
use crate::store::{ParquetObject, Root, kind_of_foreign};

/// The part file `key`.
///
/// # Errors
/// NotFound where it does not exist.
pub(super) async fn open(root: &Root, key: &str) -> Result<ParquetObject> {
    let size = root.size(key).await?.ok_or_else(|| {
        Error::not_found(format!(
            "part file {key} is missing in {}; a receipt names it, so restore it or remove the receipt",
            root.uri()
        ))
    })?;
    Ok(ParquetObject::new(root, key, size).by_pages())
}

/// A Parquet error as ours: what the store said is a passing fault, anything else damage.
pub(super) fn parquet_error(what: &str, key: &str, cause: ParquetError) -> Error {
    let kind = match &cause {
        ParquetError::External(inner) => kind_of_foreign(inner.as_ref(), ErrorKind::Corrupt),
        _ => ErrorKind::Corrupt,
    };
    Error::new(kind, format!("{what} part file {key}")).with_source(cause)
}

pub(super) fn altered(key: &str, what: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("part file {key} {what}: it was altered, encode it again"))
}
