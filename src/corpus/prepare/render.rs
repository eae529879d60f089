//! Turns rows into prepared rows: render, cut into chunks, hash. Pure, so that batches run in parallel.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanBuilder, FixedSizeBinaryBuilder, RecordBatch, StringBuilder,
    UInt32Builder,
};
use arrow::compute::take;
use arrow::datatypes::{SchemaRef, UInt32Type};
use minijinja::Value;
use serde::{Deserialize, Serialize};

use super::contract::{Contract, SHARD, ValueSource};
use super::dedupe::{Ids, Winners};
use super::note_ids::{is_rounded, rounded};
use super::template::{NoteTemplate, RowContext};
use super::values::{is_true, template_value};
use crate::corpus::options::CorpusMode;
use crate::corpus::outcome::{Rejections, shortened};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Digest256, NoteId, TextHash};

/// A piece is closed at this many bytes of text, far from the 2 GiB that an Arrow string column can hold.
const PIECE_BYTES: usize = 8 << 20;

/// Cuts a long rendered text into windows; implemented by the tower's tokenizer.
pub trait Chunker: Send + Sync {
    /// Byte ranges of the chunks of `text`, in order, at least one. An Input error rejects the one note.
    fn chunks(&self, text: &str) -> Result<Vec<Range<usize>>>;
}

/// Says which notes are left out as if the query had not returned them.
pub type Exclude = Arc<dyn Fn(&NoteId) -> bool + Send + Sync>;

/// Says of a text, by its hash, whether its vector is stored, so that nobody needs to read it.
pub type KnownText = Arc<dyn Fn(&TextHash) -> bool + Send + Sync>;

/// Consecutive prepared rows of one shard.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) shard: u32,
    pub(super) rows: RecordBatch,
    pub(super) notes: u64,
    pub(super) deletions: u64,
}

/// Counts of what happened to rows.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) rows_read: u64,
    pub(super) duplicates: u64,
    pub(super) excluded: u64,
    pub(super) rejections: Rejections,
    /// Ids that a spreadsheet rounded, and the first of them.
    rounded: u64,
    first_rounded: Option<String>,
}

impl Tally {
    /// Adds what became of the next rows.
    pub(super) fn merge(&mut self, next: Self) {
        self.rows_read += next.rows_read;
        self.duplicates += next.duplicates;
        self.excluded += next.excluded;
        self.rejections.merge(next.rejections);
        self.rounded += next.rounded;
        self.first_rounded = self.first_rounded.take().or(next.first_rounded);
    }

    /// The warning about ids that a spreadsheet rounded, if there are any.
    pub(super) fn rounded_ids(&self) -> Option<String> {
        let first = self.first_rounded.as_ref()?;
        Some(rounded(self.rounded, &format!("`{}`", shortened(first))))
    }
}

/// What became of one [`Winners`].
#[derive(Debug, Default)]
pub(super) struct Rendered {
    pub(super) pieces: Vec<Piece>,
    pub(super) tally: Tally,
}

/// Everything that rendering needs, shared by all threads.
pub(super) struct Renderer {
    pub(super) contract: Arc<Contract>,
    pub(super) template: NoteTemplate,
    pub(super) mode: CorpusMode,
    /// Numbers print as their own text.
    pub(super) exact: bool,
    pub(super) chunker: Option<Arc<dyn Chunker>>,
    /// Texts to leave out, by hash.
    pub(super) known: Option<KnownText>,
    pub(super) exclude: Option<Exclude>,
    pub(super) schema: SchemaRef,
}

impl Renderer {
    pub(super) fn render(&self, winners: Winners) -> Result<Rendered> {
        let (rejections, rows_read) = (winners.rejections, winners.rows_read);
        let duplicates = winners.duplicates;
        let tally = Tally { rows_read, duplicates, rejections, ..Tally::default() };
        let mut out = Rendered { pieces: Vec::new(), tally };
        for batch in &winners.batches {
            self.batch(batch, &mut out)?;
        }
        Ok(out)
    }

    fn batch(&self, batch: &RecordBatch, out: &mut Rendered) -> Result<()> {
        let ids = Ids::of(batch)?;
        let shards = batch.column(SHARD).as_primitive::<UInt32Type>();
        let mut piece = PieceBuilder::new(shards.values().first().copied().unwrap_or(0));
        for row in 0..batch.num_rows() {
            let shard = shards.value(row);
            if shard != piece.shard || piece.text_bytes >= PIECE_BYTES {
                let done = std::mem::replace(&mut piece, PieceBuilder::new(shard));
                out.pieces.extend(self.close(done, batch)?);
            }
            let Some(note) = ids.get(row) else {
                return Err(Error::internal("a row without an id passed the check"));
            };
            if let NoteId::Str(id) = &note
                && is_rounded(id)
            {
                out.tally.rounded += 1;
                out.tally.first_rounded.get_or_insert_with(|| id.clone());
            }
            if self.exclude.as_ref().is_some_and(|excluded| excluded(&note)) {
                out.tally.excluded += 1;
                continue;
            }
            let deleted =
                self.contract.deleted.is_some_and(|place| is_true(batch.column(place), row));
            match (deleted, self.mode) {
                (true, CorpusMode::Full) => {}
                (true, CorpusMode::Delta) => {
                    piece.deletions += 1;
                    self.push(&mut piece, None, &note.to_string(), 0, "");
                }
                (false, _) => {
                    self.note(batch, row, &note, &mut piece, &mut out.tally.rejections)?
                }
            }
        }
        out.pieces.extend(self.close(piece, batch)?);
        Ok(())
    }

