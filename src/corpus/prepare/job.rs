//! The one DataFusion job: from tables to prepared shards.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::count::count_all;
use datafusion::physical_plan::collect;
use datafusion::prelude::{DataFrame, SessionContext};

use super::changes::{self, FeedRequest};
use super::contract::Contract;
use super::gather::{Gathered, Gatherer, sorted};
use super::note_ids::WantedIds;
use super::open::{CorpusInput, Earlier, Opened, Opening, open, too_many};
use super::origin::Origin;
use super::render::{Chunker, Exclude, KnownText, Renderer};
use super::schema::prepared_schema;
use super::shares::Shares;
use super::split::Split;
use super::template::NoteTemplate;
use crate::corpus::options::{CorpusMode, TableOptions, TypeRule};
use crate::corpus::outcome::{CorpusReading, InputFile, PrepareOutcome, Rejections, SourceTypes};
use crate::corpus::session::{Depth, physical_plan, sql_error};
use crate::corpus::source::file;
use crate::corpus::source::tables::Tables;
use crate::error::{Error, ErrorKind, Result, shielded_async};
use crate::observe::{Event, Stage};
use crate::store::Root;
use crate::types::NoteId;

/// A corpus of fewer rows gets one shard, unless the count is given.
pub const SMALL_CORPUS: u64 = 10_000;

/// What `prepare` is asked to do.
pub struct PrepareRequest<'a> {
    /// The corpus.
    pub input: CorpusInput<'a>,
    /// Number of shards; `None` decides from the row count: 1 below [`SMALL_CORPUS`], else `default_shards`.
    pub shard_count: Option<u32>,
    /// Shards of a corpus that is not tiny, where `shard_count` is `None`.
    pub default_shards: u32,
    /// Bytes of files that one task reads, about, where several may read them beside each other.
    pub share_bytes: u64,
    /// Cuts long texts; `None` leaves one chunk a note.
    pub chunker: Option<Arc<dyn Chunker>>,
    /// Says which texts may be left out of the files, by hash: their rows are written with an empty text. `None` keeps
    /// every text.
    pub known: Option<KnownText>,
    /// What the newest snapshot was made of; counts with [`TypeRule::Exact`] only.
    pub earlier: Option<Earlier>,
    /// With [`CorpusMode::Delta`] and a table whose changes can be told: from where they are read. `None` takes the query's rows
    /// for changes.
    pub feed: Option<FeedRequest>,
    /// Notes that must not be prepared at all (purged ones).
    pub exclude: Option<Exclude>,
    /// Where the prepared files go.
    pub root: &'a Root,
    /// Names the folder of the prepared files ([`crate::store::layout::prepared`]).
    pub run: &'a str,
}

impl PrepareRequest<'_> {
    /// As [`CorpusInput::known_id`].
    pub(super) fn known_id(&self) -> Option<&NoteId> {
        self.input.known_id(self.earlier.as_ref())
    }
}

/// Runs the one DataFusion job: read, check the contract, keep the newest of duplicates, render, chunk,
/// hash, shard, write. Streams; spills to disk beyond the memory limit. Reports the stage `prepare` in rows.
///
/// # Errors
/// Config for a bad SQL, a missing column, a wrong type or a bad template; Input for unreadable files, more
/// than `max_rejected` rejections, or inputs that changed while read.
pub async fn prepare(mut request: PrepareRequest<'_>) -> Result<PrepareOutcome> {
    let outcome = prepare_once(&request).await?;
    match &mut request.feed {
        // A note whose change is rejected would stay as it was; of all rows, it is left out.
        Some(feed) if outcome.mode.is_none() && outcome.rejections.total() > 0 => {
            feed.since = None;
            request.input.reporter.info("some changes were rejected: all rows are read".to_owned());
            prepare_once(&request).await
        }
        _ => Ok(outcome),
    }
}

