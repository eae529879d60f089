//! Walks through an Avro container before DataFusion reads it: its reader loops forever where a block holds more
//! than the rows it claims, and unpacks whatever a block holds.
//!
//! Format: <https://avro.apache.org/docs/1.12.0/specification/#object-container-files>.

use std::collections::HashMap;
use std::io::Read;

use serde_json::Value;

use super::unpack::{Failed, Packing};
use crate::corpus::session::BATCH_ROWS;

/// Longest header entry and block that are accepted; writers make blocks of kilobytes.
const MAX_BLOCK: u64 = 1 << 30;
/// Deepest nesting of a value.
const MAX_DEPTH: u32 = 64;

/// Why a file is not a whole container.
type Broken = &'static str;

const CUT: Broken = "it is cut off";

/// Why a file is not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Broken(Broken),
    /// It would take so many bytes at once, or more.
    Large(u64),
}

impl From<Broken> for Refused {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Checks the framing of every block, that it unpacks to at most `room` bytes, and that it holds just the rows it
/// claims; of blocks packed by snappy the size alone is looked at. Returns how many rows a batch may have to take no
/// more than `room`.
pub(super) fn walk(mut reader: impl Read, room: u64) -> Result<usize, Refused> {
    if bytes(&mut reader, 4)? != b"Obj\x01" {
        return Err(Refused::Broken("it does not begin as an Avro container"));
    }
    let header = header(&mut reader)?;
    let sync = bytes(&mut reader, 16)?;
    let schema = header.get("avro.schema").ok_or("it has no schema")?;
    let schema: Value = serde_json::from_slice(schema).map_err(|_| "its schema is not JSON")?;
    let mut types = Types::default();
    let root = types.parse(&schema, "", 0);
    let codec = header.get("avro.codec").map_or(&b"null"[..], Vec::as_slice);
    let packing = match codec {
        b"deflate" => Some(Packing::Deflate),
        b"zstandard" => Some(Packing::Zstd),
        b"bzip2" => Some(Packing::Bzip2),
        b"xz" => Some(Packing::Xz),
        _ => None,
    };
    let mut batches = Batches::default();
    while let Some(first) = byte(&mut reader)? {
        let count = length(rest_of_long(first, &mut reader)?)?;
        let size = length(long(&mut reader)?)?;
        let mut data = bytes(&mut reader, size)?;
        if bytes(&mut reader, 16)? != sync {
            return Err(Refused::Broken("a block does not end with the file's marker"));
        }
        if let Some(packing) = packing {
            data = packing.unpack(&data, room).map_err(|failed| match failed {
                Failed::Broken => Refused::Broken("a block cannot be unpacked"),
                Failed::Large => Refused::Large(room),
            })?;
        } else if codec == b"snappy" {
            let size = snappy_size(&data).ok_or("a block cannot be unpacked")?;
            if size > room {
                return Err(Refused::Large(size));
            }
            batches.add(size.div_ceil(count.max(1)), count);
            continue;
        }
        // A type or a codec that this release does not know is for the reader to refuse.
        let Some(root) = root.filter(|_| packing.is_some() || codec == b"null") else { continue };
        let mut rows = data.as_slice();
        for left in (1..=count).rev() {
            let before = rows.len();
            let beside = types.skip(root, &mut rows, 0)?;
            let size = (before - rows.len()) as u64;
            if size.max(beside) > room {
                return Err(Refused::Large(size.max(beside)));
            }
            if size == 0 {
                // Rows without a byte: all of them are.
                batches.add(beside, left);
                break;
            }
            batches.add(size.saturating_add(beside), 1);
        }
        if !rows.is_empty() {
            return Err(Refused::Broken("a block holds more than the rows it claims"));
        }
    }
    // What is read is copied once more where a query gathers it.
    Ok(batches.rows(room / 4))
}

/// What a block of snappy unpacks to, as it says in front; its reader goes no further.
fn snappy_size(block: &[u8]) -> Option<u64> {
    let (mut size, mut shift) = (0, 0);
    for byte in block.iter().take(5) {
        size |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(size);
        }
    }
    None
}

/// The largest batches that rows make, for batches of 1, 2, 4 rows and so on: bytes of the last one, and of the
/// largest.
#[derive(Default)]
struct Batches {
    rows: u64,
    all: [(u64, u64); BATCH_ROWS.ilog2() as usize + 1],
}

impl Batches {
    fn add(&mut self, bytes: u64, times: u64) {
        // More than two of the largest are alike.
        for _ in 0..times.min(2 * BATCH_ROWS as u64) {
            for (power, (last, largest)) in self.all.iter_mut().enumerate() {
                if self.rows.is_multiple_of(1 << power) {
                    *last = 0;
                }
                *last = last.saturating_add(bytes);
                *largest = (*largest).max(*last);
            }
            self.rows += 1;
        }
    }

    fn rows(&self, room: u64) -> usize {
        let fits = self.all.iter().rposition(|(_, largest)| *largest <= room);
        1 << fits.unwrap_or(0)
    }
}

