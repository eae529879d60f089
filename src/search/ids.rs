//! One segment's ids file: mapped at once, its note ids read at the first search, stored columns row by row.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{BooleanBufferBuilder, RecordBatch, StringArray};
use arrow::compute::concat;
use arrow::datatypes::Schema;
use arrow::json::writer::{JsonArray, WriterBuilder};
use bytes::Bytes;
use memmap2::Mmap;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::file::metadata::PageIndexPolicy;

use crate::corpus::RowFilter;
use crate::error::{Error, ErrorKind, Result, ResultExt, shielded};
use crate::index::RowSet;
use crate::schema;
use crate::snapshot::ids::{self, BATCH};
use crate::types::Cancel;

/// Bytes that a batch of a filter's columns takes, about.
const BATCH_BYTES: u64 = 4 << 20;

/// Rows whose stored columns are read at a time.
const FEW: usize = 64;

/// What a note shows beside its score.
pub(super) type Stored = serde_json::Map<String, serde_json::Value>;

/// A mapped ids file. The map stays valid when the file is deleted: a gc does not disturb a reader.
pub(super) struct IdsFile {
    shown: String,
    bytes: Bytes,
    metadata: ArrowReaderMetadata,
    stored: ProjectionMask,
    has_stored: bool,
    notes: Mutex<Option<Arc<Notes>>>,
}

/// Note and chunk of every row, by row.
pub(super) struct Notes {
    pub ids: StringArray,
    pub chunks: Vec<u32>,
}

