//! The neighbours that mining looks at, through our own index.

use std::path::Path;

use super::negatives::Candidates;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::index::{self, Builder, IndexOptions, Quantization, ShardIndex};
use crate::types::{Cancel, Embeddings};

/// Builds an index over documents (row i is number i) in a folder that is deleted when it is dropped.
pub struct Neighbours {
    index: ShardIndex,
    _folder: tempfile::TempDir,
}

impl Neighbours {
    /// One thread builds; 100,000 documents of 576 dimensions take about a minute.
    ///
    /// # Errors
    /// Input for a vector that is zero or not finite; Resource about the disk.
    pub fn build(documents: &Embeddings, cancel: &Cancel) -> Result<Self> {
        let folder = tempfile::tempdir()
            .or_error(ErrorKind::Resource, || "making a folder for the index (set TMPDIR)")?;
        let path = |name: &str| folder.path().join(name);
        let options = IndexOptions {
            quantization: Quantization::F16,
            rescore: 0,
            builder: Builder::Scalingnote,
            ..IndexOptions::default()
        };
        let calibration = index::calibrate(documents, &options)?;
        let keys: Vec<u64> = (0..documents.len() as u64).collect();
        let (graph, sidecar): (&Path, &Path) = (&path("graph"), &path("sidecar"));
        index::build(&keys, documents, &options, &calibration, graph, sidecar, cancel, &|_| {})?;
        let index = ShardIndex::open(graph, sidecar, &options, &calibration)?;
        Ok(Self { index, _folder: folder })
    }

    /// What [`super::mine`] asks.
    pub fn candidates(&self) -> Box<Candidates<'_>> {
        Box::new(|query, k| {
            let found = self.index.search(query, k.min(self.index.len()))?;
            Ok(found.into_iter().map(|hit| (hit.key as u32, hit.score)).collect())
        })
    }
}
