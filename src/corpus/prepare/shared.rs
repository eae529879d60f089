//! A corpus that several processes prepare: what all of them have to know, and the tasks of each.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::exchange::RowsFile;
use super::gather::Gathered;
use super::job::{PrepareRequest, explained, gathering, opening, outcome, shards, types_of};
use super::note_ids::WantedIds;
use super::open::{Opened, Opening, open};
use super::origin::Origin;
use super::shares::{Shares, clear};
use super::split::Split;
use crate::corpus::outcome::{CorpusReading, PrepareOutcome, Rejections, SourceTypes};
use crate::corpus::session::{physical_plan, sql_error};
use crate::corpus::source::file::{self, SourceFile};
use crate::corpus::source::groups::Extent;
use crate::corpus::source::pinned::{Pinned, PinnedTable};
use crate::error::{Error, ErrorKind, Result, shielded_async};
use crate::observe::{Event, Stage};
use crate::store::layout;
use crate::store::receipt::{self, Receipt};
use crate::types::NoteId;

/// Receipts read at the same time.
const READERS: usize = 16;

/// A corpus that is read in shares: its files were found, and their columns learnt, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedCorpus {
    /// The one table that `corpus.sql` reads.
    pub table: PinnedTable,
    /// What each share reads of its files.
    pub shares: Vec<Vec<Extent>>,
    /// Shards that the notes are gathered in.
    pub shard_count: u32,
    /// The tagged id of a note of the newest snapshot: those of the corpus are brought to its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Rows that no reader could make sense of.
    pub rejections: Rejections,
    /// The types that the columns are read by.
    #[serde(default, skip_serializing_if = "SourceTypes::is_empty")]
    pub types: SourceTypes,
}

/// Who reads a corpus.
pub enum Sharing {
    /// Any processes, each some shares of it.
    Shares(Box<SharedCorpus>),
    /// One, and why.
    One(String),
}

/// Finds the files of a corpus, learns their columns, and deals them to shares.
///
/// # Errors
/// As [`super::prepare`], as far as they can be told before the rows are read.
pub async fn share(request: &PrepareRequest<'_>) -> Result<Sharing> {
    let opened = Box::pin(open(opening(request))).await?;
    let Opened { context, tables, query, template, mode, .. } = opened;
    let wanted = WantedIds::of(request.known_id());
    let with = (&context, &tables);
    let (shard_count, _) = shards(request, &query, (&template, wanted), with).await?;
    let (table, shares) =
        match Split::of(query.logical_plan(), &tables, shard_count, request.share_bytes) {
            Split::One(why) => return Ok(Sharing::One(why)),
            Split::Shares(table, shares) => (table, shares),
        };
    let Some(pinned) = table.pinned()? else {
        let name = table.name();
        return Ok(Sharing::One(format!("each file of table `{name}` has columns of its own")));
    };
    let (rows, _) = gathering(request, query, template, mode, (shard_count, wanted))?;
    // Says what is wrong with the query, and which columns it reads.
    physical_plan(rows).await.map_err(|cause| sql_error(cause, &request.input.options.tables))?;
    Ok(Sharing::Shares(Box::new(SharedCorpus {
        table: pinned,
        shares,
        shard_count,
        note: request.known_id().map(NoteId::to_string),
        rejections: tables.rejections.clone(),
        types: types_of(request, &tables),
    })))
}

/// Reads these shares, each once: one whose receipt is there is not read again.
///
/// # Errors
/// As [`super::prepare`]; Input where a file is not what it was when the corpus was shared.
pub async fn read_shares(
    request: &PrepareRequest<'_>,
    shared: &SharedCorpus,
    wanted: &[u32],
) -> Result<()> {
    let key = |share: &u32| layout::rows_receipt(request.run, *share);
    let missing = without_receipt::<RowsFile>(request, wanted, key).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let extents = |share: &u32| Some((*share, shared.shares.get(*share as usize)?.clone()));
    let extents: Vec<(u32, Vec<Extent>)> = missing.iter().filter_map(extents).collect();
    let read = extents.iter().flat_map(|(_, extents)| extents).map(|extent| extent.file).collect();
    let tasks = |shares: Arc<Shares>| async move { shares.read_all(extents).await.map(drop) };
    run(request, shared, read, tasks).await
}

/// Gathers these shards of rows that were read, each once.
///
/// # Errors
/// Transient where a share is not read yet; as [`super::prepare`].
pub async fn gather_shards(
    request: &PrepareRequest<'_>,
    shared: &SharedCorpus,
    wanted: &[u32],
) -> Result<()> {
    let key = |shard: &u32| layout::shard_receipt(request.run, *shard);
    let missing = without_receipt::<Gathered>(request, wanted, key).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let files: Arc<[RowsFile]> = rows_of(request, shared).await?.into();
    let tasks =
        |shares: Arc<Shares>| async move { shares.gather_all(&files, missing).await.map(drop) };
    run(request, shared, BTreeSet::new(), tasks).await
}

