//! Weights of safetensors files: one, or shards named by `model.safetensors.index.json`.
//!
//! Format: <https://huggingface.co/docs/safetensors>: 8 bytes of header length, JSON, data.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::WeightSource;
use crate::tower::files::disk::{ReadAt, open, read_small};
use crate::tower::files::packed::{Packed, Parts, described};
use crate::tower::files::weights::{from_bf16, from_f16, missing, widen, wrong_shape};
use crate::tower::files::whole::again;

/// What the reference implementation allows too.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes converted at a time: bounds what is held beside the tensor itself.
const PIECE: usize = 4 << 20;

#[derive(Debug, Clone, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// One file, its header checked.
#[derive(Debug)]
pub(crate) struct SafetensorsFile {
    path: PathBuf,
    file: ReadAt,
    data: u64,
    entries: BTreeMap<String, Entry>,
    /// Matrices of few bits.
    packed: BTreeMap<String, Packed>,
    /// The writer's own strings (`__metadata__`).
    pub(crate) metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Reads and checks the header: every tensor lies within the file and has the bytes its shape needs.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = open(path)?;
        Self::parse(path, file).or_error(ErrorKind::Corrupt, || {
            format!("reading the safetensors header of {}", path.display())
        })
    }

    fn parse(path: &Path, file: ReadAt) -> Result<Self> {
        let mut length = [0; 8];
        if file.len() < 8 {
            return Err(Error::corrupt("the file is shorter than a header"));
        }
        file.read_at(0, &mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER.min(file.len() - 8) {
            return Err(Error::corrupt(format!(
                "its header claims {length} bytes of a {}-byte file: it is cut off, or no safetensors \
                 file; {}",
                file.len(),
                again(path)
            )));
        }
        let mut header = vec![0; length as usize];
        file.read_at(8, &mut header)?;
        let mut fields: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&header)
            .or_error(ErrorKind::Corrupt, || "it is not a JSON object")?;
        let metadata = match fields.remove("__metadata__") {
            None => BTreeMap::new(),
            Some(value) => serde_json::from_value(value)
                .or_error(ErrorKind::Corrupt, || "__metadata__ does not map strings to strings")?,
        };
        let data = 8 + length;
        let room = file.len() - data;
        let mut entries = BTreeMap::new();
        for (name, value) in fields {
            let entry: Entry = serde_json::from_value(value)
                .or_error(ErrorKind::Corrupt, || {
                    format!("tensor {name:.80} lacks dtype, shape or data_offsets")
                })?;
            let (start, end) = entry.data_offsets;
            if start > end || end > room {
                return Err(Error::corrupt(format!(
                    "tensor {name:.80} ends beyond the file: it is cut off or damaged; {}",
                    again(path)
                )));
            }
            let elements = entry.shape.iter().try_fold(1usize, |n, extent| n.checked_mul(*extent));
            let elements = elements
                .ok_or_else(|| Error::corrupt(format!("tensor {name:.80} has an absurd shape")))?;
            if let Some(width) = width_of(&entry.dtype)
                && elements.checked_mul(width).map(|bytes| bytes as u64) != Some(end - start)
            {
                return Err(Error::corrupt(format!(
                    "tensor {name:.80} has {} bytes, not what its shape needs",
                    end - start
                )));
            }
            entries.insert(name, entry);
        }
        let packed = described(&metadata)?;
        Ok(Self { path: path.to_owned(), file, data, entries, packed, metadata })
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &ReadAt {
        &self.file
    }

    /// Names of its tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Shape of a tensor, `None` if there is none.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        if let Some(packed) = self.packed.get(name) {
            return Some(&packed.shape);
        }
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// A tensor as f32.
    pub(crate) fn read(&self, name: &str) -> Result<Tensor> {
        if let Some(packed) = self.packed.get(name) {
            let named = || format!("tensor {name} of {}", self.path.display());
            let values = packed.unpack(&self.parts(name, packed)?).context(named)?;
            return Tensor::from_vec(values, packed.shape.as_slice(), &Device::Cpu)
                .or_error(ErrorKind::Corrupt, named);
        }
        self.read_plain(name)
    }

    fn parts(&self, name: &str, packed: &Packed) -> Result<Parts> {
        let bytes = |name: &str| -> Result<Vec<u8>> {
            let entry = self.entries.get(name).filter(|entry| entry.dtype == "U8");
            let (start, end) = entry.ok_or_else(|| missing(name))?.data_offsets;
            let mut bytes = vec![0; (end - start) as usize];
            self.file.read_at(self.data + start, &mut bytes)?;
            Ok(bytes)
        };
        let scales = self.read_plain(&format!("{name}.scales"))?;
        let scales = scales.flatten_all().and_then(|scales| scales.to_vec1::<f32>());
        let scales = scales.or_error(ErrorKind::Corrupt, || format!("scales of {name}"))?;
        let kept = match packed.missing {
            None => Vec::new(),
            Some(_) => bytes(&format!("{name}.kept"))?,
        };
        let scales = scales.into_iter().map(half::f16::from_f32).collect();
        Ok(Parts { bits: bytes(name)?, scales, kept })
    }

    /// Refuses weights that were quantised in a way that is not read here. Whole numbers are what some models keep
    /// beside their weights, such as the positions.
    fn refuse_dtype(&self, name: &str) -> Result<()> {
        let beside = ["I64", "U64", "I32", "U32", "I16", "U16", "BOOL"];
        let Some(entry) = self.entries.get(name) else { return Ok(()) };
        let dtype = entry.dtype.as_str();
        let packed = dtype == "U8" && !self.packed.is_empty();
        match width_of(dtype).is_some() || packed || beside.contains(&dtype) {
            true => Ok(()),
            false => Err(self.unreadable(name, entry)),
        }
    }

    /// A tensor of 16 bits an element as it is; `None` where it has another type.
    pub(crate) fn half(&self, name: &str) -> Result<Option<Tensor>> {
        fn read<T: candle_core::WithDType + bytemuck::Pod>(
            file: &SafetensorsFile,
            entry: &Entry,
            name: &str,
        ) -> Result<Option<Tensor>> {
            let (start, end) = entry.data_offsets;
            let mut values = vec![T::zeroed(); (end - start) as usize / size_of::<T>()];
            file.file.read_at(file.data + start, bytemuck::cast_slice_mut(&mut values))?;
            let tensor = Tensor::from_vec(values, entry.shape.as_slice(), &Device::Cpu);
            tensor.or_error(ErrorKind::Corrupt, || format!("reading tensor {name}")).map(Some)
        }
        if self.packed.contains_key(name) {
            return Ok(None);
        }
        let entry = self.entries.get(name).ok_or_else(|| missing(name))?;
        match entry.dtype.as_str() {
            // The file is little-endian.
            _ if cfg!(target_endian = "big") => Ok(None),
            "BF16" => read::<half::bf16>(self, entry, name),
            "F16" => read::<half::f16>(self, entry, name),
            _ => Ok(None),
        }
    }

    fn read_plain(&self, name: &str) -> Result<Tensor> {
        let entry = self.entries.get(name).ok_or_else(|| missing(name))?;
        let width = width_of(&entry.dtype).ok_or_else(|| self.unreadable(name, entry))?;
        let (start, end) = entry.data_offsets;
        let mut values: Vec<f32> = Vec::with_capacity((end - start) as usize / width);
        let mut piece = vec![0; PIECE.min((end - start) as usize)];
        let mut at = start;
        while at < end {
            let length = piece.len().min((end - at) as usize);
            self.file.read_at(self.data + at, &mut piece[..length])?;
            let bytes = &piece[..length];
            match entry.dtype.as_str() {
                "F32" => widen(bytes, f32::from_le_bytes, &mut values),
                "F64" => widen(bytes, |b| f64::from_le_bytes(b) as f32, &mut values),
                "F16" => widen(bytes, from_f16, &mut values),
                _ => widen(bytes, from_bf16, &mut values),
            }
            at += length as u64;
        }
        Tensor::from_vec(values, entry.shape.as_slice(), &Device::Cpu)
            .or_error(ErrorKind::Corrupt, || format!("reading tensor {name}"))
    }

    /// The error for a tensor of a type that cannot be read.
    fn unreadable(&self, name: &str, entry: &Entry) -> Error {
        Error::unsupported(format!(
            "tensor {name:.80} of {} holds {}; F32, F16, BF16 and F64 are supported: take the model's weights as they were before \
             they were quantised, or a GGUF of them",
            self.path.display(),
            entry.dtype
        ))
    }
}

