//! A look at single notes of a corpus, by the same steps as the whole of it: nothing is written.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::logical_expr::{cast, lit};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{DataFrame, SessionContext, col};
use futures::StreamExt;

use super::contract::{Contract, NOTE_ID, SORT_COLUMNS};
use super::dedupe::Deduper;
use super::gather::sorted;
use super::newest::Judge;
use super::note_ids::WantedIds;
use super::open::{CorpusInput, Earlier, Opened, Opening, open};
use super::reader::rows;
use super::render::{Chunker, Rendered, Renderer};
use super::schema::prepared_schema;
use super::template::NoteTemplate;
use crate::corpus::options::TypeRule;
use crate::corpus::outcome::{InputFile, PreparedRow, Rejections};
use crate::corpus::session::{Depth, error, physical_plan, sql_error};
use crate::corpus::source::excerpt;
use crate::corpus::source::file::SourceFile;
use crate::corpus::source::groups::Extent;
use crate::corpus::source::tables::Tables;
use crate::error::{Error, ErrorKind, Result, deep_async, shielded_async};
use crate::types::NoteId;

const LOOKING: &str = "looking at notes of the corpus";

/// A corpus to look at.
pub struct LookRequest<'a> {
    /// The corpus.
    pub input: CorpusInput<'a>,
    /// Cuts long texts; `None` leaves one chunk a note.
    pub chunker: Option<Arc<dyn Chunker>>,
    /// What the newest snapshot was made of.
    pub earlier: Option<Earlier>,
}

impl LookRequest<'_> {
    pub(super) fn opening(&self, depth: Depth) -> Opening<'_> {
        let earlier = self.earlier.as_ref();
        Opening { input: self.input, root: None, earlier, feed: None, pinned: None, depth }
    }
}

/// Which notes to look at.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// What comes of this many rows of the query, whichever come first.
    Rows(usize),
    /// This one, whatever type its id has in the corpus.
    Note(&'a NoteId),
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Rows of the query.
    pub rows_read: u64,
    /// Rows that gave way to a newer one of the same note.
    pub duplicates: u64,
    /// Whether the query has an `updated_at` that says which of two rows is the newer one.
    pub has_updated_at: bool,
    /// Rows that were rejected, by reason.
    pub rejections: Rejections,
    /// Rows of the files, all of them, that their readers could make no sense of.
    pub unreadable: Rejections,
    /// The chunks of the notes, as they would be encoded.
    pub chunks: Vec<PreparedRow>,
    /// [`Wanted::Note`] only: the files without which the query returns no row of the note, each with the rows of the
    /// note that the query has where it reads nothing else of the file's table.
    pub files: Vec<(InputFile, u64)>,
}

/// Looks at notes of a corpus.
///
/// # Errors
/// As [`super::prepare`].
pub async fn look(request: LookRequest<'_>, wanted: Wanted<'_>) -> Result<Look> {
    let opened = open(request.opening(Depth::Whole)).await?;
    let Opened { context, tables, query, template, .. } = opened;
    let looking = looked(&request, wanted, (&context, &tables), query, template);
    let looking = request.input.cancel.unless_stopped(looking);
    shielded_async(ErrorKind::Input, || request.input.a_file(), looking).await
}

async fn looked(
    request: &LookRequest<'_>,
    wanted: Wanted<'_>,
    (context, tables): (&SessionContext, &Tables),
    query: DataFrame,
    template: NoteTemplate,
) -> Result<Look> {
    let options = request.input.options;
    let wrong_sql = |cause| sql_error(cause, &options.tables);
    let exact = options.types == TypeRule::Exact;
    let ids = WantedIds::of(request.input.known_id(request.earlier.as_ref()));
    let mut contract = Contract::check(query.logical_plan(), options, &template, 1, ids)?;
    let rows_of = match wanted {
        Wanted::Rows(count) => query.limit(0, Some(count)),
        Wanted::Note(_) => Ok(query),
    };
    let rows_of = rows_of
        .and_then(|rows| rows.select(std::mem::take(&mut contract.projection)))
        .and_then(|rows| match wanted {
            Wanted::Rows(_) => Ok(rows),
            Wanted::Note(note) => {
                let id = cast(col(SORT_COLUMNS[1]), DataType::Utf8);
                rows.filter(id.eq(lit(note.untagged())))
            }
        })
        .and_then(sorted)
        .map_err(wrong_sql)?;

    let has_updated_at = contract.updated_at.is_some();
    let contract = Arc::new(contract);
    let mut deduper = Deduper::new(Judge::new(Arc::clone(&contract), exact));
    let renderer = Renderer {
        schema: prepared_schema(&contract.stored),
        contract,
        template,
        mode: options.mode,
        exact,
        chunker: request.chunker.clone(),
        known: None,
        exclude: None,
    };
    let (plan, task) = physical_plan(rows_of.clone()).await.map_err(wrong_sql)?;
    let mut stream = execute_stream(plan, task).map_err(|e| error(e, LOOKING))?;
    let unreadable = tables.rejections.clone();
    let mut seen = Look { has_updated_at, unreadable, ..Look::default() };
    let mut ended = false;
    while !ended {
        let winners = match stream.next().await {
            Some(Ok(batch)) => deduper.push(batch)?,
            Some(Err(failure)) => return Err(tables.explain(context, failure, LOOKING).await),
            None => {
                ended = true;
                deduper.finish()
            }
        };
        let Rendered { pieces, tally } = renderer.render(winners)?;
        seen.rows_read += tally.rows_read;
        seen.duplicates += tally.duplicates;
        seen.rejections.merge(tally.rejections);
        for piece in pieces {
            seen.chunks.extend(rows(&piece.rows)?);
        }
    }
    if matches!(wanted, Wanted::Note(_)) && seen.rows_read > 0 {
        seen.files = files_of(tables, rows_of).await?;
    }
    Ok(seen)
}

/// Which files the rows come from: each is read alone.
async fn files_of(tables: &Tables, rows: DataFrame) -> Result<Vec<(InputFile, u64)>> {
    let mut found = Vec::new();
    // An engine does not say which of its rows a row comes from.
    if let ([table], []) = (tables.engines.as_slice(), tables.files.as_slice()) {
        found.push((table.clone(), count(rows.clone()).await?));
    }
    for table in tables.tables() {
        let files: Vec<&SourceFile> =
            tables.files.iter().filter(|file| file.table == table.name()).collect();
        for (at, file) in files.into_iter().enumerate() {
            let (state, plan) = rows.clone().into_parts();
            let table = Arc::clone(table);
            let planning = async move { excerpt::of(plan, &table, vec![Extent::whole(at)]) };
            let plan = deep_async(planning).await?.map_err(|cause| error(cause, LOOKING))?;
            let counted = count(DataFrame::new(state, plan)).await?;
            if counted > 0 {
                found.push((file.input(), counted));
            }
        }
    }
    Ok(found)
}

async fn count(rows: DataFrame) -> Result<u64> {
    let failed = |cause| error(cause, LOOKING);
    let (plan, task) = physical_plan(rows).await.map_err(failed)?;
    let mut stream = execute_stream(plan, task).map_err(failed)?;
    let mut counted = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(failed)?;
        if batch.num_columns() <= NOTE_ID {
            return Err(Error::internal("a batch without ids"));
        }
        counted += batch.num_rows() as u64;
    }
    Ok(counted)
}
