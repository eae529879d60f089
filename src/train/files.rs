//! Files that training reads and writes: JSON and safetensors.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use super::tensors::{bytes, half_bytes, numbers};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::named::{Existing, expand, read_text, read_whole, write_whole};

/// Turns an error of a file into ours: "cannot `act` `path`".
pub(super) fn cannot(act: &str, path: &Path) -> impl Fn(io::Error) -> Error + Copy {
    move |cause| Error::io(cause, format!("cannot {act} {}", path.display()))
}

/// A path of a recipe, whose relative ones start from `base_dir`.
pub(super) fn place(path: impl AsRef<Path>, base_dir: &Path) -> Result<PathBuf> {
    Ok(base_dir.join(expand(path.as_ref(), base_dir)?))
}

/// Largest configuration or tokenizer that is read.
const MAX_SMALL: u64 = 256 << 20;

/// Reads a configuration or tokenizer.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>> {
    read_whole(path, MAX_SMALL).map_err(cannot("read", path))
}

/// [`read_small`] as text.
pub(super) fn read_small_text(path: &Path) -> Result<String> {
    read_text(path, MAX_SMALL).map_err(cannot("read", path))
}

/// Writes a file whole, or leaves the one that is there.
pub(super) fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    write_whole(path, bytes, Existing::Replace).map_err(cannot("write", path))
}

/// Writes `value` into the file `name` of `folder`.
pub(super) fn write_json(folder: &Path, name: &'static str, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context(|| name)?;
    write(&folder.join(name), text + "\n")
}

/// Type, shape and bytes of a tensor.
pub(super) type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// A safetensors file of named tensors, with `metadata` in its header.
pub(super) fn serialize<'a>(
    tensors: impl IntoIterator<Item = (&'a String, &'a Stored)>,
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>> {
    tensors
        .into_iter()
        .map(|(name, (dtype, shape, data))| {
            TensorView::new(*dtype, shape.clone(), data).map(|view| (name, view))
        })
        .collect::<std::result::Result<Vec<_>, _>>()
        .and_then(|views| safetensors::serialize(views, metadata))
        .or_error(ErrorKind::Internal, || "tensors that make no file")
}

/// Writes tensors as f32, or as f16 (`half`), with `metadata` in the header.
pub(super) fn save_tensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    half: bool,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let named = || format!("writing {}", path.display());
    let dtype = if half { Dtype::F16 } else { Dtype::F32 };
    let encode = if half { half_bytes } else { bytes };
    let stored = tensors
        .iter()
        .map(|(_, tensor)| Ok((dtype, tensor.dims().to_vec(), encode(&numbers(tensor)?))))
        .collect::<Result<Vec<Stored>>>()
        .context(named)?;
    let names = tensors.iter().map(|(name, _)| name);
    let data = serialize(names.zip(&stored), metadata).context(named)?;
    write(path, data)
}
