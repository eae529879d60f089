//! A table of the corpus as DataFusion reads it: files that are known by path and size, text by readers of our own.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result as PlanResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::prelude::SessionContext;

use super::engine::{Changes, Engine};
use super::file::SourceFile;
use super::groups::{Extent, groups, shares};
use super::learn::{Complaint, TextTable};
use super::own::{OwnColumns, OwnFiles};
use super::pinned::{self, PinnedFile, PinnedTable};
use crate::corpus::outcome::{Position, Rejections};
use crate::corpus::session;
use crate::error::Error;
use crate::observe::{Event, Reporter};

/// Batches that a text file's reader may be ahead.
const AHEAD: usize = 2;

/// How the files are read.
pub(super) enum Files {
    /// By DataFusion's reader of a format that describes itself.
    Own(OwnFiles),
    /// By ours.
    Text(Arc<TextTable>),
    /// By the engine that owns the table, which names no files.
    Engine(Engine),
    /// Not at all: they hold no rows, and do not say which columns rows would have.
    Open,
}

/// A table of the corpus.
pub(in crate::corpus) struct SourceTable {
    pub(super) name: String,
    /// Columns of the files, then those of their folders.
    pub(super) schema: SchemaRef,
    /// How many of them are the files' own.
    pub(super) own: usize,
    /// Which of a file's partitions the columns after those are.
    pub(super) folders: Arc<[usize]>,
    pub(super) files: Files,
    /// Rows that a batch of it may have.
    pub(super) batch_rows: usize,
    /// What stands against a column, by place: it counts only where the column is read.
    pub(super) complaints: Vec<(usize, Complaint)>,
    pub(super) reporter: Arc<dyn Reporter>,
    /// Places of the columns that a query reads.
    pub(super) read: Mutex<BTreeSet<usize>>,
}

impl fmt::Debug for SourceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}", self.name)
    }
}

impl SourceTable {
    /// The same with more columns, where any will do.
    pub(super) fn with(&self, more: &[String]) -> Option<Self> {
        let new = |name: &&String| self.schema.index_of(name).is_err();
        let more: Vec<&String> = more.iter().filter(new).collect();
        if !matches!(self.files, Files::Open) || more.is_empty() {
            return None;
        }
        let mut fields: Vec<FieldRef> = self.schema.fields().iter().cloned().collect();
        fields.extend(more.iter().map(|name| Arc::new(Field::new(*name, DataType::Null, true))));
        Some(Self {
            name: self.name.clone(),
            schema: Arc::new(Schema::new(fields)),
            own: self.own,
            folders: Arc::clone(&self.folders),
            files: Files::Open,
            batch_rows: self.batch_rows,
            complaints: Vec::new(),
            reporter: Arc::clone(&self.reporter),
            read: Mutex::default(),
        })
    }