fn header(reader: &mut impl Read) -> Result<HashMap<String, Vec<u8>>, Broken> {
    let mut header = HashMap::new();
    loop {
        let count = long(reader)?;
        if count == 0 {
            return Ok(header);
        }
        if count < 0 {
            long(reader)?;
        }
        for _ in 0..count.unsigned_abs() {
            let key = length(long(reader)?)?;
            let key = bytes(reader, key)?;
            let value = length(long(reader)?)?;
            let value = bytes(reader, value)?;
            header.insert(String::from_utf8(key).map_err(|_| "its header is damaged")?, value);
        }
    }
}

fn byte(reader: &mut impl Read) -> Result<Option<u8>, Broken> {
    let mut one = [0];
    match reader.read(&mut one) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(one[0])),
        Err(_) => Err("it cannot be read"),
    }
}

/// This many bytes; grows with what is there, not with what is claimed.
fn bytes(reader: &mut impl Read, count: u64) -> Result<Vec<u8>, Broken> {
    let mut out = Vec::new();
    let read = reader.take(count).read_to_end(&mut out).map_err(|_| "it cannot be read")?;
    if read as u64 == count { Ok(out) } else { Err(CUT) }
}

fn length(value: i64) -> Result<u64, Broken> {
    u64::try_from(value).ok().filter(|n| *n <= MAX_BLOCK).ok_or("it claims an absurd length")
}

fn long(reader: &mut impl Read) -> Result<i64, Broken> {
    let first = byte(reader)?.ok_or(CUT)?;
    rest_of_long(first, reader)
}

/// A zigzag number whose first byte was read already.
fn rest_of_long(first: u8, reader: &mut impl Read) -> Result<i64, Broken> {
    let (mut value, mut shift, mut last) = (u64::from(first & 0x7f), 7, first);
    while last & 0x80 != 0 {
        last = byte(reader)?.ok_or(CUT)?;
        if shift > 63 {
            return Err("a number has more than 64 bits");
        }
        value |= u64::from(last & 0x7f) << shift;
        shift += 7;
    }
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// A type as far as its length goes; children by their place in [`Types`].
enum Type {
    Fixed(u64),
    Varint,
    Bytes,
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<usize>),
}

#[derive(Default)]
struct Types {
    all: Vec<Type>,
    names: HashMap<String, usize>,
}

impl Types {
    fn push(&mut self, of: Type) -> usize {
        self.all.push(of);
        self.all.len() - 1
    }

    /// The place of a schema's type; `None` for one that is not known.
    fn parse(&mut self, schema: &Value, space: &str, depth: u32) -> Option<usize> {
        if depth > MAX_DEPTH {
            return None;
        }
        let (name, fields) = match schema {
            Value::String(name) => (name.as_str(), None),
            Value::Array(branches) => {
                let branches: Option<Vec<usize>> =
                    branches.iter().map(|branch| self.parse(branch, space, depth + 1)).collect();
                return Some(self.push(Type::Union(branches?)));
            }
            Value::Object(fields) => match fields.get("type")? {
                Value::String(name) => (name.as_str(), Some(fields)),
                nested => return self.parse(nested, space, depth + 1),
            },
            _ => return None,
        };
        let plain = match name {
            "null" => Type::Fixed(0),
            "boolean" => Type::Fixed(1),
            "int" | "long" => Type::Varint,
            "float" => Type::Fixed(4),
            "double" => Type::Fixed(8),
            "bytes" | "string" => Type::Bytes,
            "array" => Type::Array(self.parse(fields?.get("items")?, space, depth + 1)?),
            "map" => Type::Map(self.parse(fields?.get("values")?, space, depth + 1)?),
            "record" | "enum" | "fixed" => return self.named(name, fields?, space, depth),
            other => {
                let full = format!("{space}.{other}");
                return self.names.get(other).or_else(|| self.names.get(&full)).copied();
            }
        };
        Some(self.push(plain))
    }

    fn named(
        &mut self,
        kind: &str,
        fields: &serde_json::Map<String, Value>,
        space: &str,
        depth: u32,
    ) -> Option<usize> {
        let name = fields.get("name")?.as_str()?;
        let space = match (name.rsplit_once('.'), fields.get("namespace")) {
            (Some((space, _)), _) => space,
            (None, Some(space)) => space.as_str()?,
            (None, None) => space,
        };
        let at = self.push(match kind {
            "enum" => Type::Varint,
            "fixed" => Type::Fixed(fields.get("size")?.as_u64()?),
            _ => Type::Record(Vec::new()),
        });
        let short = name.rsplit('.').next().unwrap_or(name);
        for name in [short.to_owned(), format!("{space}.{short}")] {
            self.names.insert(name, at);
        }
        if kind == "record" {
            let mut children = Vec::new();
            for field in fields.get("fields")?.as_array()? {
                children.push(self.parse(field.get("type")?, space, depth + 1)?);
            }
            self.all[at] = Type::Record(children);
        }
        Some(at)
    }

