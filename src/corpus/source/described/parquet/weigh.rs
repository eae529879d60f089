//! What batches of a column chunk take, with all of their values written out: a few bytes of a page may stand for
//! gigabytes, by how it is packed, by a dictionary, by a run, or by deltas.

use std::collections::VecDeque;

use bytes::Bytes;
use parquet::basic::{Compression, Type};
use parquet::column::page::{Page as Unpacked, PageReader};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::file::metadata::ColumnChunkMetaData;

use super::header::{Page, pages};
use super::limited::{Handed, Limited};
use super::trouble::Trouble;
use crate::corpus::source::described::unpack::{Failed, Packing};

/// What a value takes beside its bytes: an offset, levels, and whether it is null.
const BESIDE: u64 = 16;
/// What the levels of a value of a list take while they are read.
const LEVELS: u64 = 4;
/// `PLAIN_DICTIONARY` and `RLE_DICTIONARY`.
const DICTIONARIES: [i64; 2] = [2, 8];
/// `DELTA_LENGTH_BYTE_ARRAY` and `DELTA_BYTE_ARRAY`.
const DELTAS: [i64; 2] = [6, 7];

/// Pages of a column chunk as they were fetched: all of them, or its dictionary and some.
pub(super) struct Chunk<'a> {
    meta: &'a ColumnChunkMetaData,
    bytes: Bytes,
    pages: Vec<Page>,
    /// Rows of a batch.
    rows: u64,
    /// Bytes that a page may take, and a batch.
    room: u64,
}

impl<'a> Chunk<'a> {
    /// Takes pages of which none takes more than it may.
    pub(super) fn new(
        meta: &'a ColumnChunkMetaData,
        bytes: Bytes,
        rows: u64,
        room: u64,
    ) -> Result<Self, Trouble> {
        let chunk = Self { meta, pages: pages(&bytes)?, bytes, rows, room };
        if chunk.pages.iter().skip(1).any(|page| page.is_dictionary) {
            return Err(Trouble::Broken("its dictionary is not the first page"));
        }
        chunk.pages.iter().try_for_each(|page| chunk.check(page))?;
        Ok(chunk)
    }

    /// Where pages begin.
    pub(super) fn starts(&self) -> impl Iterator<Item = usize> {
        self.pages.iter().map(|page| page.start)
    }

    fn check(&self, page: &Page) -> Result<(), Trouble> {
        let levels = if self.is_list() { page.values.saturating_mul(LEVELS) } else { 0 };
        let size = self.size(page).max(levels);
        if size > self.room {
            return Err(Trouble::Large(size));
        }
        if !self.is_packed(page) {
            return Ok(());
        }
        // The others are unpacked to as much as the header says, and no further.
        let packing = match self.meta.compression() {
            Compression::GZIP(_) => Packing::Gzip,
            Compression::BROTLI(_) => Packing::Brotli,
            Compression::LZ4 => Packing::Lz4Frame,
            _ => return Ok(()),
        };
        let payload = &self.bytes[page.payload.clone()];
        match packing.check(payload.get(page.plain..).unwrap_or_default(), self.room) {
            Err(Failed::Large) => Err(Trouble::Large(self.room)),
            // Of Hadoop's LZ4 and the blocks of others the reader knows the length.
            Err(Failed::Broken) if packing != Packing::Lz4Frame => {
                Err(Trouble::Broken("a page cannot be unpacked"))
            }
            _ => Ok(()),
        }
    }

    fn is_list(&self) -> bool {
        self.meta.column_descr().max_rep_level() > 0
    }

    fn is_packed(&self, page: &Page) -> bool {
        self.meta.compression() != Compression::UNCOMPRESSED && page.is_packed
    }

    /// Bytes that a page takes.
    fn size(&self, page: &Page) -> u64 {
        match self.is_packed(page) {
            true => page.unpacked,
            false => page.payload.len() as u64,
        }
    }

    /// What is held of it while it is read: its dictionary, and the largest page.
    pub(super) fn held(&self) -> u64 {
        let largest = |is_dictionary| {
            let pages = self.pages.iter().filter(|page| page.is_dictionary == is_dictionary);
            pages.map(|page| self.size(page)).max().unwrap_or(0)
        };
        largest(true).saturating_add(largest(false))
    }

    /// No batch takes more bytes than these; seldom does one take so many.
    pub(super) fn bound(&self) -> Result<u64, Trouble> {
        let of = |encodings: Option<[i64; 2]>| {
            let is_such = |page: &&Page| encodings.is_none_or(|such| such.contains(&page.encoding));
            let pages = self.pages.iter().filter(|page| !page.is_dictionary).filter(is_such);
            let values = pages.map(|page| page.values).fold(0, u64::saturating_add);
            if self.is_list() { values } else { values.min(self.rows) }
        };
        let values = of(None);
        let fixed = values.saturating_mul(self.width());
        if self.meta.column_type() != Type::BYTE_ARRAY {
            return Ok(fixed);
        }
        if of(Some(DELTAS)) > 0 {
            return Ok(u64::MAX);
        }
        // Writers give a dictionary up where it does not pay.
        let longest = match of(Some(DICTIONARIES)) {
            0 => 0,
            values => values.saturating_mul(self.longest()?),
        };
        let texts = longest.saturating_add(self.window(values));
        Ok(fixed.saturating_add(texts))
    }

