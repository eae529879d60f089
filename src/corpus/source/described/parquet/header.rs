//! Headers of pages, which say what a page unpacks to.
//!
//! Format: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>, in Thrift's compact protocol.

use std::collections::HashMap;
use std::ops::Range;

use super::trouble::Broken;

/// Deepest nesting of a header.
const MAX_DEPTH: u32 = 16;

/// A page of a column chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) is_dictionary: bool,
    /// Where its header is in the chunk, and its bytes.
    pub(super) start: usize,
    pub(super) payload: Range<usize>,
    /// Bytes that it claims to unpack to.
    pub(super) unpacked: u64,
    /// The part of them at its beginning that is not packed.
    pub(super) plain: usize,
    /// Version 2 may hold a page as it is, though its column is packed.
    pub(super) is_packed: bool,
    /// Values with their nulls, and empty lists; none of a page that is not decoded.
    pub(super) values: u64,
    pub(super) encoding: i64,
}

/// The pages of a column chunk.
pub(super) fn pages(chunk: &[u8]) -> Result<Vec<Page>, Broken> {
    const WRONG: Broken = "the header of a page is damaged";
    let (mut pages, mut at) = (Vec::new(), 0);
    while at < chunk.len() {
        let mut header = Header { bytes: &chunk[at..], numbers: HashMap::new() };
        header.value(STRUCT, (0, 0), 0).ok_or(WRONG)?;
        let number = |of: i64, field: i64| header.numbers.get(&(of, field)).copied();
        let kind = number(0, 1).ok_or(WRONG)?;
        // By kind: of a data page, a dictionary, and a data page of version 2.
        let of = match kind {
            0 => 5,
            2 => 7,
            3 => 8,
            _ => 0,
        };
        let size = |number: Option<i64>| usize::try_from(number.unwrap_or(0)).map_err(|_| WRONG);
        let start = chunk.len() - header.bytes.len();
        let packed = Some(size(number(0, 3))?).filter(|size| *size <= header.bytes.len());
        let payload = start..start + packed.ok_or("a page goes beyond its column chunk")?;
        let is_data = of == 5 || of == 8;
        pages.push(Page {
            is_dictionary: of == 7,
            start: at,
            unpacked: size(number(0, 2))? as u64,
            plain: size(number(8, 5))?.saturating_add(size(number(8, 6))?),
            is_packed: number(8, 7) != Some(0),
            values: if is_data { size(number(of, 1))? as u64 } else { 0 },
            encoding: number(of, if of == 8 { 4 } else { 2 }).unwrap_or(0),
            payload: payload.clone(),
        });
        at = payload.end;
    }
    Ok(pages)
}

/// Types of Thrift.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const STRUCT: u8 = 12;

struct Header<'a> {
    bytes: &'a [u8],
    /// The header's numbers by field; those of its structs by the struct's field and their own.
    numbers: HashMap<(i64, i64), i64>,
}

impl Header<'_> {
    /// Reads a value of this type and field.
    fn value(&mut self, of: u8, field: (i64, i64), depth: u32) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match of {
            TRUE | FALSE => self.keep(field, i64::from(of == TRUE), depth),
            3 => self.take(1)?,
            4..=6 => {
                let value = varint(&mut self.bytes)?;
                self.keep(field, (value >> 1) as i64 ^ -((value & 1) as i64), depth);
            }
            7 => self.take(8)?,
            8 => {
                let length = varint(&mut self.bytes)?;
                self.take(length)?;
            }
            // A list, and a set.
            9 | 10 => {
                let head = self.byte()?;
                let long = head >> 4 == 15;
                let count = if long { varint(&mut self.bytes)? } else { u64::from(head >> 4) };
                self.members(count, &[head & 0x0f], depth)?;
            }
            // A map.
            11 => {
                let count = varint(&mut self.bytes)?;
                if count > 0 {
                    let of = self.byte()?;
                    self.members(count, &[of >> 4, of & 0x0f], depth)?;
                }
            }
            STRUCT => {
                let mut id = 0_i64;
                loop {
                    let head = self.byte()?;
                    if head & 0x0f == 0 {
                        break;
                    }
                    id = match head >> 4 {
                        0 => {
                            let value = varint(&mut self.bytes)?;
                            (value >> 1) as i64 ^ -((value & 1) as i64)
                        }
                        delta => id.checked_add(i64::from(delta))?,
                    };
                    self.value(head & 0x0f, (field.1, id), depth + 1)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn members(&mut self, count: u64, of: &[u8], depth: u32) -> Option<()> {
        for _ in 0..count {
            for of in of {
                match *of {
                    // A byte each, inside of lists.
                    TRUE | FALSE => self.take(1)?,
                    of => self.value(of, (0, 0), depth.max(2) + 1)?,
                }
            }
        }
        Some(())
    }

    /// The header itself is at depth 0, its fields at 1, those of its structs at 2.
    fn keep(&mut self, field: (i64, i64), value: i64, depth: u32) {
        if depth <= 2 {
            self.numbers.insert(field, value);
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn take(&mut self, count: u64) -> Option<()> {
        self.bytes = self.bytes.get(usize::try_from(count).ok()?..)?;
        Some(())
    }
}

pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
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
        assert!(dictionary.is_dictionary);
        assert_eq!((dictionary.payload.clone(), dictionary.unpacked), (13..16, 10));
        let data = &pages[1];
        assert_eq!((data.is_dictionary, data.values, data.encoding), (false, 5, 8));
        assert_eq!((data.start, data.payload.len(), data.unpacked), (16, 2, 64));
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