async fn prepare_once(request: &PrepareRequest<'_>) -> Result<PrepareOutcome> {
    let CorpusInput { options, reporter, cancel, .. } = request.input;
    cancel.check()?;
    let opened = open(Opening { feed: request.feed.as_ref(), ..opening(request) }).await?;
    let Opened { context, tables, query, template, mode, all, position } = opened;
    let uris: Vec<String> = options.tables.iter().map(TableOptions::shown_uri).collect();
    let what = || format!("a file of the corpus ({})", uris.join(", "));
    let files = &tables.files;
    // Boxed: the futures that wait for it would hold all of it.
    let running = Box::pin(run(request, query, template, mode, &context, &tables));
    let outcome = shielded_async(ErrorKind::Input, what, running).await;
    // A file that changed explains any other error better than that error does.
    file::check_unchanged(files).await?;
    let outcome = outcome.map_err(|error| match error.kind() {
        // The reader says what is wrong, not always where.
        ErrorKind::Input | ErrorKind::Corrupt => {
            let shown = error.to_string();
            match files.iter().any(|file| shown.contains(file.url.as_str())) {
                true => error,
                false => error.context(format!("corpus of {}", uris.join(", "))),
            }
        }
        _ => error,
    })?;
    let notes_now = match all {
        Some(all) => {
            let counting = counted(all, (&context, &tables));
            Some(cancel.unless_stopped(counting).await?)
        }
        None => None,
    };
    reporter.info(outcome.summary());
    let mode = Some(mode).filter(|mode| *mode != options.mode);
    // Of two rows of a note a change of one does not tell whether the other one counts now. A change feed names both, and what
    // was purged; where rows are counted, each has to be a note.
    let is_feed = position.as_ref().is_some_and(|position| position.mark.is_none());
    let is_sure = match is_feed {
        true => mode.is_none() || outcome.duplicates == 0,
        false => outcome.duplicates + outcome.excluded + outcome.rejections.total() == 0,
    };
    let told = position.filter(|_| is_sure);
    let feed = request.feed.as_ref().and_then(|feed| feed.now(told));
    Ok(PrepareOutcome { mode, feed, notes_now, ..outcome })
}

/// As a request asks for it, of whole files.
pub(super) fn opening<'a>(request: &'a PrepareRequest<'_>) -> Opening<'a> {
    let PrepareRequest { input, root, .. } = *request;
    let (root, earlier) = (Some(root), request.earlier.as_ref());
    Opening { input, root, earlier, feed: None, pinned: None, depth: Depth::Whole }
}

async fn run(
    request: &PrepareRequest<'_>,
    query: DataFrame,
    template: NoteTemplate,
    mode: CorpusMode,
    context: &SessionContext,
    tables: &Tables,
) -> Result<PrepareOutcome> {
    let CorpusInput { options, reporter, cancel, .. } = request.input;
    let wrong_sql = |cause| sql_error(cause, &options.tables);
    let wanted = WantedIds::of(request.known_id());
    let (shard_count, total) =
        shards(request, &query, (&template, wanted), (context, tables)).await?;
    let stage = Stage::Prepare;
    reporter.event(Event::StageStarted { stage, total, unit: "rows", tokens: 0 });
    let origin = Origin::of(context, query.logical_plan(), tables);
    let split = Split::of(query.logical_plan(), tables, shard_count, request.share_bytes);
    let (rows, gatherer) = gathering(request, query, template, mode, (shard_count, wanted))?;
    let (gathered, reading) = match split {
        Split::One(why) => {
            let planned =
                physical_plan(sorted(rows).map_err(wrong_sql)?).await.map_err(wrong_sql)?;
            (gatherer.gather(planned, 0..shard_count).await, CorpusReading::One(why))
        }
        Split::Shares(table, shares) => {
            // What is wrong with the query is said as of the query.
            physical_plan(rows.clone()).await.map_err(wrong_sql)?;
            let reading = CorpusReading::Shares(shares.len() as u32);
            reporter.info(format!("{reading}"));
            let memory = options.memory_limit_mib;
            let tasks = Arc::new(Shares::new(context, &rows, table, memory, gatherer));
            (tasks.run(shares, shard_count).await, reading)
        }
    };
    let mut gathered = match gathered {
        Ok(gathered) => gathered,
        Err(failure) => {
            let explaining = explained(failure, (context, tables), origin);
            return Err(cancel.unless_stopped(async { Ok(explaining.await) }).await?);
        }
    };
    let rounded = gathered.tally.rounded_ids();
    let naming = async {
        let mut doubts = Vec::new();
        if let Some(origin) = &origin {
            origin.rejected(context, &mut gathered.tally.rejections).await;
            if rounded.is_some() {
                doubts = origin.rounded(context).await;
            }
        }
        if doubts.is_empty() {
            doubts.extend(rounded);
        }
        Ok(doubts)
    };
    let warnings = cancel.unless_stopped(naming).await?;
    warnings.into_iter().for_each(|warning| reporter.warn(warning));
    let types = types_of(request, tables);
    outcome(request, gathered, &tables.rejections, (tables.inputs(), types), reading)
}

/// The types that the columns of a query were read by.
pub(super) fn types_of(request: &PrepareRequest<'_>, tables: &Tables) -> SourceTypes {
    match request.input.options.types {
        TypeRule::Exact => changes::without(tables.types()),
        TypeRule::Guessed => SourceTypes::default(),
    }
}

