//! The DataFusion session: memory limit, spilling, and errors without note text.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use parquet::errors::ParquetError;

use super::names;
use super::sql::{self, Limits, Refused};
use crate::corpus::options::TableOptions;
use crate::error::{Error, ErrorKind, Result, deep_async, kind_of_io};

/// Rows a batch. Small, because a note may be long and a batch is the unit of memory.
pub(super) const BATCH_ROWS: usize = 2048;

const MIB: u64 = 1 << 20;
/// Parts of the memory limit that a row of a text file may take: its text is copied where fields are taken apart, where
/// a batch is built and where batches wait, in each of the files that are read at once.
const ROWS_OF_LIMIT: u64 = 32;
/// Parts of the memory limit that a batch of a file that describes itself may take.
const BATCHES_OF_LIMIT: u64 = 4;
/// What a row may take in any case, and at most.
const ROW_BYTES: std::ops::RangeInclusive<u64> = 4 * MIB..=1 << 30;
/// Below this a sort cannot even merge its own spill files.
const MIN_MEMORY_MIB: u64 = 16;
/// Memory that one sort partition should at least have.
const MIB_PER_PARTITION: u64 = 16;

/// A session that spills to the temporary directory beyond `memory_limit_mib`.
pub(super) fn session(memory_limit_mib: u64) -> Result<SessionContext> {
    if memory_limit_mib < MIN_MEMORY_MIB {
        return Err(Error::config(format!(
            "corpus.memory_limit_mib = {memory_limit_mib} is too small to sort in: use at least {MIN_MEMORY_MIB}"
        )));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let affordable = usize::try_from(memory_limit_mib / MIB_PER_PARTITION).unwrap_or(usize::MAX);
    let partitions = cores.min(affordable).max(1);
    let bytes = usize::try_from(memory_limit_mib.saturating_mul(MIB)).unwrap_or(usize::MAX);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(bytes)))
        // The disk's own size is the limit: a corpus may well be larger than DataFusion's default.
        .with_max_temp_directory_size(u64::MAX)
        .build_arc()
        .map_err(|e| error(e, "starting DataFusion"))?;
    // Each partition keeps its reservation for the merge of its spill files.
    let reservation = (bytes / partitions / 8).min(10 << 20);
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_batch_size(BATCH_ROWS)
        .with_sort_spill_reservation_bytes(reservation)
        .with_sort_in_place_threshold_bytes(reservation.min(1 << 20))
        .with_information_schema(false);
    // Plain strings: their memory is what the pool counts, a view keeps whole buffers alive.
    let parquet = &mut config.options_mut().execution.parquet;
    parquet.schema_force_view_types = false;
    // An INT96 holds every date, nanoseconds in 64 bits only those from 1677 to 2262: the others would come out as
    // dates in between.
    parquet.coerce_int96 = Some("us".to_owned());
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// The same session for work that has other work beside it: one partition, of the same memory.
pub(super) fn alone(context: &SessionContext) -> SessionContext {
    let mut state = context.state();
    let config = state.config().clone().with_target_partitions(1);
    *state.config_mut() = config;
    SessionContext::new_with_state(state)
}

/// What may be held of a file at once: a few bytes of a packed one may stand for gigabytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// The longest row of a text file, in bytes.
    pub(super) row: usize,
    /// Bytes of a batch of a file that describes itself, with every value written out; so large may one of its pages,
    /// blocks, or buffers be.
    pub(super) batch: u64,
}

impl Room {
    /// The room that a memory limit leaves.
    pub(super) fn of(memory_limit_mib: u64) -> Self {
        let bytes = memory_limit_mib.saturating_mul(MIB);
        let row = (bytes / ROWS_OF_LIMIT).clamp(*ROW_BYTES.start(), *ROW_BYTES.end());
        Self { row: usize::try_from(row).unwrap_or(usize::MAX), batch: bytes / BATCHES_OF_LIMIT }
    }
}

/// Bytes of rows of a table's text files that are read where their start is enough, and of how many: each is a request.
const START: u64 = 4 * MIB;
const MOST_FILES: usize = 256;