/// Bytes of one element; `None` for types this release cannot read.
fn width_of(dtype: &str) -> Option<usize> {
    match dtype {
        "F64" => Some(8),
        "F32" => Some(4),
        "F16" | "BF16" => Some(2),
        _ => None,
    }
}

/// Weights of one file or of all shards.
pub(crate) struct SafetensorsWeights {
    files: Vec<SafetensorsFile>,
    place: BTreeMap<String, usize>,
}

impl SafetensorsWeights {
    /// Opens the files; a tensor in two of them is an error.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self> {
        let files =
            paths.iter().map(|path| SafetensorsFile::open(path)).collect::<Result<Vec<_>>>()?;
        let mut place = BTreeMap::new();
        for (at, file) in files.iter().enumerate() {
            for name in file.names() {
                file.refuse_dtype(name)?;
                if place.insert(name.to_owned(), at).is_some() {
                    return Err(Error::corrupt(format!(
                        "tensor {name} is in two of the weight files, {} among them",
                        file.path.display()
                    )));
                }
            }
        }
        Ok(Self { files, place })
    }

    /// Checks that every tensor is where an index says.
    ///
    /// # Errors
    /// Corrupt, naming a tensor and its shard.
    pub(crate) fn check_index(&self, index: &Path) -> Result<()> {
        for (name, shard) in weight_map(index)? {
            let at = self.place.get(&name).map(|at| &self.files[*at].path);
            if at.and_then(|path| path.file_name()) != Some(shard.as_ref()) {
                return Err(Error::corrupt(format!(
                    "{} says that tensor {name:.80} is in {shard}, where it is not: they are of different downloads; {}",
                    index.display(),
                    again(index)
                )));
            }
        }
        Ok(())
    }

    /// The files themselves.
    pub(crate) fn files(&self) -> Vec<ReadAt> {
        self.files.iter().map(|file| file.file.clone()).collect()
    }

    /// Shape of a tensor, if it exists.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.files[*self.place.get(name)?].shape(name)
    }

    /// Looks whether a tensor is there, of this shape and of a type that can be read.
    pub(crate) fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let Some((file, stored)) = self.find(name) else { return Err(self.absent(name)) };
        match (file.shape(&stored), file.entries.get(&stored)) {
            (Some(found), _) if found != shape => {
                Err(wrong_shape(name, found, shape).context(file.path.display().to_string()))
            }
            (Some(_), Some(entry)) if !file.packed.contains_key(&stored) => {
                width_of(&entry.dtype).map(|_| ()).ok_or_else(|| file.unreadable(name, entry))
            }
            (Some(_), _) => Ok(()),
            (None, _) => Err(self.absent(name)),
        }
    }

    /// The error for a tensor that is in none of the files.
    fn absent(&self, name: &str) -> Error {
        let first = self.files.first().map(|file| file.path.display().to_string());
        let others = match self.files.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        missing(name).context(format!("{}{others}", first.unwrap_or_default()))
    }

    /// Checkpoints saved from the bare model lack the `model.` prefix.
    fn find(&self, name: &str) -> Option<(&SafetensorsFile, String)> {
        let bare = name.strip_prefix("model.").unwrap_or(name);
        [name, bare]
            .into_iter()
            .find_map(|name| Some((&self.files[*self.place.get(name)?], name.to_owned())))
    }
}

