//! Registers the tables of a corpus.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;

use super::engine::Engines;
use super::file::SourceFile;
use super::find::Finder;
use super::open::{open, open_engine};
pub(in crate::corpus) use super::provider::SourceTable;
use super::reading::Reading;
pub(in crate::corpus) use super::reading::Typing;
use crate::corpus::options::TableOptions;
use crate::corpus::outcome::{InputFile, Position, Rejections, SourceTypes, class};
use crate::corpus::session::{BATCH_ROWS, error};
use crate::error::{Error, Result};

/// Tables that SQL can name.
#[derive(Default)]
pub(in crate::corpus) struct Tables {
    /// All their files, by table and name.
    pub(in crate::corpus) files: Vec<SourceFile>,
    /// The tables that engines of their own read.
    pub(in crate::corpus) engines: Vec<InputFile>,
    /// Rows that their readers could make no sense of.
    pub(in crate::corpus) rejections: Rejections,
    tables: Vec<Arc<SourceTable>>,
}

impl Tables {
    /// What the report says was read.
    pub(in crate::corpus) fn inputs(&self) -> Vec<InputFile> {
        self.files.iter().map(SourceFile::input).chain(self.engines.iter().cloned()).collect()
    }

    /// The types of the columns that were read.
    pub(in crate::corpus) fn types(&self) -> SourceTypes {
        let columns = |table: &Arc<SourceTable>| {
            let columns = table.columns_read().into_iter();
            // What has no value has no type yet.
            let columns = columns.filter(|(_, data_type)| *data_type != DataType::Null);
            (table.name().to_owned(), columns.map(|(name, of)| (name, class(&of))).collect())
        };
        SourceTypes { tables: self.tables.iter().map(columns).collect() }
    }

    /// Gives tables whose rows would say which columns they have, but which have no rows, these columns. False where all
    /// have them, or there is no such table.
    pub(in crate::corpus) fn grow(
        &mut self,
        context: &SessionContext,
        names: &[String],
    ) -> Result<bool> {
        self.replaced(context, |table| table.with(names))
    }

    /// Has SQL find columns of any type in tables of text of which only the start was read: there may be other values
    /// further on. Unless `is_sure`, in all tables of text. False where all is known.
    pub(in crate::corpus) fn leave_open(
        &mut self,
        context: &SessionContext,
        is_sure: bool,
    ) -> Result<bool> {
        self.replaced(context, |table| table.left_open(is_sure))
    }

    /// Has SQL find what `other` makes of tables. False where it makes nothing of any.
    fn replaced(
        &mut self,
        context: &SessionContext,
        other: impl Fn(&SourceTable) -> Option<SourceTable>,
    ) -> Result<bool> {
        let mut any = false;
        for table in &mut self.tables {
            let Some(made) = other(table) else { continue };
            *table = Arc::new(made);
            any = true;
        }
        if any {
            self.register(context)?;
        }
        Ok(any)
    }

    /// Where the history of the one table is, if there is one table and changes can be told of it.
    pub(in crate::corpus) fn position(&self) -> Option<&Position> {
        match self.tables.as_slice() {
            [table] => table.position(),
            _ => None,
        }
    }

    /// The same tables, of the one of which only the rows that changed are read; why that is in doubt, where it was asked
    /// for.
    pub(in crate::corpus) fn changed(
        &self,
        context: &SessionContext,
    ) -> Option<Result<Self, String>> {
        let [table] = self.tables.as_slice() else { return None };
        let (changed, changes) = match table.changed()? {
            Ok(changed) => changed,
            Err(doubt) => return Some(Err(doubt.to_owned())),
        };
        let mut engines = self.engines.clone();
        for input in &mut engines {
            (input.size, input.read) = (changes.bytes, Some(changes.read.clone()));
        }
        let tables = vec![Arc::new(changed)];
        let rejections = Rejections::default();
        let changed = Self { files: Vec::new(), engines, rejections, tables };
        Some(changed.register(context).map(|()| changed).map_err(|e| e.to_string()))
    }

    /// Has SQL find these tables under their names, whatever it found before.
    pub(in crate::corpus) fn register(&self, context: &SessionContext) -> Result<()> {
        for table in &self.tables {
            let name = TableReference::bare(table.name());
            context
                .deregister_table(name.clone())
                .and_then(|_| context.register_table(name, table.clone()))
                .map_err(|e| error(e, "registering a table"))?;
        }
        Ok(())
    }

