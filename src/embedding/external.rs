//! Vectors by the hash of their text, from files that any program may have written (schemas/teacher.md).

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::error::{Error, ErrorKind, Result, ResultExt, shielded};
use crate::store::named::open_regular;
use crate::store::parquet_error;
use crate::types::{Digest256, Embeddings, TextHash};

/// The columns `text_hash` and `embedding` of a Parquet file, or of all files below a folder in the order of their
/// names.
///
/// # Errors
/// NotFound where nothing is there; Input, naming the file, for columns that are missing, of another type, or hold
/// nulls, and for vectors of different lengths.
pub fn read_by_text_hash(path: &Path) -> Result<(Vec<TextHash>, Embeddings)> {
    let mut files = Vec::new();
    find(path, &mut files)?;
    files.sort();
    let (mut hashes, mut values, mut width) = (Vec::new(), Vec::new(), 0);
    for file in &files {
        let named = || file.display().to_string();
        shielded(ErrorKind::Input, named, || read(file, &mut hashes, &mut values, &mut width))
            .context(named)?;
    }
    if hashes.is_empty() {
        return Err(Error::not_found(format!("no vector in {}", path.display())));
    }
    Ok((hashes, Embeddings::from_vec(width, values)?))
}

fn find(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let io = |e| Error::io(e, format!("cannot read {}", path.display()));
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(io)? {
        let inside = entry.map_err(io)?.path();
        if inside.is_dir() || inside.extension().is_some_and(|ending| ending == "parquet") {
            find(&inside, files)?;
        }
    }
    Ok(())
}

fn read(
    path: &Path,
    hashes: &mut Vec<TextHash>,
    values: &mut Vec<f32>,
    width: &mut usize,
) -> Result<()> {
    let file: File = open_regular(path).map_err(|e| Error::io(e, "cannot be opened"))?;
    let failed = |cause| parquet_error("reading vectors".to_owned(), cause);
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(failed)?;
    let at = |name: &str| {
        let found = builder.schema().index_of(name);
        found.map_err(|_| Error::input(format!("it has no column `{name}`")))
    };
    let mask =
        ProjectionMask::roots(builder.parquet_schema(), [at("text_hash")?, at("embedding")?]);
    let reader = builder.with_projection(mask).build().map_err(failed)?;
    for batch in reader {
        let batch = batch.or_error(ErrorKind::Input, || "reading vectors")?;
        read_hashes(column(&batch, "text_hash")?, hashes)?;
        read_rows(column(&batch, "embedding")?, values, width)?;
    }
    Ok(())
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    let column = batch.column_by_name(name);
    column
        .filter(|column| column.null_count() == 0)
        .ok_or_else(|| Error::input(format!("column `{name}` holds nulls")))
}

fn read_hashes(column: &ArrayRef, hashes: &mut Vec<TextHash>) -> Result<()> {
    let wrong = || {
        Error::input(
            "column `text_hash` must hold SHA-256 digests: 32 bytes, or 64 hex digits as text",
        )
    };
    match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = cast(column, &DataType::Utf8).or_error(ErrorKind::Input, || "text_hash")?;
            for text in texts.as_string::<i32>().iter() {
                hashes.push(text.and_then(|text| text.parse().ok()).ok_or_else(wrong)?);
            }
        }
        _ => {
            let bytes = cast(column, &DataType::Binary).map_err(|_| wrong())?;
            for bytes in bytes.as_binary::<i32>().iter() {
                let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                hashes.push(Digest256(bytes.ok_or_else(wrong)?));
            }
        }
    }
    Ok(())
}

fn read_rows(column: &ArrayRef, values: &mut Vec<f32>, width: &mut usize) -> Result<()> {
    let list = DataType::List(Field::new_list_field(DataType::Float32, true).into());
    let lists = cast(column, &list)
        .or_error(ErrorKind::Input, || "column `embedding` must hold lists of numbers")?;
    for row in lists.as_list::<i32>().iter().flatten() {
        if *width == 0 {
            *width = row.len();
        }
        if row.len() != *width || row.null_count() > 0 || *width == 0 {
            return Err(Error::input(format!(
                "a vector has {} numbers where others have {width}, or one that is missing",
                row.len()
            )));
        }
        let row = row.as_primitive::<Float32Type>().values();
        if !row.iter().all(|value| value.is_finite()) {
            return Err(Error::input("a vector holds a number that is not finite"));
        }
        values.extend_from_slice(row);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{FixedSizeBinaryArray, Float64Array, ListArray, StringArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Float16Type, Schema};
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn write(path: &Path, hashes: ArrayRef, vectors: ArrayRef) {
        let field = |name: &str, of: &ArrayRef| Field::new(name, of.data_type().clone(), true);
        let schema =
            Arc::new(Schema::new(vec![field("embedding", &vectors), field("text_hash", &hashes)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![vectors, hashes]).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn doubles(values: Vec<f64>, width: usize) -> ArrayRef {
        let lengths = std::iter::repeat_n(width, values.len() / width);
        let field = Arc::new(Field::new_list_field(DataType::Float64, true));
        let values = Arc::new(Float64Array::from(values));
        Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), values, None))
    }

    #[test]
    fn files_of_other_programs_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (Digest256::of(b"a"), Digest256::of(b"b"));
        let text: ArrayRef = Arc::new(StringArray::from(vec![a.to_hex(), b.to_hex()]));
        let one = dir.path().join("1.parquet");
        write(&one, text, doubles(vec![1.0, 0.0, 0.5, 2.0], 2));
        let bytes = FixedSizeBinaryArray::try_from_iter([b.0].into_iter()).unwrap();
        let halves = doubles(vec![0.25, 4.0], 2);
        let half = DataType::new_fixed_size_list(DataType::Float16, 2, true);
        let halves = cast(&halves, &half).unwrap();
        assert_eq!(halves.as_fixed_size_list().values().as_primitive::<Float16Type>().len(), 2);
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        write(&dir.path().join("deep/2.parquet"), Arc::new(bytes), halves);
        std::fs::write(dir.path().join("receipt.json"), "{}").unwrap();
        let (hashes, vectors) = read_by_text_hash(dir.path()).unwrap();
        assert_eq!(hashes, [a, b, b]);
        assert_eq!(vectors.as_slice(), [1.0, 0.0, 0.5, 2.0, 0.25, 4.0]);

        let error = |path: &Path| read_by_text_hash(path).unwrap_err();
        let short: ArrayRef = Arc::new(StringArray::from(vec!["abc"]));
        write(&one, short, doubles(vec![1.0, 0.0], 2));
        assert!(error(&one).to_string().contains("64 hex digits"), "{}", error(&one));
        let good: ArrayRef = Arc::new(StringArray::from(vec![a.to_hex()]));
        write(&one, good, doubles(vec![1.0], 1));
        assert!(error(dir.path()).to_string().contains("where others have"));
        write(&one, Arc::new(StringArray::from(vec![a.to_hex()])), doubles(vec![f64::NAN], 1));
        assert!(error(&one).to_string().contains("not finite"));
        assert_eq!(error(&dir.path().join("none")).kind(), ErrorKind::NotFound);
        std::fs::write(&one, "no parquet").unwrap();
        assert!(error(&one).to_string().contains("1.parquet"));
    }
}
