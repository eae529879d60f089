//! Leases: files that say who is at work, so that a gc deletes nothing that anyone needs.

mod holder;
mod leases;
mod reader;
mod run;
mod short;
mod since;

pub use holder::{Holder, host_name};
pub(super) use leases::{Leases, Patience};
pub use reader::ReaderLease;
pub(super) use run::living_run;
pub use run::{RunLease, Taken, is_current_run};
pub use short::check_store;
pub(super) use short::{COMMIT_LIMIT, HELD_LIMIT, Lease};
