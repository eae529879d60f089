//! A corpus that several tasks prepare: each reads its share of the files, then each gathers a shard of the rows.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::Result as QueryResult;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{DataFrame, SessionContext};
use futures::StreamExt;

use super::exchange::{RowsFile, RowsWriter, ShardRows};
use super::gather::{Gathered, Gatherer, sorted};
use crate::corpus::session::{alone, own, physical_plan};
use crate::corpus::source::excerpt;
use crate::corpus::source::groups::Extent;
use crate::corpus::source::tables::SourceTable;
use crate::error::deep_async;
use crate::types::in_parallel;

/// Bytes of rows that a task holds before it writes them, at most and at least.
const MOST_WAITING: u64 = 64 << 20;
const LEAST_WAITING: u64 = 1 << 20;

/// What the tasks share.
pub(super) struct Shares {
    /// For tasks that have others beside them.
    context: SessionContext,
    /// How many are beside each other in this process.
    workers: usize,
    /// The contract's columns, of all of the table.
    plan: LogicalPlan,
    schema: SchemaRef,
    table: Arc<SourceTable>,
    room: usize,
    gatherer: Arc<Gatherer>,
}

impl Shares {
    /// `rows` are the contract's columns of the query over the one table.
    pub(super) fn new(
        context: &SessionContext,
        rows: &DataFrame,
        table: Arc<SourceTable>,
        memory_limit_mib: u64,
        gatherer: Arc<Gatherer>,
    ) -> Self {
        let workers = context.state().config().target_partitions();
        let fields = rows.schema().fields().iter();
        // Whether a column may be null differs between a plan and what it gives.
        let fields = fields.map(|field| Field::new(field.name(), field.data_type().clone(), true));
        // Bundling takes as much again, and sorts have the rest.
        let room = (memory_limit_mib << 20) / (8 * workers as u64);
        Self {
            context: alone(context),
            workers,
            plan: rows.logical_plan().clone(),
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            table,
            room: room.clamp(LEAST_WAITING, MOST_WAITING) as usize,
            gatherer,
        }
    }

    /// Runs all tasks on the threads of this process: first those that read, then those that gather.
    pub(super) async fn run(
        self: &Arc<Self>,
        shares: Vec<Vec<Extent>>,
        shards: u32,
    ) -> QueryResult<Gathered> {
        let files = in_parallel((0..).zip(shares), self.workers, |(share, extents)| {
            let shares = Arc::clone(self);
            async move { shares.read(share, extents).await }
        });
        let files: Arc<[RowsFile]> = files.await?.into();
        let gathered = in_parallel(0..shards, self.workers, |shard| {
            let (shares, files) = (Arc::clone(self), Arc::clone(&files));
            async move { shares.gather(&files, shard).await }
        });
        let mut all = Gathered::default();
        gathered.await?.into_iter().for_each(|next| all.merge(next));
        for RowsFile { file, .. } in files.iter() {
            self.gatherer.root.delete(&file.path).await.map_err(own)?;
        }
        Ok(all)
    }

    /// Reads a share of the table's files, once.
    async fn read(&self, share: u32, extents: Vec<Extent>) -> QueryResult<RowsFile> {
        let Gatherer { root, run, cancel, .. } = &*self.gatherer;
        let (plan, table) = (self.plan.clone(), Arc::clone(&self.table));
        let planning = async move { excerpt::of(plan, &table, extents) };
        let plan = deep_async(planning).await.map_err(own)??;
        let rows = DataFrame::new(self.context.state(), plan);
        let (plan, task) = physical_plan(rows).await?;
        let mut batches = execute_stream(plan, task)?;
        let mut writer = RowsWriter::new(root, run, share, Arc::clone(&self.schema), self.room);
        loop {
            let next = cancel.unless_stopped(async { Ok(batches.next().await) });
            let Some(batch) = next.await.map_err(own)? else { break };
            writer.push(&batch?).await.map_err(own)?;
        }
        writer.finish().await.map_err(own)
    }

    /// Gathers the rows of a shard.
    async fn gather(&self, files: &[RowsFile], shard: u32) -> QueryResult<Gathered> {
        let rows = ShardRows::of(&self.gatherer.root, files, shard, &self.schema);
        let table = StreamingTable::try_new(Arc::clone(&self.schema), vec![Arc::new(rows)])?;
        let rows = sorted(self.context.read_table(Arc::new(table))?)?;
        let planned = physical_plan(rows).await?;
        self.gatherer.gather(planned, shard..shard + 1).await
    }
}
