//! Headers of pages, which say what a page unpacks to.
//!
//! Format: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>, in Thrift's compact protocol.

use std::ops::Range;

use super::trouble::Broken;

/// Deepest nesting of a header.
const MAX_DEPTH: u32 = 16;

/// Types of pages.
const DATA: i64 = 0;
const INDEX: i64 = 1;
const DICTIONARY: i64 = 2;

/// A page of a column chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) kind: Kind,
    /// Where its bytes are in the chunk.
    pub(super) payload: Range<usize>,
    /// Bytes that it claims to unpack to.
    pub(super) unpacked: u64,
    /// The part of them at its beginning that is not packed.
    pub(super) plain: usize,
    /// Version 2 may hold a page as it is, though its column is packed.
    pub(super) is_packed: bool,
    /// Values with their nulls, and empty lists.
    pub(super) values: u64,
    pub(super) encoding: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dictionary,
    Data,
    /// Nothing that is decoded.
    Index,
}

/// The pages of a column chunk.
pub(super) fn pages(chunk: &[u8]) -> Result<Vec<Page>, Broken> {
    let (mut pages, mut at) = (Vec::new(), 0);
    while at < chunk.len() {
        let mut fields = Compact { bytes: &chunk[at..] };
        let header = fields.page()?;
        let start = chunk.len() - fields.bytes.len();
        let size = usize::try_from(header.packed).ok().filter(|size| *size <= fields.bytes.len());
        let payload = start..start + size.ok_or("a page goes beyond its column chunk")?;
        at = payload.end;
        let unpacked = u64::try_from(header.unpacked).map_err(|_| WRONG)?;
        let plain = usize::try_from(header.plain).map_err(|_| WRONG)?;
        let values = u64::try_from(header.values).map_err(|_| WRONG)?;
        let kind = match header.kind {
            DICTIONARY => Kind::Dictionary,
            INDEX => Kind::Index,
            _ => Kind::Data,
        };
        let (is_packed, encoding) = (header.is_packed, header.encoding);
        pages.push(Page { kind, payload, unpacked, plain, is_packed, values, encoding });
    }
    Ok(pages)
}

const WRONG: Broken = "the header of a page is damaged";

struct Header {
    kind: i64,
    unpacked: i64,
    packed: i64,
    values: i64,
    encoding: i64,
    plain: i64,
    is_packed: bool,
}

struct Compact<'a> {
    bytes: &'a [u8],
}

/// Types of Thrift.
const STOP: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

