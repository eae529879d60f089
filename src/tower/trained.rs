//! Towers that were trained for each other: what a query tower carries, and who admits it.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::tower::Tower;
use crate::tower::files::config::{canonical, from_json, read_json};
use crate::tower::files::lora::Adapter;
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
