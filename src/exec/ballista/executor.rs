//! An executor process: asks the scheduler for work, one task at a time, and listens on nothing.

use std::sync::Arc;
use std::time::Duration;

use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{ExecutorRegistration, ExecutorStoppedParams};
use ballista_core::serde::scheduler::{
    ExecutorOperatingSystemSpecification, ExecutorSpecification,
};
use ballista_core::serde::{BallistaCodec, BallistaLogicalExtensionCodec};
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_endpoint};
use ballista_core::{BALLISTA_PROTOCOL_VERSION, ConfigProducer, RuntimeProducer};
use ballista_executor::execution_loop::poll_loop;
use ballista_executor::executor::Executor;
use ballista_executor::health::ExecutorHealth;
use ballista_executor::metrics::LoggingMetricsCollector;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};

use super::MAX_MESSAGE;
use super::plan::Codec;
use super::runner::Runner;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::exec::SchedulerAddress;
use crate::observe::Reporter;
use crate::snapshot::host_name;
use crate::tower::DeviceSpec;
use crate::types::Cancel;

/// How often a request to stop is looked for.
const TICK: Duration = Duration::from_millis(50);

/// Pause before the scheduler is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// How long the scheduler is waited for when an executor says goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// What an executor is started with.
#[derive(Debug, Clone)]
pub struct ExecutorOptions {
    /// The scheduler it asks for work.
    pub scheduler: SchedulerAddress,
    /// Where it encodes.
    pub device: DeviceSpec,
    /// The device as it was named, for people.
    pub device_name: String,
}

/// Works until `cancel`: the current task is then stopped after its batch, what it finished is kept, and the rest is
/// left to other executors.
///
/// # Errors
/// Resource where no temporary folder can be made; Internal where Ballista's loop ends.
pub async fn run_executor(
    options: ExecutorOptions,
    reporter: Arc<dyn Reporter>,
    cancel: Cancel,
) -> Result<()> {
    let name = name();
    let scheduler = &options.scheduler;
    reporter.info(format!("executor {name} on {} asks {scheduler} for work", options.device_name));
    let limits = GrpcClientConfig { max_message_size: MAX_MESSAGE, ..GrpcClientConfig::default() };
    let endpoint = create_grpc_client_endpoint(scheduler.url(), Some(&limits))
        .or_error(ErrorKind::Usage, || format!("{scheduler} is not the address of a scheduler"))?;
    let mut told = false;
    let connection = loop {
        match endpoint.connect().await {
            Ok(connection) => break connection,
            Err(_) if !told => {
                told = true;
                reporter.warn(format!("the scheduler {scheduler} does not answer; trying again"));
            }
            Err(_) => {}
        }
        if tokio::time::timeout(RETRY, cancel.cancelled()).await.is_ok() {
            return Ok(());
        }
    };
    let mut client = SchedulerGrpcClient::new(connection)
        .max_encoding_message_size(MAX_MESSAGE)
        .max_decoding_message_size(MAX_MESSAGE);
    let runner = Arc::new(Runner::new(
        name.clone(),
        options.device.clone(),
        options.device_name.clone(),
        Arc::clone(&reporter),
        cancel.clone(),
    ));
    let folder = tempfile::tempdir()
        .or_error(ErrorKind::Resource, || "making a temporary folder for task states")?;
    let executor = Arc::new(executor(&name, folder.path())?);
    let codec: BallistaCodec<LogicalPlanNode, PhysicalPlanNode> = BallistaCodec::new(
        Arc::new(BallistaLogicalExtensionCodec::default()),
        Arc::new(Codec::of(Arc::clone(&runner))),
    );
    let health = ExecutorHealth::new();
    let mut polling =
        tokio::spawn(poll_loop(client.clone(), executor, codec, None, None, health.clone()));
    let mut known = false;
    while !cancel.is_cancelled() {
        tokio::select! {
            ended = &mut polling => {
                let why = match ended {
                    Ok(Ok(())) => "it returned".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                return Err(Error::internal(format!("Ballista's loop for work ended: {why}")));
            }
            () = tokio::time::sleep(TICK) => {}
        }
        let heard = health.is_ready();
        match (std::mem::replace(&mut known, heard), heard) {
            (false, true) => reporter.info(format!("executor {name} is known to {scheduler}")),
            (true, false) => {
                reporter.warn(format!("the scheduler {scheduler} does not answer; trying again"));
            }
            _ => {}
        }
    }
    // No answer of the scheduler may bring new work now, and none may be told of a failure that is none.
    polling.abort();
    let _aborted = polling.await;
    runner.idle().await;
    let goodbye = ExecutorStoppedParams { executor_id: name, reason: "stopped".to_owned() };
    let _unheard = tokio::time::timeout(GOODBYE, client.executor_stopped(goodbye)).await;
    Ok(())
}

/// A name of its own for every start: a scheduler must not take a new process for the one before.
fn name() -> String {
    let host: String = host_name()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' })
        .take(64)
        .collect();
    format!("{host}-{:08x}", rand::random::<u32>())
}

fn executor(name: &str, folder: &std::path::Path) -> Result<Executor> {
    let registration = ExecutorRegistration {
        id: name.to_owned(),
        // It listens on nothing: what the scheduler may want to tell it fails at once, and comes as an answer instead.
        host: Some("127.0.0.1".to_owned()),
        port: 1,
        grpc_port: 1,
        specification: Some(ExecutorSpecification::default().with_vcores(1).into()),
        os_info: Some(ExecutorOperatingSystemSpecification::default().into()),
        ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
    };
    let runtime = RuntimeEnvBuilder::new()
        .build_arc()
        .or_error(ErrorKind::Internal, || "starting DataFusion")?;
    let runtime_producer: RuntimeProducer = Arc::new(move |_| Ok(Arc::clone(&runtime)));
    let config_producer: ConfigProducer = Arc::new(SessionConfig::new_with_ballista);
    let folder = folder
        .to_str()
        .ok_or_else(|| Error::resource("the temporary folder's name is not Unicode; set TMPDIR"))?;
    Ok(Executor::with_default_execution_engine(
        registration,
        folder,
        runtime_producer,
        config_producer,
        Arc::default(),
        Arc::new(LoggingMetricsCollector::default()),
        1,
    ))
}
