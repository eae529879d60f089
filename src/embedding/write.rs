//! Writing one part: Parquet under a name of its own bytes, then the receipt.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array,
    RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use half::f16;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::{EncodedText, PartReceipt, RECEIPT_VERSION, metadata};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::schema::embedding_schema;
use crate::store::{Cutter, FileRef, Pieces, Root, layout, receipt};
use crate::types::{
    Digest256, EmbeddingSpace, Embeddings, Hasher256, SpaceId, VectorType, computing,
};

/// Bytes of vectors in one row group: what a reader of a few rows holds beside them.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// Bytes of vectors in one page: what a reader of one row fetches.
const PAGE_BYTES: usize = 128 << 10;
/// Least and most bytes of a piece that is hashed on its own, but for what lies behind the last column.
const LEAST_PIECE: u64 = 64 << 10;
const MOST_PIECE: u64 = 1 << 20;
/// Rows turned into Arrow at once.
const BATCH_BYTES: usize = 4 << 20;

/// The Arrow schema of a part.
pub fn schema(dimensions: u32, vector_type: VectorType) -> Result<Schema> {
    if i32::try_from(dimensions).is_err() || dimensions == 0 {
        return Err(Error::internal(format!("a vector cannot have {dimensions} dimensions")));
    }
    Ok(embedding_schema(dimensions, vector_type).as_ref().clone())
}

/// Writes one part and its receipt. If another attempt's receipt is there already, deletes nothing,
/// leaves the own file (if it differs) to gc, and returns the receipt that counts.
///
/// # Errors
/// Input for a value that f16 cannot hold; Corrupt where an existing receipt does not fit; what the
/// store says.
pub async fn write_part(
    root: &Root,
    space: &EmbeddingSpace,
    shard: u32,
    vector_type: VectorType,
    texts: &[EncodedText],
    vectors: &Embeddings,
    provenance: &serde_json::Value,
) -> Result<PartReceipt> {
    let space_id = space.id()?;
    if texts.is_empty() || texts.len() != vectors.len() {
        return Err(Error::internal(format!(
            "a part needs one vector per text: {} texts, {} vectors",
            texts.len(),
            vectors.len()
        )));
    }
    if vectors.dimensions() != space.dimensions as usize {
        return Err(Error::internal(format!(
            "vectors of {} dimensions for a space of {}",
            vectors.dimensions(),
            space.dimensions
        )));
    }
    let part = part_id(&space_id, texts);
    let receipt_key = layout::part_receipt(&space_id, shard, &part);
    let found = || adopt(root, &space_id, &receipt_key, texts.len());
    let work = async {
        let (file, cuts) = computing(|| spool(space, vector_type, texts, vectors, provenance))?;
        let receipt = PartReceipt {
            version: RECEIPT_VERSION,
            space: space_id.clone(),
            shard,
            part: part.clone(),
            // Filled in when the file is stored.
            file: FileRef { path: String::new(), size: 0, sha256: Digest256([0; 32]) },
            rows: texts.len() as u64,
            tokens: texts.iter().map(|text| u64::from(text.token_count)).sum(),
            vector_type,
            dimensions: space.dimensions,
            pieces: None,
        };
        upload(root, Finished { receipt, file, cuts }).await
    };
    receipt::once_unless(root, &receipt_key, found, work).await
}

/// A part that is whole on local disk, with its receipt but for the stored file.
pub(super) struct Finished {
    pub receipt: PartReceipt,
    pub file: tempfile::NamedTempFile,
    /// Where its pieces end.
    pub cuts: Vec<u64>,
}

/// Uploads a finished part, then puts its receipt; returns the receipt that counts.
pub(super) async fn store(root: &Root, finished: Finished) -> Result<PartReceipt> {
    let (key, space) = (finished.receipt.key(), finished.receipt.space.clone());
    let rows = usize::try_from(finished.receipt.rows).unwrap_or(usize::MAX);
    let found = || adopt(root, &space, &key, rows);
    receipt::once_unless(root, &key, found, upload(root, finished)).await
}

