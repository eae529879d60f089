//! The scheduler process. It keeps queues in memory only: a new one starts empty, and drivers submit again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use tokio::net::TcpListener;

use super::MAX_MESSAGE;
use super::plan::Codec;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::types::Cancel;

/// How often a task is tried whose failure may be temporary.
const ATTEMPTS: usize = 4;

/// What a scheduler is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Where it listens; port 0 takes a free one.
    pub bind: SocketAddr,
    /// A person says that only machines of the cluster can reach `bind`. Anyone who can reach it can have executors
    /// read and write whatever they may.
    pub closed_network: bool,
    /// An executor that has not asked for this long is lost, and its tasks go to others. An executor asks at least
    /// every 5 seconds.
    pub lost_after: Duration,
}

impl SchedulerOptions {
    /// Least [`SchedulerOptions::lost_after`]: two questions of an executor.
    pub const LEAST_LOST_AFTER: Duration = Duration::from_secs(10);
}

/// A scheduler that listens.
pub struct Scheduler {
    listener: TcpListener,
    address: SocketAddr,
    config: SchedulerConfig,
}

impl Scheduler {
    /// Listens.
    ///
    /// # Errors
    /// Usage where the address can be reached from elsewhere and nobody said that the network is closed.
    pub async fn bind(options: &SchedulerOptions) -> Result<Self> {
        if !options.bind.ip().is_loopback() && !options.closed_network {
            return Err(Error::usage(format!(
                "{} can be reached from elsewhere, and a scheduler knows neither TLS nor passwords: anyone who reaches \
                     it can have executors read and write what they may; close the network to all but the cluster and \
                     say so with --closed-network, or bind to 127.0.0.1",
                options.bind
            )));
        }
        let cannot = || format!("cannot listen on {}", options.bind);
        let listener =
            TcpListener::bind(options.bind).await.map_err(|cause| Error::io(cause, cannot()))?;
        let address = listener.local_addr().or_error(ErrorKind::Resource, cannot)?;
        let lost_after = options.lost_after.max(SchedulerOptions::LEAST_LOST_AFTER).as_secs();
        let config = SchedulerConfig {
            bind_host: address.ip().to_string(),
            bind_port: address.port(),
            scheduling_policy: TaskSchedulingPolicy::PullStaged,
            override_physical_codec: Some(Arc::new(Codec::default())),
            grpc_server_max_decoding_message_size: MAX_MESSAGE as u32,
            grpc_server_max_encoding_message_size: MAX_MESSAGE as u32,
            executor_timeout_seconds: lost_after,
            expire_dead_executor_interval_seconds: (lost_after / 10).max(1),
            // A driver has its own patience.
            no_executors_grace_period_seconds: 24 * 3600,
            task_max_failures: ATTEMPTS,
            stage_max_failures: ATTEMPTS,
            ..SchedulerConfig::default()
        };
        Ok(Self { listener, address, config })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `cancel`.
    ///
    /// # Errors
    /// Internal where Ballista's scheduler does not start or ends.
    pub async fn run(self, cancel: Cancel) -> Result<()> {
        let cluster = BallistaCluster::new_from_config(&self.config)
            .await
            .or_error(ErrorKind::Internal, || "starting Ballista's scheduler")?;
        let scheduler =
            create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(self.config))
                .await
                .or_error(ErrorKind::Internal, || "starting Ballista's scheduler")?;
        tokio::select! {
            ended = start_grpc_service_with_listener(self.listener, scheduler) => {
                ended.or_error(ErrorKind::Internal, || "Ballista's scheduler ended")
            }
            () = cancel.cancelled() => Ok(()),
        }
    }
}
