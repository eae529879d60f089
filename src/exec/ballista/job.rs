//! One job on the scheduler: submit it, follow it, cancel it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::BALLISTA_VERSION;
use ballista_core::config::BALLISTA_JOB_NAME;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::execute_query_result;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{
    CancelJobParams, ExecuteQueryParams, GetJobStatusParams, KeyValuePair,
};
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_endpoint};
use ballista_core::version::BALLISTA_VERSION_HEADER;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::PhysicalPlanNode;

use super::MAX_MESSAGE;
use super::plan::Codec;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::exec::SchedulerAddress;

/// Pause between two questions for a job's state.
const POLL: Duration = Duration::from_millis(300);

/// How long a scheduler may give no answer, or not know the job.
const SILENT: Duration = Duration::from_secs(20);

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Every task is done.
    Done,
    /// A task failed permanently; what the scheduler says.
    Failed(String),
    /// No executor works on it any more: the scheduler or all executors are gone. It may be submitted again.
    Lost(String),
}

/// Who looks after a job while it runs.
pub(super) trait Watching {
    /// Called periodically: an error cancels the job and is returned, `Some` gives the job up as lost.
    // A closure would do, but nothing can yet promise that what an `AsyncFnMut` returns is `Send`.
    fn look(&mut self) -> impl Future<Output = Result<Option<String>>> + Send;
}

/// Runs a job to its end.
pub(super) async fn run(
    scheduler: &SchedulerAddress,
    name: &str,
    plan: Arc<dyn ExecutionPlan>,
    watch: &mut impl Watching,
) -> Result<End> {
    let node = PhysicalPlanNode::try_from_physical_plan(plan, &Codec::default())
        .or_error(ErrorKind::Internal, || "encoding the plan of a job")?;
    let mut bytes = Vec::new();
    node.try_encode(&mut bytes).or_error(ErrorKind::Internal, || "encoding the plan of a job")?;
    let limits = GrpcClientConfig { max_message_size: MAX_MESSAGE, ..GrpcClientConfig::default() };
    let endpoint = create_grpc_client_endpoint(scheduler.url(), Some(&limits))
        .or_error(ErrorKind::Usage, || format!("{scheduler} is not the address of a scheduler"))?;
    let no_answer = |cause: &dyn std::fmt::Display| {
        End::Lost(format!("the scheduler {scheduler} does not answer ({cause})"))
    };
    let connection = match endpoint.connect().await {
        Ok(connection) => connection,
        Err(_) => return Ok(no_answer(&"no connection")),
    };
    let version =
        HashMap::from([(BALLISTA_VERSION_HEADER.to_owned(), BALLISTA_VERSION.to_owned())]);
    let config = SessionConfig::new_with_ballista().with_ballista_grpc_metadata(version);
    let interceptor = config.ballista_grpc_interceptor().as_ref().clone();
    let mut client = SchedulerGrpcClient::with_interceptor(connection, interceptor)
        .max_encoding_message_size(MAX_MESSAGE)
        .max_decoding_message_size(MAX_MESSAGE);
    let submission = ExecuteQueryParams {
        session_id: name.to_owned(),
        settings: vec![KeyValuePair {
            key: BALLISTA_JOB_NAME.to_owned(),
            value: Some(name.to_owned()),
        }],
        operation_id: format!("{:032x}", rand::random::<u128>()),
        query: Some(Query::PhysicalPlan(bytes)),
    };
    let job_id = match client.execute_query(submission).await {
        Ok(answer) => match answer.into_inner().result {
            Some(execute_query_result::Result::Success(accepted)) => accepted.job_id,
            refused => {
                return Ok(End::Failed(format!("the scheduler refuses the job: {refused:?}")));
            }
        },
        Err(status) => return Ok(no_answer(&status.message())),
    };
    let mut heard = Instant::now();
    loop {
        let question = GetJobStatusParams { job_id: job_id.clone() };
        let mut known = false;
        if let Ok(answer) = client.get_job_status(question).await {
            match answer.into_inner().status.and_then(|status| status.status) {
                Some(Status::Successful(_)) => return Ok(End::Done),
                Some(Status::Failed(failed))
                    if failed.error.contains("all executors were lost") =>
                {
                    return Ok(End::Lost("all executors were lost".to_owned()));
                }
                Some(Status::Failed(failed)) => return Ok(End::Failed(failed.error)),
                Some(Status::Queued(_) | Status::Running(_)) => known = true,
                None => {}
            }
        }
        if known {
            heard = Instant::now();
        } else if heard.elapsed() > SILENT {
            return Ok(no_answer(&"it is gone, or was restarted and forgot the job"));
        }
        let end = watch.look().await.map(|lost| lost.map(End::Lost)).transpose();
        if let Some(end) = end {
            // If it cannot be cancelled, its tasks find out that their run is over.
            let _untold = client.cancel_job(CancelJobParams { job_id }).await;
            return end;
        }
        tokio::time::sleep(POLL).await;
    }
}
