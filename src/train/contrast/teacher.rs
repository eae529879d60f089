//! The teacher of stage 1: an embedder's vectors, by the text that they are of.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::embedding::read_by_text_hash;
use crate::error::{Error, Result};
use crate::kernel::dot;
use crate::store::named::read_whole;
use crate::tower::TowerOptions;
use crate::train::faults::Faults;
use crate::train::files::place;
use crate::train::tensors::tensor_error;
use crate::types::{Digest256, Embeddings, Hasher256, TextHash};

/// Who says how alike texts are: a tower, which encodes what the planned steps will show, or vectors that are in
/// Parquet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TeacherOptions {
    /// Any tower: a released embedder, one of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tower: Option<TowerOptions>,
    /// The same for queries, where the embedder wants another prompt before them. Default: `tower`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_tower: Option<TowerOptions>,
    /// A Parquet file, or a folder of them (looked through to its depth), with the columns `text_hash` and `embedding`
    /// as schemas/teacher.md has them: what this program's encode stage writes, or any other program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<PathBuf>,
    /// The same for queries. Default: `vectors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_vectors: Option<PathBuf>,
}

impl TeacherOptions {
    /// What cannot work, by key.
    pub(super) fn faults(&self) -> Vec<(String, Error)> {
        let mut faults = Faults::default();
        let fits = self.tower.is_some() != self.vectors.is_some()
            && (self.query_tower.is_none() || self.tower.is_some())
            && (self.query_vectors.is_none() || self.vectors.is_some());
        faults.require(
            fits,
            "",
            "needs either tower (and perhaps query_tower) or vectors (and perhaps query_vectors)",
        );
        faults.0
    }

    /// Reads the vectors where they are in files; `None` where a tower has to encode.
    ///
    /// # Errors
    /// NotFound or Input, naming the file.
    pub fn read(&self, base_dir: &Path) -> Result<Option<TeacherVectors>> {
        let Some(path) = &self.vectors else { return Ok(None) };
        let read = |path: &Path| -> Result<Arc<TextVectors>> {
            let (hashes, vectors) = read_by_text_hash(&place(path, base_dir)?)?;
            Ok(Arc::new(TextVectors::new(hashes, vectors)))
        };
        let documents = read(path)?;
        let queries = match &self.query_vectors {
            Some(path) => read(path)?,
            None => Arc::clone(&documents),
        };
        Ok(Some(TeacherVectors { queries, documents }))
    }

    /// Adds to what names a run what is in the files.
    pub(super) fn hash(&self, base_dir: &Path, hasher: &mut Hasher256) -> Result<()> {
        for path in [&self.vectors, &self.query_vectors].into_iter().flatten() {
            // A folder's files are named by what they hold, and it may grow; what is missing is reported where it is
            // read.
            let file = place(path, base_dir)?;
            hasher.field(read_whole(&file, u64::MAX).unwrap_or_default());
        }
        Ok(())
    }
}

/// Vectors of texts, found by their hash.
#[derive(Debug)]
pub struct TextVectors {
    rows: HashMap<TextHash, u32>,
    vectors: Embeddings,
}

impl TextVectors {
    /// Row i is the vector of the text whose hash is number i: SHA-256 of the trimmed text.
    pub fn new(hashes: Vec<TextHash>, vectors: Embeddings) -> Self {
        Self { rows: hashes.into_iter().zip(0..).collect(), vectors }
    }

    /// [`TextVectors::new`] of the texts themselves.
    pub fn of(texts: &[&str], vectors: Embeddings) -> Self {
        Self::new(texts.iter().map(|text| hash(text)).collect(), vectors)
    }

    /// The vectors of texts, of unit length, in their order.
    ///
    /// # Errors
    /// Input for a text whose vector is not there, or is zero.
    pub fn unit<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Result<Embeddings> {
        let mut found = Embeddings::with_capacity(self.vectors.dimensions(), 0);
        for text in texts {
            let hash = hash(text);
            let about = |what: &str| {
                Error::input(format!("the teacher {what} of the text with the hash {hash}"))
            };
            let row = self.rows.get(&hash).ok_or_else(|| about("has no vector"))?;
            let row = self.vectors.row(*row as usize);
            let length = dot(row, row).sqrt();
            if !(length.is_finite() && length > 0.0) {
                return Err(about("has a vector without a direction"));
            }
            found.push(&row.iter().map(|value| value / length).collect::<Vec<f32>>());
        }
        Ok(found)
    }
}

fn hash(text: &str) -> TextHash {
    Digest256::of(text.trim().as_bytes())
}

/// The teacher's vectors of both sides.
#[derive(Debug, Clone)]
pub struct TeacherVectors {
    /// Of queries.
    pub queries: Arc<TextVectors>,
    /// Of documents.
    pub documents: Arc<TextVectors>,
}

impl TeacherVectors {
    /// Unit vectors of a batch, queries before documents, `[texts, dimensions]`.
    pub(super) fn of_batch<'a>(
        &self,
        queries: impl Iterator<Item = &'a str>,
        documents: impl Iterator<Item = &'a str>,
    ) -> Result<Tensor> {
        let both = [self.queries.unit(queries)?, self.documents.unit(documents)?];
        let mut widths = both.iter().filter(|one| !one.is_empty()).map(Embeddings::dimensions);
        let width = widths.next().unwrap_or(1);
        if widths.any(|other| other != width) {
            return Err(Error::input(
                "the teacher's vectors of queries and of documents have different dimensions",
            ));
        }
        let count = both.iter().map(Embeddings::len).sum::<usize>();
        let rows = both.iter().flat_map(|one| one.as_slice()).copied().collect::<Vec<f32>>();
        Tensor::from_vec(rows, (count, width), &Device::Cpu).map_err(tensor_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_found_by_the_trimmed_text_and_made_unit() {
        let vectors = Embeddings::from_vec(2, vec![3.0, 4.0, 0.0, 0.0]).unwrap();
        let known = Arc::new(TextVectors::of(&["a", "b"], vectors));
        let three = Embeddings::from_vec(3, vec![1.0, 0.0, 0.0]).unwrap();
        let other = Arc::new(TextVectors::of(&["a"], three));
        let teacher = TeacherVectors { queries: Arc::clone(&known), documents: known };
        let of = |teacher: &TeacherVectors, queries: &[&str], documents: &[&str]| {
            teacher.of_batch(queries.iter().copied(), documents.iter().copied())
        };
        let found = of(&teacher, &[], &[" a\n", "a"]).unwrap();
        assert_eq!(found.to_vec2::<f32>().unwrap(), [[0.6, 0.8], [0.6, 0.8]]);
        let error = |found: Result<Tensor>| found.unwrap_err().to_string();
        assert!(error(of(&teacher, &["secret"], &[])).contains("has no vector of the text"));
        assert!(!error(of(&teacher, &["secret"], &[])).contains("secret"));
        assert!(error(of(&teacher, &["b"], &[])).contains("without a direction"));
        let mixed = TeacherVectors { documents: other, ..teacher };
        assert!(error(of(&mixed, &["a"], &["a"])).contains("different dimensions"));
    }
}