    /// The same with columns of any type, where only the start of its text was read and other values may come further
    /// on; of JSON and Markdown also with columns that no row has had so far. Unless `is_sure`, whatever was read.
    pub(super) fn left_open(&self, is_sure: bool) -> Option<Self> {
        let Files::Text(text) = &self.files else { return None };
        if is_sure && !text.is_cut() {
            return None;
        }
        let fields = self.schema.fields().iter().enumerate().map(|(at, field)| {
            // Every value is a text.
            let is_sure = text.is_declared(field.name()) || *field.data_type() == DataType::Utf8;
            match at < self.own && !is_sure {
                true => Arc::new(Field::new(field.name(), DataType::Null, true)),
                false => Arc::clone(field),
            }
        });
        Some(Self {
            name: self.name.clone(),
            schema: Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>())),
            own: self.own,
            folders: Arc::clone(&self.folders),
            files: match text.has_header() || !text.is_cut() {
                true => Files::Text(Arc::clone(text)),
                false => Files::Open,
            },
            batch_rows: self.batch_rows,
            complaints: Vec::new(),
            reporter: Arc::clone(&self.reporter),
            read: Mutex::default(),
        })
    }

    /// The same, of which only the rows that changed are read, and how the report calls them; why that is in doubt,
    /// where somebody asked.
    pub(super) fn changed(&self) -> Option<Result<(Self, &Changes), &str>> {
        let Files::Engine(engine) = &self.files else { return None };
        let changes = match engine.changes.as_ref()? {
            Ok(changes) => changes,
            Err(doubt) => return Some(Err(doubt.as_str())),
        };
        let provider = Arc::clone(&changes.provider);
        let schema = provider.schema();
        let table = Self {
            name: self.name.clone(),
            own: schema.fields().len(),
            schema,
            folders: Arc::clone(&self.folders),
            files: Files::Engine(Engine { provider, position: None, changes: None }),
            batch_rows: self.batch_rows,
            complaints: Vec::new(),
            reporter: Arc::clone(&self.reporter),
            read: Mutex::default(),
        };
        Some(Ok((table, changes)))
    }

    /// Where its history is, if changes can be told of it.
    pub(super) fn position(&self) -> Option<&Position> {
        match &self.files {
            Files::Engine(engine) => engine.position.as_ref(),
            _ => None,
        }
    }

    /// Its name in the SQL.
    pub(in crate::corpus) fn name(&self) -> &str {
        &self.name
    }

    /// Its files in shares of about this many bytes; a Parquet file that is larger is cut between row groups. `None` where
    /// it has no files.
    pub(in crate::corpus) fn shares(&self, bytes: u64) -> Option<Vec<Vec<Extent>>> {
        let (files, is_cut) = match &self.files {
            Files::Own(own) => (&own.files, own.is_parquet()),
            Files::Text(text) => (&text.files, false),
            Files::Open | Files::Engine(_) => return None,
        };
        let extents = |(at, file): (usize, &SourceFile)| match is_cut {
            true => Extent::cut(at, file.meta.size, bytes),
            false => vec![Extent::whole(at)],
        };
        let extents: Vec<Extent> = files.iter().enumerate().flat_map(extents).collect();
        Some(shares(files, &extents, bytes))
    }

    /// The columns that were read, with their types.
    pub(in crate::corpus) fn columns_read(&self) -> Vec<(String, DataType)> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let field = |at: &usize| {
            let field = self.schema.field(*at);
            (field.name().clone(), field.data_type().clone())
        };
        read.iter().map(field).collect()
    }

    /// What to say of the first value that was read and does not fit its column's type; `None` where all do.
    pub(super) async fn misfit(&self, context: &SessionContext) -> PlanResult<Option<Error>> {
        let Files::Own(own) = &self.files else { return Ok(None) };
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let read: Vec<usize> = read.into_iter().collect();
        let (state, task) = (context.state(), context.task_ctx());
        let misfit = own.misfit(&state, &task, self.columns(), &read).await?;
        let Some(misfit) = misfit else { return Ok(None) };
        let field = self.schema.field(misfit.column);
        let what = match own.declared.get(field.name()) {
            Some(declared) => format!(
                "not {}, which `schema` of table `{}` declares; correct it, or declare another type",
                declared.value(),
                self.name
            ),
            None => format!(
                "there is no room for it in {}, the type that the files of table `{}` have in common; make them two tables \
                 and CAST in corpus.sql",
                field.data_type(),
                self.name
            ),
        };
        let url = &own.files[misfit.file].url;
        Ok(Some(Error::input(format!(
            "{url} row {}: column `{}`: {what}",
            misfit.row,
            field.name()
        ))))
    }

    /// The files of its rows, by place.
    pub(in crate::corpus) fn files(&self) -> &[SourceFile] {
        match &self.files {
            Files::Own(own) => &own.files,
            Files::Text(text) => &text.files,
            Files::Open | Files::Engine(_) => &[],
        }
    }

    /// Reads the columns at these places of one file alone, in the file's order.
    pub(in crate::corpus) async fn read_file(
        &self,
        context: &SessionContext,
        file: usize,
        places: &[usize],
    ) -> PlanResult<SendableRecordBatchStream> {
        let task = context.task_ctx();
        match &self.files {
            Files::Own(own) => {
                let scan = own.scan_file(&context.state(), self.columns(), places, file).await?;
                scan.execute(0, task)
            }
            Files::Text(text) => {
                Ok(self.text_files(text, vec![file], places.to_vec())?.execute(task))
            }
            Files::Open | Files::Engine(_) => {
                Err(session::own(Error::internal("a table without files has none to read")))
            }
        }
    }

    /// The number in its file, from 1, of the row that [`Self::read_file`] hands on as the `nth`, from 0.
    pub(in crate::corpus) fn row_number(&self, file: usize, nth: u64) -> u64 {
        match &self.files {
            Files::Text(text) => text.row_number(file, nth),
            _ => nth + 1,
        }
    }

    /// What other processes have to know to read parts of it. `None` where they cannot: each Arrow file has columns of its
    /// own, and an engine's table no files.
    pub(in crate::corpus) fn pinned(&self) -> crate::error::Result<Option<PinnedTable>> {
        let (schema, unquoted) = match &self.files {
            Files::Own(own) => match &own.common {
                Some(common) => (Arc::clone(common), false),
                None => return Ok(None),
            },
            Files::Text(text) => (Arc::new(text.schema()), text.is_unquoted()),
            Files::Open | Files::Engine(_) => return Ok(None),
        };
        Ok(Some(PinnedTable {
            name: self.name.clone(),
            files: self.files().iter().map(PinnedFile::of).collect(),
            schema: pinned::written(&schema)?,
            batch_rows: self.batch_rows,
            unquoted,
        }))
    }

    fn text_files(
        &self,
        text: &Arc<TextTable>,
        files: Vec<usize>,
        places: Vec<usize>,
    ) -> PlanResult<TextFiles> {
        let schema = Arc::new(self.schema.project(&places)?);
        let (text, own, folders) = (Arc::clone(text), self.own, self.folders.clone());
        Ok(TextFiles { text, files, places, own, folders, schema })
    }

    fn columns(&self) -> OwnColumns<'_> {
        OwnColumns { table: &self.schema, own: self.own, folders: &self.folders }
    }

    /// What to do where a query misses a column.
    pub(super) fn hint(&self) -> Option<String> {
        match &self.files {
            Files::Text(text) => text.hint(),
            _ => None,
        }
    }

    /// The rows that its reader can make no sense of.
    pub(super) fn rejected(&self, into: &mut Rejections) {
        if let Files::Text(text) = &self.files {
            text.rejected(into);
        }
    }

    /// Notes what is read; a refusal that stands against one of the columns, each warning once.
    fn check(&self, places: &[usize]) -> Result<(), Error> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        for at in places {
            if !read.insert(*at) {
                continue;
            }
            for (_, complaint) in self.complaints.iter().filter(|(column, _)| column == at) {
                match complaint {
                    Complaint::Refused(message) => return Err(Error::input(message.clone())),
                    Complaint::Warned(message) => {
                        self.reporter.event(Event::Warning { message: message.clone() });
                    }
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> PlanResult<Vec<TableProviderFilterPushDown>> {
        if let Files::Engine(engine) = &self.files {
            return engine.provider.supports_filters_pushdown(filters);
        }
        // Parquet prunes row groups by them; each row is filtered again.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        self.scan_of(state, projection, (filters, limit), None).await
    }
}

impl SourceTable {
    /// As a scan of the table, of all of it or of these extents alone.
    pub(super) async fn scan_of(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        (filters, limit): (&[Expr], Option<usize>),
        extents: Option<&[Extent]>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.schema.fields().len()).collect();
        let places: Vec<usize> = projection.cloned().unwrap_or_else(all);
        self.check(&places).map_err(session::own)?;
        let partitions = state.config().target_partitions();
        match &self.files {
            Files::Own(own) => own.scan(state, self.columns(), &places, extents, limit).await,
            Files::Engine(engine) => {
                engine.provider.scan(state, Some(&places), filters, limit).await
            }
            Files::Open => Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&places)?)))),
            Files::Text(text) => {
                let schema = Arc::new(self.schema.project(&places)?);
                let whole = || (0..text.files.len()).map(Extent::whole).collect::<Vec<_>>();
                let extents = extents.map_or_else(whole, <[Extent]>::to_vec);
                let streams = groups(&text.files, &extents, partitions).into_iter().map(|group| {
                    let files = group.into_iter().map(|extent| extent.file).collect();
                    let files = self.text_files(text, files, places.clone())?;
                    Ok(Arc::new(files) as Arc<dyn PartitionStream>)
                });
                let streams = streams.collect::<PlanResult<_>>()?;
                let sorting = Vec::<LexOrdering>::new();
                let plan =
                    StreamingTableExec::try_new(schema, streams, None, sorting, false, limit)?;
                Ok(Arc::new(plan))
            }
        }
    }
}

