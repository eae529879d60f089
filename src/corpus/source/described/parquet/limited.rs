//! The pages of a column chunk for a reader of rows, which would hold a row of any number of pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::deltas::check_deltas;

/// Values of the pages that were handed out for one row.
#[derive(Clone, Default)]
pub(super) struct Handed(Arc<AtomicU64>);

impl Handed {
    /// A row begins.
    pub(super) fn begin(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(super) fn is_too_much(&self) -> bool {
        self.0.load(Ordering::Relaxed) == u64::MAX
    }
}

pub(super) struct Limited {
    inner: SerializedPageReader<Fetched>,
    handed: Handed,
    /// Values that a row may have, and again as many of the rows beside it in its pages.
    most: u64,
    /// Highest levels of repetition and definition.
    levels: [i16; 2],
}

impl Limited {
    /// `bytes` are the chunk's pages, or its dictionary and some of them.
    pub(super) fn new(
        meta: &ColumnChunkMetaData,
        bytes: Bytes,
        handed: Handed,
        most: u64,
    ) -> Result<Self> {
        let (start, _) = meta.byte_range();
        let size = i64::try_from(bytes.len())?;
        let meta = meta.clone().into_builder().set_total_compressed_size(size).build()?;
        let column = meta.column_descr();
        let levels = [column.max_rep_level(), column.max_def_level()];
        let fetched = Arc::new(Fetched { bytes, start });
        // The number of rows counts only where pages are looked up.
        let inner = SerializedPageReader::new(fetched, &meta, usize::MAX, None)?;
        Ok(Self { inner, handed, most, levels })
    }
}

impl PageReader for Limited {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(page) = self.inner.get_next_page()? else { return Ok(None) };
        let wrong = |what: &str| ParquetError::General(what.to_owned());
        check_deltas(&page, self.levels).map_err(wrong)?;
        let handed = self.handed.0.load(Ordering::Relaxed);
        let handed = handed.saturating_add(u64::from(page.num_values()));
        if page.is_data_page() && handed > self.most.saturating_mul(2) && self.levels[0] > 0 {
            self.handed.0.store(u64::MAX, Ordering::Relaxed);
            return Err(wrong("a row has too many values"));
        }
        self.handed.0.store(handed, Ordering::Relaxed);
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.inner.at_record_boundary()
    }
}

impl Iterator for Limited {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// The bytes of a chunk, which its reader looks for at their place in the file.
struct Fetched {
    bytes: Bytes,
    start: u64,
}

impl Length for Fetched {
    fn len(&self) -> u64 {
        self.start.saturating_add(self.bytes.len() as u64)
    }
}

impl ChunkReader for Fetched {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let place = start.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let outside = || ParquetError::General("outside of its column chunk".to_owned());
        let place = place.filter(|at| *at <= self.bytes.len()).ok_or_else(outside)?;
        Ok(self.bytes.slice(place..).reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let rest = self.get_read(start)?.into_inner();
        rest.get_bytes(0, length)
    }
}