/// What comes of all shards once they are gathered.
///
/// # Errors
/// Transient where one is not; Input where too many rows were rejected, or a file changed meanwhile.
pub async fn prepared_shares(
    request: &PrepareRequest<'_>,
    shared: &SharedCorpus,
) -> Result<PrepareOutcome> {
    let reporter = request.input.reporter;
    reporter.event(Event::StageStarted {
        stage: Stage::Prepare,
        total: 0,
        unit: "rows",
        tokens: 0,
    });
    let (key, count) = (layout::shard_receipt, shared.shard_count);
    let gathered = Gathered::of(finished(request, "shard", count, key).await?);
    let pinned = Pinned { table: &shared.table, read: BTreeSet::new() };
    let opening = Opening { pinned: Some(&pinned), ..opening(request) };
    let Opened { tables, .. } = Box::pin(open(opening)).await?;
    file::check_unchanged(&tables.files).await?;
    gathered.tally.rounded_ids().into_iter().for_each(|warning| reporter.warn(warning));
    let reading = CorpusReading::Shares(shared.shares.len() as u32);
    let read = (tables.inputs(), shared.types.clone());
    outcome(request, gathered, &shared.rejections, read, reading)
}

/// Deletes what the prepared shards were made of, once they are in a plan.
///
/// # Errors
/// What the store says.
pub async fn clear_shares(request: &PrepareRequest<'_>, shared: &SharedCorpus) -> Result<()> {
    match rows_of(request, shared).await {
        Ok(files) => clear(request.root, request.run, &files, shared.shard_count).await,
        // Somebody else has begun to.
        Err(error) if error.kind() == ErrorKind::Transient => Ok(()),
        Err(error) => Err(error),
    }
}

/// Runs tasks on a corpus of which these files are read.
async fn run<F>(
    request: &PrepareRequest<'_>,
    shared: &SharedCorpus,
    read: BTreeSet<usize>,
    tasks: impl FnOnce(Arc<Shares>) -> F,
) -> Result<()>
where
    F: Future<Output = datafusion::error::Result<()>>,
{
    let files = read.clone();
    let pinned = Pinned { table: &shared.table, read };
    let running = async {
        let note = shared.note.as_deref().map(str::parse).transpose()?;
        let opening = Opening { pinned: Some(&pinned), earlier: None, ..opening(request) };
        let opened = Box::pin(open(opening)).await?;
        let Opened { context, tables, query, template, mode, .. } = opened;
        let files: Vec<SourceFile> =
            files.iter().filter_map(|at| tables.files.get(*at).cloned()).collect();
        file::check_unchanged(&files).await?;
        let wanted = WantedIds::of(note.as_ref());
        let origin = Origin::of(&context, query.logical_plan(), &tables);
        let known = tables.tables().first().cloned();
        let table = known.ok_or_else(|| Error::config("corpus.sql reads another table now"))?;
        let (rows, gatherer) =
            gathering(request, query, template, mode, (shared.shard_count, wanted))?;
        let memory = request.input.options.memory_limit_mib;
        let shares = Arc::new(Shares::new(&context, &rows, table, memory, gatherer));
        match tasks(shares).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(explained(failure, (&context, &tables), origin).await),
        }
    };
    let running = request.input.cancel.unless_stopped(Box::pin(running));
    let what = || format!("a file of table `{}`", shared.table.name);
    shielded_async(ErrorKind::Input, what, running).await
}

/// Those whose work is yet to be done.
async fn without_receipt<T: DeserializeOwned>(
    request: &PrepareRequest<'_>,
    wanted: &[u32],
    key: impl Fn(&u32) -> String,
) -> Result<Vec<u32>> {
    let mut missing = Vec::new();
    for number in wanted {
        if receipt::read::<T>(request.root, &key(number)).await?.is_none() {
            missing.push(*number);
        }
    }
    Ok(missing)
}

/// The rows of all shares.
async fn rows_of(request: &PrepareRequest<'_>, shared: &SharedCorpus) -> Result<Vec<RowsFile>> {
    finished(request, "share", shared.shares.len() as u32, layout::rows_receipt).await
}

/// The receipts of all tasks, in order.
async fn finished<T: Receipt>(
    request: &PrepareRequest<'_>,
    what: &str,
    count: u32,
    key: impl Fn(&str, u32) -> String,
) -> Result<Vec<T>> {
    let receipt = |number| {
        let key = key(request.run, number);
        async move {
            receipt::of_finished(request.root, &key, &format!("{what} {number} of prepare")).await
        }
    };
    stream::iter((0..count).map(receipt)).buffered(READERS).try_collect().await
}