/// The fields of the folder columns.
pub(super) fn folder_fields(files: &[SourceFile]) -> Vec<Field> {
    let first = files.first().map_or(&[][..], |file| &file.partitions);
    first.iter().map(|(name, _)| Field::new(name, DataType::Utf8, true)).collect()
}

/// Text files that are read one after the other.
struct TextFiles {
    text: Arc<TextTable>,
    files: Vec<usize>,
    /// Columns of the table, in the order that they are handed on.
    places: Vec<usize>,
    own: usize,
    folders: Arc<[usize]>,
    schema: SchemaRef,
}

impl fmt::Debug for TextFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} text files", self.files.len())
    }
}

impl PartitionStream for TextFiles {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), AHEAD);
        let (text, files) = (Arc::clone(&self.text), self.files.clone());
        let own: Vec<usize> = self.places.iter().copied().filter(|at| *at < self.own).collect();
        let (places, first_folder) = (self.places.clone(), self.own);
        let folders = Arc::clone(&self.folders);
        let (schema, sender) = (Arc::clone(&self.schema), builder.tx());
        builder.spawn(async move {
            for at in files {
                let values = text.files[at].folder_values(&folders);
                let (places, schema) = (places.clone(), Arc::clone(&schema));
                let batches = sender.clone();
                let emit = move |batch: RecordBatch| {
                    let rows = batch.num_rows();
                    let mut own = batch.columns().iter().cloned();
                    let column = |place: &usize| match place.checked_sub(first_folder) {
                        None => own.next(),
                        Some(folder) => values.get(folder)?.to_array_of_size(rows).ok(),
                    };
                    let columns = places.iter().filter_map(column).collect();
                    let options = RecordBatchOptions::new().with_row_count(Some(rows));
                    let batch =
                        RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)
                            .map_err(|e| Error::internal("a batch of a text file").with_source(e))?;
                    // Nobody reads on: the query has a limit, or has failed.
                    Ok(batches.blocking_send(Ok(batch)).is_ok())
                };
                if !text.read(at, &own, emit).await.map_err(session::own)? {
                    break;
                }
            }
            Ok(())
        });
        builder.build()
    }
}