impl Compact<'_> {
    fn page(&mut self) -> Result<Header, Broken> {
        let mut header = Header {
            kind: DATA,
            unpacked: -1,
            packed: -1,
            values: 0,
            encoding: 0,
            plain: 0,
            is_packed: true,
        };
        let mut id = 0;
        while let Some(of) = self.field(&mut id)? {
            match id {
                1 => header.kind = self.number(of)?,
                2 => header.unpacked = self.number(of)?,
                3 => header.packed = self.number(of)?,
                5 | 7 | 8 if of == STRUCT => self.inner(id, &mut header)?,
                _ => self.skip(of, 0)?,
            }
        }
        Ok(header)
    }

    /// The header of a data page (5), a dictionary (7), or a data page of version 2 (8).
    fn inner(&mut self, of_page: i64, header: &mut Header) -> Result<(), Broken> {
        let (encoding, mut id) = (if of_page == 8 { 4 } else { 2 }, 0);
        while let Some(of) = self.field(&mut id)? {
            match (of_page, id) {
                (_, 1) => header.values = self.number(of)?,
                (_, id) if id == encoding => header.encoding = self.number(of)?,
                (8, 5 | 6) => header.plain = header.plain.saturating_add(self.number(of)?.max(0)),
                (8, 7) => header.is_packed = of == TRUE,
                _ => self.skip(of, 0)?,
            }
        }
        Ok(())
    }

    /// The type of the next field; `None` behind the last.
    fn field(&mut self, id: &mut i64) -> Result<Option<u8>, Broken> {
        let head = self.byte()?;
        let (delta, of) = (head >> 4, head & 0x0f);
        if of == STOP {
            return Ok(None);
        }
        *id = if delta == 0 { self.zigzag()? } else { id.saturating_add(i64::from(delta)) };
        Ok(Some(of))
    }

    fn number(&mut self, of: u8) -> Result<i64, Broken> {
        if (4..=6).contains(&of) { self.zigzag() } else { Err(WRONG) }
    }

    fn skip(&mut self, of: u8, depth: u32) -> Result<(), Broken> {
        if depth > MAX_DEPTH {
            return Err(WRONG);
        }
        match of {
            TRUE | FALSE => Ok(()),
            BYTE => self.take(1),
            4..=6 => self.zigzag().map(drop),
            DOUBLE => self.take(8),
            BINARY => {
                let length = self.varint()?;
                self.take(length)
            }
            LIST | SET => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                self.skip_all(count, &[head & 0x0f], depth)
            }
            MAP => match self.varint()? {
                0 => Ok(()),
                count => {
                    let of = self.byte()?;
                    self.skip_all(count, &[of >> 4, of & 0x0f], depth)
                }
            },
            STRUCT => {
                let mut id = 0;
                while let Some(of) = self.field(&mut id)? {
                    self.skip(of, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(WRONG),
        }
    }

    fn skip_all(&mut self, count: u64, members: &[u8], depth: u32) -> Result<(), Broken> {
        for _ in 0..count {
            for of in members {
                match *of {
                    // A byte each, inside of lists.
                    TRUE | FALSE => self.take(1)?,
                    of => self.skip(of, depth + 1)?,
                }
            }
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, Broken> {
        let (first, rest) = self.bytes.split_first().ok_or(WRONG)?;
        self.bytes = rest;
        Ok(*first)
    }

    fn take(&mut self, count: u64) -> Result<(), Broken> {
        let count = usize::try_from(count).ok().filter(|count| *count <= self.bytes.len());
        self.bytes = &self.bytes[count.ok_or(WRONG)?..];
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Broken> {
        super::runs::varint(&mut self.bytes).ok_or(WRONG)
    }

    fn zigzag(&mut self) -> Result<i64, Broken> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dictionary page and a data page, as by the book.
    fn chunk() -> Vec<u8> {
        let mut chunk = vec![0x15, 4, 0x15, 20, 0x15, 6, 0x4c, 0x15, 2, 0x15, 4, 0, 0, 1, 2, 3];
        // A data page with statistics that are passed over: a text in them, and a list.
        chunk.extend([0x15, 0, 0x15, 0x80, 1, 0x15, 4, 0x2c, 0x15, 10, 0x15, 16, 0x15, 6, 0x15, 6]);
        chunk.extend([0x1c, 0x18, 2, b'a', b'b', 0x19, 0x28, 1, b'c', 1, b'd', 0, 0, 0, 9, 9]);
        chunk
    }

    #[test]
    fn headers_say_what_pages_are() {
        let pages = pages(&chunk()).unwrap();
        let dictionary = &pages[0];
        assert_eq!((dictionary.kind, dictionary.values), (Kind::Dictionary, 1));
        assert_eq!((dictionary.payload.clone(), dictionary.unpacked), (13..16, 10));
        let data = &pages[1];
        assert_eq!((data.kind, data.values, data.encoding), (Kind::Data, 5, 8));
        assert_eq!((data.payload.len(), data.unpacked), (2, 64));
        assert_eq!(pages.len(), 2);
    }

    #[test]
    fn what_is_cut_off_is_damaged() {
        let whole = chunk();
        for to in 1..whole.len() {
            assert_eq!(pages(&whole[..to]).is_ok(), to == 16, "{to}");
        }
    }
}