impl WeightSource for SafetensorsWeights {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.check(name, shape)?;
        let (file, stored) = self.find(name).ok_or_else(|| self.absent(name))?;
        file.read(&stored)
    }

    fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn half(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let (file, stored) = self.find(name).ok_or_else(|| missing(name))?;
        match file.shape(&stored) {
            Some(found) if found == shape => file.half(&stored),
            Some(found) => Err(wrong_shape(name, found, shape)),
            None => Err(missing(name)),
        }
    }
}

/// File names of the shards an index lists, sorted; each a plain name in the index's own folder.
pub(crate) fn shard_names(index: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = weight_map(index)?.into_values().collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || !name.ends_with(".safetensors") || name.contains(['\\', '\0']) {
            return Err(Error::corrupt(format!(
                "{} names the shard {name:?}, which is not a plain .safetensors file name",
                index.display()
            )));
        }
    }
    Ok(names)
}

/// The shard of every tensor, as an index lists them; at least one.
fn weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let wrong = || format!("{} is not an index of safetensors shards", index.display());
    let read: Index = serde_json::from_slice(&read_small(index, MAX_HEADER)?)
        .or_error(ErrorKind::Corrupt, wrong)?;
    if read.weight_map.is_empty() {
        return Err(Error::corrupt(wrong()));
    }
    Ok(read.weight_map)
}

#[cfg(test)]
mod tests;
