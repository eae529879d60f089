//! The one operator that is ours, and how it travels.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties,
};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use futures::{StreamExt, TryStreamExt, stream};

use super::runner::Runner;
use super::task::{ClusterTask, RunTarget};
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// What our bytes begin with. No message of Ballista's does: the first byte would open a group, which it has none of.
const TAG: &[u8] = b"scalingnote 1\n";

/// Pause before a transient failure is reported, since Ballista tries again at once.
const PAUSE: Duration = Duration::from_secs(2);

/// Executes the task in each row of its input, and yields a row when it is done: the task's id and the
/// executor.
#[derive(Debug)]
pub(super) struct TasksExec {
    target: Arc<RunTarget>,
    input: Arc<dyn ExecutionPlan>,
    /// Absent in the driver and in the scheduler, which pass plans on.
    runner: Option<Arc<Runner>>,
    properties: Arc<PlanProperties>,
}

impl TasksExec {
    fn new(
        target: Arc<RunTarget>,
        input: Arc<dyn ExecutionPlan>,
        runner: Option<Arc<Runner>>,
    ) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(done_schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { target, input, runner, properties: Arc::new(properties) }
    }
}

/// The plan of a job: one task per partition, no exchange.
pub(super) fn job(target: &RunTarget, tasks: &[ClusterTask]) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = task_schema();
    let mut partitions = Vec::with_capacity(tasks.len());
    for task in tasks {
        let json = serde_json::to_string(task).context(|| "writing a task as JSON")?;
        let column: ArrayRef = Arc::new(StringArray::from(vec![json]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column])
            .context(|| "putting a task into a batch")?;
        partitions.push(vec![batch]);
    }
    let scan = MemorySourceConfig::try_new_exec(&partitions, schema, None)
        .context(|| "making the scan of tasks")?;
    Ok(Arc::new(TasksExec::new(Arc::new(target.clone()), scan, None)))
}

fn task_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("task", DataType::Utf8, false)]))
}

fn done_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("task", DataType::Utf8, false),
        Field::new("executor", DataType::Utf8, false),
    ]))
}

impl DisplayAs for TasksExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TasksExec: run={}", self.target.run)
    }
}

impl ExecutionPlan for TasksExec {
    fn name(&self) -> &str {
        "TasksExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return Err(DataFusionError::Internal("TasksExec has one child".to_owned()));
        };
        Ok(Arc::new(Self::new(Arc::clone(&self.target), input, self.runner.clone())))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let Some(runner) = self.runner.clone() else {
            return Err(DataFusionError::Internal("only executors execute tasks".to_owned()));
        };
        let target = Arc::clone(&self.target);
        let tasks = self.input.execute(partition, context)?.and_then(|batch| async move {
            let column = batch.column_by_name("task").and_then(|c| c.as_string_opt::<i32>());
            let column = column.ok_or_else(|| {
                DataFusionError::Internal("a batch of tasks has no column `task`".to_owned())
            })?;
            Ok(column.iter().flatten().map(str::to_owned).collect::<Vec<_>>())
        });
        let done = tasks
            .map_ok(|batch| stream::iter(batch.into_iter().map(Ok::<_, DataFusionError>)))
            .try_flatten()
            .and_then(move |json: String| {
                let (runner, target) = (Arc::clone(&runner), Arc::clone(&target));
                async move { one(&runner, &target, &json).await }
            });
        Ok(Box::pin(RecordBatchStreamAdapter::new(done_schema(), done.boxed())))
    }
}

/// Executes one task; the row that says so.
async fn one(
    runner: &Arc<Runner>,
    target: &RunTarget,
    json: &str,
) -> DataFusionResult<RecordBatch> {
    let task: ClusterTask = serde_json::from_str(json)
        .map_err(|e| DataFusionError::Execution(format!("a task of another release: {e}")))?;
    let id = task.id().to_owned();
    if let Err(error) = runner.run(target, task).await {
        if passes(&error) {
            tokio::time::sleep(PAUSE).await;
        }
        return Err(foreign(&error));
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![id])),
        Arc::new(StringArray::from(vec![runner.name()])),
    ];
    Ok(RecordBatch::try_new(done_schema(), columns)?)
}

