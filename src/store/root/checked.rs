//! Reading files whose hash is known: nothing of them is handed out that is not what was written.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use super::handle::Root;
use super::object::FileRef;
use crate::error::{Error, Result};
use crate::store::layout::{self, Key};
use crate::store::pieces::{self, FileHasher, Hashed, Pieces};
use crate::types::Digest256;

/// The error of a stored file that is not what was written, with the way out.
pub(crate) fn damaged(root: &Root, key: &str, what: impl std::fmt::Display) -> Error {
    let uri = root.uri();
    let way_out = match layout::parse(key) {
        Some(Key::Prepared { .. } | Key::Rows { .. } | Key::Located { .. }) => {
            "start a new run".to_owned()
        }
        _ => format!(
            "restore it, or take it out with `scalingnote snapshot repair {uri}`: the next run makes it again"
        ),
    };
    Error::corrupt(format!("{key} in {uri} is damaged: {what}; {way_out}"))
}

impl Root {
    /// All bytes of a file that fits into memory.
    ///
    /// # Errors
    /// NotFound; Corrupt where they are not those that were written.
    pub async fn get_file(&self, file: &FileRef) -> Result<Bytes> {
        let bytes = self.get(&file.path).await?;
        match bytes.len() as u64 == file.size && Digest256::of(&bytes) == file.sha256 {
            true => Ok(bytes),
            false => Err(self.other_hash(&file.path, &file.sha256.short())),
        }
    }

    /// Hashes a file whose name ends in `short`, the start of its SHA-256.
    ///
    /// # Errors
    /// NotFound; Corrupt where its bytes are not those that were written.
    pub async fn hashes_to(&self, key: &str, short: &str) -> Result<()> {
        match self.hash(key).await?.0.short() == short {
            true => Ok(()),
            false => Err(self.other_hash(key, short)),
        }
    }

    /// The pieces of a file, all of which was hashed in this process.
    ///
    /// # Errors
    /// NotFound; Corrupt where its bytes are not those that were written.
    pub async fn pieces_of(&self, file: &FileRef) -> Result<Arc<Pieces>> {
        let (sha256, pieces) = self.whole(&file.path, file.size, &file.sha256.short()).await?;
        match sha256 == file.sha256 {
            true => Ok(pieces),
            false => Err(self.other_hash(&file.path, &file.sha256.short())),
        }
    }

    /// As [`Root::pieces_of`], of a file whose name ends in `short`, the start of its SHA-256, where nothing else says
    /// what it must be.
    pub async fn pieces_by_name(&self, key: &str, size: u64, short: &str) -> Result<Arc<Pieces>> {
        self.whole(key, size, short).await.map(|(_, pieces)| pieces)
    }

    async fn whole(&self, key: &str, size: u64, short: &str) -> Result<Hashed> {
        if let Some(known) = pieces::hashed(short).filter(|(_, pieces)| pieces.cover(size)) {
            return Ok(known);
        }
        // On the heap: this is at the bottom of every reader's future.
        let (sha256, pieces) = Box::pin(self.cut(key)).await?;
        if sha256.short() != short {
            return Err(self.other_hash(key, short));
        }
        Ok((sha256, pieces))
    }

    /// Hashes an object and its pieces, and remembers them.
    pub(super) async fn cut(&self, key: &str) -> Result<Hashed> {
        let mut hasher = FileHasher::default();
        let mut stream = self.stream(key, self.size_of(key).await?);
        while let Some(bytes) = stream.try_next().await? {
            hasher.add(&bytes);
        }
        Ok(hasher.keep())
    }

    pub(super) fn other_hash(&self, key: &str, short: &str) -> Error {
        damaged(self, key, format_args!("its SHA-256 is not {short}…, as was recorded"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_hashed_once_and_a_change_afterwards_is_found_out() {
        let (root, other) = (Root::in_memory(), Root::in_memory());
        let bytes: Vec<u8> = (0..600_000u32).map(|at| (at * at) as u8).collect();
        let file = root.put("a.parquet", bytes.clone().into()).await.unwrap();
        let pieces = root.pieces_of(&file).await.unwrap();
        assert_eq!(pieces.ends.len(), 3);
        let short = file.sha256.short();
        assert_eq!(root.pieces_by_name("a.parquet", file.size, &short).await.unwrap(), pieces);
        let mut flipped = bytes;
        flipped[300_000] ^= 1;
        other.put("b.parquet", flipped.into()).await.unwrap();
        let size = file.size;
        let wrong = FileRef { path: "b.parquet".into(), sha256: Digest256::of(b"x"), size };
        let error = other.pieces_of(&wrong).await.unwrap_err().to_string();
        assert!(error.contains("b.parquet in memory:// is damaged"), "{error}");
        assert!(other.get_file(&FileRef { path: "b.parquet".into(), ..file }).await.is_err());
    }
}
