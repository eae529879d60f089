//! Parquet's async reader and writer over a [`Root`]: ranges of an object, and a writer that hashes as it goes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Root, kind_of_foreign};

/// A part whose file is not what its receipt says.
pub(super) fn altered(key: &str, what: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("part file {key} {what}: it was altered, encode it again"))
}

/// Reads ranges of one object whose size is known.
#[derive(Clone)]
pub(super) struct ObjectReader {
    store: Arc<dyn ObjectStore>,
    path: ObjectPath,
    size: u64,
}

impl ObjectReader {
    /// # Errors
    /// NotFound where `key` does not exist.
    pub async fn open(root: &Root, key: &str) -> Result<Self> {
        let size = root.size(key).await?.ok_or_else(|| {
            Error::not_found(format!(
                "part file {key} is missing in {}; a receipt names it, so restore it or remove the receipt",
                root.uri()
            ))
        })?;
        let (store, path) = root.object(key);
        Ok(Self { store, path, size })
    }

    fn check(&self, range: &Range<u64>) -> ParquetResult<()> {
        if range.start <= range.end && range.end <= self.size {
            Ok(())
        } else {
            Err(ParquetError::EOF(format!("bytes {range:?} of a file of {}", self.size)))
        }
    }
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move {
            self.check(&range)?;
            let found = self.store.get_range(&self.path, range).await;
            found.map_err(|cause| ParquetError::External(Box::new(cause)))
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move {
            ranges.iter().try_for_each(|range| self.check(range))?;
            let found = self.store.get_ranges(&self.path, &ranges).await;
            found.map_err(|cause| ParquetError::External(Box::new(cause)))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            // The offset index lets a selection of rows fetch only their pages.
            let reader = ParquetMetaDataReader::new()
                .with_column_index_policy(PageIndexPolicy::Skip)
                .with_offset_index_policy(PageIndexPolicy::Optional);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

/// A Parquet error as ours: what the store said is a passing fault, anything else damage.
pub(super) fn parquet_error(what: &str, key: &str, cause: ParquetError) -> Error {
    let kind = match &cause {
        ParquetError::External(inner) => kind_of_foreign(inner.as_ref(), ErrorKind::Corrupt),
        _ => ErrorKind::Corrupt,
    };
    Error::new(kind, format!("{what} part file {key}")).with_source(cause)
}