    /// The tables, in the order of their files.
    pub(in crate::corpus) fn tables(&self) -> &[Arc<SourceTable>] {
        &self.tables
    }

    /// The table of this name.
    pub(in crate::corpus) fn named(&self, name: &str) -> Option<&SourceTable> {
        self.tables.iter().map(Arc::as_ref).find(|table| table.name() == name)
    }

    /// What to do where a query misses a column.
    pub(in crate::corpus) fn hint(&self) -> Option<String> {
        self.tables.iter().find_map(|table| table.hint())
    }

    /// What a query's failure means. Where a value did not fit a type, DataFusion does not know where it is.
    pub(in crate::corpus) async fn explain(
        &self,
        context: &SessionContext,
        failure: DataFusionError,
        doing: &str,
    ) -> Error {
        if matches!(
            failure.find_root(),
            DataFusionError::ArrowError(..) | DataFusionError::Execution(_)
        ) {
            for table in &self.tables {
                // A file that cannot be read again has failed before, with the better error.
                if let Ok(Some(misfit)) = table.misfit(context).await {
                    return misfit;
                }
            }
        }
        let computed = is_computed(failure.find_root());
        let failed = error(failure, doing);
        if computed { failed.of_key("corpus.sql") } else { failed }
    }
}

/// Whether an error is of an expression of the query, and not of a file that it reads.
fn is_computed(root: &DataFusionError) -> bool {
    use ArrowError::{ArithmeticOverflow, CastError, ComputeError, DivideByZero, ParseError};
    match root {
        DataFusionError::Execution(_) => true,
        DataFusionError::ArrowError(cause, _) => matches!(
            **cause,
            ArithmeticOverflow(_) | CastError(_) | ComputeError(_) | DivideByZero | ParseError(_)
        ),
        _ => false,
    }
}

/// Registers every table under its name.
pub(in crate::corpus) async fn register(
    context: &SessionContext,
    tables: &[TableOptions],
    mut finder: Finder<'_>,
    typing: &Typing<'_>,
) -> Result<Tables> {
    let mut names = BTreeSet::new();
    let mut all = Tables::default();
    let mut engines = Engines::default();
    for (at, table) in tables.iter().enumerate() {
        if table.name.is_empty() || !names.insert(&table.name) {
            let wrong = Error::config(format!(
                "corpus.tables: `{}` names no table or two tables; give each a name of its own",
                table.name
            ));
            return Err(wrong.of_key(format!("corpus.tables.{at}.name")));
        }
        let wrong = |error: Error, key: &str| {
            let section = format!("corpus.tables.{at}");
            error.context(format!("table `{}`", table.name)).of_key_in(&section, key)
        };
        let before = typing.before.and_then(|types| types.tables.get(&table.name));
        let pinned = typing.pinned;
        if pinned.is_some_and(|pinned| pinned.table.name != table.name) {
            continue;
        }
        let reading = Reading { at, before, typing };
        let opened = match table.format.filter(|format| format.has_engine()) {
            Some(format) => {
                let with = (&mut engines, &mut finder);
                let opened = open_engine(context, table, format, with, &reading).await;
                let (opened, input) = opened.map_err(|error| wrong(error, "uri"))?;
                all.engines.push(input);
                opened
            }
            None => {
                let found = match pinned {
                    Some(pinned) => finder.again(table, pinned.table),
                    None => finder.find(table).await,
                };
                let (files, kind) = found.map_err(|error| wrong(error, "uri"))?;
                all.files.extend(files.iter().cloned());
                let opened = open(context, table, files, kind, &reading).await;
                let key = if table.format.is_some() { "format" } else { "uri" };
                opened.map_err(|error| wrong(error, key))?
            }
        };
        let opened = Arc::new(opened);
        context
            .register_table(TableReference::bare(table.name.as_str()), opened.clone())
            .map_err(|e| error(e, "registering a table"))?;
        opened.rejected(&mut all.rejections);
        all.tables.push(opened);
    }
    // Whatever filters or joins rows gathers as many of them as a batch has.
    let rows = all.tables.iter().map(|table| table.batch_rows).min().unwrap_or(BATCH_ROWS);
    let state = context.state_ref();
    let mut state = state.write();
    *state.config_mut() = state.config().clone().with_batch_size(rows.min(BATCH_ROWS));
    Ok(all)
}
