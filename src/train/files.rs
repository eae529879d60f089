//! Files that training reads and writes: JSON and safetensors.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use candle_core::Tensor;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use super::tensors::{bytes, half_bytes, numbers};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Turns an error of a file into ours: "cannot `act` `path`".
pub(super) fn cannot(act: &str, path: &Path) -> impl Fn(io::Error) -> Error + Copy {
    move |cause| Error::io(cause, format!("cannot {act} {}", path.display()))
}

/// Writes `value` into the file `name` of `folder`.
pub(super) fn write_json(folder: &Path, name: &'static str, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context(|| name)?;
    std::fs::write(folder.join(name), text + "\n").map_err(cannot("write", folder))
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
    std::fs::write(path, data).map_err(|e| Error::io(e, named()))
}
