//! Reads the note corpus with DataFusion and writes prepared shards.
//!
//! ```text
//! tables -> the user's SQL -> contract -> sort by (shard, note_id), spilling
//!        -> newest of duplicates -> render, chunk, hash (parallel) -> one Parquet file a shard
//! ```
//!
//! Where the SQL makes each of its rows of one row of one table of files, several tasks do that: each reads a share of the
//! files and puts its rows, by shard, under the root; then each gathers a shard, from the sort on. What comes of it is
//! the same, byte by byte.
//!
//! Rules that a reader of the result may rely on:
//!
//! - **Order.** A shard's rows are sorted by (`note_id`, `chunk`), where ids compare as
//!   [`NoteId`](crate::types::NoteId) does: integers by value, strings by bytes.
//! - **Duplicates.** Of rows with one id the newest `updated_at` wins; a null is older than anything. On a tie a
//!   deletion wins, then the greater values in column order, so the outcome never depends on the order of the input.
//!   `updated_at` strings compare as times where both are times of a known spelling, as numbers where both are
//!   integers; an empty one is older. Anything else has no order and is refused, or, in a pipeline file of version 1,
//!   compared as release 0.1.0 did, with a warning.
//! - **Text.** The rendered text is trimmed of white space at both ends. `title` and `body` are empty strings and
//!   `topics` an empty list where they are null or absent; a null in any other column prints nothing and is false.
//!   `topics` as a string is a list of that one string.
//! - **Rejections** of notes are judged after duplicates: if the newest row of a note has no text, the note is rejected.
//!   A row of a text file that cannot be read (broken UTF-8, too many fields, no JSON) is rejected and counted, too. Where
//!   it is in doubt where the next row begins, the file is refused.
//! - **Types.** CSV and JSON files are read twice: types come from all rows, so that a field that first appears in row
//!   5,000 is not lost. By the exact rule a column is of numbers only if each is printed as the file writes it: ids `007`
//!   and `7` are texts, and two notes.
//!
//! `schemas/notes.md` is the whole contract.

mod filter;
mod here;
mod names;
mod options;
mod outcome;
mod pairs;
mod prepare;
mod sample;
mod session;
mod source;
mod sql;

pub use filter::RowFilter;
pub use here::{holds_markdown, look_for_files, refuse_tables_in_root};
pub(crate) use names::quoted;
pub use options::{
    ColumnType, CorpusMode, CorpusOptions, TableFormat, TableOptions, TextEncoding, TimeFormat,
    TypeRule,
};
pub(crate) use outcome::shortened;
pub use outcome::{
    CorpusReading, Feed, InputFile, Position, PrepareOutcome, PreparedBatch, PreparedRow,
    PreparedShard, Rejections, SourceTypes,
};
pub use pairs::read_pairs;
pub use prepare::{
    Chunker, CorpusInput, DigestRow, Earlier, Exclude, FeedRequest, KnownText, Look, LookRequest,
    PrepareRequest, PreparedReader, RESERVED_COLUMNS, SMALL_CORPUS, ShardDigest, SharedCorpus,
    Sharing, Wanted, check, check_template_length, clear_shares, gather_shards, look, prepare,
    prepared_schema, prepared_shares, read_shares, share,
};
pub use sample::{ColumnShape, SampledColumn, TableSample, sample_table};
pub use session::check_sql;
pub use source::groups::Extent;
pub use source::pinned::{PinnedFile, PinnedTable};
