//! What the corpus has of one note, read as the next run would read it; and whether it could be read at all.

use super::notes::{chunker_of, earlier, types_of};
use crate::corpus::{self, CorpusInput, Earlier, Look, LookRequest, Wanted};
use crate::error::{Error, Result};
use crate::snapshot::Manifest;
use crate::stage::ChunkingOptions;
use crate::stage::inputs::Inputs;
use crate::store::Root;
use crate::tower::Tower;
use crate::types::NoteId;

/// Looks for a note in the corpus, on top of the newest snapshot of a root; nothing is written. Where notes are cut,
/// `chunking` has the tower whose tokens chunks are counted in.
///
/// # Errors
/// As [`corpus::look`].
pub async fn look_at_note(
    input: CorpusInput<'_>,
    chunking: Option<(&Tower, ChunkingOptions)>,
    (root, parent): (&Root, Option<&Manifest>),
    note: &NoteId,
) -> Result<Look> {
    let chunker = chunking.map(|(tower, options)| chunker_of(tower, options));
    let earlier = earlier(root, &Inputs::default(), parent, input.options).await?;
    corpus::look(LookRequest { input, chunker, earlier }, Wanted::Note(note)).await
}

/// Whether the next run could begin to read the corpus, on top of the newest snapshot, where there is one; nothing is
/// written. `is_sure` says whether that is known: the types that columns had in the newest snapshot count.
///
/// # Errors
/// As [`corpus::check`], whose answer this is.
pub async fn check_corpus(
    input: CorpusInput<'_>,
    parent: Option<&Manifest>,
    is_sure: bool,
) -> Result<Option<Error>> {
    let earlier = match parent {
        // The type of an id is in a file that may be large, and the rows decide about it.
        Some(parent) => Some(Earlier { types: types_of(parent)?, note: None }),
        None => None,
    };
    Box::pin(corpus::check(LookRequest { input, chunker: None, earlier }, is_sure)).await
}
