//! Tables that only an engine of their own can read: which files and rows of them count, it alone knows.

#[cfg(feature = "databases")]
mod database;
#[cfg(feature = "delta")]
mod delta;
mod opened;

use datafusion::prelude::SessionContext;

pub(super) use self::opened::{Changes, Engine};
use super::find::Finder;
use crate::corpus::options::{TableFormat, TableOptions};
use crate::corpus::outcome::{InputFile, Position};
use crate::error::Result;

/// The engines of this build, with what they have open.
#[derive(Default)]
pub(super) struct Engines {
    #[cfg(feature = "databases")]
    databases: database::Databases,
}

#[cfg_attr(
    not(all(feature = "delta", feature = "databases")),
    allow(unused_variables, clippy::unused_async, reason = "what is not built needs nothing")
)]
impl Engines {
    /// Opens a table, and tells what the report says of it; where its history can be told, what changed `since`, too.
    ///
    /// # Errors
    /// Unsupported where this build lacks the engine, or the engine cannot read the table; as the engine about what is
    /// not there.
    pub(super) async fn open(
        &mut self,
        context: &SessionContext,
        options: &TableOptions,
        format: TableFormat,
        finder: &mut Finder<'_>,
        since: Option<&Position>,
    ) -> Result<(Engine, InputFile)> {
        match format {
            #[cfg(feature = "delta")]
            TableFormat::Delta => delta::open(context, options, finder, since).await,
            #[cfg(not(feature = "delta"))]
            TableFormat::Delta => Err(not_built("Delta tables", "delta")),
            #[cfg(feature = "databases")]
            _ => self.databases.open(options, format, finder, since).await,
            #[cfg(not(feature = "databases"))]
            _ => Err(not_built("databases", "databases")),
        }
    }
}

#[cfg(not(all(feature = "delta", feature = "databases")))]
fn not_built(what: &str, feature: &str) -> crate::error::Error {
    crate::error::Error::unsupported(format!(
        "this program was built without {what}; build it with `cargo build --release --features {feature}`"
    ))
}
