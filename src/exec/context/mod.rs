//! What a run is given and what it holds: the request, its id, its lease, its towers.

mod cluster;
pub(super) mod lease;
mod request;
mod run_id;
mod session;
mod towers;

#[cfg(not(feature = "cluster"))]
pub use cluster::not_built;
pub use cluster::{ClusterOptions, SchedulerAddress};
pub use request::{RunContext, RunOptions};
pub use run_id::new_run_id;
pub(super) use session::Session;
pub use towers::check_query_tower;
