//! How DataFusion reads files that describe themselves.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;

use futures::TryStreamExt;

use super::brought::{self, Declared};
use super::described::{Described, Pieces, Weighed};
use super::file::SourceFile;
use super::groups::{Extent, groups};

/// Files with a reader that knows their columns.
pub(super) struct OwnFiles {
    pub(super) format: Arc<dyn FileFormat>,
    pub(super) store: ObjectStoreUrl,
    pub(super) files: Arc<[SourceFile]>,
    /// The columns of each file.
    pub(super) each: Vec<Described>,
    /// All of them, of types with room for the values of each file; `None` where the reader brings no column to another
    /// place or type.
    pub(super) common: Option<SchemaRef>,
    pub(super) declared: Declared,
    /// Bytes that a batch may take.
    pub(super) room: u64,
}

/// A value that has no room in its column's type.
pub(super) struct Misfit {
    pub(super) file: usize,
    /// From 1.
    pub(super) row: u64,
    /// Place in the table.
    pub(super) column: usize,
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
    /// Whether a file can be read in parts: those of row groups.
    pub(super) fn is_parquet(&self) -> bool {
        self.format.get_ext() == "parquet"
    }

    /// Reads the columns at these places of the table: of all files, or of these extents alone.
    pub(super) async fn scan(
        &self,
        state: &dyn Session,
        columns: OwnColumns<'_>,
        places: &[usize],
        extents: Option<&[Extent]>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut plans = Vec::new();
        for (schema, files) in self.alike() {
            let of_these: Vec<Extent> = match extents {
                None => files.into_iter().map(Extent::whole).collect(),
                Some(extents) if self.common.is_some() => extents.to_vec(),
                Some(extents) => {
                    let is_alike = |extent: &&Extent| files.contains(&extent.file);
                    extents.iter().filter(is_alike).cloned().collect()
                }
            };
            if of_these.is_empty() {
                continue;
            }
            let alike = (&schema, of_these.as_slice());
            plans.push(self.scan_alike(state, columns, places, alike, limit).await?);
        }
        match plans.len() {
            1 => Ok(plans.remove(0)),
            _ => UnionExec::try_new(plans),
        }
    }

    /// As [`Self::scan`], of one file.
    pub(super) async fn scan_file(
        &self,
        state: &dyn Session,
        columns: OwnColumns<'_>,
        places: &[usize],
        file: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.common.as_ref().unwrap_or(&self.each[file].schema);
        let whole = [Extent::whole(file)];
        self.scan_alike(state, columns, places, (schema, &whole), None).await
    }

    /// Files of one schema.
    async fn scan_alike(
        &self,
        state: &dyn Session,
        columns: OwnColumns<'_>,
        places: &[usize],
        (schema, extents): (&SchemaRef, &[Extent]),
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let found = columns.found(places, schema);
        let read = found.iter().flatten().copied().collect();
        let scan = self.read(state, schema, columns, extents, read, limit).await?;
        match schema.fields()[..] == columns.table.fields()[..columns.own] {
            true => Ok(scan),
            false => self.brought(scan, columns.table, places, &found),
        }
    }

    /// The files of each schema, by place.
    fn alike(&self) -> Vec<(SchemaRef, Vec<usize>)> {
        if let Some(common) = &self.common {
            return vec![(Arc::clone(common), (0..self.files.len()).collect())];
        }
        let mut alike: Vec<(&Described, Vec<usize>)> = Vec::new();
        for (at, own) in self.each.iter().enumerate() {
            match alike.iter_mut().find(|(known, _)| *known == own) {
                Some((_, files)) => files.push(at),
                None => alike.push((own, vec![at])),
            }
        }
        alike.into_iter().map(|(own, files)| (Arc::clone(&own.schema), files)).collect()
    }

