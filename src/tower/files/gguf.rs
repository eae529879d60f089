//! Reads GGUF headers: metadata and the tensor directory, every length checked against the file
//! before anything is allocated for it.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::files::disk::{ReadAt, open};

/// No header field of a real model comes near these.
const MAX_STRING: u64 = 1 << 26;
const MAX_ELEMENTS: u64 = 1 << 23;
const MAX_ENTRIES: u64 = 1 << 20;
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A metadata value. Integers of every width are widened; arrays of arrays are refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Integer(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Integers(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    Strings(Vec<String>),
}

/// Where a tensor is. `shape` is in row-major order, as Hugging Face writes it.
#[derive(Debug, Clone)]
pub(crate) struct TensorEntry {
    pub(crate) dtype: GgmlDType,
    pub(crate) shape: Vec<usize>,
    /// From the start of the file.
    pub(crate) start: u64,
    pub(crate) bytes: usize,
}

/// An opened GGUF file: its header in memory, its tensors on disk.
#[derive(Debug)]
pub(crate) struct Gguf {
    pub(crate) path: PathBuf,
    pub(crate) file: ReadAt,
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, TensorEntry>,
}

impl Gguf {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// Corrupt for a header or directory that does not fit the file; Unsupported for a version,
    /// element type or layout this release cannot read.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = open(path)?;
        Self::parse(path, file).or_error(ErrorKind::Corrupt, || {
            format!("reading the GGUF header of {}", path.display())
        })
    }

    fn parse(path: &Path, file: ReadAt) -> Result<Self> {
        let size = file.len();
        let reader = BufReader::with_capacity(1 << 20, file.reader());
        let mut header = Header { reader, at: 0, size };
        if header.bytes::<4>()? != *b"GGUF" {
            return Err(Error::input("it does not begin with `GGUF`, so it is not a GGUF file"));
        }
        match header.u32()? {
            2 | 3 => {}
            version if version.swap_bytes() <= 3 => {
                return Err(Error::unsupported("big-endian GGUF is not supported"));
            }
            version => {
                return Err(Error::unsupported(format!(
                    "GGUF version {version} is not supported (2 and 3 are)"
                )));
            }
        }
        let tensor_count = header.count("tensors", 24)?;
        let entry_count = header.count("metadata entries", 13)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..entry_count {
            let key = header.string()?;
            let kind = header.u32()?;
            let value = header.value(kind).context(|| format!("metadata key {key:.80}"))?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(Error::corrupt(format!("metadata key {key:.80} appears twice")));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            // Multiples of 8 keep every block type aligned, which reading them relies on.
            Some(Value::Integer(n)) if *n > 0 && *n % 8 == 0 && *n <= 1 << 20 => *n as u64,
            Some(_) => return Err(Error::corrupt("general.alignment is not a multiple of 8")),
        };
        let mut directory = Vec::new();
        for _ in 0..tensor_count {
            let name = header.string()?;
            let entry = header.tensor(alignment).context(|| format!("tensor {name:.80}"))?;
            directory.push((name, entry));
        }
        let data = header.at.next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for (name, mut entry) in directory {
            let end =
                data.checked_add(entry.start).and_then(|at| at.checked_add(entry.bytes as u64));
            if end.is_none_or(|end| end > size) {
                return Err(Error::corrupt(format!(
                    "tensor {name:.80} ends beyond the file's {size} bytes: the file is cut off or \
                     damaged, fetch it again"
                )));
            }
            entry.start += data;
            if tensors.insert(name.clone(), entry).is_some() {
                return Err(Error::corrupt(format!("tensor {name:.80} appears twice")));
            }
        }
        let gguf = Self { path: path.to_owned(), file, metadata, tensors };
        if gguf.integer("split.count")?.is_some_and(|count| count > 1) {
            return Err(Error::unsupported(
                "it is one piece of a split GGUF; merge the pieces with `llama-gguf-split --merge`",
            ));
        }
        Ok(gguf)
    }

    /// An integer, `None` where the key is absent.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "an integer")),
        }
    }

    /// A float, `None` where the key is absent.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(*value)),
            Some(Value::Integer(value)) => Ok(Some(*value as f64)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }

    /// A truth value, `None` where the key is absent.
    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A string, `None` where the key is absent.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    /// The error for a key of the wrong type.
    pub(crate) fn wrong(&self, key: &str, wanted: &str) -> Error {
        Error::corrupt(format!("{}: metadata key {key} is not {wanted}", self.path.display()))
    }
}

struct Header<R> {
    reader: R,
    at: u64,
    size: u64,
}

