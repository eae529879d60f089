//! From the rows of some shards, in any order, to their prepared files: the newest row of each note, rendered.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt32Type;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::Result as QueryResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{DataFrame, col};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::contract::{Contract, SHARD, SORT_COLUMNS};
use super::dedupe::Deduper;
use super::newest::{Doubts, Judge};
use super::render::{Rendered, Renderer, Tally};
use super::writer::ShardWriter;
use crate::corpus::outcome::PreparedShard;
use crate::corpus::session::own;
use crate::error::{Error, Result};
use crate::observe::{Event, Reporter, Stage};
use crate::store::receipt::Receipt;
use crate::store::{FileRef, Root};
use crate::types::Cancel;

/// What gathers rows, whichever shards they are of.
pub(super) struct Gatherer {
    pub(super) contract: Arc<Contract>,
    pub(super) renderer: Arc<Renderer>,
    /// Rows of a note that have no order are refused.
    pub(super) strict: bool,
    pub(super) root: Root,
    pub(super) run: String,
    pub(super) max_rejected: u64,
    pub(super) reporter: Arc<dyn Reporter>,
    pub(super) cancel: Cancel,
    /// Rows that were gathered, of all shards.
    pub(super) done: AtomicU64,
}

/// What became of the rows of some shards: the receipt of the task that gathered them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Gathered {
    pub(super) shards: Vec<PreparedShard>,
    pub(super) tally: Tally,
    pub(super) doubts: Doubts,
    /// Bytes that the sort put on disk.
    pub(super) spilled: u64,
}

impl Receipt for Gathered {
    fn files(&self) -> Vec<&FileRef> {
        self.shards.iter().map(|shard| &shard.file).collect()
    }
}

impl Gathered {
    /// Of all shards, in their order.
    pub(super) fn of(shards: Vec<Self>) -> Self {
        let mut all = Self::default();
        shards.into_iter().for_each(|next| all.merge(next));
        all
    }

    /// Adds what became of the next shards.
    fn merge(&mut self, next: Self) {
        self.shards.extend(next.shards);
        self.tally.merge(next.tally);
        self.doubts.merge(next.doubts);
        self.spilled += next.spilled;
    }
}

/// The rows by shard and note.
pub(super) fn sorted(rows: DataFrame) -> QueryResult<DataFrame> {
    rows.sort(SORT_COLUMNS.map(|name| col(name).sort(true, true)).to_vec())
}

type Rendering = JoinHandle<Result<Rendered>>;

impl Gatherer {
    /// Writes the prepared files of these shards, whose [`sorted`] rows `plan` gives.
    pub(super) async fn gather(
        self: &Arc<Self>,
        (plan, task): (Arc<dyn ExecutionPlan>, Arc<TaskContext>),
        shards: Range<u32>,
    ) -> QueryResult<Gathered> {
        let stream = execute_stream(Arc::clone(&plan), task)?;
        let (run, schema) = (self.run.clone(), Arc::clone(&self.renderer.schema));
        let writer = ShardWriter::new(self.root.clone(), run, schema, shards);
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let (sender, receiver) = mpsc::channel(workers);
        let write = SpawnedTask::spawn(Arc::clone(self).write(receiver, writer));
        let doubts = self.read(stream, sender).await?;
        let stopped = |e| own(Error::internal("the prepare writer stopped").with_source(e));
        let gathered = write.join().await.map_err(stopped)?.map_err(own)?;
        Ok(Gathered { doubts, spilled: spilled(plan.as_ref()), ..gathered })
    }

    /// Pulls sorted batches, drops duplicates and starts the rendering of what is left, shard by shard: what is rejected of one
    /// is told before what is of the next. The channel's bound is the number of batches in flight.
    async fn read(
        &self,
        mut stream: SendableRecordBatchStream,
        sender: mpsc::Sender<Rendering>,
    ) -> QueryResult<Doubts> {
        let mut deduper = Deduper::new(Judge::new(Arc::clone(&self.contract), self.strict));
        let (mut shard, mut ended) = (None, false);
        while !ended {
            let next = self.cancel.unless_stopped(async { Ok(stream.next().await) });
            let mut winners = Vec::new();
            match next.await.map_err(own)? {
                Some(batch) => {
                    for (next, rows) in by_shard(&batch?) {
                        if shard.replace(next).is_some_and(|before| before != next) {
                            winners.push(deduper.finish());
                        }
                        winners.push(deduper.push(rows).map_err(own)?);
                    }
                }
                None => {
                    ended = true;
                    winners.push(deduper.finish());
                }
            }
            for winners in winners {
                let renderer = Arc::clone(&self.renderer);
                let rendering = tokio::task::spawn_blocking(move || renderer.render(winners));
                if sender.send(rendering).await.is_err() {
                    // The writer has failed and says why.
                    return Ok(deduper.doubts());
                }
            }
        }
        Ok(deduper.doubts())
    }

    /// Writes rendered batches in order. Beyond `max_rejected` it writes nothing more but goes on counting.
    async fn write(
        self: Arc<Self>,
        mut receiver: mpsc::Receiver<Rendering>,
        mut writer: ShardWriter,
    ) -> Result<Gathered> {
        let mut all = Gathered::default();
        while let Some(rendering) = receiver.recv().await {
            let Rendered { pieces, tally } = rendering
                .await
                .map_err(|e| Error::internal("rendering notes").with_source(e))??;
            let rows = tally.rows_read;
            all.tally.merge(tally);
            if all.tally.rejections.total() <= self.max_rejected {
                for piece in pieces {
                    writer.push(piece).await?;
                }
            }
            let done = self.done.fetch_add(rows, Ordering::Relaxed) + rows;
            self.reporter.event(Event::Progress { stage: Stage::Prepare, done, tokens: 0 });
        }
        if all.tally.rejections.total() <= self.max_rejected {
            all.shards = writer.finish().await?;
        }
        Ok(all)
    }
}

/// The rows of each shard of a sorted batch.
fn by_shard(batch: &RecordBatch) -> Vec<(u32, RecordBatch)> {
    let mut parts = Vec::new();
    let mut from = 0;
    for rows in batch.column(SHARD).as_primitive::<UInt32Type>().values().chunk_by(|a, b| a == b) {
        parts.push((rows[0], batch.slice(from, rows.len())));
        from += rows.len();
    }
    parts
}

fn spilled(plan: &dyn ExecutionPlan) -> u64 {
    let own = plan.metrics().and_then(|metrics| metrics.spilled_bytes()).unwrap_or(0);
    own as u64 + plan.children().into_iter().map(|child| spilled(child.as_ref())).sum::<u64>()
}