async fn upload(root: &Root, finished: Finished) -> Result<PartReceipt> {
    let Finished { mut receipt, file, cuts } = finished;
    let (space, shard, part) = (&receipt.space, receipt.shard, &receipt.part);
    let key = |hash: &str| layout::part(space, shard, part, hash);
    receipt.file = receipt::put_file(root, file.path(), key).await?;
    receipt.pieces = Some(computing(|| pieces(file.path(), cuts))?);
    Ok(receipt)
}

/// The pieces of a file that end at `cuts`.
fn pieces(file: &Path, cuts: Vec<u64>) -> Result<Pieces> {
    let failed = || format!("reading {} back", file.display());
    let mut file = File::open(file).or_error(ErrorKind::Resource, failed)?;
    let (mut cutter, mut buffer) = (Cutter::new(cuts.into_iter()), vec![0; 1 << 18]);
    loop {
        match file.read(&mut buffer).or_error(ErrorKind::Resource, failed)? {
            0 => return Ok(cutter.finish()),
            read => cutter.add(&buffer[..read]),
        }
    }
}

/// Where the pieces of a part end: a column's bytes are pieces of their own, so that reading text hashes reads no
/// vectors, and those of long columns are many, so that reading a few vectors reads little else.
pub(super) fn cuts(metadata: &ParquetMetaData) -> Vec<u64> {
    let mut cuts = Vec::new();
    let mut last = 0;
    let mut cut = |at: u64| {
        if at >= last + LEAST_PIECE {
            cuts.push(at);
            last = at;
        }
    };
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    for (start, length) in columns.map(|column| column.byte_range()) {
        (start..start + length).step_by(MOST_PIECE as usize).for_each(&mut cut);
        cut(start + length);
    }
    cuts
}

/// The part as a local file, so that its name can be its hash and the store gets it in one go.
fn spool(
    space: &EmbeddingSpace,
    vector_type: VectorType,
    texts: &[EncodedText],
    vectors: &Embeddings,
    provenance: &serde_json::Value,
) -> Result<(tempfile::NamedTempFile, Vec<u64>)> {
    let full = || "writing a part to the folder for temporary files (TMPDIR)";
    let file = tempfile::NamedTempFile::new().or_error(ErrorKind::Resource, full)?;
    let entries = metadata::entries(space, provenance)?;
    // Also in the Arrow schema: pyarrow's tables show that one, other readers the file's own.
    let shown = entries.iter().filter_map(|entry| Some((entry.key.clone(), entry.value.clone()?)));
    let schema = schema(space.dimensions, vector_type)?.with_metadata(shown.collect());
    let schema: SchemaRef = Arc::new(schema);
    let properties = properties(space.dimensions, vector_type, entries)?;
    let out = std::io::BufWriter::new(file.as_file());
    let mut parquet = ArrowWriter::try_new(out, Arc::clone(&schema), Some(properties))
        .or_error(ErrorKind::Resource, full)?;
    let step = (BATCH_BYTES / (4 * vectors.dimensions())).max(1);
    for start in (0..texts.len()).step_by(step) {
        let end = texts.len().min(start + step);
        let batch = batch(&schema, vector_type, texts, vectors, start..end)?;
        parquet.write(&batch).or_error(ErrorKind::Resource, full)?;
    }
    let metadata = parquet.close().or_error(ErrorKind::Resource, full)?;
    Ok((file, cuts(&metadata)))
}

