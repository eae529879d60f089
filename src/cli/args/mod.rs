//! Flags that several subcommands have, and what they are read as.

pub(super) mod device;
pub(super) mod duration;
pub(super) mod number;
mod output;
mod pipeline;
pub(super) mod place;
pub(super) mod pooling;
pub(super) mod root;

pub(super) use output::{Color, Global, LogFormat, ProgressMode, color_of};
pub(super) use pipeline::{PipelineArgs, environment, resolve};
