//! Reading parts: text hashes without vectors, vectors of chosen rows.

use arrow::array::{Array, AsArray, FixedSizeListArray, RecordBatch};
use arrow::datatypes::{DataType, Float16Type, Float32Type};
use futures::TryStreamExt;
use half::slice::HalfFloatSliceExt;
use parquet::arrow::arrow_reader::RowSelection;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};

use super::object::{self, Without, altered};
use super::{PartReceipt, columns, metadata};
use crate::error::{Error, ErrorKind, Result, shielded_async};
use crate::store::{ParquetObject, Root, parquet_error};
use crate::types::{Embeddings, TextHash};

/// Rows decoded at once where the vectors are wanted.
const BATCH_BYTES: usize = 4 << 20;

pub(super) type Builder = ParquetRecordBatchStreamBuilder<ParquetObject>;

/// Reads the footer of a part file.
pub(super) async fn begin(reader: ParquetObject, key: &str) -> Result<Builder> {
    let opening = async {
        Builder::new(reader).await.map_err(|e| parquet_error(format!("opening part file {key}"), e))
    };
    shielded_async(ErrorKind::Corrupt, || format!("part file {key}"), opening).await
}

fn total_rows(builder: &Builder) -> Option<usize> {
    usize::try_from(builder.metadata().file_metadata().num_rows()).ok()
}

/// The `text_hash` column of a part, in row order, without reading vectors.
///
/// # Errors
/// NotFound; Corrupt where the file is not the one its receipt speaks of.
pub async fn read_text_hashes(root: &Root, part: &PartReceipt) -> Result<Vec<TextHash>> {
    let what = || format!("part file {}", part.file.path);
    shielded_async(ErrorKind::Corrupt, what, text_hashes(root, part)).await
}

async fn text_hashes(root: &Root, part: &PartReceipt) -> Result<Vec<TextHash>> {
    let key = part.file.path.as_str();
    let opened = Box::pin(object::open(root, part, Without::Trust)).await?;
    let builder = Box::pin(begin(opened, key)).await?;
    let stored = builder.metadata().file_metadata().key_value_metadata();
    let space = stored
        .and_then(|entries| entries.iter().find(|entry| entry.key == metadata::SPACE_ID))
        .and_then(|entry| entry.value.as_deref());
    if space != Some(part.space.0.as_str()) {
        return Err(altered(key, format_args!("is of another space than {}", part.space)));
    }
    if total_rows(&builder) != usize::try_from(part.rows).ok() {
        return Err(altered(key, format_args!("has not the {} rows of its receipt", part.rows)));
    }
    let failed = |cause| parquet_error(format!("reading part file {key}"), cause);
    let stream = project(builder, key, "text_hash")?.build().map_err(failed)?;
    let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(failed)?;
    let mut hashes = Vec::new();
    for batch in &batches {
        let column = columns::hashes(batch)
            .ok_or_else(|| altered(key, "has no text_hash column of 32 bytes"))?;
        hashes.extend((0..column.len()).map(|row| columns::hash_at(column, row)));
    }
    Ok(hashes)
}

/// The rows (ascending) as the least number of runs.
fn runs(rows: impl Iterator<Item = usize>, total: usize) -> RowSelection {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for row in rows {
        match runs.last_mut() {
            Some(run) if run.end == row => run.end += 1,
            Some(run) if run.end == row + 1 => {}
            _ => runs.push(row..row + 1),
        }
    }
    RowSelection::from_consecutive_ranges(runs.into_iter(), total)
}

/// A selection of rows (ascending, no repeats) that the file must have.
pub(super) fn select(builder: &Builder, key: &str, rows: &[u32]) -> Result<RowSelection> {
    let total = total_rows(builder).ok_or_else(|| altered(key, "has a negative row count"))?;
    if let Some(row) = rows.last().filter(|row| **row as usize >= total) {
        return Err(altered(key, format_args!("has {total} rows, row {row} was asked")));
    }
    Ok(runs(rows.iter().map(|row| *row as usize), total))
}

fn project(builder: Builder, key: &str, column: &str) -> Result<Builder> {
    let at = builder
        .schema()
        .index_of(column)
        .map_err(|_| altered(key, format_args!("has no {column} column")))?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), [at]);
    Ok(builder.with_projection(mask))
}

/// The vectors of the given rows (any order, repeats allowed) of a part file, in the order asked, as f32.
/// Memory: the vectors asked for plus one row group.
///
/// # Errors
/// NotFound; Corrupt where the file is damaged or has not so many rows.
pub async fn read_vectors(root: &Root, part: &str, rows: &[u32]) -> Result<Embeddings> {
    let what = || format!("part file {part}");
    shielded_async(ErrorKind::Corrupt, what, vectors(root, part, rows)).await
}

