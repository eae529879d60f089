//! Towers that were trained for each other: what a query tower carries, and who admits it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::Tower;
use crate::tower::adapter::Adapter;
use crate::tower::config::{canonical, from_json, read_json};
use crate::tower::files::digest;
use crate::tower::resolve::{DECODER, digest_of};
use crate::types::{Digest256, EmbeddingSpace, hash_json};

/// What training wrote in the place of a tower's own adapter or weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exported {
    /// A LoRA adapter: a folder in PEFT's format.
    Adapter(PathBuf),
    /// A folder with `model.safetensors` and `config.json`.
    Model(PathBuf),
}

impl Tower {
    /// The space (with the empty template) of this tower once it has what training wrote. Hashes the files.
    ///
    /// # Errors
    /// As [`Tower::resolve`] about those files.
    pub fn space_with(&self, exported: &Exported) -> Result<EmbeddingSpace> {
        let space = self.space(Digest256::of(b""));
        match exported {
            Exported::Adapter(folder) => {
                let adapter = Some(Adapter::open(folder)?.digest());
                Ok(EmbeddingSpace { adapter, ..space })
            }
            Exported::Model(folder) => {
                let config = from_json(&read_json(&folder.join("config.json"))?)?;
                let identity = hash_json(&canonical(&config))?;
                let files = [folder.join("model.safetensors")];
                let weights = digest_of(DECODER, identity, &files)?;
                // The exported configuration has the layers that are left and no more.
                Ok(EmbeddingSpace { weights, adapter: None, layers: None, ..space })
            }
        }
    }

    /// Checks that `query`, where it was made for a document tower, was made for this one: a distilled query tower
    /// gives the vectors of the tower it was distilled from, and one that was trained together with a document tower
    /// belongs to that one. With another nothing can be compared. Prompts and lengths of queries are its own affair,
    /// and so is the arithmetic, which hardly changes what a vector means.
    ///
    /// # Errors
    /// Config, naming what differs.
    pub fn admits(&self, query: &Self) -> Result<()> {
        let Some(teacher) = query.teacher() else { return Ok(()) };
        let own = self.space(teacher.template);
        let differing: Vec<&str> = [
            ("weights", teacher.weights != own.weights),
            ("adapter", teacher.adapter != own.adapter),
            ("tokenizer", teacher.tokenizer != own.tokenizer),
            ("pooling", teacher.pooling != own.pooling),
            ("dimensions", teacher.dimensions != own.dimensions),
            ("normalize", teacher.normalize != own.normalize),
            ("layers", teacher.layers != own.layers),
            ("encoder_revision", teacher.encoder_revision != own.encoder_revision),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect();
        if differing.is_empty() {
            return Ok(());
        }
        Err(Error::config(format!(
            "the query tower was trained with or distilled from another tower than this document tower (other {}); \
             train or distil it again with this one",
            differing.join(", ")
        )))
    }
}

/// The space in what our own key of a `config.json` or of an adapter's metadata holds.
pub(crate) fn teacher_of(ours: &Value) -> Result<Option<EmbeddingSpace>> {
    match ours.get("teacher") {
        None | Some(Value::Null) => Ok(None),
        Some(space) => serde_json::from_value(space.clone())
            .map(Some)
            .or_error(ErrorKind::Input, || "scalingnote.teacher is no embedding space"),
    }
}

/// Checks that the tokenizer is there and, where the weights name it by its hash (they were published without it), that it
/// is that one.
///
/// # Errors
/// NotFound or Input, saying which tokenizer it is and where it comes from.
pub(crate) fn check_tokenizer(ours: Option<&Value>, path: &Path) -> Result<()> {
    let named = ours.and_then(|ours| ours.get("tokenizer"));
    let text = |key: &str| named.and_then(|named| named.get(key)).and_then(Value::as_str);
    let from = text("from").map(|from| format!(" (it is that of {from})")).unwrap_or_default();
    if !path.is_file() {
        return Err(Error::not_found(format!(
            "there is no tokenizer {}; name a tokenizer.json in `tokenizer`{from}",
            path.display()
        )));
    }
    let Some(expected) = text("sha256") else { return Ok(()) };
    let found = digest(path)?.to_hex();
    if found == expected {
        return Ok(());
    }
    Err(Error::input(format!(
        "{} is not the tokenizer that these weights were trained with{from}: its SHA-256 is {found}, not {expected}",
        path.display()
    )))
}
