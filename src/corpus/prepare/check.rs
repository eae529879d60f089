//! Whether a corpus could be read: its tables are opened and its query is planned, as for a run; no row is asked for.

use datafusion::prelude::SessionContext;

use super::contract::Contract;
use super::look::LookRequest;
use super::note_ids::WantedIds;
use super::open::{planned, registered};
use super::template::NoteTemplate;
use crate::corpus::session::{Depth, physical_plan, sql_error};
use crate::corpus::source::tables::Tables;
use crate::error::{Error, ErrorKind, Result, shielded_async};

/// Opens the tables of a corpus, plans its query, and checks what the query returns. Files that describe themselves are
/// asked for their columns; of text files only the start is read. Gives what is wrong by that start alone, and may be
/// right by rows that come later; `None` where nothing is. Unless `is_sure`, there may be a snapshot that says other
/// types than the rows do.
///
/// # Errors
/// What would stop a run before it reads the rows, as [`super::prepare`].
pub async fn check(request: LookRequest<'_>, is_sure: bool) -> Result<Option<Error>> {
    let opening = request.opening(Depth::Start);
    let (context, mut tables, template) = Box::pin(registered(opening)).await?;
    let checking = checked(&request, (&context, &template), &mut tables, is_sure);
    let checking = request.input.cancel.unless_stopped(checking);
    shielded_async(ErrorKind::Input, || request.input.a_file(), checking).await
}

async fn checked(
    request: &LookRequest<'_>,
    with: (&SessionContext, &NoteTemplate),
    tables: &mut Tables,
    is_sure: bool,
) -> Result<Option<Error>> {
    let Err(wrong) = agrees(request, with, tables, true).await else { return Ok(None) };
    if !tables.leave_open(with.0, is_sure)? {
        return Err(wrong);
    }
    match agrees(request, with, tables, false).await {
        Ok(()) => Ok(Some(wrong)),
        // Whatever the other rows hold.
        Err(_) => Err(wrong),
    }
}

/// Whether the query fits the tables, and the template and the stored columns the query; also how it would be computed
/// (`fully`), which says what stands against the columns that it reads.
async fn agrees(
    request: &LookRequest<'_>,
    (context, template): (&SessionContext, &NoteTemplate),
    tables: &mut Tables,
    fully: bool,
) -> Result<()> {
    let options = request.input.options;
    let wrong_sql = |cause| sql_error(cause, &options.tables);
    let ids = WantedIds::of(request.input.known_id(request.earlier.as_ref()));
    let query = planned(context, options, template, tables).await?;
    let contract = Contract::check(query.logical_plan(), options, template, 1, ids)?;
    if fully {
        let rows = query.select(contract.projection).map_err(wrong_sql)?;
        physical_plan(rows).await.map_err(wrong_sql)?;
    }
    Ok(())
}
