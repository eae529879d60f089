//! Reading Parquet through a root.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::Root;

/// Bytes read from the end of a file at once: the footer of all but huge files.
const FOOTER: usize = 64 << 10;

/// An object as Parquet's asynchronous readers want it. A footer that points outside the file is an error of the
/// file, not of the store.
#[derive(Debug, Clone)]
pub struct ParquetObject {
    store: Arc<dyn ObjectStore>,
    path: ObjectPath,
    size: u64,
    pages: bool,
}

impl ParquetObject {
    /// The object `key` of `size` bytes.
    pub fn new(root: &Root, key: &str, size: u64) -> Self {
        let (store, path) = root.object(key);
        Self { store, path, size, pages: false }
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
}

fn external(cause: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(cause))
}

impl AsyncFileReader for ParquetObject {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        if let Err(error) = self.check(&range) {
            return futures::future::err(error).boxed();
        }
        self.store.get_range(&self.path, range).map_err(external).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        if let Err(error) = ranges.iter().try_for_each(|range| self.check(range)) {
            return futures::future::err(error).boxed();
        }
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
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
