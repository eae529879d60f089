//! Tables of Delta Lake: one version of one, whatever is written to it meanwhile.

mod changes;

use std::error::Error as StdError;
use std::sync::Arc;

use chrono::DateTime;
use datafusion::prelude::SessionContext;
use deltalake_core::delta_datafusion::{DeltaScanConfig, DeltaScanNext};
use deltalake_core::kernel::EagerSnapshot;
use deltalake_core::kernel::transaction::TransactionError;
use deltalake_core::logstore::{StorageConfig, default_logstore};
use object_store::prefix::PrefixStore;

use super::opened::Engine;
use crate::corpus::options::TableOptions;
use crate::corpus::outcome::{InputFile, Position};
use crate::corpus::source::find::{Finder, Folder};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::format::counted;
use crate::store::kind_of_foreign;

/// Reads the log of a table as far as its version, the newest unless the options say which.
///
/// # Errors
/// Input for a folder that is not a Delta table, or lacks the version; Unsupported for tables with features that cannot be
/// read.
pub(super) async fn open(
    context: &SessionContext,
    options: &TableOptions,
    finder: &mut Finder<'_>,
    since: Option<&Position>,
) -> Result<(Engine, InputFile)> {
    let Folder { store, path, url } = finder.folder(options).await?;
    // Files are named by their whole addresses: a clone's are in another folder.
    context.register_object_store(&url, Arc::clone(&store));
    let table = Arc::new(PrefixStore::new(Arc::clone(&store), path));
    let log = default_logstore(table, store, &url, &StorageConfig::default());
    let at = match options.version {
        Some(version) => format!("{url} at version {version}"),
        None => url.to_string(),
    };
    let snapshot = EagerSnapshot::try_new(&log, options.version).await;
    let snapshot = snapshot.map_err(|cause| refused(&at, cause))?;
    let version = snapshot.version();
    let modified = snapshot.version_timestamp(version).or(snapshot.metadata().created_time());
    let modified = modified.and_then(DateTime::from_timestamp_millis).unwrap_or_default();
    let files = snapshot.try_log_data().map_err(|cause| refused(&at, cause))?;
    let input = InputFile {
        table: options.name.clone(),
        uri: url.to_string(),
        size: files.iter().map(|file| u64::try_from(file.size()).unwrap_or(0)).sum(),
        etag: None,
        modified: modified.to_rfc3339(),
        version: Some(version),
        read: Some(format!(
            "version {version} of a Delta table, in {}",
            counted(files.num_files() as u64, "file")
        )),
    };
    let (uri, id) = (input.uri.clone(), snapshot.metadata().id().to_owned());
    let position = Position { uri, id, version: Some(version), mark: None };
    let changes = match since {
        None => None,
        Some(before) if before.uri != position.uri || before.id != position.id => {
            Some(Err("it is another table".to_owned()))
        }
        Some(before) => {
            let from = before.version.unwrap_or_default();
            Some(changes::since(context, &log, &snapshot, from).await)
        }
    };
    let config = DeltaScanConfig {
        // Plain strings, as all other tables have them.
        wrap_partition_values: false,
        ..DeltaScanConfig::new_from_session(&context.state())
    };
    let scan = DeltaScanNext::new(snapshot, config).map_err(|cause| refused(&at, cause))?;
    Ok((Engine { provider: Arc::new(scan), position: Some(position), changes }, input))
}

/// What is wrong with a table that cannot be read.
fn refused(table: &str, cause: impl StdError + Send + Sync + 'static) -> Error {
    let lacks = features(&cause);
    if !lacks.is_empty() {
        return Error::unsupported(format!(
            "{table} has the table features {}, which cannot be read; write its current rows to a table without them, or \
             to Parquet",
            lacks.join(", ")
        ));
    }
    let text = cause.to_string();
    let text = text.lines().next().unwrap_or_default();
    let kind = match kind_of_foreign(&cause, ErrorKind::Input) {
        // The log's reader has no kind of its own for that.
        ErrorKind::Input if text.to_lowercase().contains("unsupported") => ErrorKind::Unsupported,
        kind => kind,
    };
    Error::new(kind, format!("{table} cannot be read as a Delta table: {text}"))
}

/// The features that a table asks its readers for and that the engine does not have.
fn features(cause: &(dyn StdError + 'static)) -> Vec<String> {
    let mut link = Some(cause);
    while let Some(error) = link {
        if let Some(TransactionError::UnsupportedTableFeatures(features)) = error.downcast_ref() {
            return features.iter().map(ToString::to_string).collect();
        }
        link = error.source();
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
