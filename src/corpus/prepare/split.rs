//! Whether several tasks can read a corpus, and which files each of them reads.

use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;

use super::per_row::scan_of;
use crate::corpus::source::groups::Extent;
use crate::corpus::source::tables::{SourceTable, Tables};

/// Who reads a corpus.
pub(super) enum Split {
    /// One task all of it, and why.
    One(String),
    /// A task each of these shares of the one table.
    Shares(Arc<SourceTable>, Vec<Vec<Extent>>),
}

impl Split {
    /// Shares of about this many bytes of files, where the query makes each of its rows of one row of them, whatever the
    /// others are.
    pub(super) fn of(plan: &LogicalPlan, tables: &Tables, shards: u32, bytes: u64) -> Self {
        shares(plan, tables, shards, bytes)
            .map_or_else(Self::One, |(table, shares)| Self::Shares(table, shares))
    }
}

fn shares(
    plan: &LogicalPlan,
    tables: &Tables,
    shards: u32,
    bytes: u64,
) -> Result<(Arc<SourceTable>, Vec<Vec<Extent>>), String> {
    let name = scan_of(plan)?.table_name.table();
    let table = tables.tables().iter().find(|table| table.name() == name);
    let no_files = || format!("table `{name}` is not made of files");
    let table = table.ok_or_else(no_files)?;
    let shares = table.shares(bytes).ok_or_else(no_files)?;
    if shares.len() < 2 {
        return Err(match table.files() {
            [_] => format!("table `{name}` is one file that is not cut"),
            _ => format!("the files of table `{name}` are one share of corpus.share_mib"),
        });
    }
    if shards < 2 {
        return Err("all notes are in one shard".to_owned());
    }
    Ok((Arc::clone(table), shares))
}
