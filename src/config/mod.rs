//! The pipeline's configuration: a TOML file, overridden by environment variables and flags.
//!
//! [`resolve`] reads all three, reports every problem at once with its file, line and column, and
//! returns a typed [`Pipeline`] that knows the origin of every value: what a run finds wrong with one is told with its
//! place, too. A default may depend on the file's version; [`upgrade()`] writes a file in the newest one.

mod check;
mod defaults;
mod document;
mod edit;
mod file;
mod fill;
mod models;
mod next;
mod origin;
mod overrides;
mod pipeline;
mod places;
mod problem;
mod propose;
mod query;
mod resolve;
mod secret;
mod show;
#[cfg(any(test, feature = "cluster"))]
mod signatures;
mod upgrade;
mod validate;
mod version;
mod written;

pub use defaults::DefaultChange;
pub(crate) use file::read;
pub use fill::Named;
pub use models::ModelSaid;
pub use next::NextOptions;
pub use origin::{ENV_PREFIX, Origin, Origins};
pub use pipeline::{Pipeline, PublishOptions};
pub(crate) use problem::nearest;
pub use problem::{Problem, Problems};
pub use propose::{Choices, Place, Proposal, pipeline_file, propose};
pub use query::QueryOptions;
pub use resolve::{Resolved, resolve, resolve_text};
pub(crate) use show::word;
pub use upgrade::{Upgrade, upgrade};
pub use version::PipelineVersion;
pub(crate) use written::Written;

// What a pipeline is made of.
#[doc(inline)]
pub use crate::corpus::{
    ColumnType, CorpusMode, CorpusOptions, TableFormat, TableOptions, TextEncoding, TimeFormat,
    TypeRule,
};
#[doc(inline)]
pub use crate::index::{Builder, IndexOptions, Quantization};
#[doc(inline)]
pub use crate::stage::{
    AdaptOptions, BuildOptions, ChunkingOptions, EncodeOptions, EvaluationOptions, GateOptions,
};
#[doc(inline)]
pub use crate::tower::{Defaults, DeviceSpec, SpecialTokens, TowerOptions};
