//! Towers that were trained for each other: what a query tower carries, and who admits it.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::tower::Tower;
use crate::tower::files::config::{canonical, from_json, read_json};
use crate::tower::files::disk::open;
use crate::tower::files::lora::Adapter;
use crate::tower::opened::{DECODER, digest_of};
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
                let files = [open(&folder.join("model.safetensors"))?];
                let weights = digest_of(DECODER, identity, &files)?;
                // The exported configuration has the layers that are left and no more.
                Ok(EmbeddingSpace { weights, adapter: None, layers: None, ..space })
            }
        }
    }

    /// Checks that `query` may encode queries for notes that this tower encodes.
    ///
    /// # Errors
    /// As [`Tower::fits`].
    pub fn admits(&self, query: &Self) -> Result<Fit> {
        query.fits(&self.space(Digest256::of(b"")))
    }

    /// Checks that queries in this tower's space may be compared with notes in `space`: this is the tower of that space, or
    /// was distilled from it or trained together with it. With another nothing can be compared.
    ///
    /// # Errors
    /// Config, naming what differs.
    pub fn fits(&self, space: &EmbeddingSpace) -> Result<Fit> {
        let own = self.space(space.template);
        if space.incomparable(&own).is_empty() {
            return Ok(Fit::Same);
        }
        if own.dimensions != space.dimensions {
            return Err(Error::config(format!(
                "the query tower {} has {} dimensions and the document tower {}: their vectors cannot be compared",
                self.options().model,
                own.dimensions,
                space.dimensions
            )));
        }
        let Some(teacher) = self.teacher() else { return Ok(Fit::Unrecorded) };
        let differing = space.incomparable(teacher);
        if differing.is_empty() {
            return Ok(Fit::Taught);
        }
        Err(Error::config(format!(
            "the query tower was trained with or distilled from another tower than this document tower (other {}); \
             train or distil it again with this one",
            differing.join(", ")
        )))
    }
}

/// How a query tower is known to fit the vectors of notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is the document tower.
    Same,
    /// Its files name the document tower as the one that it was made for.
    Taught,
    /// Its files name no tower: nothing says that it fits.
    Unrecorded,
}
