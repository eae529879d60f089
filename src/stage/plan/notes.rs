//! What the corpus is asked for: the notes of a run, on top of the newest snapshot.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::envelope::discard_prepared;
use super::parent::{first_id, known_texts};
use crate::corpus::{
    Chunker, CorpusInput, CorpusOptions, Earlier, Exclude, PrepareOutcome, PrepareRequest,
    SourceTypes, TypeRule,
};
use crate::error::{ErrorKind, Result, ResultExt};
use crate::observe::{Reporter, format};
use crate::snapshot::{self, Manifest, PlannedUnder, Tombstones};
use crate::stage::ChunkingOptions;
use crate::stage::inputs::Inputs;
use crate::store::Root;
use crate::tower::{Tower, TowerTokenizer};
use crate::types::{NoteId, SpaceId};

/// What the notes of a run depend on.
pub struct NotesRequest<'a> {
    /// The corpus.
    pub input: CorpusInput<'a>,
    /// Chunking of long notes.
    pub chunking: Option<ChunkingOptions>,
    /// The tower whose tokens chunks are counted in: a task that renders notes needs it.
    pub tower: Option<&'a Tower>,
    /// The number of shards, where it is given.
    pub shards: Option<u32>,
    /// Workers that will encode.
    pub devices: usize,
    /// Whether the prepared files keep every text.
    pub keep_texts: bool,
    /// Texts that a query tower will be adapted to, at most.
    pub read_texts: u32,
    /// Where everything is stored.
    pub root: &'a Root,
    /// Id of this run.
    pub run: &'a str,
}

struct TokenChunker {
    tokenizer: TowerTokenizer,
    options: ChunkingOptions,
}

/// Cuts notes as a tower's tokenizer counts them.
pub(super) fn chunker_of(tower: &Tower, options: ChunkingOptions) -> Arc<dyn Chunker> {
    Arc::new(TokenChunker { tokenizer: tower.tokenizer().clone(), options })
}

impl Chunker for TokenChunker {
    fn chunks(&self, text: &str) -> Result<Vec<Range<usize>>> {
        self.tokenizer.chunks(text, self.options.window_tokens, self.options.overlap_tokens)
    }
}

/// The types that a snapshot's corpus was read by.
pub(super) fn types_of(parent: &Manifest) -> Result<Option<SourceTypes>> {
    let types = parent.provenance.measured.get(snapshot::SOURCE_TYPES).cloned();
    let types = types.map(serde_json::from_value);
    types.transpose().or_error(ErrorKind::Corrupt, || {
        format!("{} of snapshot {}", snapshot::SOURCE_TYPES, parent.number)
    })
}

/// What a corpus is read on top of.
pub(super) async fn earlier(
    root: &Root,
    inputs: &Inputs,
    parent: Option<&Manifest>,
    corpus: &CorpusOptions,
) -> Result<Option<Earlier>> {
    let Some(parent) = parent.filter(|_| corpus.types == TypeRule::Exact) else { return Ok(None) };
    let note = first_id(root, inputs, parent).await?;
    Ok(Some(Earlier { types: types_of(parent)?, note }))
}

/// Keeps out what the newest snapshot says was purged.
fn excluded_by(parent: &Manifest) -> Option<Exclude> {
    let purged = parent.purged.clone();
    (!purged.is_empty()).then(|| Arc::new(move |note: &NoteId| purged.contains(note)) as Exclude)
}

impl<'a> NotesRequest<'a> {
    /// The same for the corpus, on top of a snapshot. Without a space no text is left out, which is for a task that
    /// writes none.
    pub(super) async fn prepare(
        &self,
        inputs: &Inputs,
        parent: Option<&Manifest>,
        lost: &HashSet<String>,
        space: Option<&SpaceId>,
    ) -> Result<PrepareRequest<'a>> {
        let Self { input, root, .. } = *self;
        let known = match space.filter(|_| !self.keep_texts) {
            None => None,
            Some(space) => {
                known_texts(root, inputs, parent, lost, space, self.read_texts as usize).await?
            }
        };
        Ok(PrepareRequest {
            input,
            shard_count: self.shards.or_else(|| parent.map(|parent| parent.content.shard_count)),
            default_shards: 4 * self.devices.max(1) as u32,
            share_bytes: input.options.share_mib << 20,
            chunker: self
                .tower
                .zip(self.chunking)
                .map(|(tower, options)| chunker_of(tower, options)),
            known,
            earlier: earlier(root, inputs, parent, input.options).await?,
            feed: None,
            exclude: parent.and_then(excluded_by),
            root,
            run: self.run,
        })
    }
}

/// What `work` makes of notes, unless notes were purged meanwhile. Whether or not it finished: what it wrote may hold one
/// of them, so all of it goes again.
pub(super) async fn unless_purged<T>(
    root: &Root,
    run: &str,
    under: PlannedUnder,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let made = work.await;
    if Tombstones::default().since(root, under).await?.is_some() {
        discard_prepared(root, run).await?;
        let overtaken = || snapshot::overtaken_by_purge(&format!("run {run}"));
        return Err(made.err().unwrap_or_else(overtaken));
    }
    made
}

/// Tells of notes that were purged and that the corpus still has.
pub(super) fn warn_of_purged(prepared: &PrepareOutcome, reporter: &dyn Reporter) {
    if prepared.excluded > 0 {
        reporter.warn(format!(
            "the corpus still returns {}, left out here: delete them at the source, or bring them back with \
             `scalingnote purge --lift`",
            format::counted(prepared.excluded, "purged note")
        ));
    }
}
