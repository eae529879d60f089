//! A table of the corpus as DataFusion reads it: files that are known by path and size, text by readers of our own.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ScalarValue, Statistics};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use super::file::SourceFile;
use super::learn::{Complaint, TextTable};
use crate::corpus::outcome::Rejections;
use crate::error::Error;
use crate::observe::{Event, Reporter};

/// Batches that a text file's reader may be ahead.
const AHEAD: usize = 2;

/// How the files are read.
pub(super) enum Files {
    /// By DataFusion's reader of a format that describes itself.
    Own { format: Arc<dyn FileFormat>, store: ObjectStoreUrl, files: Arc<[SourceFile]> },
    /// By ours.
    Text(Arc<TextTable>),
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
    /// Its name in the SQL.
    pub(in crate::corpus) fn name(&self) -> &str {
        &self.name
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

fn foreign(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
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
        // Parquet prunes row groups by them; each row is filtered again.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.schema.fields().len()).collect();
        let places: Vec<usize> = projection.cloned().unwrap_or_else(all);
        self.check(&places).map_err(foreign)?;
        let partitions = state.config().target_partitions();
        match &self.files {
            Files::Own { format, store, files } => {
                let (own, folders) = self.schema.fields().split_at(self.own);
                let schema = Arc::new(Schema::new(own.to_vec()));
                let schema = TableSchema::builder(schema)
                    .with_table_partition_cols(folders.to_vec())
                    .build();
                let groups = groups(files, partitions).into_iter().map(|group| {
                    let file = |at: usize| {
                        PartitionedFile::from(files[at].meta.clone())
                            .with_partition_values(folder_values(&files[at], &self.folders))
                    };
                    FileGroup::new(group.into_iter().map(file).collect())
                });
                let bytes: u64 = files.iter().map(|file| file.meta.size).sum();
                // By which a join chooses the side that it keeps in memory.
                let mut statistics = Statistics::new_unknown(&self.schema);
                statistics.total_byte_size =
                    Precision::Inexact(usize::try_from(bytes).unwrap_or(usize::MAX));
                let config = FileScanConfigBuilder::new(store.clone(), format.file_source(schema))
                    .with_file_groups(groups.collect())
                    .with_statistics(statistics)
                    .with_projection_indices(Some(places))?
                    .with_limit(limit)
                    .build();
                format.create_physical_plan(state, config).await
            }
            Files::Text(text) => {
                let schema = Arc::new(self.schema.project(&places)?);
                let streams = groups(&text.files, partitions).into_iter().map(|files| {
                    let (text, schema) = (Arc::clone(text), Arc::clone(&schema));
                    let (places, own, folders) = (places.clone(), self.own, self.folders.clone());
                    Arc::new(TextFiles { text, files, places, own, folders, schema })
                        as Arc<dyn PartitionStream>
                });
                let streams = streams.collect();
                let sorting = Vec::<LexOrdering>::new();
                let plan =
                    StreamingTableExec::try_new(schema, streams, None, sorting, false, limit)?;
                Ok(Arc::new(plan))
            }
        }
    }
}

/// The values of a file's folder columns.
fn folder_values(file: &SourceFile, folders: &[usize]) -> Vec<ScalarValue> {
    let value = |at: &usize| file.partitions.get(*at).and_then(|(_, value)| value.clone());
    folders.iter().map(|at| ScalarValue::Utf8(value(at))).collect()
}

/// The fields of the folder columns.
pub(super) fn folder_fields(files: &[SourceFile]) -> Vec<Field> {
    let first = files.first().map_or(&[][..], |file| &file.partitions);
    first.iter().map(|(name, _)| Field::new(name, DataType::Utf8, true)).collect()
}

/// Consecutive files, by place, in at most so many groups of about the same size.
fn groups(files: &[SourceFile], count: usize) -> Vec<Vec<usize>> {
    let total: u64 = files.iter().map(|file| file.meta.size).sum();
    let share = total.div_ceil(count.max(1) as u64).max(1);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut filled = 0;
    for (at, file) in files.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if filled < share => group.push(at),
            _ => {
                groups.push(vec![at]);
                filled = 0;
            }
        }
        filled += file.meta.size;
    }
    groups
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
                let values = folder_values(&text.files[at], &folders);
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
                if !text.read(at, &own, emit).await.map_err(foreign)? {
                    break;
                }
            }
            Ok(())
        });
        builder.build()
    }
}
