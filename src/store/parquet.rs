//! Reading Parquet through a root.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::{FileRef, Pieces, Root, damaged, kind_of_foreign};
use crate::error::{Error, ErrorKind};

/// Bytes read from the end of a file at once: the footer of all but huge files.
const FOOTER: usize = 64 << 10;

/// An object as Parquet's asynchronous readers want it. A footer that points outside the file is an error of the
/// file, not of the store.
#[derive(Debug, Clone)]
pub struct ParquetObject {
    /// What it is called in errors.
    root: Arc<Root>,
    store: Arc<dyn ObjectStore>,
    key: String,
    path: ObjectPath,
    size: u64,
    pages: bool,
    pieces: Option<Arc<Pieces>>,
    /// The pieces at the end of the file, once they were read: the footer is read in several steps.
    end: Option<(Range<usize>, Bytes)>,
}

impl ParquetObject {
    /// The object `key` of `size` bytes, of which nobody knows what it must be.
    pub fn new(root: &Root, key: &str, size: u64) -> Self {
        let (store, path) = root.object(key);
        let (root, key) = (Arc::new(root.clone()), key.to_owned());
        Self { root, store, key, path, size, pages: false, pieces: None, end: None }
    }

    /// A file whose bytes are checked before they are decoded. All of it is hashed once in a process.
    ///
    /// # Errors
    /// As [`Root::pieces_of`].
    pub async fn checked(root: &Root, file: &FileRef) -> Result<Self, Error> {
        let pieces = root.pieces_of(file).await?;
        Ok(Self::new(root, &file.path, file.size).with_pieces(pieces))
    }

    /// Checks each piece whenever it is read.
    #[must_use]
    pub fn with_pieces(mut self, pieces: Arc<Pieces>) -> Self {
        self.pieces = Some(pieces);
        self
    }

    /// The same for readers that select rows: where the file says in which pages they lie, only those are read.
    #[must_use]
    pub fn by_pages(mut self) -> Self {
        self.pages = true;
        self
    }

    fn check(&self, range: &Range<u64>) -> Result<()> {
        if range.start > range.end || range.end > self.size {
            return Err(ParquetError::EOF(format!(
                "bytes {}..{} asked of a file of {} bytes",
                range.start, range.end, self.size
            )));
        }
        Ok(())
    }

    /// The bytes of these ranges, in order.
    async fn read(&mut self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
        ranges.iter().try_for_each(|range| self.check(range))?;
        let Some(pieces) = self.pieces.clone() else {
            return self.store.get_ranges(&self.path, &ranges).await.map_err(external);
        };
        let mut runs: Vec<(Range<usize>, Bytes)> = self.end.iter().cloned().collect();
        let known = runs.first().map_or(usize::MAX, |(run, _)| run.start);
        let mut wanted: Vec<Range<usize>> =
            ranges.iter().map(|range| pieces.touched(range)).collect();
        wanted.retain(|run| !run.is_empty() && run.start < known);
        wanted.sort_unstable_by_key(|run| run.start);
        wanted.dedup_by(|next, run| {
            let joins = next.start <= run.end;
            if joins {
                run.end = run.end.max(next.end);
            }
            joins
        });
        let places: Vec<Range<u64>> = wanted.iter().map(|run| pieces.bytes(run)).collect();
        let read = self.store.get_ranges(&self.path, &places).await.map_err(external)?;
        for (run, bytes) in wanted.into_iter().zip(read) {
            if let Some(place) = pieces.altered(run.clone(), &bytes) {
                let what =
                    format!("bytes {}..{} are not those that were written", place.start, place.end);
                return Err(external(damaged(&self.root, &self.key, what)));
            }
            if pieces.bytes(&run).end == self.size {
                self.end = Some((run.clone(), bytes.clone()));
            }
            runs.push((run, bytes));
        }
        let cut = |range: Range<u64>| {
            if range.is_empty() {
                return Ok(Bytes::new());
            }
            let touched = pieces.touched(&range);
            let run =
                runs.iter().find(|(run, _)| run.start <= touched.start && touched.end <= run.end);
            let (run, bytes) =
                run.ok_or_else(|| ParquetError::General("a range that was not read".to_owned()))?;
            let start = pieces.bytes(run).start;
            Ok(bytes.slice((range.start - start) as usize..(range.end - start) as usize))
        };
        ranges.into_iter().map(cut).collect()
    }
}

fn external(cause: impl std::error::Error + Send + Sync + 'static) -> ParquetError {
    ParquetError::External(Box::new(cause))
}

/// An error of reading a Parquet file as ours: what the store said keeps its kind, what was said of a damaged file its
/// words, and anything else is damage.
pub fn parquet_error(what: impl Into<Cow<'static, str>>, cause: ParquetError) -> Error {
    let kind = match cause {
        ParquetError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => return ours.context(what),
            Err(inner) => {
                let kind = kind_of_foreign(inner.as_ref(), ErrorKind::Corrupt);
                return Error::new(kind, what).with_source(ParquetError::External(inner));
            }
        },
        _ => kind_of_foreign(&cause, ErrorKind::Corrupt),
    };
    Error::new(kind, what).with_source(cause)
}

impl AsyncFileReader for ParquetObject {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move { Ok(self.read(vec![range]).await?.pop().unwrap_or_default()) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        self.read(ranges).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = match self.pages {
                true => ParquetMetaDataReader::new()
                    .with_column_index_policy(PageIndexPolicy::Skip)
                    .with_offset_index_policy(PageIndexPolicy::Optional),
                false => ParquetMetaDataReader::new()
                    .with_arrow_reader_options(options)
                    .with_prefetch_hint(Some(FOOTER)),
            };
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