/// The receipt that another attempt put first, if any, once it fits and its file is there.
async fn adopt(
    root: &Root,
    space: &SpaceId,
    key: &str,
    rows: usize,
) -> Result<Option<PartReceipt>> {
    if root.size(key).await?.is_none() {
        return Ok(None);
    }
    let receipt = PartReceipt::read(root, space, key).await?;
    let Some(stored) = root.size(&receipt.file.path).await? else {
        // As with every receipt: it says nothing any more.
        root.delete(key).await?;
        return Ok(None);
    };
    if receipt.rows == rows as u64 && stored == receipt.file.size {
        return Ok(Some(receipt));
    }
    Err(Error::corrupt(format!(
        "receipt {key} names {} rows in a file of {} bytes, but {rows} rows were encoded and the file has {stored} \
         bytes: take it out with `scalingnote snapshot repair {}`, then run again",
        receipt.rows,
        receipt.file.size,
        root.uri(),
    )))
}

fn part_id(space: &SpaceId, texts: &[EncodedText]) -> String {
    let mut hasher = Hasher256::new();
    hasher.field(&space.0);
    for text in texts {
        hasher.field(text.text_hash.0);
    }
    hasher.finish().short()
}

pub(super) fn properties(
    dimensions: u32,
    vector_type: VectorType,
    entries: Vec<KeyValue>,
) -> Result<WriterProperties> {
    let row_bytes = 4 * dimensions.max(1) as usize;
    let zstd = ZstdLevel::try_new(1).or_error(ErrorKind::Internal, || "zstd level 1")?;
    let elements = ColumnPath::new(["embedding", "list", "element"].map(str::to_owned).to_vec());
    let builder = WriterProperties::builder()
        .set_created_by(concat!("scalingnote ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(entries))
        .set_compression(Compression::ZSTD(zstd))
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some((ROW_GROUP_BYTES / row_bytes).clamp(1, 1 << 16)))
        .set_data_page_size_limit(PAGE_BYTES)
        // Least and greatest element of a vector column say nothing.
        .set_column_statistics_enabled(elements.clone(), EnabledStatistics::None);
    // Splitting the bytes of the floats lets zstd see signs and exponents together: 0.85 of plain size on
    // GloVe against 0.93. DuckDB reads that encoding for f32, not for f16.
    Ok(match vector_type {
        VectorType::F32 => builder.set_column_encoding(elements, Encoding::BYTE_STREAM_SPLIT),
        VectorType::F16 => builder,
    }
    .build())
}

fn batch(
    schema: &SchemaRef,
    vector_type: VectorType,
    texts: &[EncodedText],
    vectors: &Embeddings,
    rows: std::ops::Range<usize>,
) -> Result<RecordBatch> {
    let width = vectors.dimensions();
    let values = &vectors.as_slice()[rows.start * width..rows.end * width];
    let values: ArrayRef = match vector_type {
        VectorType::F32 => Arc::new(Float32Array::from(values.to_vec())),
        VectorType::F16 => {
            if let Some(at) = values.iter().position(|x| x.is_finite() && x.abs() >= 65_520.0) {
                return Err(Error::input(format!(
                    "the vector of text {} has an element beyond the range of f16; set the vector type to f32",
                    texts[rows.start + at / width].text_hash
                )));
            }
            Arc::new(Float16Array::from_iter_values(values.iter().map(|x| f16::from_f32(*x))))
        }
    };
    let failed = |cause: arrow::error::ArrowError| {
        Error::internal("encoded texts do not make an Arrow batch").with_source(cause)
    };
    let DataType::FixedSizeList(element, size) = schema.field(2).data_type() else {
        return Err(Error::internal("the embedding column is not a fixed-size list"));
    };
    let list = FixedSizeListArray::try_new(Arc::clone(element), *size, values, None);
    let texts = &texts[rows];
    let hashes = texts.iter().map(|text| text.text_hash.0);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(FixedSizeBinaryArray::try_from_iter(hashes).map_err(failed)?),
        Arc::new(StringArray::from_iter_values(texts.iter().map(|text| text.note_id.to_string()))),
        Arc::new(list.map_err(failed)?),
        Arc::new(UInt32Array::from_iter_values(texts.iter().map(|text| text.token_count))),
        Arc::new(BooleanArray::from_iter(texts.iter().map(|text| Some(text.truncated)))),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(failed)
}
