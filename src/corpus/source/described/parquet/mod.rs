//! Parquet files whose column chunks are weighed before they are decoded: a few bytes of a page may stand for gigabytes, by
//! how it is packed, by a dictionary, or by a run.

mod header;
mod runs;
mod trouble;
mod weigh;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as Decoded};
use parquet::file::metadata::ParquetMetaData;

use self::trouble::Trouble;
use self::weigh::Chunk;
use crate::corpus::source::described::refusal::too_large;
use crate::corpus::source::file::SourceFile;
use crate::error::Error;

/// Bytes of a row, by top-level column, as the file's footer has them: those of the row group with the largest.
pub(super) fn row_bytes(footer: &ParquetMetaData) -> Vec<u64> {
    let schema = footer.file_metadata().schema_descr();
    let mut most = vec![0; schema.root_schema().get_fields().len()];
    for group in footer.row_groups() {
        let rows = u64::try_from(group.num_rows()).unwrap_or(0).max(1);
        let mut sums = vec![0_u64; most.len()];
        for (leaf, column) in group.columns().iter().enumerate() {
            if let Some(sum) = sums.get_mut(schema.get_column_root_idx(leaf)) {
                let bytes = u64::try_from(column.uncompressed_size()).unwrap_or(0);
                *sum = sum.saturating_add(bytes);
            }
        }
        for (most, sum) in most.iter_mut().zip(sums) {
            *most = sum.div_ceil(rows).max(*most);
        }
    }
    most
}

/// Opens files for DataFusion.
pub(in crate::corpus::source) struct Weighed {
    files: Arc<[SourceFile]>,
    inner: CachedParquetFileReaderFactory,
    rows: usize,
    room: u64,
}

impl Weighed {
    /// Batches have so many rows, and take at most so many bytes.
    pub(in crate::corpus::source) fn new(
        files: Arc<[SourceFile]>,
        store: Arc<dyn ObjectStore>,
        footers: Arc<FileMetadataCache>,
        rows: usize,
        room: u64,
    ) -> Self {
        let inner = CachedParquetFileReaderFactory::new(store, footers);
        Self { files, inner, rows, room }
    }
}

impl fmt::Debug for Weighed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batches of {} rows and {} bytes", self.rows, self.room)
    }
}

impl ParquetFileReaderFactory for Weighed {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> datafusion::error::Result<Box<dyn AsyncFileReader + Send>> {
        let here = &file.object_meta.location;
        let url = match self.files.iter().find(|known| known.meta.location == *here) {
            Some(known) => known.url.to_string(),
            None => here.to_string(),
        };
        let inner = self.inner.create_reader(partition, file, hint, metrics)?;
        let (footer, places, taken) = (None, HashMap::new(), HashMap::new());
        let (rows, room) = (self.rows as u64, self.room);
        Ok(Box::new(Reader { inner, url, rows, room, footer, places, taken }))
    }
}

/// A row group, and a column of it.
type Place = (usize, usize);

struct Reader {
    inner: Box<dyn AsyncFileReader + Send>,
    url: String,
    rows: u64,
    room: u64,
    footer: Option<Arc<ParquetMetaData>>,
    /// The column chunks, by start and length.
    places: HashMap<(u64, u64), Vec<Place>>,
    /// What batches of a row group take, by column.
    taken: HashMap<usize, HashMap<usize, u64>>,
}

impl Reader {
    fn weigh(&mut self, ranges: &[Range<u64>], fetched: &[Bytes]) -> Result<(), Error> {
        let footer = self.footer.clone();
        let footer = footer.ok_or_else(|| Error::internal("pages were read before the footer"))?;
        for (range, bytes) in ranges.iter().zip(fetched) {
            let chunk = (range.start, range.end - range.start);
            let places = self.places.get(&chunk).cloned().unwrap_or_default();
            if places.is_empty() {
                let what = format!("{}: a column chunk was read in parts", self.url);
                return Err(Error::internal(what));
            }
            for (group, column) in places {
                let meta = footer.row_group(group).column(column);
                let (rows, room) = (self.rows, self.room);
                let chunk = Chunk { meta, bytes, rows, room };
                let refused = |why| self.refusal(why, meta.column_path());
                let weight = chunk.heaviest().map_err(refused)?;
                let taken = self.taken.entry(group).or_default();
                taken.insert(column, weight);
                let sum = taken.values().copied().fold(0, u64::saturating_add);
                if sum > self.room {
                    return Err(self.refusal(Trouble::Large(sum), meta.column_path()));
                }
            }
        }
        Ok(())
    }

    /// Takes a footer without the places of pages: by these a chunk would be read in parts, of which nobody could say what
    /// they unpack to.
    fn begin(&mut self, footer: Arc<ParquetMetaData>) -> Arc<ParquetMetaData> {
        let footer = match footer.offset_index().is_some() || footer.column_index().is_some() {
            true => {
                let builder = ParquetMetaData::clone(&footer).into_builder();
                Arc::new(builder.set_offset_index(None).set_column_index(None).build())
            }
            false => footer,
        };
        self.places.clear();
        for (group, meta) in footer.row_groups().iter().enumerate() {
            for (column, meta) in meta.columns().iter().enumerate() {
                self.places.entry(meta.byte_range()).or_default().push((group, column));
            }
        }
        self.footer = Some(Arc::clone(&footer));
        footer
    }

    fn refusal(&self, why: Trouble, column: &parquet::schema::types::ColumnPath) -> Error {
        let place = format!("{}: column `{}`", self.url, column.string());
        match why {
            Trouble::Broken(what) => Error::input(format!("{place}: {what}; write the file again")),
            Trouble::Large(bytes) => too_large(&place, bytes),
            Trouble::Reader(cause) => {
                Error::input(format!("{place}: a page cannot be read")).with_source(cause)
            }
        }
    }
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Decoded<Bytes>> {
        self.inner.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Decoded<Vec<Bytes>>> {
        async move {
            // The footer may have been read by another reader of the file.
            if self.footer.is_none() {
                self.get_metadata(None).await?;
            }
            let fetched = self.inner.get_byte_ranges(ranges.clone()).await?;
            let weighed = self.weigh(&ranges, &fetched);
            weighed.map_err(|error| ParquetError::External(Box::new(error)))?;
            Ok(fetched)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Decoded<Arc<ParquetMetaData>>> {
        async move {
            let footer = self.inner.get_metadata(options).await?;
            Ok(self.begin(footer))
        }
        .boxed()
    }
}
