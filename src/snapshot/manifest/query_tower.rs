//! The towers that may encode queries. The files of one that was adapted to the corpus are stored under the root, so
//! that a reader that opens the snapshot finds them.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result, ResultExt, not_written};
use crate::store::layout::{self, Key};
use crate::store::{FileRef, Root};
use crate::types::{Digest256, EmbeddingSpace};

/// A tower admitted to encode queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryTower {
    /// SHA-256 over everything that decides its vectors.
    pub fingerprint: Digest256,
    /// `document-tower` (the LLM itself) or `distilled`.
    pub kind: String,
    /// How to load it (`tower::TowerOptions` as JSON), a hub's model by its commit.
    pub options: serde_json::Value,
    /// The space of the tower that it was distilled from or trained for, as its own files say it: one of the snapshot's
    /// tower. Absent where it is the document tower, where its files say nothing, and where they say the snapshot's own
    /// space with the empty template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<EmbeddingSpace>,
    /// Present where it was adapted to the corpus: its files are under the root, whatever `options` call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapted: Option<Adapted>,
}

impl QueryTower {
    /// [`QueryTower::kind`] of the document tower itself.
    pub const DOCUMENT: &str = "document-tower";
    /// [`QueryTower::kind`] of a tower of its own.
    pub const DISTILLED: &str = "distilled";
}

/// Where an adapted query tower is, and what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adapted {
    /// Its weights, configuration, tokenizer, and which notes and texts it read.
    pub files: Vec<FileRef>,
    /// Digest of what decided how it was adapted: with other options it is adapted again.
    pub options: Digest256,
    /// Steps that its minutes left untaken: the next run takes them, whether notes changed or not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub steps_left: u64,
    /// The tower as the pipeline names it, which this one began as; a purge of a note that this one read goes back to
    /// it.
    pub base: Box<QueryTower>,
}

fn is_zero(steps: &u64) -> bool {
    *steps == 0
}

/// A tower's files on this machine, as long as this value lives.
#[derive(Debug)]
pub struct Laid(tempfile::TempDir);

impl Laid {
    /// A folder that any program can load a model from.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }
}

impl Adapted {
    /// Checks every file against its hash and copies them into a folder for temporary files. Weights of a query tower
    /// are small, and are read into memory when it is loaded.
    ///
    /// # Errors
    /// NotFound or Corrupt about a file; Resource about the folder.
    pub async fn lay(&self, root: &Root) -> Result<Laid> {
        let full = || "copying the query tower to the folder for temporary files (TMPDIR)";
        let copy = std::path::absolute(std::env::temp_dir()).and_then(tempfile::tempdir_in);
        let copy = copy.or_error(ErrorKind::Resource, full)?;
        for file in &self.files {
            let name = match layout::parse(&file.path) {
                Some(Key::TowerWeights { .. }) => "model.safetensors",
                Some(Key::TowerConfig { .. }) => "config.json",
                Some(Key::TowerTokenizer { .. }) => "tokenizer.json",
                Some(Key::TowerTexts { .. }) => continue,
                _ => {
                    let path = &file.path;
                    return Err(Error::corrupt(format!("{path} is not a file of a query tower")));
                }
            };
            let path = copy.path().join(name);
            let bytes = root.get_file(file).await.map_err(|error| match error.kind() {
                ErrorKind::NotFound => missing(root, file),
                _ => error,
            })?;
            std::fs::write(&path, bytes).map_err(|cause| not_written(&path, cause))?;
        }
        Ok(Laid(copy))
    }
}

/// As `snapshot repair` leaves it.
fn missing(root: &Root, file: &FileRef) -> Error {
    Error::not_found(format!(
        "{} is missing in {}: restore it, or run the pipeline, which adapts the query tower again",
        file.path,
        root.uri()
    ))
}