impl<R: Read> Header<R> {
    fn left(&self) -> u64 {
        self.size.saturating_sub(self.at)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        if self.left() < N as u64 {
            return Err(Error::corrupt(format!(
                "the file ends inside its header ({} bytes)",
                self.size
            )));
        }
        let mut bytes = [0; N];
        self.reader
            .read_exact(&mut bytes)
            .or_error(ErrorKind::Corrupt, || "the file ends inside its header")?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// A count of entries of at least `least` bytes each.
    fn count(&mut self, what: &str, least: u64) -> Result<u64> {
        let count = self.u64()?;
        if count > MAX_ENTRIES || count.saturating_mul(least) > self.left() {
            return Err(Error::corrupt(format!(
                "the header claims {count} {what}, more than the file can hold"
            )));
        }
        Ok(count)
    }

    fn string(&mut self) -> Result<String> {
        let length = self.u64()?;
        if length > MAX_STRING.min(self.left()) {
            return Err(Error::corrupt(format!(
                "a string claims {length} bytes, more than the file can hold"
            )));
        }
        let mut bytes = vec![0; length as usize];
        self.reader
            .read_exact(&mut bytes)
            .or_error(ErrorKind::Corrupt, || "the file ends inside its header")?;
        self.at += length;
        // Some writers keep C's closing zero.
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        String::from_utf8(bytes).or_error(ErrorKind::Corrupt, || "a string is not UTF-8")
    }

    fn value(&mut self, kind: u32) -> Result<Value> {
        if kind != 9 {
            return self.scalar(kind);
        }
        let kind = self.u32()?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(Error::unsupported("an array of arrays is not supported")),
            _ => return Err(Error::corrupt(format!("value type {kind} does not exist"))),
        };
        let length = self.u64()?;
        if length > MAX_ELEMENTS || length.saturating_mul(least) > self.left() {
            return Err(Error::corrupt(format!(
                "an array claims {length} elements, more than the file can hold"
            )));
        }
        // Grown as it is read: a claim alone allocates nothing.
        let mut array = match kind {
            6 | 12 => Value::Floats(Vec::new()),
            7 => Value::Bools(Vec::new()),
            8 => Value::Strings(Vec::new()),
            _ => Value::Integers(Vec::new()),
        };
        for _ in 0..length {
            match (&mut array, self.scalar(kind)?) {
                (Value::Floats(all), Value::Float(one)) => all.push(one),
                (Value::Bools(all), Value::Bool(one)) => all.push(one),
                (Value::Strings(all), Value::String(one)) => all.push(one),
                (Value::Integers(all), Value::Integer(one)) => all.push(one),
                _ => return Err(Error::internal("a GGUF array changed its type")),
            }
        }
        Ok(array)
    }

    fn scalar(&mut self, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.bytes()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Integer(u32::from_le_bytes(self.bytes()?).into()),
            5 => Value::Integer(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => Value::Bool(match self.bytes()? {
                [0] => false,
                [1] => true,
                [other] => {
                    return Err(Error::corrupt(format!("{other} is neither true nor false")));
                }
            }),
            8 => Value::String(self.string()?),
            10 => Value::Integer(
                self.u64()?
                    .try_into()
                    .or_error(ErrorKind::Corrupt, || "an integer is beyond 63 bits")?,
            ),
            11 => Value::Integer(i64::from_le_bytes(self.bytes()?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            _ => return Err(Error::corrupt(format!("value type {kind} does not exist"))),
        })
    }

    /// One directory entry; `start` is still relative to the data section.
    fn tensor(&mut self, alignment: u64) -> Result<TensorEntry> {
        let rank = self.u32()?;
        if rank == 0 || rank > MAX_DIMENSIONS {
            return Err(Error::corrupt(format!("{rank} dimensions")));
        }
        let mut shape = Vec::new();
        let mut elements = 1u64;
        for _ in 0..rank {
            let extent = self.u64()?;
            elements = elements
                .checked_mul(extent)
                .ok_or_else(|| Error::corrupt("more elements than 64 bits can count"))?;
            shape.push(extent as usize);
        }
        shape.reverse();
        let dtype = dtype_of(self.u32()?)?;
        let row = *shape.last().unwrap_or(&0);
        if !row.is_multiple_of(dtype.block_size()) {
            return Err(Error::corrupt(format!(
                "rows of {row} elements do not divide into blocks of {}",
                dtype.block_size()
            )));
        }
        let bytes = (elements / dtype.block_size() as u64)
            .checked_mul(dtype.type_size() as u64)
            .filter(|bytes| *bytes <= self.size)
            .ok_or_else(|| Error::corrupt("it claims more bytes than the file has"))?;
        let start = self.u64()?;
        if !start.is_multiple_of(alignment) {
            return Err(Error::corrupt(format!("offset {start} is not aligned to {alignment}")));
        }
        Ok(TensorEntry { dtype, shape, start, bytes: bytes as usize })
    }
}

fn dtype_of(code: u32) -> Result<GgmlDType> {
    Ok(match code {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => {
            let name = match code {
                16..=23 | 29 => " (an IQ quantisation)",
                34 | 35 => " (a ternary quantisation)",
                39 => " (MXFP4)",
                _ => "",
            };
            return Err(Error::unsupported(format!(
                "element type {code}{name} is not supported; use a file quantised to Q8_0, Q6_K, \
                 Q5_K, Q4_K, Q4_0, Q4_1, F16, BF16 or F32"
            )));
        }
    })
}

#[cfg(test)]
mod tests;
