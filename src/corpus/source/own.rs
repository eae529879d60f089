//! How DataFusion reads files that describe themselves.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{ScalarValue, Statistics};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, cast, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;

use super::file::SourceFile;
use super::groups::groups;

/// Files with a reader that knows their columns.
pub(super) struct OwnFiles {
    pub(super) format: Arc<dyn FileFormat>,
    pub(super) store: ObjectStoreUrl,
    pub(super) files: Arc<[SourceFile]>,
    /// The columns of each file, where the reader brings none to the place and the type that it has in the table.
    pub(super) each: Option<Vec<SchemaRef>>,
}

/// The columns of the table: first those of files, then those of folders.
#[derive(Clone, Copy)]
pub(super) struct OwnColumns<'a> {
    pub(super) table: &'a SchemaRef,
    /// How many are those of files.
    pub(super) own: usize,
    /// Places among a file's partitions of the others.
    pub(super) folders: &'a [usize],
}

impl OwnFiles {
    /// Reads the columns at these places of the table.
    pub(super) async fn scan(
        &self,
        state: &dyn Session,
        columns: OwnColumns<'_>,
        places: &[usize],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let OwnColumns { table, own, .. } = columns;
        let fields = &table.fields()[..own];
        let common = Arc::new(Schema::new(fields.to_vec()));
        let mut plans = Vec::new();
        for (schema, files) in self.alike(&common) {
            // Where the columns that are asked for are in these files.
            let found = places.iter().map(|place| match place.checked_sub(own) {
                Some(folder) => Some(schema.fields().len() + folder),
                None => schema.index_of(table.field(*place).name()).ok(),
            });
            let found: Vec<Option<usize>> = found.collect();
            let read = found.iter().flatten().copied().collect();
            let scan = self.read(state, &schema, columns, &files, read, limit).await?;
            plans.push(match schema == common {
                true => scan,
                false => brought(scan, table, places, &found)?,
            });
        }
        match plans.len() {
            1 => Ok(plans.remove(0)),
            _ => UnionExec::try_new(plans),
        }
    }

    /// The files of each schema, by place.
    fn alike(&self, common: &SchemaRef) -> Vec<(SchemaRef, Vec<usize>)> {
        let Some(each) = &self.each else {
            return vec![(Arc::clone(common), (0..self.files.len()).collect())];
        };
        let mut alike: Vec<(SchemaRef, Vec<usize>)> = Vec::new();
        for (at, schema) in each.iter().enumerate() {
            match alike.iter_mut().find(|(known, _)| known == schema) {
                Some((_, files)) => files.push(at),
                None => alike.push((Arc::clone(schema), vec![at])),
            }
        }
        alike
    }

    async fn read(
        &self,
        state: &dyn Session,
        schema: &SchemaRef,
        columns: OwnColumns<'_>,
        files: &[usize],
        places: Vec<usize>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = TableSchema::builder(Arc::clone(schema))
            .with_table_partition_cols(columns.table.fields()[columns.own..].to_vec())
            .build();
        let partitions = state.config().target_partitions();
        let groups = groups(&self.files, files, partitions).into_iter().map(|group| {
            let file = |at: usize| {
                PartitionedFile::from(self.files[at].meta.clone())
                    .with_partition_values(self.files[at].folder_values(columns.folders))
            };
            FileGroup::new(group.into_iter().map(file).collect())
        });
        // By which a join chooses the side that it keeps in memory.
        let bytes: u64 = files.iter().map(|at| self.files[*at].meta.size).sum();
        let mut statistics = Statistics::new_unknown(schema.table_schema());
        statistics.total_byte_size =
            Precision::Inexact(usize::try_from(bytes).unwrap_or(usize::MAX));
        let config =
            FileScanConfigBuilder::new(self.store.clone(), self.format.file_source(schema))
                .with_file_groups(groups.collect())
                .with_statistics(statistics)
                .with_projection_indices(Some(places))?
                .with_limit(limit)
                .build();
        self.format.create_physical_plan(state, config).await
    }
}

/// The columns as the table has them: in its order and of its types; null where the files have none.
fn brought(
    scan: Arc<dyn ExecutionPlan>,
    table: &SchemaRef,
    places: &[usize],
    found: &[Option<usize>],
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = scan.schema();
    let mut read = 0;
    let column = |(place, found): (&usize, &Option<usize>)| {
        let field = table.field(*place);
        let value: Arc<dyn PhysicalExpr> = match found {
            None => lit(ScalarValue::try_from(field.data_type())?),
            Some(_) => {
                let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), read));
                read += 1;
                cast(column, &schema, field.data_type().clone())?
            }
        };
        Ok((value, field.name().clone()))
    };
    let columns = places.iter().zip(found).map(column).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(ProjectionExec::try_new(columns, scan)?))
}