async fn vectors(root: &Root, part: &str, rows: &[u32]) -> Result<Embeddings> {
    let opened = Box::pin(object::open_key(root, part)).await?;
    let opened = Box::pin(begin(opened, part)).await?;
    let builder = project(opened, part, "embedding")?;
    let width = match builder.schema().field_with_name("embedding").map(|field| field.data_type()) {
        Ok(DataType::FixedSizeList(_, width)) if *width > 0 => *width as usize,
        _ => return Err(altered(part, "has no embedding column of fixed-size lists")),
    };
    let total = total_rows(&builder).ok_or_else(|| altered(part, "has a negative row count"))?;
    // The target of each wanted row, by row.
    let mut wanted: Vec<(usize, usize)> =
        rows.iter().enumerate().map(|(at, row)| (*row as usize, at)).collect();
    wanted.sort_unstable();
    if let Some((row, _)) = wanted.last().filter(|(row, _)| *row >= total) {
        return Err(Error::corrupt(format!(
            "row {row} was asked of part file {part}, which has {total}: whatever names it is of another part"
        )));
    }
    // The width is in a note of the writer's that nothing else holds to it: it must not decide how much memory is
    // taken.
    if !holds(&builder, "embedding", total, width) {
        return Err(altered(
            part,
            format_args!("does not hold {total} vectors of {width} numbers"),
        ));
    }
    let values = rows.len().checked_mul(width).ok_or_else(|| altered(part, "overflows"))?;
    let mut out = vec![0f32; values];
    if wanted.is_empty() {
        return Ok(Embeddings::with_capacity(width, 0));
    }
    let failed = |cause| parquet_error(format!("reading part file {part}"), cause);
    let selection = runs(wanted.iter().map(|(row, _)| *row), total);
    let mut stream = builder
        .with_row_selection(selection)
        .with_batch_size((BATCH_BYTES / (4 * width)).clamp(1, 8_192))
        .build()
        .map_err(failed)?;
    let mut wanted = wanted.into_iter().peekable();
    while let Some(batch) = stream.try_next().await.map_err(failed)? {
        let column = batch
            .column(0)
            .as_fixed_size_list_opt()
            .filter(|list| list.null_count() == 0 && list.values().null_count() == 0)
            .ok_or_else(|| altered(part, "has missing vectors"))?;
        let batch = Floats::new(column, width)
            .ok_or_else(|| altered(part, "has vectors of neither 32-bit nor 16-bit floats"))?;
        for at in 0..column.len() {
            let Some((row, _)) = wanted.peek().copied() else {
                return Err(altered(part, "gives more rows than were asked"));
            };
            while let Some((_, to)) = wanted.next_if(|(next, _)| *next == row) {
                batch.copy(at, &mut out[to * width..(to + 1) * width]);
            }
        }
    }
    if wanted.peek().is_some() {
        return Err(altered(part, "ends before its last row"));
    }
    Embeddings::from_vec(width, out)
}

/// Whether the chunks of a column of lists hold this many numbers, of two bytes or more each: our parts are written
/// plainly.
fn holds(builder: &Builder, column: &str, rows: usize, width: usize) -> bool {
    let (mut values, mut bytes) = (0i128, 0i128);
    for group in builder.metadata().row_groups() {
        for chunk in group.columns() {
            if chunk.column_path().parts().first().is_some_and(|first| first == column) {
                values += i128::from(chunk.num_values());
                bytes += i128::from(chunk.uncompressed_size());
            }
        }
    }
    let wanted = rows as i128 * width as i128;
    values == wanted && bytes >= 2 * wanted
}

/// The elements of one batch.
enum Floats<'a> {
    F32(&'a [f32], usize),
    F16(&'a [half::f16], usize),
}

impl<'a> Floats<'a> {
    fn new(list: &'a FixedSizeListArray, width: usize) -> Option<Self> {
        let values = list.values();
        if list.value_length() as usize != width || values.len() < list.len() * width {
            return None;
        }
        let start = list.value_offset(0) as usize;
        if let Some(wide) = values.as_primitive_opt::<Float32Type>() {
            return Some(Self::F32(&wide.values()[start..], width));
        }
        let halves = values.as_primitive_opt::<Float16Type>()?;
        Some(Self::F16(&halves.values()[start..], width))
    }

    fn copy(&self, at: usize, to: &mut [f32]) {
        match self {
            Self::F32(values, width) => to.copy_from_slice(&values[at * width..(at + 1) * width]),
            Self::F16(values, width) => {
                values[at * width..(at + 1) * width].convert_to_f32_slice(to);
            }
        }
    }
}
