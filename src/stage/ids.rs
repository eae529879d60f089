//! Ids files: key -> note, text, place of the vector, stored columns; rows sorted by key.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeBinaryArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::schema::{IDS_COLUMNS, ids_schema};
use crate::snapshot::{Segment, ShardContent, ids, removed};
use crate::store::{FileRef, Root, layout};
use crate::types::{Digest256, NoteId, TextHash, computing};

/// Where a vector is: a part's key under the root and the row in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Part file.
    pub part: Arc<str>,
    /// Row in the part.
    pub row: u32,
}

/// One row of an ids file without its stored columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdRow {
    pub key: u64,
    pub note_id: NoteId,
    pub chunk: u32,
    pub text_hash: TextHash,
    pub place: Place,
}

/// A whole ids file in memory.
pub(crate) struct Ids {
    pub rows: Vec<IdRow>,
    /// Stored columns of the same rows.
    pub stored: RecordBatch,
}

/// A segment of a stored shard with its rows.
pub(crate) struct Held {
    pub segment: Segment,
    /// Every row, the removed ones included.
    pub ids: Ids,
    /// Keys that no longer count, ascending.
    pub removed: Vec<u64>,
}

impl Held {
    /// The segments of a shard, base first; none in an empty shard.
    pub async fn read(root: &Root, shard: &ShardContent) -> Result<Vec<Self>> {
        let mut held = Vec::new();
        for segment in shard.segments() {
            let ids = Ids::read(root, &segment.ids).await?;
            if ids.rows.len() as u64 != segment.vectors {
                return Err(Error::corrupt(format!(
                    "ids file {} has {} rows, the manifest says {}",
                    segment.ids.path,
                    ids.rows.len(),
                    segment.vectors
                )));
            }
            let removed = removed::read(root, segment.removed.as_ref()).await?;
            held.push(Self { segment, ids, removed });
        }
        Ok(held)
    }

    /// Whether a row still counts.
    pub fn is_live(&self, row: &IdRow) -> bool {
        self.removed.binary_search(&row.key).is_err()
    }
}

impl Ids {
    /// What counts in a stored shard: the live rows of all its segments, by key.
    pub async fn of_shard(root: &Root, shard: &ShardContent) -> Result<Self> {
        let held = Held::read(root, shard).await?;
        Self::of_segments(&held, root, shard).await
    }

    /// As [`Ids::of_shard`], of segments that were read already.
    pub async fn of_segments(held: &[Held], root: &Root, shard: &ShardContent) -> Result<Self> {
        let Some(first) = held.first() else {
            // The file has no rows but knows the stored columns.
            return Self::read(root, &shard.ids).await;
        };
        computing(|| Self::live_of(held, &first.ids.stored.schema()))
    }

    fn live_of(held: &[Held], schema: &SchemaRef) -> Result<Self> {
        let (mut rows, mut batches) = (Vec::new(), Vec::new());
        for segment in held {
            let live = segment.ids.rows.iter().map(|row| segment.is_live(row));
            let keep: Vec<u32> =
                live.enumerate().filter(|(_, live)| *live).map(|(at, _)| at as u32).collect();
            rows.extend(keep.iter().map(|&at| segment.ids.rows[at as usize].clone()));
            batches.push(take_rows(&segment.ids.stored, keep)?);
        }
        let stored = concat_stored(schema, &batches, rows.len())?;
        Self { rows, stored }.sorted_by_key()
    }

    /// Orders rows and stored columns by key.
    pub fn sorted_by_key(self) -> Result<Self> {
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        order.sort_unstable_by_key(|&at| self.rows[at as usize].key);
        let stored = take_rows(&self.stored, order.clone())?;
        let rows = order.into_iter().map(|at| self.rows[at as usize].clone()).collect();
        Ok(Self { rows, stored })
    }