    /// Moves `data` behind one value. Returns what it takes in memory though it may have no bytes, at least.
    fn skip(&self, at: usize, data: &mut &[u8], depth: u32) -> Result<u64, Broken> {
        if depth > MAX_DEPTH {
            return Err("a value is nested too deeply");
        }
        match &self.all[at] {
            Type::Fixed(size) => take(data, *size).map(|()| 1),
            Type::Varint => long(data).map(|_| 8),
            Type::Bytes => text(data).map(|()| 8),
            Type::Array(of) => items(data, &|data| self.skip(*of, data, depth + 1)),
            Type::Map(of) => items(data, &|data| {
                text(data)?;
                Ok(self.skip(*of, data, depth + 1)?.saturating_add(8))
            }),
            Type::Union(branches) => {
                let branch = usize::try_from(long(data)?).ok().and_then(|at| branches.get(at));
                self.skip(*branch.ok_or("a value is of no branch of its union")?, data, depth + 1)
            }
            Type::Record(fields) => fields.iter().try_fold(0_u64, |sum, field| {
                Ok(sum.saturating_add(self.skip(*field, data, depth + 1)?))
            }),
        }
    }
}

/// Moves `data` behind the blocks of an array or map. Returns what they take in memory, at least.
fn items(
    data: &mut &[u8],
    each: &dyn Fn(&mut &[u8]) -> Result<u64, Broken>,
) -> Result<u64, Broken> {
    let mut taken = 0_u64;
    loop {
        let count = long(data)?;
        if count == 0 {
            return Ok(taken);
        }
        if count < 0 {
            // Its size in bytes follows.
            long(data)?;
        }
        for left in (1..=count.unsigned_abs()).rev() {
            let before = data.len();
            let one = each(data)?;
            if data.len() == before {
                taken = taken.saturating_add(one.saturating_mul(left));
                break;
            }
            taken = taken.saturating_add(one);
        }
    }
}

fn text(data: &mut &[u8]) -> Result<(), Broken> {
    let size = length(long(data)?)?;
    take(data, size)
}

fn take(data: &mut &[u8], size: u64) -> Result<(), Broken> {
    let size = usize::try_from(size).ok().filter(|size| *size <= data.len());
    *data = &data[size.ok_or("a row goes beyond its block")?..];
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(count: u8, rows: &[u8], size: u8) -> Vec<u8> {
        let schema = r#"{"type":"record","name":"r","fields":[{"name":"a","type":["null","long"]},
            {"name":"t","type":{"type":"array","items":"string"}},{"name":"next","type":["null","r"]}]}"#;
        let mut out = b"Obj\x01\x02\x16avro.schema".to_vec();
        let length = schema.len() as u32 * 2;
        out.extend([(length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
        out.extend(schema.as_bytes());
        out.push(0);
        out.extend([7; 16]);
        out.extend([count * 2, size * 2]);
        out.extend(rows);
        out.extend([7; 16]);
        out
    }

    /// `a` = 3, `t` = ["x", "y"], `next` = a row with nothing in it.
    const ROW: [u8; 12] = [2, 6, 4, 2, b'x', 2, b'y', 0, 2, 0, 0, 0];

    #[test]
    fn a_whole_container_is_walked_to_its_end() {
        let both = [ROW, ROW].concat();
        assert_eq!(walked(&container(1, &ROW, 12)), Ok(2048));
        assert_eq!(walked(&container(2, &both, 24)), Ok(2048));
        let rows = |room| walk(container(2, &both, 24).as_slice(), room);
        // A row has 12 bytes, and takes 26 beside them.
        assert_eq!((rows(4 * 76 - 1), rows(4 * 76)), (Ok(1), Ok(2048)));
        assert_eq!((rows(26), rows(25)), (Ok(1), Err(Refused::Large(26))));
    }

    fn walked(file: &[u8]) -> Result<usize, Refused> {
        walk(file, 1 << 20)
    }

    #[test]
    fn batches_are_as_small_as_their_largest_needs() {
        let mut batches = Batches::default();
        batches.add(1, 1000);
        batches.add(100, 4);
        batches.add(0, u64::MAX);
        assert_eq!([99, 100, 399, 400, 1400].map(|room| batches.rows(room)), [1, 1, 2, 8, 2048]);
    }

    #[test]
    fn damage_is_named() {
        let fewer = container(1, &[ROW, ROW].concat(), 24);
        let broken = Refused::Broken("a block holds more than the rows it claims");
        assert_eq!(walked(&fewer), Err(broken));
        let more = container(3, &[ROW, ROW].concat(), 24);
        assert!(walked(&more).is_err());
        let whole = container(1, &ROW, 12);
        for to in 0..whole.len() - 1 {
            // What ends with its header is an empty container.
            let header = whole.len() - 12 - 2 - 16;
            assert_eq!(walked(&whole[..to]).is_ok(), to == header, "{to}");
        }
        let absurd = [b"Obj\x01\x02".as_slice(), &[0xff; 9], &[1]].concat();
        assert!(walked(&absurd).is_err());
    }
}
