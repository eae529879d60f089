//! Located files: where a plan found vectors that its parent's shards do not have.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::ids::Place;
use super::vectors::Places;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::{FileRef, Root};
use crate::types::Digest256;

/// Writes places as a file, sorted by hash.
pub(crate) async fn write(root: &Root, key: &str, places: &Places) -> Result<FileRef> {
    let mut sorted: Vec<_> = places.iter().collect();
    sorted.sort_unstable_by_key(|(hash, _)| **hash);
    let schema = Arc::new(Schema::new(vec![
        Field::new("text_hash", DataType::FixedSizeBinary(32), false),
        Field::new("part", DataType::Utf8, false),
        Field::new("row", DataType::UInt32, false),
    ]));
    let hashes =
        FixedSizeBinaryArray::try_from_iter(sorted.iter().map(|(hash, _)| hash.0.as_slice()))
            .context(|| "text hashes of a located file")?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(hashes),
        Arc::new(StringArray::from_iter_values(sorted.iter().map(|(_, place)| &*place.part))),
        Arc::new(UInt32Array::from_iter_values(sorted.iter().map(|(_, place)| place.row))),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)
        .context(|| "putting a located file together")?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).context(|| "zstd level")?))
        .build();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, schema, Some(properties))
        .context(|| "opening a located file")?;
    writer.write(&batch).context(|| "writing a located file")?;
    writer.close().context(|| "closing a located file")?;
    root.put(key, out.into()).await
}

/// Reads a located file; nothing where there is none.
pub(crate) async fn read(root: &Root, file: Option<&FileRef>) -> Result<Places> {
    let Some(file) = file else { return Ok(Places::new()) };
    let damaged = || format!("located file {} is damaged; start a new run", file.path);
    let bytes = root.get_file(file).await?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .or_error(ErrorKind::Corrupt, damaged)?
        .build()
        .or_error(ErrorKind::Corrupt, damaged)?;
    let mut places = Places::new();
    for batch in reader {
        let batch = batch.or_error(ErrorKind::Corrupt, damaged)?;
        let columns = (
            batch.column_by_name("text_hash").and_then(|c| c.as_fixed_size_binary_opt()),
            batch.column_by_name("part").and_then(|c| c.as_string_opt::<i32>()),
            batch.column_by_name("row").and_then(|c| c.as_primitive_opt::<UInt32Type>()),
        );
        let (Some(hashes), Some(parts), Some(rows)) = columns else {
            return Err(Error::corrupt(damaged()));
        };
        let mut names: HashMap<&str, Arc<str>> = HashMap::new();
        for at in 0..batch.num_rows() {
            let hash: [u8; 32] =
                hashes.value(at).try_into().map_err(|_| Error::corrupt(damaged()))?;
            let name = parts.value(at);
            let part = Arc::clone(names.entry(name).or_insert_with(|| Arc::from(name)));
            places.insert(Digest256(hash), Place { part, row: rows.value(at) });
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_round_trip_and_damage_is_seen() {
        let root = Root::in_memory();
        let places: Places = (0..100u32)
            .map(|n| {
                let part: Arc<str> = format!("part-{}", n % 3).into();
                (Digest256::of(&n.to_le_bytes()), Place { part, row: n })
            })
            .collect();
        let file = write(&root, "located.parquet", &places).await.unwrap();
        assert_eq!(read(&root, Some(&file)).await.unwrap(), places);
        assert!(read(&root, None).await.unwrap().is_empty());
        let wrong = FileRef { sha256: Digest256::of(b"x"), ..file };
        assert_eq!(read(&root, Some(&wrong)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
