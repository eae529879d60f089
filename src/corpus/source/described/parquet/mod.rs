//! Parquet files whose pages are weighed before they are decoded.

mod deltas;
mod header;
mod limited;
mod trouble;
mod weigh;

use std::collections::{BTreeMap, HashMap};
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
use object_store::path::Path as ObjectPath;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as Decoded};
use parquet::file::metadata::ParquetMetaData;

use self::trouble::Trouble;
use self::weigh::Chunk;
use crate::corpus::source::described::refusal::too_large;
use crate::corpus::source::file::SourceFile;
use crate::error::{Error, Result};

/// Bytes of a row, as the file's footer has them: those of the row group with the largest.
pub(super) fn row_bytes(footer: &ParquetMetaData) -> u64 {
    let of_group = footer.row_groups().iter().map(|group| {
        let of_column = group.columns().iter().map(|column| {
            let texts = column.unencoded_byte_array_data_bytes().unwrap_or(0);
            u64::try_from(column.uncompressed_size().max(texts)).unwrap_or(0)
        });
        let rows = u64::try_from(group.num_rows()).unwrap_or(0).max(1);
        of_column.fold(0, u64::saturating_add).div_ceil(rows)
    });
    of_group.max().unwrap_or(0)
}

/// Opens files for DataFusion.
pub(in crate::corpus::source) struct Weighed {
    files: Arc<[SourceFile]>,
    inner: CachedParquetFileReaderFactory,
    rows: usize,
    room: u64,
}

impl Weighed {
    /// Batches have this many rows, and take at most this many bytes.
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
        let (files, location) = (Arc::clone(&self.files), file.object_meta.location.clone());
        let inner = self.inner.create_reader(partition, file, hint, metrics)?;
        let (rows, room) = (self.rows as u64, self.room);
        let (footer, places, taken) = (None, BTreeMap::new(), HashMap::new());
        Ok(Box::new(Reader { inner, files, location, rows, room, footer, places, taken }))
    }
}

/// A row group, and a column of it.
type Place = (usize, usize);

struct Reader {
    inner: Box<dyn AsyncFileReader + Send>,
    /// All of the table; this one is at `location`.
    files: Arc<[SourceFile]>,
    location: ObjectPath,
    rows: u64,
    room: u64,
    footer: Option<Arc<ParquetMetaData>>,
    /// The column chunks by their start: their end, and whose they are.
    places: BTreeMap<u64, (u64, Vec<Place>)>,
    /// By row group, what was fetched of it: what a batch takes, and what is held of the pages.
    taken: HashMap<usize, (u64, u64)>,
}

impl Reader {
    fn begin(&mut self, footer: Arc<ParquetMetaData>) -> Result<()> {
        self.places.clear();
        for (group, meta) in footer.row_groups().iter().enumerate() {
            for (column, meta) in meta.columns().iter().enumerate() {
                let (start, size) = meta.byte_range();
                if size == 0 {
                    continue;
                }
                let (end, of) = self.places.entry(start).or_default();
                *end = start.saturating_add(size).max(*end);
                of.push((group, column));
            }
        }
        let ends = self.places.values().map(|(end, _)| end);
        if self.places.keys().skip(1).zip(ends).any(|(start, end)| start < end) {
            return Err(self.damaged("its column chunks overlap"));
        }
        self.footer = Some(footer);
        Ok(())
    }