/// How much of text files, which say in their rows what they hold, is read to learn their columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// All of it.
    Whole,
    /// Their start, of many files that of some: what columns a table has, but not of which types for sure.
    Start,
}

impl Depth {
    /// Which of so many files are read, all of them where that is `None`, and after how many bytes of rows each may end.
    pub(super) fn of_files(self, files: usize) -> (Option<Vec<usize>>, u64) {
        match self {
            Self::Whole => (None, u64::MAX),
            // Spread over all: the notes of a folder have the same fields, and those of the next one may have others.
            Self::Start if files > MOST_FILES => {
                let chosen = (0..MOST_FILES).map(|at| at * files / MOST_FILES);
                (Some(chosen.collect()), START / MOST_FILES as u64)
            }
            Self::Start => (None, START / files.max(1) as u64),
        }
    }
}

/// Parts of all expressions of a query.
const MOST_PARTS: u64 = 200_000;
/// Queries and tables of a query, its named ones written out.
const MOST_QUERIES: u64 = 1_024;

/// Plans a query: nothing that writes or changes settings.
pub(super) async fn query(
    context: &SessionContext,
    sql: &str,
) -> std::result::Result<DataFrame, DataFusionError> {
    let only_queries =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let (statement, state) = (statement(sql)?, context.state());
    let planning = async move {
        if sql::expanded(&statement) > MOST_QUERIES {
            let what = "its named queries (WITH) use each other so often that the query, with all of them written out, \
                        reads more than 1,024 tables and queries; use fewer of them, or write one to a file of its own";
            return Err(wrong_query(what));
        }
        let plan = state.statement_to_plan(statement).await?;
        if sql::parts_of_plan(&plan)? > MOST_PARTS {
            let what = "BETWEEN, IN, and coalesce are nested in each other so often that the query, with all values \
                        written out, has more than 200,000 parts; nest fewer of them";
            return Err(wrong_query(what));
        }
        Ok(plan)
    };
    let plan = deep_async(planning).await.map_err(own)??;
    only_queries.verify_plan(&plan)?;
    context.execute_logical_plan(plan).await
}

/// How rows are computed, and with what; planned where expressions may be as deep as those of a query may.
pub(super) async fn physical_plan(
    rows: DataFrame,
) -> std::result::Result<(Arc<dyn ExecutionPlan>, Arc<TaskContext>), DataFusionError> {
    let planning = async move {
        let task = Arc::new(rows.task_ctx());
        rows.create_physical_plan().await.map(|plan| (plan, task))
    };
    deep_async(planning).await.map_err(own)?
}

/// The one statement of a text.
fn statement(sql: &str) -> std::result::Result<Statement, DataFusionError> {
    let mut statements = sql::statements(sql, &Limits::QUERY).map_err(|refused| match refused {
        Refused::Shape(what) => wrong_query(&format!("it {what}")),
        Refused::Parser(cause) => cause,
        Refused::Thread(error) => own(error),
    })?;
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (first, more) => {
            let count = more + usize::from(first.is_some());
            Err(wrong_query(&format!("{count} statements, where one is meant")))
        }
    }
}

/// What is wrong with a query itself.
fn wrong_query(what: &str) -> DataFusionError {
    own(Error::config(format!("corpus.sql: {what}")).of_key("corpus.sql"))
}

