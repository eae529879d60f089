//! One index of given rows: its name, its vectors, its files and their receipt.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::IdRow;
use super::task::{put_receipt, read_receipt};
use crate::embedding;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::index::{self, BuildReport, Calibration, IndexOptions, ShardIndex};
use crate::store::{FileRef, Root, layout};
use crate::types::{Canary, Cancel, Embeddings, Hasher256, SpaceId};

/// The files of one index, with what was measured while building it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IndexReceipt {
    pub index: FileRef,
    pub sidecar: FileRef,
    pub report: BuildReport,
    /// None in a receipt of an earlier release.
    #[serde(default)]
    pub canaries: Vec<Canary>,
}

/// What decides an index beside its rows.
pub(crate) struct IndexJob<'a> {
    pub space: &'a SpaceId,
    pub dimensions: usize,
    pub options: &'a IndexOptions,
    pub options_id: &'a str,
    pub calibration: &'a Calibration,
    pub shard: u32,
}

impl IndexJob<'_> {
    /// Names the index of these rows: same keys and texts, same name.
    fn name(&self, rows: &[IdRow]) -> String {
        let mut hasher = Hasher256::new();
        hasher.field(&self.space.0).field(self.options_id);
        hasher.field(self.calibration.scale.to_le_bytes());
        for row in rows {
            hasher.raw(row.key.to_le_bytes()).raw(row.text_hash.0);
        }
        hasher.finish().short()
    }

    /// Where the receipt of the index of these rows lies.
    pub fn receipt(&self, rows: &[IdRow]) -> String {
        layout::index_receipt(self.options_id, self.shard, &self.name(rows))
    }

    /// The index of these rows, if somebody built it and its files are there.
    pub async fn adopt(&self, root: &Root, rows: &[IdRow]) -> Result<Option<IndexReceipt>> {
        let key = self.receipt(rows);
        let Some(receipt) = read_receipt::<IndexReceipt>(root, &key).await? else {
            return Ok(None);
        };
        let whole = root.size(&receipt.index.path).await? == Some(receipt.index.size)
            && root.size(&receipt.sidecar.path).await? == Some(receipt.sidecar.size);
        if whole {
            return Ok(Some(receipt));
        }
        root.delete(&key).await?;
        Ok(None)
    }

    /// Builds the index of these rows (ascending by key) from their vectors and puts its receipt; the receipt that was
    /// there first counts.
    pub async fn build(
        &self,
        root: &Root,
        rows: &[IdRow],
        cancel: &Cancel,
    ) -> Result<IndexReceipt> {
        let vectors = gather_vectors(root, rows, self.dimensions).await?;
        let folder = working_folder()?;
        let (index_path, sidecar_path) =
            (folder.path().join("index"), folder.path().join("sidecar"));
        let keys: Vec<u64> = rows.iter().map(|row| row.key).collect();
        let (report, canaries) = {
            let (options, calibration) = (self.options.clone(), self.calibration.clone());
            let (index, sidecar) = (index_path.clone(), sidecar_path.clone());
            let cancel = cancel.clone();
            tokio::task::spawn_blocking(move || {
                let report = index::build(
                    &keys,
                    &vectors,
                    &options,
                    &calibration,
                    &index,
                    &sidecar,
                    &cancel,
                    &|_| {},
                )?;
                let built = ShardIndex::open(&index, &sidecar, &options, &calibration)?;
                Ok::<_, Error>((report, index::record_canaries(&built)?))
            })
            .await
            .map_err(|cause| {
                Error::internal("the index build ended unexpectedly").with_source(cause)
            })??
        };
        let name = self.name(rows);
        let index = self.upload(root, &name, layout::index, &index_path).await?;
        let sidecar = self.upload(root, &name, layout::sidecar, &sidecar_path).await?;
        let receipt = IndexReceipt { index, sidecar, report, canaries };
        put_receipt(root, &self.receipt(rows), receipt).await
    }

    /// Stores a finished local file under a name that ends in its own hash: two attempts that made the same bytes
    /// share the object, two that did not cannot clash.
    async fn upload(
        &self,
        root: &Root,
        name: &str,
        key: fn(&str, u32, &str, &str) -> String,
        file: &Path,
    ) -> Result<FileRef> {
        let digest = crate::store::hash_file(file)?;
        let key = key(self.options_id, self.shard, name, &digest.short());
        root.upload(&key, file).await
    }
}

pub(super) fn working_folder() -> Result<tempfile::TempDir> {
    tempfile::tempdir()
        .or_error(ErrorKind::Resource, || "making a folder for the index build (set TMPDIR)")
}

/// Vectors in the order of the rows, read part by part.
async fn gather_vectors(root: &Root, rows: &[IdRow], dimensions: usize) -> Result<Embeddings> {
    let mut by_part: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        by_part.entry(Arc::clone(&row.place.part)).or_default().push(at);
    }
    let mut data = Vec::new();
    for (part, places) in by_part {
        let wanted: Vec<u32> = places.iter().map(|&at| rows[at].place.row).collect();
        let vectors = embedding::read_vectors(root, &part, &wanted).await?;
        if vectors.dimensions() != dimensions {
            return Err(Error::corrupt(format!(
                "part {part} holds {} dimensions, the space has {dimensions}",
                vectors.dimensions()
            )));
        }
        // Only now is it known that a part is so wide: the number alone allocates nothing.
        data.resize(rows.len() * dimensions, 0.0);
        for (&at, vector) in places.iter().zip(vectors.rows()) {
            data[at * dimensions..(at + 1) * dimensions].copy_from_slice(vector);
        }
    }
    Embeddings::from_vec(dimensions, data)
}
