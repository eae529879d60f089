//! `scalingnote cluster`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::app::App;
use super::args::{device, duration};
use crate::error::Result;
use crate::exec::SchedulerAddress;

/// Start the scheduler or an executor of a cluster that does the work of runs
///
/// Start one scheduler, and one executor for each device. Then use `run --cluster` on any machine
/// that can reach the scheduler and the root. The pipeline file, the plan, the tasks and what they
/// write are the same as without a cluster. Executors ask the scheduler for work and listen on no
/// port. Both run until SIGTERM (exit code 0).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote cluster scheduler
  scalingnote cluster executor --scheduler 127.0.0.1:50050 --device cpu
  scalingnote run daily.toml --cluster df://127.0.0.1:50050

Requires a build with `cargo build --release --features cluster`.")]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    Scheduler(SchedulerArgs),
    Executor(ExecutorArgs),
}

/// Hand out tasks to executors
///
/// The scheduler keeps its queues in memory: after a restart they are empty, and runs submit again
/// what is missing. There is no TLS and no authentication.
#[derive(Debug, Args)]
struct SchedulerArgs {
    /// Address and port to listen on; port 0 picks a free one and prints it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50050")]
    bind: SocketAddr,
    /// Confirm that only the machines of the cluster can reach --bind.
    #[arg(long)]
    closed_network: bool,
    /// How long an executor may go without asking for work before it is considered lost; at least
    /// 10s.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::parse)]
    lost_after: Duration,
}

/// Run tasks on one device
///
/// Start one executor for each device. It needs whatever tasks need: the tower's files at the same
/// path as everywhere else, the corpus, and the stores' credentials in its environment.
#[derive(Debug, Args)]
struct ExecutorArgs {
    /// Address of the scheduler.
    #[arg(long, value_name = "HOST:PORT", env = "SCALINGNOTE_SCHEDULER")]
    scheduler: SchedulerAddress,
    /// Device to compute on: cpu or cuda:<number>.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::name)]
    device: String,
    /// Number of threads for a cpu device; 0 uses all of them, which suits one executor per
    /// machine.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

#[cfg(feature = "cluster")]
pub(super) async fn execute(args: ClusterArgs, app: &App) -> Result<()> {
    use crate::error::Error;
    use crate::exec::{ExecutorOptions, Scheduler, SchedulerOptions, run_executor};
    use crate::tower::DeviceSpec;

    match args.command {
        ClusterCommand::Scheduler(args) => {
            let options = SchedulerOptions {
                bind: args.bind,
                closed_network: args.closed_network,
                lost_after: args.lost_after,
            };
            let scheduler = Scheduler::bind(&options).await?;
            app.print(&format!("scheduling on df://{}\n", scheduler.address()))?;
            scheduler.run(app.cancel.clone()).await?;
        }
        ClusterCommand::Executor(args) => {
            let device = device::parse(&args.device).map_err(Error::usage)?;
            let device = match device {
                DeviceSpec::Cpu { .. } => DeviceSpec::Cpu { threads: args.threads },
                other => other,
            };
            let options =
                ExecutorOptions { scheduler: args.scheduler, device, device_name: args.device };
            run_executor(options, app.reporter.clone(), app.cancel.clone()).await?;
        }
    }
    Ok(())
}

#[cfg(not(feature = "cluster"))]
pub(super) async fn execute(args: ClusterArgs, _: &App) -> Result<()> {
    match args.command {
        ClusterCommand::Scheduler(SchedulerArgs { bind: _, closed_network: _, lost_after: _ })
        | ClusterCommand::Executor(ExecutorArgs { scheduler: _, device: _, threads: _ }) => {
            Err(crate::exec::not_built())
        }
    }
}