/// An error of ours on its way through DataFusion.
pub(super) fn own(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Turns a DataFusion error into ours. Its text is kept, since it names columns, files and lines, but without
/// quoted values: those may be note text.
pub(super) fn error(error: DataFusionError, doing: &str) -> Error {
    match ours(error) {
        Ok(own) => own,
        Err(foreign) => {
            let root = foreign.find_root();
            let kind = kind(root);
            // DataFusion names a kind that the error of the Parquet reader has named already.
            let text =
                root.strip_backtrace().replace("Parquet error: Parquet error:", "Parquet error:");
            let text = redact(&text);
            let advice = match kind {
                ErrorKind::Resource => "; raise corpus.memory_limit_mib or free disk space",
                _ => "",
            };
            Error::new(kind, format!("{doing}: {text}{advice}"))
        }
    }
}

/// Whether a text is one SQL statement, as far as that can be told without its tables.
///
/// # Errors
/// Config, with the place in the text.
pub fn check_sql(sql: &str) -> Result<()> {
    statement(sql).map(drop).map_err(|cause| sql_error(cause, &[]))
}

/// An error while planning the user's SQL over `tables`: all of it is the user's own text.
pub(super) fn sql_error(error: DataFusionError, tables: &[TableOptions]) -> Error {
    match ours(error) {
        Ok(own) => own,
        Err(foreign) => {
            let root = foreign.find_root();
            let kind = match kind(root) {
                ErrorKind::Internal => ErrorKind::Config,
                other => other,
            };
            let text = names::missing(root, tables).or_else(|| sql::syntax(root));
            let text = text.unwrap_or_else(|| {
                let text = root.strip_backtrace();
                // Only `missing` knows which columns may be listed.
                let text = without_epilogue(&text).split("Valid fields are").next();
                text.unwrap_or_default().trim_end().to_owned()
            });
            Error::new(kind, format!("corpus.sql: {text}")).of_key("corpus.sql")
        }
    }
}

fn ours(error: DataFusionError) -> std::result::Result<Error, DataFusionError> {
    match error {
        DataFusionError::External(source) => match source.downcast::<Error>() {
            Ok(own) => Ok(*own),
            Err(source) => Err(DataFusionError::External(source)),
        },
        DataFusionError::ParquetError(error) => match *error {
            ParquetError::External(source) => match source.downcast::<Error>() {
                Ok(own) => Ok(*own),
                Err(source) => Err(ParquetError::External(source).into()),
            },
            other => Err(other.into()),
        },
        DataFusionError::Context(text, inner) => {
            ours(*inner).map_err(|inner| DataFusionError::Context(text, Box::new(inner)))
        }
        DataFusionError::Shared(shared) => match borrowed(&shared) {
            // An error shared between partitions cannot be taken out: keep what it says.
            Some(own) => Ok(own.again()),
            None => Err(DataFusionError::Shared(shared)),
        },
        other => Err(other),
    }
}

fn borrowed(error: &DataFusionError) -> Option<&Error> {
    match error {
        DataFusionError::External(source) => source.downcast_ref::<Error>(),
        DataFusionError::ParquetError(error) => match &**error {
            ParquetError::External(source) => source.downcast_ref::<Error>(),
            _ => None,
        },
        DataFusionError::Context(_, inner) => borrowed(inner),
        DataFusionError::Shared(inner) => borrowed(inner),
        _ => None,
    }
}

fn kind(root: &DataFusionError) -> ErrorKind {
    match root {
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Diagnostic(..)
        | DataFusionError::Configuration(_) => ErrorKind::Config,
        DataFusionError::ResourcesExhausted(_) => ErrorKind::Resource,
        DataFusionError::IoError(e) => match kind_of_io(e) {
            ErrorKind::Corrupt => ErrorKind::Input,
            other => other,
        },
        DataFusionError::ObjectStore(e) => kind_of_store(e),
        DataFusionError::Internal(_) | DataFusionError::ExecutionJoin(_) => ErrorKind::Internal,
        _ => ErrorKind::Input,
    }
}

/// Error kind of a failed read from a table's store.
pub(super) fn kind_of_store(error: &object_store::Error) -> ErrorKind {
    use object_store::Error as Store;
    match error {
        Store::NotFound { .. }
        | Store::InvalidPath { .. }
        | Store::PermissionDenied { .. }
        | Store::Unauthenticated { .. }
        | Store::NotSupported { .. } => ErrorKind::Input,
        Store::UnknownConfigurationKey { .. } => ErrorKind::Config,
        _ => ErrorKind::Transient,
    }
}

fn without_epilogue(text: &str) -> &str {
    let text = text.split("\n\nbacktrace").next().unwrap_or(text);
    // DataFusion calls a bad file its own bug.
    text.split("\nThis issue was likely").next().unwrap_or(text).trim()
}

/// Cuts what readers quote of the data: `Row data: '…'`, `got {…}`, and everything in quotes that is not a plain name.
pub(super) fn redact(text: &str) -> String {
    // What goes on for several lines is a value, or a parser's picture of one.
    let mut text = without_epilogue(text).lines().next().unwrap_or_default();
    for marker in [" Row data", ". Row", " got "] {
        if let Some(at) = text.find(marker) {
            text = &text[..at];
        }
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find(['\'', '"']) {
        let quote = &rest[open..=open];
        out.push_str(&rest[..open]);
        let tail = &rest[open + 1..];
        // After "field" and "column" comes a name of the schema, elsewhere a value. A value may hold quotes itself, so
        // it is taken to end at the last one.
        let named = ["field ", "column ", "table ", "field: ", "function "];
        let keep = named.iter().any(|n| out.ends_with(n));
        let close = if keep { tail.find(quote) } else { tail.rfind(quote) };
        let Some(close) = close else {
            out.push_str(quote);
            out.push('…');
            return out;
        };
        out.push_str(quote);
        out.push_str(if keep { &tail[..close] } else { "…" });
        out.push_str(quote);
        rest = &tail[close + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_do_not_reach_messages() {
        assert_eq!(
            redact(
                "Parser error: Error while parsing value 'my secret' as type 'Int64' for column 3 at line 7. Row data: '[a,b]'"
            ),
            "Parser error: Error while parsing value '…' for column 3 at line 7."
        );
        assert_eq!(
            redact("Json error: whilst decoding field 'title': expected string got {\"a\": 1}"),
            "Json error: whilst decoding field 'title': expected string"
        );
        assert_eq!(redact("Cannot cast string 'it"), "Cannot cast string '…");
        assert_eq!(
            redact("Cannot cast string 'it's my 'secret' and 'more'' to value of Int64 type"),
            "Cannot cast string '…' to value of Int64 type"
        );
    }

    #[test]
    fn a_parquet_error_is_called_so_once() {
        let cause = parquet::errors::ParquetError::General("no footer".to_owned());
        let told = error(DataFusionError::ParquetError(Box::new(cause)), "reading");
        assert_eq!(told.to_string(), "reading: Parquet error: no footer");
    }

    #[test]
    fn our_own_errors_come_back_whole() {
        let own = Error::input("note_id 9 is too large");
        let wrapped = DataFusionError::Context(
            "sort".into(),
            Box::new(DataFusionError::External(Box::new(own))),
        );
        let shared = DataFusionError::Shared(Arc::new(wrapped));
        let back = error(shared, "reading");
        assert_eq!((back.kind(), back.message()), (ErrorKind::Input, "note_id 9 is too large"));
    }

    #[test]
    fn the_start_of_many_files_is_that_of_a_few_spread_over_all() {
        assert_eq!(Depth::Whole.of_files(1_000_000), (None, u64::MAX));
        assert_eq!(Depth::Start.of_files(0), (None, START));
        for files in [1, 4, MOST_FILES] {
            assert_eq!(Depth::Start.of_files(files), (None, START / files as u64));
        }
        for files in [MOST_FILES + 1, 1_000, 1_000_000] {
            let (chosen, each) = Depth::Start.of_files(files);
            let chosen = chosen.unwrap();
            assert_eq!((chosen.len(), each), (MOST_FILES, START / MOST_FILES as u64));
            assert!(chosen.is_sorted_by(|a, b| a < b) && chosen.last() < Some(&files));
            let widest = chosen.windows(2).map(|two| two[1] - two[0]).max();
            assert!(widest <= Some(files.div_ceil(MOST_FILES)), "{files}: {widest:?}");
        }
    }

    #[test]
    fn a_tiny_limit_is_refused() {
        assert_eq!(session(1).err().map(|e| e.kind()), Some(ErrorKind::Config));
    }
}