impl IdsFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let failed = |cause: std::io::Error| Error::io(cause, format!("cannot open {shown}"));
        let file = std::fs::File::open(path).map_err(failed)?;
        // SAFETY: the bytes must not change while they are mapped: it is a copy in the watcher's cache folder, which
        // nothing else writes to, or a file of a local root, of which `fetch.rs` says when it is mapped where it is,
        // and that nobody may change it then. Changed bytes are decoded under a shield; a file cut short is a SIGBUS.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let bytes = Bytes::from_owner(map);
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let damaged = || format!("{shown} is not an ids file");
        let metadata = shielded(
            ErrorKind::Corrupt,
            || shown.clone(),
            || ArrowReaderMetadata::load(&bytes, options).or_error(ErrorKind::Corrupt, damaged),
        )?;
        let stored = schema::stored_fields(metadata.schema()).context(damaged)?;
        let first = schema::IDS_COLUMNS.len();
        let mask = ProjectionMask::roots(metadata.parquet_schema(), first..first + stored.len());
        Ok(Self {
            bytes,
            metadata,
            stored: mask,
            has_stored: !stored.is_empty(),
            notes: Mutex::default(),
            shown,
        })
    }

    pub(super) fn rows(&self) -> u64 {
        u64::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// Note and chunk of every row; read once, after checking that the rows are those of `keys`.
    pub(super) fn notes(&self, keys: &[u64]) -> Result<Arc<Notes>> {
        let mut slot = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notes) = slot.as_ref() {
            return Ok(Arc::clone(notes));
        }
        let notes = self.read_notes(keys).context(|| format!("reading {}", self.shown))?;
        Ok(Arc::clone(slot.insert(Arc::new(notes))))
    }

    fn read_notes(&self, keys: &[u64]) -> Result<Notes> {
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), [0, 1, 2]);
        let mut chunks = Vec::with_capacity(keys.len());
        let mut notes = Vec::new();
        for batch in self.batches(mask)? {
            let found = ids::keys(&batch)?;
            if keys.get(chunks.len()..chunks.len() + found.len()) != Some(found) {
                return Err(Error::corrupt("its keys are not those of the index beside it"));
            }
            chunks.extend_from_slice(ids::chunks(&batch)?);
            notes.push(ids::notes(&batch)?.clone());
        }
        if chunks.len() != keys.len() {
            return Err(Error::corrupt("it has fewer rows than the index beside it"));
        }
        let parts: Vec<&dyn arrow::array::Array> = notes.iter().map(|part| part as _).collect();
        let ids = match parts.is_empty() {
            true => StringArray::from(Vec::<&str>::new()),
            false => concat(&parts)
                .or_error(ErrorKind::Resource, || "its note ids exceed 2 GiB in one shard")?
                .as_any()
                .downcast_ref::<StringArray>()
                .cloned()
                .ok_or_else(|| Error::internal("note ids are strings"))?,
        };
        Ok(Notes { ids, chunks })
    }

    /// The stored columns of the given rows, in the order asked. Reads the pages that hold them, and asks `take` for
    /// the bytes of each few rows.
    pub(super) fn stored(
        &self,
        rows: &[usize],
        take: &dyn Fn(usize) -> Result<()>,
    ) -> Result<Vec<Stored>> {
        if !self.has_stored || rows.is_empty() {
            return Ok(vec![Stored::new(); rows.len()]);
        }
        let mut order: Vec<usize> = rows.to_vec();
        order.sort_unstable();
        order.dedup();
        let total = usize::try_from(self.rows()).unwrap_or(usize::MAX);
        let ranges = order.iter().map(|&row| row..row + 1);
        let selection = RowSelection::from_consecutive_ranges(ranges, total);
        let reading = || format!("reading stored columns of {}", self.shown);
        let mut found = Vec::with_capacity(order.len());
        let read = || {
            for batch in self.reader(self.stored.clone(), Some(selection), FEW).context(reading)? {
                let batch = batch
                    .or_error(ErrorKind::Corrupt, || "a column is damaged")
                    .context(reading)?;
                let text = to_json(&batch).context(reading)?;
                take(text.len())?;
                let rows = serde_json::from_slice::<Vec<Stored>>(&text)
                    .or_error(ErrorKind::Internal, || "stored columns as JSON");
                found.extend(rows.context(reading)?);
            }
            Ok(())
        };
        shielded(ErrorKind::Corrupt, || self.shown.clone(), read)?;
        rows.iter()
            .map(|row| order.binary_search(row).ok().and_then(|at| found.get(at)).cloned())
            .collect::<Option<_>>()
            .ok_or_else(|| Error::corrupt("a row is missing").context(reading()))
    }

    /// The stored columns' names and types.
    pub(super) fn stored_schema(&self) -> Result<Schema> {
        Ok(Schema::new(schema::stored_fields(self.metadata.schema())?))
    }

    /// The rows that pass. Reads the filter's columns, a batch at a time.
    ///
    /// # Errors
    /// As [`RowFilter::evaluate`].
    pub(super) fn passing(&self, filter: &RowFilter, cancel: &Cancel) -> Result<RowSet> {
        shielded(ErrorKind::Corrupt, || self.shown.clone(), || self.filtered(filter, cancel))
    }

    fn filtered(&self, filter: &RowFilter, cancel: &Cancel) -> Result<RowSet> {
        let reading = || format!("filtering {}", self.shown);
        let fields = self.metadata.schema().fields();
        let wanted = filter.columns().fields();
        let roots = (schema::IDS_COLUMNS.len()..fields.len())
            .filter(|&at| wanted.iter().any(|column| column.name() == fields[at].name()));
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), roots);
        let mut bits = BooleanBufferBuilder::new(usize::try_from(self.rows()).unwrap_or(0));
        let rows = self.rows_at_once(&mask);
        for batch in self.reader(mask, None, rows).context(reading)? {
            let batch =
                batch.or_error(ErrorKind::Corrupt, || "a column is damaged").context(reading)?;
            bits.append_buffer(filter.evaluate(&batch, cancel)?.values());
        }
        Ok(RowSet::new(bits.finish()))
    }

    /// So many rows that their columns take a few megabytes.
    fn rows_at_once(&self, columns: &ProjectionMask) -> usize {
        let groups = self.metadata.metadata().row_groups();
        let chunks = groups.iter().flat_map(|group| group.columns().iter().enumerate());
        let read = chunks.filter(|(at, _)| columns.leaf_included(*at));
        let bytes: u64 = read.map(|(_, chunk)| chunk.uncompressed_size().max(0) as u64).sum();
        let rows = (self.rows() * BATCH_BYTES).checked_div(bytes).unwrap_or(u64::MAX);
        usize::try_from(rows).unwrap_or(BATCH).clamp(1, BATCH)
    }

    fn batches(&self, mask: ProjectionMask) -> Result<Vec<RecordBatch>> {
        let reading = || {
            self.reader(mask, None, BATCH)?
                .collect::<std::result::Result<_, _>>()
                .or_error(ErrorKind::Corrupt, || "a column is damaged")
        };
        shielded(ErrorKind::Corrupt, || self.shown.clone(), reading)
    }

    fn reader(
        &self,
        mask: ProjectionMask,
        selection: Option<RowSelection>,
        rows: usize,
    ) -> Result<ParquetRecordBatchReader> {
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(
            self.bytes.clone(),
            self.metadata.clone(),
        )
        .with_batch_size(rows)
        .with_projection(mask);
        if let Some(selection) = selection {
            builder = builder.with_row_selection(selection);
        }
        builder.build().or_error(ErrorKind::Corrupt, || "opening its columns")
    }
}

/// A list of all rows as JSON objects, nulls included.
fn to_json(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer =
        WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(Vec::new());
    let unsupported = || "a stored column has a type that JSON cannot show";
    writer.write(batch).or_error(ErrorKind::Unsupported, unsupported)?;
    writer.finish().or_error(ErrorKind::Unsupported, unsupported)?;
    Ok(writer.into_inner())
}
