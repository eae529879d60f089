//! What the heaviest batch of a column chunk takes, with all of its values written out.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page as Unpacked, PageReader};
use parquet::errors::{ParquetError, Result as Decoded};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::header::{Kind, Page, pages};
use super::runs::{Deltas, Heaviest, hybrid};
use super::trouble::{Broken, Trouble};
use crate::corpus::source::described::unpack::{Failed, Packing};

/// What a value of no length of its own takes: offset, levels, and whether it is null.
const BESIDE: u64 = 16;
/// `PLAIN_DICTIONARY`, `DELTA_LENGTH_BYTE_ARRAY`, `DELTA_BYTE_ARRAY` and `RLE_DICTIONARY`.
const DICTIONARIES: [i64; 2] = [2, 8];
const LENGTHS: [i64; 2] = [6, 7];

/// A column chunk as it was fetched.
pub(super) struct Chunk<'a> {
    pub(super) meta: &'a ColumnChunkMetaData,
    pub(super) bytes: &'a Bytes,
    /// Rows of a batch.
    pub(super) rows: u64,
    /// Bytes that a batch may take.
    pub(super) room: u64,
}

impl Chunk<'_> {
    /// Bytes, at most. Nothing is unpacked that was not found to have room before.
    pub(super) fn heaviest(&self) -> Result<u64, Trouble> {
        let pages = pages(self.bytes)?;
        for page in &pages {
            self.check(page)?;
        }
        let data = || pages.iter().filter(|page| page.kind == Kind::Data);
        let all: u64 = data().map(|page| page.values).fold(0, u64::saturating_add);
        let column = self.meta.column_descr();
        let values = match column.max_rep_level() {
            0 => self.rows.min(all),
            _ if all.saturating_mul(BESIDE) <= self.room / 4 => all,
            _ => self.longest_lists()?,
        };
        let width = match column.physical_type() {
            Type::FIXED_LEN_BYTE_ARRAY => u64::try_from(column.type_length()).unwrap_or(0),
            _ => 0,
        };
        let values_alone = values.saturating_mul(width + BESIDE);
        let written_out = match self.meta.column_type() {
            Type::BYTE_ARRAY if values_alone <= self.room => self.texts(&pages, values)?,
            _ => 0,
        };
        let mut unpacked = Heaviest::of(values);
        for page in data() {
            unpacked.push(self.size(page).div_ceil(page.values.max(1)), page.values);
        }
        Ok(values_alone.saturating_add(written_out).saturating_add(unpacked.most))
    }

    /// Bytes that a page takes.
    fn size(&self, page: &Page) -> u64 {
        match self.is_packed(page) {
            true => page.unpacked,
            false => page.payload.len() as u64,
        }
    }

    fn is_packed(&self, page: &Page) -> bool {
        self.meta.compression() != Compression::UNCOMPRESSED && page.is_packed
    }

    fn check(&self, page: &Page) -> Result<(), Trouble> {
        let size = self.size(page);
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
        let packed = payload.get(page.plain.min(payload.len())..).unwrap_or_default();
        match packing.check(packed, self.room) {
            Err(Failed::Large) => Err(Trouble::Large(self.room)),
            // Of Hadoop's LZ4 and the blocks of others the reader knows the length.
            Err(Failed::Broken) if packing == Packing::Lz4Frame => Ok(()),
            Err(Failed::Broken) => Err(Trouble::Broken("a page cannot be unpacked")),
            Ok(()) => Ok(()),
        }
    }

    /// Members of lists in the rows of a batch, at most.
    fn longest_lists(&self) -> Result<u64, Trouble> {
        let most = self.meta.column_descr().max_rep_level();
        let (mut rows, mut members) = (Heaviest::of(self.rows), 0_u64);
        self.each_page(|page| {
            let (levels, values) = repetition(&page)?;
            hybrid(levels, bits_of(most), values, |level, times| {
                match level {
                    0 => {
                        rows.push(members, 1);
                        members = 1;
                        rows.push(1, times - 1);
                    }
                    _ => members = members.saturating_add(times),
                }
                Ok(())
            })?;
            Ok(())
        })?;
        rows.push(members, 1);
        Ok(rows.most)
    }

    /// Bytes of so many texts, one after the other, that pages hold shorter than they are.
    fn texts(&self, pages: &[Page], values: u64) -> Result<u64, Trouble> {
        let uses = |encodings: [i64; 2]| {
            pages.iter().any(|page| page.kind == Kind::Data && encodings.contains(&page.encoding))
        };
        let (by_dictionary, by_length) = (uses(DICTIONARIES), uses(LENGTHS));
        if !by_dictionary && !by_length {
            return Ok(0);
        }
        let dictionary = self.dictionary()?;
        let longest = dictionary.iter().copied().max().unwrap_or(0);
        let upper = values.saturating_mul(longest);
        if !by_length && upper <= self.room / 16 {
            return Ok(upper);
        }
        let mut texts = Heaviest::of(values);
        self.each_page(|page| {
            let (encoding, data, count) = self.values(&page)?;
            match encoding {
                Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY => {
                    let Some((width, places)) = data.split_first() else { return Ok(()) };
                    let count = count.min(most_places(places, *width));
                    hybrid(places, u32::from(*width), count, |place, times| {
                        let place = usize::try_from(place).ok();
                        let length = place.and_then(|place| dictionary.get(place));
                        texts.push(*length.ok_or("a place is not in the dictionary")?, times);
                        Ok(())
                    })?;
                }
                Encoding::DELTA_LENGTH_BYTE_ARRAY => {
                    let lengths = Deltas::new(data).ok_or(LENGTHS_CUT)?;
                    self.check_count(lengths.left)?;
                }
                Encoding::DELTA_BYTE_ARRAY => {
                    let mut shared = Deltas::new(data).ok_or(LENGTHS_CUT)?;
                    self.check_count(shared.left)?;
                    let rest = Deltas::new(data).and_then(Deltas::rest).ok_or(LENGTHS_CUT)?;
                    let mut own = Deltas::new(rest).ok_or(LENGTHS_CUT)?;
                    self.check_count(own.left)?;
                    while let (Some(shared), Some(own)) = (shared.next(), own.next()) {
                        texts.push(shared.max(0).saturating_add(own.max(0)).cast_unsigned(), 1);
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(texts.most)
    }

    /// Their reader writes all lengths of a page out.
    fn check_count(&self, count: u64) -> Result<(), Trouble> {
        let size = count.saturating_mul(BESIDE);
        if size > self.room { Err(Trouble::Large(size)) } else { Ok(()) }
    }

    /// The lengths of the dictionary's texts.
    fn dictionary(&self) -> Result<Vec<u64>, Trouble> {
        let Some(Unpacked::DictionaryPage { buf, .. }) = self.reader()?.get_next_page()? else {
            return Ok(Vec::new());
        };
        let (mut lengths, mut rest) = (Vec::new(), &buf[..]);
        while let Some((length, texts)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length);
            let text = usize::try_from(length).ok().and_then(|length| texts.get(length..));
            rest = text.ok_or("a text of a dictionary is cut off")?;
            lengths.push(u64::from(length));
        }
        Ok(lengths)
    }

    fn each_page(
        &self,
        mut each: impl FnMut(Unpacked) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let mut reader = self.reader()?;
        while let Some(page) = reader.get_next_page()? {
            if !matches!(page, Unpacked::DictionaryPage { .. }) {
                each(page)?;
            }
        }
        Ok(())
    }

    fn reader(&self) -> Decoded<SerializedPageReader<Fetched>> {
        let (start, _) = self.meta.byte_range();
        let fetched = Fetched { bytes: self.bytes.clone(), start };
        SerializedPageReader::new(Arc::new(fetched), self.meta, usize::MAX, None)
    }

    /// The encoding of a page's values, where they are, and how many there are with their nulls.
    fn values<'p>(&self, page: &'p Unpacked) -> Result<(Encoding, &'p [u8], u64), Trouble> {
        match page {
            Unpacked::DataPage { buf, encoding, num_values, .. } => {
                let column = self.meta.column_descr();
                let mut data = &buf[..];
                for most in [column.max_rep_level(), column.max_def_level()] {
                    if most > 0 {
                        data = levels(data)?.1;
                    }
                }
                Ok((*encoding, data, u64::from(*num_values)))
            }
            Unpacked::DataPageV2 {
                buf,
                encoding,
                num_values,
                def_levels_byte_len,
                rep_levels_byte_len,
                ..
            } => {
                let levels = u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len);
                let data = usize::try_from(levels).ok().and_then(|levels| buf.get(levels..));
                Ok((*encoding, data.ok_or(LEVELS_CUT)?, u64::from(*num_values)))
            }
            Unpacked::DictionaryPage { .. } => Err(Trouble::Broken("a second dictionary")),
        }
    }
}

const LEVELS_CUT: Broken = "the levels of a page are cut off";
const LENGTHS_CUT: Broken = "the lengths of a page are cut off";

/// Levels that have their length in front of them, and what follows.
fn levels(bytes: &[u8]) -> Result<(&[u8], &[u8]), Broken> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(LEVELS_CUT)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| LEVELS_CUT)?;
    rest.split_at_checked(length).ok_or(LEVELS_CUT)
}

