//! One index of given rows: its name, its vectors, its files and their receipt.

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result, ResultExt};
use crate::index::{self, BuildReport, Calibration, IndexOptions, ShardIndex};
use crate::stage::ids::IdRow;
use crate::stage::vectors;
use crate::store::receipt::{self, Receipt};
use crate::store::{FileRef, Root, layout};
use crate::types::{Canary, Cancel, Hasher256, SpaceId};

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

impl Receipt for IndexReceipt {
    fn files(&self) -> Vec<&FileRef> {
        vec![&self.index, &self.sidecar]
    }
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
        if let Some(signs) = &self.calibration.signs {
            hasher.field(signs.to_bytes());
        }
        for row in rows {
            hasher.raw(row.key.to_le_bytes()).raw(row.text_hash.0);
        }
        hasher.finish().short()
    }

    /// Where the receipt of the index of these rows lies.
    pub fn receipt(&self, rows: &[IdRow]) -> String {
        layout::index_receipt(self.options_id, self.shard, &self.name(rows))
    }

    /// The index of these rows (ascending by key): built from their vectors, unless somebody built it already.
    pub async fn build(
        &self,
        root: &Root,
        rows: &[IdRow],
        cancel: &Cancel,
    ) -> Result<IndexReceipt> {
        let work = async {
            let places = rows.iter().map(|row| &row.place);
            let vectors = vectors::gather(root, self.dimensions, places).await?;
            let folder = working_folder()?;
            let [index_path, sidecar_path] =
                ["index", "sidecar"].map(|name| folder.path().join(name));
            let keys: Vec<u64> = rows.iter().map(|row| row.key).collect();
            let (options, calibration) = (self.options.clone(), self.calibration.clone());
            let (index, sidecar) = (index_path.clone(), sidecar_path.clone());
            let cancel = cancel.clone();
            let building = tokio::task::spawn_blocking(move || -> Result<_> {
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
                let canaries = index::record_canaries(&built)?;
                drop(built);
                index::check_with_usearch(&index, &sidecar, &options, &calibration, &canaries)?;
                Ok((report, canaries))
            });
            let (report, canaries) =
                building.await.context(|| "the index build ended unexpectedly")??;
            let name = self.name(rows);
            let (options, shard) = (self.options_id, self.shard);
            let index = |hash: &str| layout::index(options, shard, &name, hash);
            let sidecar = |hash: &str| layout::sidecar(options, shard, &name, hash);
            let index = receipt::put_file(root, &index_path, index).await?;
            let sidecar = receipt::put_file(root, &sidecar_path, sidecar).await?;
            Ok(IndexReceipt { index, sidecar, report, canaries })
        };
        receipt::once(root, &self.receipt(rows), work).await
    }
}

pub(super) fn working_folder() -> Result<tempfile::TempDir> {
    tempfile::tempdir()
        .or_error(ErrorKind::Resource, || "making a folder for the index build (set TMPDIR)")
}
