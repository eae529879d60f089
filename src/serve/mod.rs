//! The reference service over one root: search by text or vector, health, metrics. Not a vector database.
//!
//! ```text
//! GET|POST /search   text or vector, k, exact, where -> {"snapshot": 42, "query_tower": ..., "hits": [...]}
//! GET /healthz       200 with number and age while a snapshot is in service, else 503
//! GET /metrics       Prometheus text
//! GET /              a page for people: search, comparisons, the snapshot's card, its history
//! ```
//!
//! A request takes the snapshot in service once, at its start, with the tower that belongs to it: no answer mixes two. What
//! is asked for is never logged.
//!
//! Connections are bounded in number, time and memory ([`Limits`]). Where one of these is used up, a client that keeps the
//! server waiting makes room for one that does not.

mod app;
mod bound;
mod browse;
mod connection;
mod filters;
mod hosts;
mod limits;
mod metrics;
mod page;
mod refusal;
mod request;
mod search;
mod server;

pub use bound::Bound;
pub(crate) use connection::raise_descriptors;
pub use limits::Limits;
pub use server::Server;