/// Whether another attempt may succeed. An executor that is stopped leaves its work to another one.
fn passes(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Transient | ErrorKind::Cancelled)
}

/// Ballista tries a task again after an I/O error only; any other fails the job.
fn foreign(error: &Error) -> DataFusionError {
    let text = error.to_string();
    match passes(error) {
        true => DataFusionError::IoError(std::io::Error::other(text)),
        false => DataFusionError::Execution(text),
    }
}

/// Ballista's codec with our operator in it. Executors give theirs a runner.
#[derive(Debug, Default)]
pub(super) struct Codec {
    pub runner: Option<Arc<Runner>>,
    ballista: BallistaPhysicalExtensionCodec,
}

impl Codec {
    pub fn of(runner: Arc<Runner>) -> Self {
        Self { runner: Some(runner), ..Self::default() }
    }
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let Some(ours) = bytes.strip_prefix(TAG) else {
            return self.ballista.try_decode(bytes, inputs, context, converter);
        };
        let target: RunTarget = serde_json::from_slice(ours)
            .map_err(|e| DataFusionError::Execution(format!("a plan of another release: {e}")))?;
        let [input] = inputs else {
            return Err(DataFusionError::Internal("TasksExec has one child".to_owned()));
        };
        let runner = self.runner.clone();
        Ok(Arc::new(TasksExec::new(Arc::new(target), Arc::clone(input), runner)))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> DataFusionResult<()> {
        let any: &dyn Any = node.as_ref();
        let Some(exec) = any.downcast_ref::<TasksExec>() else {
            return self.ballista.try_encode(node, bytes, converter);
        };
        bytes.extend_from_slice(TAG);
        serde_json::to_writer(bytes, exec.target.as_ref())
            .map_err(|e| DataFusionError::Internal(format!("writing an target as JSON: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use datafusion_proto::physical_plan::AsExecutionPlan;
    use datafusion_proto::protobuf::PhysicalPlanNode;

    use super::*;
    use crate::store::StorageOptions;

    #[test]
    fn a_job_has_one_partition_a_work_and_survives_the_wire() {
        let target = RunTarget {
            run: "r".to_owned(),
            root: "s3://bucket/notes".to_owned(),
            storage: StorageOptions::default(),
        };
        let check = |plan: &str| ClusterTask::Check { plan: plan.to_owned(), self_test: false };
        let plan = job(&target, &[check("a"), check("b"), check("c")]).unwrap();
        let codec = Codec::default();
        let node = PhysicalPlanNode::try_from_physical_plan(plan, &codec).unwrap();
        let mut bytes = Vec::new();
        node.try_encode(&mut bytes).unwrap();
        let node = PhysicalPlanNode::try_decode(&bytes).unwrap();
        let back = node.try_into_physical_plan(&TaskContext::default(), &codec).unwrap();
        assert_eq!(back.output_partitioning().partition_count(), 3);
        let any: &dyn Any = back.as_ref();
        let exec = any.downcast_ref::<TasksExec>().unwrap();
        assert_eq!(*exec.target, target);
        let refused = back.execute(0, Arc::new(TaskContext::default()));
        assert!(refused.is_err(), "without a runner nothing is done");
    }

    #[test]
    fn only_passing_faults_are_tried_again() {
        for (kind, again) in [
            (ErrorKind::Transient, true),
            (ErrorKind::Cancelled, true),
            (ErrorKind::Conflict, false),
            (ErrorKind::Corrupt, false),
            (ErrorKind::Internal, false),
        ] {
            let error = foreign(&Error::new(kind, "x"));
            assert_eq!(matches!(error, DataFusionError::IoError(_)), again, "{kind:?}");
        }
    }
}