    fn note(
        &self,
        batch: &RecordBatch,
        row: usize,
        note: &NoteId,
        piece: &mut PieceBuilder,
        rejections: &mut Rejections,
    ) -> Result<()> {
        let text = match self.template.render(self.context(batch, row)) {
            Ok(text) if text.is_empty() => {
                rejections.add("no text", Some(note));
                return Ok(());
            }
            Ok(text) => text,
            Err(error) => {
                rejections.add(error.message(), Some(note));
                return Ok(());
            }
        };
        let tagged = note.to_string();
        match &self.chunker {
            None => self.push(piece, Some(row), &tagged, 0, &text),
            Some(chunker) => {
                let chunks = match chunker.chunks(&text) {
                    Ok(chunks) => chunks,
                    // One text that cannot be cut must not stop the run; anything else does.
                    Err(error) if error.kind() == ErrorKind::Input => {
                        rejections.add("cannot be cut into chunks", Some(note));
                        return Ok(());
                    }
                    Err(error) => return Err(error.context("cutting notes into chunks")),
                };
                if chunks.is_empty() {
                    return Err(Error::internal("the chunker returned no chunk for a text"));
                }
                for (chunk, range) in (0..).zip(chunks) {
                    let text = text.get(range).ok_or_else(|| {
                        Error::internal("the chunker returned a range outside of its text")
                    })?;
                    self.push(piece, Some(row), &tagged, chunk, text);
                }
            }
        }
        piece.notes += 1;
        Ok(())
    }

    fn push(
        &self,
        piece: &mut PieceBuilder,
        source: Option<usize>,
        note_id: &str,
        chunk: u32,
        text: &str,
    ) {
        let hash = Digest256::of(text.as_bytes());
        let kept = self.known.as_ref().is_none_or(|known| !known(&hash));
        piece.push(source, note_id, chunk, hash, if kept { text } else { "" });
    }

    fn context(&self, batch: &RecordBatch, row: usize) -> Value {
        let value = |source: &ValueSource| match *source {
            ValueSource::Text(place) => {
                let value = place.map(|place| template_value(batch.column(place), row, self.exact));
                value.filter(|v| !v.is_none()).unwrap_or_else(|| Value::from(""))
            }
            ValueSource::Topics(place) => {
                let value = place.map(|place| template_value(batch.column(place), row, self.exact));
                match value {
                    Some(topics) if topics.as_str().is_some_and(str::is_empty) => None,
                    Some(topics) if topics.as_str().is_some() => Some(Value::from(vec![topics])),
                    Some(topics) if topics.is_none() => None,
                    other => other,
                }
                .unwrap_or_else(|| Value::from(Vec::<Value>::new()))
            }
            ValueSource::Extra(place) => template_value(batch.column(place), row, self.exact),
        };
        Value::from_object(RowContext {
            names: Arc::clone(&self.contract.names),
            values: self.contract.sources.iter().map(value).collect(),
        })
    }

    fn close(&self, mut piece: PieceBuilder, batch: &RecordBatch) -> Result<Option<Piece>> {
        let rows = piece.source.finish();
        if rows.is_empty() {
            return Ok(None);
        }
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(piece.note_id.finish()),
            Arc::new(piece.chunk.finish()),
            Arc::new(piece.text_hash.finish()),
            Arc::new(piece.text.finish()),
            Arc::new(piece.deleted.finish()),
        ];
        for place in &self.contract.stored_places {
            // A null index, for a deletion, gives a null.
            let stored = take(batch.column(*place), &rows, None)
                .map_err(|e| Error::internal("selecting stored columns").with_source(e))?;
            columns.push(stored);
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|e| Error::internal("putting a prepared batch together").with_source(e))?;
        let (notes, deletions) = (piece.notes, piece.deletions);
        Ok(Some(Piece { shard: piece.shard, rows: batch, notes, deletions }))
    }
}

struct PieceBuilder {
    shard: u32,
    notes: u64,
    deletions: u64,
    text_bytes: usize,
    note_id: StringBuilder,
    chunk: UInt32Builder,
    text_hash: FixedSizeBinaryBuilder,
    text: StringBuilder,
    deleted: BooleanBuilder,
    /// Row of the source batch; null for a deletion.
    source: UInt32Builder,
}

impl PieceBuilder {
    fn new(shard: u32) -> Self {
        Self {
            shard,
            notes: 0,
            deletions: 0,
            text_bytes: 0,
            note_id: StringBuilder::new(),
            chunk: UInt32Builder::new(),
            text_hash: FixedSizeBinaryBuilder::new(32),
            text: StringBuilder::new(),
            deleted: BooleanBuilder::new(),
            source: UInt32Builder::new(),
        }
    }

    fn push(
        &mut self,
        source: Option<usize>,
        note_id: &str,
        chunk: u32,
        hash: TextHash,
        text: &str,
    ) {
        self.text_bytes += text.len() + note_id.len();
        self.note_id.append_value(note_id);
        self.chunk.append_value(chunk);
        // expect: 32 bytes are what the builder was made for.
        self.text_hash.append_value(hash.0).expect("32 bytes");
        self.text.append_value(text);
        self.deleted.append_value(source.is_none());
        self.source.append_option(source.map(|row| row as u32));
    }
}