/// The levels of a page that say where rows begin, and how many there are.
fn repetition(page: &Unpacked) -> Result<(&[u8], u64), Broken> {
    match page {
        Unpacked::DataPage { buf, num_values, rep_level_encoding: Encoding::RLE, .. } => {
            Ok((levels(buf)?.0, u64::from(*num_values)))
        }
        Unpacked::DataPageV2 { buf, num_values, rep_levels_byte_len, .. } => {
            let length = usize::try_from(*rep_levels_byte_len).map_err(|_| LEVELS_CUT)?;
            Ok((buf.get(..length).ok_or(LEVELS_CUT)?, u64::from(*num_values)))
        }
        _ => Err("lists are encoded as Parquet 1.0 did, which cannot be checked"),
    }
}

fn bits_of(most: i16) -> u32 {
    16 - most.leading_zeros()
}

/// How many places there can be: nulls have none, so that a page has fewer than values.
fn most_places(mut runs: &[u8], width: u8) -> u64 {
    let mut count = 0_u64;
    while let Some(head) = super::runs::varint(&mut runs) {
        let (places, bytes) = match head & 1 {
            0 => (head >> 1, u64::from(width).div_ceil(8)),
            _ => ((head >> 1).saturating_mul(8), (head >> 1).saturating_mul(u64::from(width))),
        };
        count = count.saturating_add(places);
        let Some(rest) = usize::try_from(bytes).ok().and_then(|bytes| runs.get(bytes..)) else {
            break;
        };
        runs = rest;
    }
    count
}

/// The bytes of a chunk, which its reader looks for at their place in the file.
struct Fetched {
    bytes: Bytes,
    start: u64,
}

impl Fetched {
    fn place(&self, start: u64) -> Decoded<usize> {
        let place = start.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let outside = || ParquetError::General("outside of its column chunk".to_owned());
        place.filter(|at| *at <= self.bytes.len()).ok_or_else(outside)
    }
}

impl Length for Fetched {
    fn len(&self) -> u64 {
        self.start.saturating_add(self.bytes.len() as u64)
    }
}

impl ChunkReader for Fetched {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Decoded<Self::T> {
        Ok(bytes::Buf::reader(self.bytes.slice(self.place(start)?..)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Decoded<Bytes> {
        let start = self.place(start)?;
        self.bytes.slice(start..).get_bytes(0, length)
    }
}
