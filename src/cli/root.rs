//! The ROOT argument: a root URI, a path, or a pipeline file whose root it names.

use std::path::Path;

use super::args::SetArgs;
use crate::config::Pipeline;
use crate::error::Result;
use crate::store::Root;

/// An opened root, with the pipeline where the argument named one.
pub(super) struct Opened {
    pub root: Root,
    #[allow(dead_code)]
    pub pipeline: Option<Pipeline>,
}

/// Opens what the argument names. A path that ends in `.toml` is a pipeline file.
pub(super) fn open(argument: &str) -> Result<Opened> {
    if !argument.contains("://") && argument.ends_with(".toml") {
        let pipeline = super::args::resolve(Path::new(argument), &SetArgs::default())?.pipeline;
        let root = Root::open_with(&pipeline.publish.root, &pipeline.storage)?;
        return Ok(Opened { root, pipeline: Some(pipeline) });
    }
    // `Root::open` creates a missing folder, which is right for writers only.
    if !argument.contains("://") && !Path::new(argument).is_dir() {
        return Err(crate::error::Error::new(
            crate::error::ErrorKind::NotFound,
            format!("there is no root {argument}; name a folder, a URI or a pipeline file"),
        ));
    }
    Ok(Opened { root: Root::open(argument)?, pipeline: None })
}
