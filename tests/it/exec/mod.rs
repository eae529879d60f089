//! Whole runs: days, nights, several workers, and what ends them in the middle.

mod adapt;
mod backfill;
mod clocks;
#[cfg(feature = "cluster")]
mod cluster;
mod days;
mod evaluation;
mod full_disk;
mod hidden;
mod kills;
mod leases;
mod prepared_shares;
mod pushed;
mod schedules;
mod shared_work;
mod spawned;
mod towers_once;
mod turns;
mod two_towers;
