//! What the corpus has of one note, read as the next run would read it; and whether it could be read at all.

use std::path::Path;
use std::sync::Arc;

use super::notes::{chunker_of, earlier, types_of};
use crate::corpus::{self, CorpusOptions, Earlier, Look, LookRequest, Wanted};
use crate::error::{Error, Result};
use crate::observe::Reporter;
use crate::snapshot::Manifest;
use crate::stage::ChunkingOptions;
use crate::stage::inputs::Inputs;
use crate::store::{Root, StorageOptions};
use crate::tower::Tower;
use crate::types::{Cancel, NoteId};

/// A note, and what is read to find it.
pub struct LookedAt<'a> {
    /// The corpus.
    pub corpus: &'a CorpusOptions,
    /// How object stores are reached.
    pub storage: &'a StorageOptions,
    /// Folder that relative paths start from.
    pub base_dir: &'a Path,
    /// The tower whose tokens chunks are counted in, where notes are cut.
    pub chunking: Option<(&'a Tower, ChunkingOptions)>,
    /// Where everything is stored.
    pub root: &'a Root,
    /// The newest snapshot.
    pub parent: Option<&'a Manifest>,
    /// The note.
    pub note: &'a NoteId,
    /// Progress.
    pub reporter: &'a Arc<dyn Reporter>,
    /// Cancellation.
    pub cancel: &'a Cancel,
}

/// Looks for a note in the corpus; nothing is written.
///
/// # Errors
/// As [`corpus::look`].
pub async fn look_at_note(request: LookedAt<'_>) -> Result<Look> {
    let LookedAt { corpus, root, parent, .. } = request;
    let looking = LookRequest {
        options: corpus,
        base_dir: request.base_dir,
        storage: request.storage,
        chunker: request.chunking.map(|(tower, options)| chunker_of(tower, options)),
        earlier: earlier(root, &Inputs::default(), parent, corpus).await?,
        reporter: request.reporter,
        cancel: request.cancel,
    };
    corpus::look(looking, Wanted::Note(request.note)).await
}

/// A corpus that is to be looked at before a run is.
pub struct CheckedCorpus<'a> {
    /// The corpus.
    pub corpus: &'a CorpusOptions,
    /// How object stores are reached.
    pub storage: &'a StorageOptions,
    /// Folder that relative paths start from.
    pub base_dir: &'a Path,
    /// The newest snapshot, where there is one.
    pub parent: Option<&'a Manifest>,
    /// Whether that is known: the types that columns had in the newest snapshot count.
    pub is_sure: bool,
    /// Progress.
    pub reporter: &'a Arc<dyn Reporter>,
    /// Cancellation.
    pub cancel: &'a Cancel,
}

/// Whether the next run could begin to read the corpus, on top of the newest snapshot; nothing is written.
///
/// # Errors
/// As [`corpus::check`], whose answer this is.
pub async fn check_corpus(request: CheckedCorpus<'_>) -> Result<Option<Error>> {
    let earlier = match request.parent {
        // The type of an id is in a file that may be large, and the rows decide about it.
        Some(parent) => Some(Earlier { types: types_of(parent)?, note: None }),
        None => None,
    };
    let checking = LookRequest {
        options: request.corpus,
        base_dir: request.base_dir,
        storage: request.storage,
        chunker: None,
        earlier,
        reporter: request.reporter,
        cancel: request.cancel,
    };
    Box::pin(corpus::check(checking, request.is_sure)).await
}
