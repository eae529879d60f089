//! What a sentence-transformers folder says about itself: `modules.json` and what it names, the prompts, the longest text.
//!
//! Only small files are read. A module that cannot be computed is refused by its name.

mod modules;
mod prompts;
mod tokens;

use std::path::Path;

pub(crate) use modules::{MODULES, ModuleFile};
pub(crate) use tokens::AddedTokens;

use crate::error::Result;
use crate::tower::files::config::read_json;
use crate::tower::files::whole::{absent, present};
use crate::types::Pooling;

/// A value and the file that says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said<T> {
    pub(crate) value: T,
    /// The file, relative to the model's folder.
    pub(crate) by: String,
}

/// What a model's files say beyond its architecture and weights. What they leave out is absent.
#[derive(Default)]
pub(crate) struct Card {
    pub(crate) pooling: Option<Said<Pooling>>,
    /// What follows the pooling, in order.
    pub(crate) modules: Vec<ModuleFile>,
    /// Whether the vectors have unit length, or may be given it without changing how they compare.
    pub(crate) normalize: Option<Said<bool>>,
    pub(crate) max_tokens: Option<Said<u32>>,
    /// Text before a note, and before a query.
    pub(crate) document_prompt: Option<Said<String>>,
    pub(crate) query_prompt: Option<Said<String>>,
    /// Texts are lower-cased before the tokenizer sees them.
    pub(crate) lower_case: bool,
    /// A text that is too long loses its beginning; absent where the tokenizer's definition decides.
    pub(crate) keeps_end: Option<bool>,
    /// Tokens around every text, in the place of those that `tokenizer.json` puts there.
    pub(crate) tokens: Option<AddedTokens>,
}

impl Card {
    /// Reads the folder that holds a model's `config.json`. The model knows `positions` and gives states of `width` elements.
    ///
    /// # Errors
    /// Unsupported for a module, pooling or similarity that is not computed here; Corrupt for a file that is not what it
    /// should be; Input where two files contradict each other.
    pub(crate) fn read(folder: &Path, positions: usize, width: u32) -> Result<Self> {
        let mut card = Self::default();
        card.read_modules(folder, width)?;
        card.read_prompts(folder)?;
        card.read_tokens(folder, positions)?;
        Ok(card)
    }

    /// Reads what follows a model's states, `width` elements each, out of a folder of its own: `Transformer` and `Pooling`
    /// may be left out there.
    ///
    /// # Errors
    /// As [`Card::read`]; NotFound without `modules.json`.
    pub(crate) fn head(folder: &Path, width: u32) -> Result<Self> {
        if !present(&folder.join(MODULES))? {
            return Err(absent(&folder.join(MODULES)));
        }
        let mut card = Self::default();
        card.read_head(folder, width)?;
        Ok(card)
    }
}

/// A JSON object in a model's folder; `None` where there is no such file.
fn read(folder: &Path, name: &str) -> Result<Option<serde_json::Map<String, serde_json::Value>>> {
    let path = folder.join(name);
    match present(&path)? {
        true => read_json(&path).map(Some),
        false => Ok(None),
    }
}

/// An error about a file of the folder.
fn named(folder: &Path, name: &str) -> impl FnOnce() -> String {
    let path = folder.join(name);
    move || path.display().to_string()
}

#[cfg(test)]
mod tests;