/// What comes of the shards, with what a person should know of them.
///
/// # Errors
/// Input where too many rows were rejected.
pub(super) fn outcome(
    request: &PrepareRequest<'_>,
    gathered: Gathered,
    unreadable: &Rejections,
    (inputs, types): (Vec<InputFile>, SourceTypes),
    reading: CorpusReading,
) -> Result<PrepareOutcome> {
    let Gathered { shards, mut tally, doubts, spilled } = gathered;
    tally.rejections.merge(unreadable.clone());
    if spilled > 0 {
        request.input.reporter.info(format!(
            "the sort spilled {} MiB to disk; a larger corpus.memory_limit_mib is faster",
            spilled.div_ceil(1 << 20)
        ));
    }
    if let Some(warning) = doubts.warning() {
        request.input.reporter.warn(warning);
    }
    let most = request.input.options.max_rejected;
    if tally.rejections.total() > most {
        return Err(too_many(&tally.rejections, most));
    }
    Ok(PrepareOutcome {
        shards,
        rows_read: tally.rows_read + unreadable.total(),
        duplicates: tally.duplicates,
        excluded: tally.excluded,
        rejections: tally.rejections,
        inputs,
        types,
        mode: None,
        feed: None,
        notes_now: None,
        reading: Some(reading),
    })
}

/// What a failure of the query means, with the row that it stopped at where that can be told.
pub(super) async fn explained(
    failure: DataFusionError,
    (context, tables): (&SessionContext, &Tables),
    origin: Option<Origin<'_>>,
) -> Error {
    let error = tables.explain(context, failure, READING).await;
    match origin {
        Some(origin) => origin.refused(context, error).await,
        None => error,
    }
}

/// How many shards the notes of the query get, and how many rows it has, if they had to be counted.
pub(super) async fn shards(
    request: &PrepareRequest<'_>,
    query: &DataFrame,
    (template, wanted): (&NoteTemplate, WantedIds),
    (context, tables): (&SessionContext, &Tables),
) -> Result<(u32, u64)> {
    // The contract comes before the count: a wrong type must not cost a pass over the corpus.
    Contract::check(query.logical_plan(), request.input.options, template, 1, wanted)?;
    match request.shard_count {
        Some(0) => Err(Error::config("the number of shards must be at least 1")),
        Some(count) => Ok((count, 0)),
        None => {
            let rows = counted(query.clone(), (context, tables));
            let rows = request.input.cancel.unless_stopped(rows).await?;
            let count = if rows < SMALL_CORPUS { 1 } else { request.default_shards.max(1) };
            Ok((count, rows))
        }
    }
}

/// The contract's columns of the query, and what gathers them.
pub(super) fn gathering(
    request: &PrepareRequest<'_>,
    query: DataFrame,
    template: NoteTemplate,
    mode: CorpusMode,
    (shard_count, wanted): (u32, WantedIds),
) -> Result<(DataFrame, Arc<Gatherer>)> {
    let options = request.input.options;
    let exact = options.types == TypeRule::Exact;
    let mut contract =
        Contract::check(query.logical_plan(), options, &template, shard_count, wanted)?;
    let projection = std::mem::take(&mut contract.projection);
    let rows = query.select(projection).map_err(|cause| sql_error(cause, &options.tables))?;
    let contract = Arc::new(contract);
    let renderer = Arc::new(Renderer {
        schema: prepared_schema(&contract.stored),
        contract: Arc::clone(&contract),
        template,
        mode,
        exact,
        chunker: request.chunker.clone(),
        known: request.known.clone(),
        exclude: request.exclude.clone(),
    });
    let gatherer = Gatherer {
        contract,
        renderer,
        strict: exact,
        root: request.root.clone(),
        run: request.run.to_owned(),
        max_rejected: options.max_rejected,
        reporter: Arc::clone(request.input.reporter),
        cancel: request.input.cancel.clone(),
        done: AtomicU64::new(0),
    };
    Ok((rows, Arc::new(gatherer)))
}

const COUNTING: &str = "counting the corpus";
const READING: &str = "reading the corpus";

/// How many rows a query of these tables has.
async fn counted(query: DataFrame, (context, tables): (&SessionContext, &Tables)) -> Result<u64> {
    match count(query).await {
        Ok(rows) => Ok(rows),
        Err(failure) => Err(tables.explain(context, failure, COUNTING).await),
    }
}

/// The rows of a query. Not `DataFrame::count`, which plans on whatever stack it is called on.
async fn count(query: DataFrame) -> std::result::Result<u64, DataFusionError> {
    let (plan, task) = physical_plan(query.aggregate(Vec::new(), vec![count_all()])?).await?;
    let batches = collect(plan, task).await?;
    let count = batches.first().and_then(|batch| {
        let counts = batch.column(0).as_primitive_opt::<Int64Type>()?;
        counts.values().first().copied()
    });
    let count = count.and_then(|count| u64::try_from(count).ok());
    count.ok_or_else(|| DataFusionError::Internal("a count gave no number".to_owned()))
}
