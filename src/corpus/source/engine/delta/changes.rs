//! What changed in a table from one version to another, by its change data feed.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::datasource::physical_plan::ParquetSource;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use deltalake_core::DeltaTable;
use deltalake_core::delta_datafusion::DeltaCdfTableProvider;
use deltalake_core::kernel::EagerSnapshot;
use deltalake_core::logstore::LogStoreRef;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;

use crate::corpus::source::engine::opened::Changes;
use crate::observe::format::counted;

/// How many requests to a store run at once.
const REQUESTS: usize = 16;

/// What changed after version `from` up to that of `snapshot`.
///
/// # Errors
/// Why that is in doubt, for people.
pub(super) async fn since(
    context: &SessionContext,
    log: &LogStoreRef,
    snapshot: &EagerSnapshot,
    from: u64,
) -> Result<Changes, String> {
    let to = snapshot.version();
    if from > to {
        return Err(format!("it had version {from} before, and has only {to} now"));
    }
    if snapshot.table_properties().enable_change_data_feed != Some(true) {
        return Err("it has no change data feed (delta.enableChangeDataFeed)".to_owned());
    }
    for version in from + 1..=to {
        let gone = || format!("its log has version {version} no longer");
        let entry = log.read_commit_entry(version).await.ok().flatten().ok_or_else(gone)?;
        let mut actions = entry.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let is_table = |line: &[u8]| {
            let action: Option<serde_json::Map<String, serde_json::Value>> =
                serde_json::from_slice(line).ok();
            action.is_none_or(|action| {
                action.contains_key("metaData") || action.contains_key("protocol")
            })
        };
        if actions.any(is_table) {
            return Err(format!("version {version} changed the table itself, not only its rows"));
        }
    }
    let unread = |e: &dyn std::fmt::Display| {
        format!("its changes cannot be read: {}", e.to_string().lines().next().unwrap_or_default())
    };
    let mut table = DeltaTable::new(Arc::clone(log));
    table.load_version(to).await.map_err(|e| unread(&e))?;
    let builder = table.scan_cdf().with_starting_version(from + 1).with_ending_version(to);
    let provider = DeltaCdfTableProvider::try_new(builder.with_allow_out_of_range())
        .map_err(|e| unread(&e))?;
    // Check now that the files still exist: after a VACUUM the changes cannot be read, and the caller falls back to all rows.
    let plan = provider.scan(&context.state(), None, &[], None).await.map_err(|e| unread(&e))?;
    let mut found = Vec::new();
    files_of(&plan, &mut found);
    let checks = futures::stream::iter(found.clone()).map(|(url, file)| async move {
        let store = context.runtime_env().object_store(url).map_err(|e| unread(&e))?;
        store.head(&file.location).await.map_err(|e| unread(&e))
    });
    checks.buffered(REQUESTS).try_for_each(|_| async { Ok(()) }).await?;
    let bytes = found.iter().map(|(_, file)| file.size).sum();
    let read = format!(
        "what changed from version {from} to {to} of a Delta table, in {}",
        counted(found.len() as u64, "file")
    );
    Ok(Changes { provider: Arc::new(provider), bytes, read })
}

type Found = (datafusion::execution::object_store::ObjectStoreUrl, object_store::ObjectMeta);

/// The files that a plan reads.
fn files_of(plan: &Arc<dyn ExecutionPlan>, found: &mut Vec<Found>) {
    let source = plan.downcast_ref::<DataSourceExec>();
    if let Some((scan, _)) = source.and_then(|s| s.downcast_to_file_source::<ParquetSource>()) {
        for file in scan.file_groups.iter().flat_map(|group| group.iter()) {
            found.push((scan.object_store_url.clone(), file.object_meta.clone()));
        }
    }
    for child in plan.children() {
        files_of(child, found);
    }
}
