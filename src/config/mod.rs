//! The pipeline's configuration: a TOML file, overridden by environment variables and flags.
//!
//! [`resolve`] reads all three, reports every problem at once with its file, line and column, and
//! returns a typed [`Pipeline`] together with the origin of every value that is not in the file.

mod check;
mod document;
mod next;
mod overrides;
mod pipeline;
mod problem;
mod resolve;
mod secret;
mod show;
mod validate;

pub use document::Origin;
pub use next::NextOptions;
pub use overrides::ENV_PREFIX;
pub use pipeline::{CONFIG_VERSION, Pipeline, PublishOptions, QueryOptions};
pub(crate) use problem::nearest;
pub use problem::{Problem, Problems};
pub use resolve::{Resolved, resolve, resolve_text};