    /// Bytes of a value without those of a text.
    fn width(&self) -> u64 {
        let column = self.meta.column_descr();
        BESIDE + u64::try_from(column.type_length()).unwrap_or(0)
    }

    /// Bytes of the pages that this many values are in, one after the other.
    fn window(&self, values: u64) -> u64 {
        let pages: Vec<&Page> = self.pages.iter().filter(|page| !page.is_dictionary).collect();
        let (mut first, mut sum, mut between, mut most) = (0, 0_u64, 0_u64, 0);
        for (last, page) in pages.iter().enumerate() {
            sum = sum.saturating_add(self.size(page));
            if last > first + 1 {
                between = between.saturating_add(pages[last - 1].values);
            }
            // The first and the last of the values are in the first and the last page.
            while first < last && between.saturating_add(2) > values {
                sum = sum.saturating_sub(self.size(pages[first]));
                first += 1;
                between =
                    between.saturating_sub(if first < last { pages[first].values } else { 0 });
            }
            most = most.max(sum);
        }
        most
    }

    /// Bytes of the dictionary's longest text.
    fn longest(&self) -> Result<u64, Trouble> {
        let dictionary = self.reader(&Handed::default())?.get_next_page()?;
        let Some(Unpacked::DictionaryPage { buf, .. }) = dictionary else { return Ok(0) };
        let (mut longest, mut rest) = (0, &buf[..]);
        while let Some((length, texts)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length);
            let text = usize::try_from(length).ok().and_then(|length| texts.get(length..));
            rest = text.ok_or("a text of a dictionary is cut off")?;
            longest = longest.max(u64::from(length));
        }
        Ok(longest)
    }

    /// Bytes of the heaviest batch. Reads the rows one by one where the bound is too high to tell.
    pub(super) fn heaviest(&self) -> Result<u64, Trouble> {
        if !self.is_list() && self.meta.column_type() != Type::BYTE_ARRAY {
            return self.bound();
        }
        let handed = Handed::default();
        let pages = self.reader(&handed)?;
        let column = self.meta.column_descr_ptr();
        match get_column_reader(column, Box::new(pages)) {
            ColumnReader::BoolColumnReader(rows) => self.rows(rows, &handed, |_| 0),
            ColumnReader::Int32ColumnReader(rows) => self.rows(rows, &handed, |_| 0),
            ColumnReader::Int64ColumnReader(rows) => self.rows(rows, &handed, |_| 0),
            ColumnReader::Int96ColumnReader(rows) => self.rows(rows, &handed, |_| 0),
            ColumnReader::FloatColumnReader(rows) => self.rows(rows, &handed, |_| 0),
            ColumnReader::DoubleColumnReader(rows) => self.rows(rows, &handed, |_| 0),
            ColumnReader::ByteArrayColumnReader(rows) => self.rows(rows, &handed, ByteArray::len),
            ColumnReader::FixedLenByteArrayColumnReader(rows) => self.rows(rows, &handed, |_| 0),
        }
    }

    fn reader(&self, handed: &Handed) -> Result<Limited, Trouble> {
        let most = self.room / LEVELS;
        Ok(Limited::new(self.meta, self.bytes.clone(), handed.clone(), most)?)
    }

    fn rows<T: DataType>(
        &self,
        mut reader: ColumnReaderImpl<T>,
        handed: &Handed,
        length: impl Fn(&T::T) -> usize,
    ) -> Result<u64, Trouble> {
        let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
        let (mut batch, mut sum, mut most) = (VecDeque::new(), 0_u64, 0);
        while most <= self.room {
            values.clear();
            definition.clear();
            repetition.clear();
            handed.begin();
            let read =
                reader.read_records(1, Some(&mut definition), Some(&mut repetition), &mut values);
            let (rows, _, levels) = read.map_err(|cause| match handed.is_too_much() {
                true => Trouble::Large(self.room),
                false => Trouble::Reader(cause),
            })?;
            if rows == 0 {
                break;
            }
            let texts: usize = values.iter().map(&length).sum();
            let row = (levels as u64).saturating_mul(self.width()).saturating_add(texts as u64);
            batch.push_back(row);
            sum = sum.saturating_add(row);
            if batch.len() as u64 > self.rows {
                sum -= batch.pop_front().unwrap_or(0);
            }
            most = most.max(sum);
        }
        Ok(most)
    }
}