    /// Refuses what was fetched of row groups where a batch of it would take more than it may.
    fn weigh(&mut self, ranges: &[Range<u64>], fetched: &[Bytes]) -> Result<()> {
        let footer = self.footer.clone();
        let footer = footer.ok_or_else(|| Error::internal("pages were read before the footer"))?;
        let mut columns: BTreeMap<Place, Vec<(u64, &Bytes)>> = BTreeMap::new();
        for (range, bytes) in ranges.iter().zip(fetched).filter(|(range, _)| !range.is_empty()) {
            let chunk = self.places.range(..=range.start).next_back();
            let Some((_, (_, of))) = chunk.filter(|(_, (end, _))| range.end <= *end) else {
                return Err(self.damaged("a page is outside of its column chunk"));
            };
            for place in of {
                columns.entry(*place).or_default().push((range.start, bytes));
            }
        }
        let mut chunks = Vec::new();
        for ((group, column), parts) in columns {
            let meta = footer.row_group(group).column(column);
            let whole: Bytes = match &parts[..] {
                [(_, bytes)] => (*bytes).clone(),
                parts => parts.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect(),
            };
            let chunk = Chunk::new(meta, whole, self.rows, self.room);
            let chunk = chunk.map_err(|why| self.refusal(why, &meta.column_path().string()))?;
            self.check_places(&footer, (group, column), &parts, &chunk)?;
            let name = meta.column_path().string();
            let bound = chunk.bound().map_err(|why| self.refusal(why, &name))?;
            chunks.push((group, name, chunk, bound));
        }
        let mut bounds: HashMap<usize, u64> = HashMap::new();
        for (group, _, _, bound) in &chunks {
            let sum = bounds.entry(*group).or_default();
            *sum = sum.saturating_add(*bound);
        }
        for (group, name, chunk, bound) in &chunks {
            // Reading rows one by one costs as much as decoding them: only where the bounds do not do.
            let takes = match bounds.get(group) {
                Some(sum) if *sum <= self.room => Ok(*bound),
                _ => chunk.heaviest(),
            };
            let takes = takes.map_err(|why| self.refusal(why, name))?;
            let (batch, held) = self.taken.get(group).copied().unwrap_or_default();
            let (batch, held) = (batch.saturating_add(takes), held.saturating_add(chunk.held()));
            if batch > self.room || held > self.room.saturating_mul(HELD) {
                return Err(self.refusal(Trouble::Large(batch.max(held)), name));
            }
            self.taken.insert(*group, (batch, held));
        }
        Ok(())
    }

    /// Checks that the page index names no other pages than those that were weighed. Of a chunk that was fetched in
    /// parts, each begins with a page.
    fn check_places(
        &self,
        footer: &ParquetMetaData,
        (group, column): Place,
        parts: &[(u64, &Bytes)],
        chunk: &Chunk<'_>,
    ) -> Result<()> {
        let index = footer.offset_index().and_then(|index| index.get(group)?.get(column));
        let (Some(index), [(start, bytes)]) = (index, parts) else { return Ok(()) };
        let fetched = *start..start + bytes.len() as u64;
        let begins: Vec<u64> = chunk.starts().map(|at| start + at as u64).collect();
        let mut named = index.page_locations().iter().map(|page| page.offset.cast_unsigned());
        match named.any(|place| fetched.contains(&place) && begins.binary_search(&place).is_err()) {
            true => Err(self.damaged("its page index names a page where none begins")),
            false => Ok(()),
        }
    }

    fn url(&self) -> &str {
        let own = self.files.iter().find(|file| file.meta.location == self.location);
        own.map_or(self.location.as_ref(), |file| file.url.as_str())
    }

    fn damaged(&self, what: &str) -> Error {
        Error::input(format!("{}: {what}; write the file again", self.url()))
    }

    fn refusal(&self, why: Trouble, column: &str) -> Error {
        let place = format!("{}: column `{column}`", self.url());
        match why {
            Trouble::Broken(what) => Error::input(format!("{place}: {what}; write the file again")),
            Trouble::Large(bytes) => too_large(&place, bytes),
            Trouble::Reader(cause) => {
                Error::input(format!("{place}: a page cannot be read")).with_source(cause)
            }
        }
    }
}

/// The pages of all columns that are open at once, and their dictionaries, may take so many times what a batch may.
const HELD: u64 = 2;

fn passed(error: Error) -> ParquetError {
    ParquetError::External(Box::new(error))
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
            self.weigh(&ranges, &fetched).map_err(passed)?;
            Ok(fetched)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Decoded<Arc<ParquetMetaData>>> {
        async move {
            // With the page index whatever is asked for: where pages begin by it has to be known.
            let footer = self.inner.get_metadata(None).await?;
            self.begin(Arc::clone(&footer)).map_err(passed)?;
            Ok(footer)
        }
        .boxed()
    }
}
