//! The keys of a segment that no longer count: Parquet with one column, `key` (uint64, ascending).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::UInt64Type;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;

use super::format::Removed;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::Root;

/// The file's bytes, a pure function of the keys (ascending, no repeats).
pub fn to_parquet(keys: &[u64]) -> Result<Bytes> {
    let column: ArrayRef = Arc::new(UInt64Array::from(keys.to_vec()));
    let batch = RecordBatch::try_from_iter_with_nullable([("key", column, false)])
        .context(|| "putting removed keys together")?;
    let properties = WriterProperties::builder()
        .set_created_by("scalingnote".to_owned())
        // Keys are hashes: no two are alike and nothing can be compressed.
        .set_dictionary_enabled(false)
        .build();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties))
        .context(|| "opening a file of removed keys")?;
    writer.write(&batch).context(|| "writing removed keys")?;
    writer.close().context(|| "closing a file of removed keys")?;
    Ok(out.into())
}

/// The keys in a file's bytes, checked: ascending, as many as the manifest says.
pub fn from_parquet(bytes: Bytes, removed: &Removed) -> Result<Vec<u64>> {
    let damaged = || format!("reading the removed keys {}", removed.file.path);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(8192).build())
        .or_error(ErrorKind::Corrupt, damaged)?;
    let mut keys: Vec<u64> = Vec::new();
    for batch in reader {
        let batch = batch.or_error(ErrorKind::Corrupt, damaged)?;
        let column = batch.column_by_name("key").and_then(|c| c.as_primitive_opt::<UInt64Type>());
        let column = column
            .filter(|column| column.null_count() == 0)
            .ok_or_else(|| Error::corrupt("it has no key column").context(damaged()))?;
        keys.extend_from_slice(column.values());
    }
    if keys.len() as u64 != removed.vectors || !keys.is_sorted_by(|a, b| a < b) {
        return Err(
            Error::corrupt("its keys are not those that the manifest counts").context(damaged())
        );
    }
    Ok(keys)
}

/// The keys of `removed`, ascending; none where there is no such file.
///
/// # Errors
/// NotFound; Corrupt where the file is not the one that the manifest names.
pub async fn read(root: &Root, removed: Option<&Removed>) -> Result<Vec<u64>> {
    match removed {
        None => Ok(Vec::new()),
        Some(removed) => from_parquet(root.get_file(&removed.file).await?, removed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FileRef;
    use crate::types::Digest256;

    #[test]
    fn keys_come_back_and_damage_is_told() {
        let keys = [3, 9, u64::MAX - 1];
        let bytes = to_parquet(&keys).unwrap();
        assert_eq!(bytes, to_parquet(&keys).unwrap());
        let file =
            FileRef { path: "r".into(), size: bytes.len() as u64, sha256: Digest256::of(&bytes) };
        let removed = Removed { vectors: 3, file };
        assert_eq!(from_parquet(bytes.clone(), &removed).unwrap(), keys);
        assert!(from_parquet(bytes.slice(1..), &removed).is_err());
        assert!(from_parquet(bytes, &Removed { vectors: 2, ..removed }).is_err());
    }
}