    /// The file's bytes: a pure function of the rows.
    pub fn to_parquet(&self) -> Result<Bytes> {
        let schema = ids_schema(self.stored.schema().fields());
        let hashes: Vec<u8> = self.rows.iter().flat_map(|row| row.text_hash.0).collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(self.rows.iter().map(|row| row.key))),
            Arc::new(StringArray::from_iter_values(
                self.rows.iter().map(|row| row.note_id.to_string()),
            )),
            Arc::new(UInt32Array::from_iter_values(self.rows.iter().map(|row| row.chunk))),
            Arc::new(FixedSizeBinaryArray::new(32, hashes.into(), None)),
            Arc::new(StringArray::from_iter_values(self.rows.iter().map(|row| &*row.place.part))),
            Arc::new(UInt32Array::from_iter_values(self.rows.iter().map(|row| row.place.row))),
        ];
        columns.extend(self.stored.columns().iter().cloned());
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)
            .context(|| "putting an ids file together")?;
        let level = ZstdLevel::try_new(3).context(|| "zstd level")?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by("scalingnote".to_owned())
            .set_max_row_group_row_count(Some(65_536))
            .build();
        let mut out = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut out, schema, Some(properties))
            .context(|| "opening an ids file")?;
        writer.write(&batch).context(|| "writing an ids file")?;
        writer.close().context(|| "closing an ids file")?;
        Ok(out.into())
    }

    /// Stores the rows as a file that its own hash names.
    pub async fn write(&self, root: &Root, options_id: &str, shard: u32) -> Result<FileRef> {
        let (name, bytes) =
            computing(|| self.to_parquet().map(|bytes| (Digest256::of(&bytes).short(), bytes)))?;
        root.put(&layout::ids_file(options_id, shard, &name), bytes).await
    }

    /// Reads a whole ids file.
    pub async fn read(root: &Root, file: &FileRef) -> Result<Self> {
        ids::read_whole(root, file, Self::from_batch).await
    }

    fn from_batch(batch: &RecordBatch) -> Result<Self> {
        let (keys, notes, chunks) = (ids::keys(batch)?, ids::notes(batch)?, ids::chunks(batch)?);
        let (hashes, parts, places) =
            (ids::text_hashes(batch)?, ids::parts(batch)?, ids::rows(batch)?);
        let mut known: std::collections::HashMap<&str, Arc<str>> = Default::default();
        let mut rows = Vec::with_capacity(batch.num_rows());
        for at in 0..batch.num_rows() {
            let part = parts.value(at);
            let part = known.entry(part).or_insert_with(|| Arc::from(part));
            rows.push(IdRow {
                key: keys[at],
                note_id: notes.value(at).parse()?,
                chunk: chunks[at],
                text_hash: Digest256(hashes[at]),
                place: Place { part: Arc::clone(part), row: places[at] },
            });
        }
        let stored: Vec<usize> = (IDS_COLUMNS.len()..batch.num_columns()).collect();
        let stored = batch.project(&stored).context(|| "stored columns of an ids file")?;
        Ok(Self { rows, stored })
    }
}

/// The given rows of a batch, which may have no columns.
pub(crate) fn take_rows(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    if batch.num_columns() == 0 {
        return no_columns(rows.len());
    }
    take_record_batch(batch, &UInt32Array::from(rows)).context(|| "selecting stored columns")
}

/// Batches of stored columns as one of `rows` rows.
pub(crate) fn concat_stored(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    rows: usize,
) -> Result<RecordBatch> {
    if schema.fields().is_empty() {
        return no_columns(rows);
    }
    concat_batches(schema, batches).or_error(
        ErrorKind::Input,
        || "stored columns changed their types since the parent snapshot; run once with corpus.mode = \"full\"",
    )
}

/// An empty batch that still knows its row count: for notes without stored columns.
pub(crate) fn no_columns(rows: usize) -> Result<RecordBatch> {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    let schema: SchemaRef = Arc::new(arrow::datatypes::Schema::empty());
    RecordBatch::try_new_with_options(schema, Vec::new(), &options)
        .context(|| "making a batch without columns")
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    #[tokio::test]
    async fn written_ids_read_back_sorted() {
        let root = Root::in_memory();
        let note = |id: i64, key: u64| IdRow {
            key,
            note_id: NoteId::Int(id),
            chunk: 0,
            text_hash: Digest256::of(&id.to_le_bytes()),
            place: Place { part: "embeddings/s/00000/p.parquet".into(), row: id as u32 },
        };
        let stored = RecordBatch::try_from_iter([(
            "title",
            Arc::new(StringArray::from(vec!["b", "a"])) as ArrayRef,
        )])
        .unwrap();
        let ids = Ids { rows: vec![note(1, 9), note(2, 3)], stored }.sorted_by_key().unwrap();
        let bytes = ids.to_parquet().unwrap();
        assert_eq!(bytes, ids.to_parquet().unwrap(), "same rows, same bytes");
        let file = root.put("a.parquet", bytes).await.unwrap();
        let read = Ids::read(&root, &file).await.unwrap();
        assert_eq!(read.rows, vec![note(2, 3), note(1, 9)]);
        assert_eq!(read.stored.column(0).as_string::<i32>().value(0), "a");
    }
}