    async fn read(
        &self,
        state: &dyn Session,
        schema: &SchemaRef,
        columns: OwnColumns<'_>,
        extents: &[Extent],
        places: Vec<usize>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = TableSchema::builder(Arc::clone(schema))
            .with_table_partition_cols(columns.table.fields()[columns.own..].to_vec())
            .build();
        let partitions = state.config().target_partitions();
        let groups = groups(&self.files, extents, partitions).into_iter().map(|group| {
            let file = |Extent { file, bytes }: Extent| {
                let file = &self.files[file];
                let read = PartitionedFile::from(file.meta.clone())
                    .with_partition_values(file.folder_values(columns.folders));
                match bytes {
                    Some(bytes) => read.with_range(bytes.start as i64, bytes.end as i64),
                    None => read,
                }
            };
            FileGroup::new(group.into_iter().map(file).collect())
        });
        // By which a join chooses the side that it keeps in memory.
        let bytes: u64 = extents.iter().map(|extent| extent.size(&self.files)).sum();
        let mut statistics = Statistics::new_unknown(schema.table_schema());
        statistics.total_byte_size =
            Precision::Inexact(usize::try_from(bytes).unwrap_or(usize::MAX));
        let source = self.format.file_source(schema);
        let parquet = source.downcast_ref::<ParquetSource>().map(|own| self.weighed(own, state));
        let is_parquet = parquet.is_some();
        let config =
            FileScanConfigBuilder::new(self.store.clone(), parquet.transpose()?.unwrap_or(source))
                .with_file_groups(groups.collect())
                .with_statistics(statistics)
                .with_projection_indices(Some(places))?
                .with_limit(limit)
                .build();
        if is_parquet {
            // As its format does, but for the reader.
            return Ok(DataSourceExec::from_data_source(config));
        }
        let scan = self.format.create_physical_plan(state, config).await?;
        let table = self.files.first().map_or("", |file| &file.table);
        Ok(Pieces::of(scan, table, self.room))
    }

    /// With a reader that refuses what would take too much.
    fn weighed(&self, parquet: &ParquetSource, state: &dyn Session) -> Result<Arc<dyn FileSource>> {
        let environment = state.runtime_env();
        let footers = environment.cache_manager.get_file_metadata_cache();
        let store = environment.object_store(&self.store)?;
        let rows = state.config().batch_size();
        let weighed = Weighed::new(Arc::clone(&self.files), store, footers, rows, self.room);
        Ok(Arc::new(parquet.clone().with_parquet_file_reader_factory(Arc::new(weighed))))
    }

    /// The columns as the table has them: in its order and of its types; null where the files have none.
    fn brought(
        &self,
        scan: Arc<dyn ExecutionPlan>,
        table: &SchemaRef,
        places: &[usize],
        found: &[Option<usize>],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = scan.schema();
        let mut read = 0..;
        let column = |(place, found): (&usize, &Option<usize>)| {
            let field = &table.fields()[*place];
            let at = found.and_then(|_| read.next());
            let declared = self.declared.get(field.name());
            Ok((brought::column(&schema, at, field, declared)?, field.name().clone()))
        };
        let columns = places.iter().zip(found).map(column).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ProjectionExec::try_new(columns, scan)?))
    }

    /// The first value of the columns at these places that has no room in its column's type. Files are read one after the
    /// other: DataFusion reads them side by side and in pieces, and then nobody knows the row.
    pub(super) async fn misfit(
        &self,
        state: &dyn Session,
        task: &Arc<TaskContext>,
        columns: OwnColumns<'_>,
        places: &[usize],
    ) -> Result<Option<Misfit>> {
        for (file, Described { schema, .. }) in self.each.iter().enumerate() {
            let differs = |place: &usize| {
                let field = columns.table.field(*place);
                let own = schema.field_with_name(field.name());
                *place < columns.own && own.is_ok_and(|own| own.data_type() != field.data_type())
            };
            let places: Vec<usize> = places.iter().copied().filter(differs).collect();
            if places.is_empty() {
                continue;
            }
            let found = columns.found(&places, schema);
            let read = found.iter().flatten().copied().collect();
            let whole = [Extent::whole(file)];
            let scan = self.read(state, schema, columns, &whole, read, None).await?;
            let own = scan.schema();
            let column = |(at, place): (usize, &usize)| {
                let field = &columns.table.fields()[*place];
                brought::column(&own, Some(at), field, self.declared.get(field.name()))
            };
            let brought = places.iter().enumerate().map(column).collect::<Result<Vec<_>>>()?;
            let mut batches = scan.execute(0, Arc::clone(task))?;
            let mut rows = 0;
            while let Some(batch) = batches.try_next().await? {
                if let Some((row, at)) = brought::misfit(&batch, &brought) {
                    return Ok(Some(Misfit {
                        file,
                        row: rows + row as u64 + 1,
                        column: places[at],
                    }));
                }
                rows += batch.num_rows() as u64;
            }
        }
        Ok(None)
    }
}

impl OwnColumns<'_> {
    /// Where the columns at these places of the table are among those of files and their folders.
    fn found(&self, places: &[usize], files: &SchemaRef) -> Vec<Option<usize>> {
        let found = |place: &usize| match place.checked_sub(self.own) {
            Some(folder) => Some(files.fields().len() + folder),
            None => files.index_of(self.table.field(*place).name()).ok(),
        };
        places.iter().map(found).collect()
    }
}
