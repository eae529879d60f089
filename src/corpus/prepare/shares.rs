//! A corpus that several tasks prepare: each reads a share of the files, then each gathers a shard of the rows. A task
//! whose receipt is there does nothing.

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
use crate::error::{Error, Result, deep_async};
use crate::store::receipt::{self, Receipt};
use crate::store::{Root, layout};
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
        let files: Arc<[RowsFile]> = self.read_all((0..).zip(shares)).await?.into();
        let gathered = self.gather_all(&files, 0..shards).await?;
        let Gatherer { root, run, .. } = &*self.gatherer;
        clear(root, run, &files, shards).await.map_err(own)?;
        Ok(Gathered::of(gathered))
    }

    /// Reads shares of the table's files, by their numbers.
    pub(super) async fn read_all(
        self: &Arc<Self>,
        shares: impl IntoIterator<Item = (u32, Vec<Extent>)>,
    ) -> QueryResult<Vec<RowsFile>> {
        in_parallel(shares, self.workers, |(share, extents)| {
            let (shares, root) = (Arc::clone(self), self.gatherer.root.clone());
            async move {
                let key = layout::rows_receipt(&shares.gatherer.run, share);
                once(&root, &key, shares.read(share, extents)).await
            }
        })
        .await
    }

    /// Gathers these shards of the rows that were read.
    pub(super) async fn gather_all(
        self: &Arc<Self>,
        files: &Arc<[RowsFile]>,
        shards: impl IntoIterator<Item = u32>,
    ) -> QueryResult<Vec<Gathered>> {
        in_parallel(shards, self.workers, |shard| {
            let (shares, files) = (Arc::clone(self), Arc::clone(files));
            async move {
                let Gatherer { root, run, .. } = &*shares.gatherer;
                let key = layout::shard_receipt(run, shard);
                once(root, &key, shares.gather(&files, shard)).await
            }
        })
        .await
    }

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

    async fn gather(&self, files: &[RowsFile], shard: u32) -> QueryResult<Gathered> {
        let rows = ShardRows::of(&self.gatherer.root, files, shard, &self.schema);
        let table = StreamingTable::try_new(Arc::clone(&self.schema), vec![Arc::new(rows)])?;
        let rows = sorted(self.context.read_table(Arc::new(table))?)?;
        let planned = physical_plan(rows).await?;
        self.gatherer.gather(planned, shard..shard + 1).await
    }
}

/// Deletes what the prepared shards were made of. Receipts go first: without their files they say nothing.
pub(super) async fn clear(root: &Root, run: &str, files: &[RowsFile], shards: u32) -> Result<()> {
    for shard in 0..shards {
        root.delete(&layout::shard_receipt(run, shard)).await?;
    }
    for (share, RowsFile { file, .. }) in (0..).zip(files) {
        root.delete(&layout::rows_receipt(run, share)).await?;
        root.delete(&file.path).await?;
    }
    Ok(())
}

/// [`receipt::once`] for work whose failure the query's tables explain.
async fn once<T: Receipt>(
    root: &Root,
    key: &str,
    work: impl Future<Output = QueryResult<T>>,
) -> QueryResult<T> {
    let mut failure = None;
    let working = async {
        work.await.map_err(|cause| {
            failure = Some(cause);
            Error::internal("a task of prepare failed")
        })
    };
    let made = receipt::once(root, key, working).await;
    made.map_err(|error| failure.unwrap_or_else(|| own(error)))
}
