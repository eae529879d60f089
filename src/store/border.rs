//! Step borders: after every kind of write that a run or a gc makes, it may be killed.
//!
//! The store itself passes them, by the kind of the key, so no write is without one. The crash table of tests/README.md
//! is made from [`Border::ALL`], and `tests/it/exec/kills.rs` kills the real program at each.
//! `SCALINGNOTE_FAIL_AT=part:2` ends the process, as `kill -9` would, right after the second part was stored; without
//! that variable nothing happens.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::layout::{self, Key, LeaseKind};

/// The environment variable that names where to die: `name` or `name:nth`.
pub const FAIL_AT: &str = "SCALINGNOTE_FAIL_AT";

macro_rules! borders {
    ($($(#[$doc:meta])* $variant:ident = $name:literal: $what:literal, $left:literal, $next:literal;)*) => {
        /// What was written (or deleted) last.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "each says what it is in `what`")]
        pub enum Border { $($variant,)* }

        impl Border {
            /// Every border, in the order in which a run and then a gc passes them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in `SCALINGNOTE_FAIL_AT`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened last, for people.
            pub fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }

            /// What a kill leaves behind.
            pub fn left(self) -> &'static str {
                match self { $(Self::$variant => $left,)* }
            }

            /// What happens next time.
            pub fn next(self) -> &'static str {
                match self { $(Self::$variant => $next,)* }
            }
        }
    };
}

borders! {
    RunLease = "run-lease": "the run took its lease",
        "the lease",
        "takes over: at once on the same machine, elsewhere when no heartbeat came for five minutes";
    Torn = "torn": "half a file is written",
        "half a file under a name that nothing lists (local disk; a bucket shows nothing)",
        "writes the file; `snapshot gc` removes the half";
    Prepared = "prepared": "a shard's notes were prepared",
        "prepared text without a plan",
        "prepares under a run id of its own";
    Located = "located": "stored vectors were located",
        "prepared text without a plan",
        "prepares under a run id of its own";
    Plan = "plan": "the plan was stored",
        "a plan without results",
        "plans again";
    Part = "part": "a part was stored",
        "vectors without a receipt: nothing uses them",
        "encodes these texts again, and everything after them";
    PartReceipt = "part-receipt": "a part got its receipt",
        "a finished part",
        "encodes only what no finished part holds";
    EncodeReceipt = "encode-receipt": "a shard is encoded",
        "all vectors of the shard",
        "encodes nothing of this shard";
    Calibration = "calibration": "the i8 scale was fitted",
        "the scale, frozen",
        "encodes nothing, builds with this scale";
    TowerFile = "tower-file": "a file of the adapted query tower was stored",
        "a tower without a receipt: no snapshot names it",
        "encodes nothing, adapts the tower again";
    AdaptReceipt = "adapt-receipt": "the query tower is adapted",
        "the adapted tower",
        "takes the tower as it is";
    Ids = "ids": "a shard's ids were stored",
        "an ids file without an index",
        "writes the same ids file again, builds the index";
    Index = "index": "an index was stored",
        "an index without a receipt",
        "builds it again: the same bytes under the same name";
    Sidecar = "sidecar": "its f16 vectors were stored",
        "an index and its vectors without a receipt",
        "builds both again: the same bytes under the same names";
    IndexReceipt = "index-receipt": "the index got its receipt",
        "a finished index",
        "takes the index as it is";
    BuildReceipt = "build-receipt": "a shard is built",
        "a finished shard",
        "plans the day again and takes over every finished shard";
    CommitLease = "commit-lease": "publishing began",
        "finished shards, a commit lease",
        "publishes; a gc waits until the lease is stale";
    Manifest = "manifest": "the snapshot was published",
        "the new snapshot, whole; a commit lease",
        "finds nothing to do";
    CommitLeaseGone = "commit-lease-gone": "publishing ended",
        "the new snapshot; no report",
        "finds nothing to do";
    ReportJson = "report-json": "the report was stored",
        "the new snapshot, its report as JSON",
        "finds nothing to do";
    ReportHtml = "report-html": "the report's page was stored",
        "the new snapshot, its report",
        "finds nothing to do";
    RunLeaseGone = "run-lease-gone": "the lease was released",
        "the new snapshot, its report",
        "finds nothing to do";
    PreparedGone = "prepared-gone": "a day without changes is cleaned up",
        "prepared text of some shards",
        "finds nothing to do";
    GcLease = "gc-lease": "a gc batch began",
        "a gc lease",
        "waits for a minute on the same machine, elsewhere ends with 75 until the lease is 15 minutes old";
    ManifestGone = "manifest-gone": "gc deleted an old snapshot",
        "files that no snapshot names",
        "is not affected; the next gc continues";
    ReceiptGone = "receipt-gone": "gc deleted a receipt",
        "files that no receipt names",
        "makes them again if it needs them; the next gc continues";
    FileGone = "file-gone": "gc deleted a file",
        "fewer files that nothing names",
        "is not affected; the next gc continues";
    GcLeaseGone = "gc-lease-gone": "a gc batch ended",
        "nothing unfinished",
        "is not affected; the next gc continues";
}

impl Border {
    /// The border after `key` was written; `None` where nothing depends on one write (heartbeats, readers).
    pub fn written(key: &str) -> Option<Self> {
        Some(match layout::parse(key)? {
            Key::Prepared { .. }
            | Key::Rows { .. }
            | Key::RowsReceipt { .. }
            | Key::ShardReceipt { .. }
            | Key::SharesPlan { .. } => Self::Prepared,
            Key::Located { .. } => Self::Located,
            Key::Plan { .. } => Self::Plan,
            Key::Report { .. } => Self::ReportJson,
            Key::ReportPage { .. } => Self::ReportHtml,
            Key::Part { .. } => Self::Part,
            Key::PartReceipt { .. } => Self::PartReceipt,
            Key::EncodeReceipt { .. } => Self::EncodeReceipt,
            Key::Calibration { .. } => Self::Calibration,
            Key::TowerWeights { .. }
            | Key::TowerConfig { .. }
            | Key::TowerTokenizer { .. }
            | Key::TowerTexts { .. } => Self::TowerFile,
            Key::AdaptReceipt { .. } => Self::AdaptReceipt,
            Key::Index { .. } => Self::Index,
            Key::Sidecar { .. } => Self::Sidecar,
            Key::IndexReceipt { .. } => Self::IndexReceipt,
            Key::BuildReceipt { .. } => Self::BuildReceipt,
            Key::Ids { .. } | Key::Removed { .. } => Self::Ids,
            Key::Manifest { .. } => Self::Manifest,
            Key::RunLease { .. } => Self::RunLease,
            Key::Lease { kind: LeaseKind::Commit, .. } => Self::CommitLease,
            Key::Lease { kind: LeaseKind::Gc, .. } => Self::GcLease,
            Key::Lease { kind: LeaseKind::Probe, .. }
            | Key::Beat { .. }
            | Key::ReaderLease { .. }
            // It counts for nothing before its manifest is there.
            | Key::Signature { .. }
            | Key::ReadingReceipt { .. }
            | Key::PreparedReceipt { .. }
            | Key::CheckedReceipt { .. }
            | Key::ExecutorStatus { .. } => return None,
        })
    }

    /// The border after `key` was deleted.
    pub fn deleted(key: &str) -> Option<Self> {
        // What the prepared shards were made of: what follows is what follows those.
        if matches!(
            layout::parse(key)?,
            Key::Rows { .. } | Key::RowsReceipt { .. } | Key::ShardReceipt { .. }
        ) {
            return None;
        }
        Some(match Self::written(key)? {
            Self::RunLease => Self::RunLeaseGone,
            Self::CommitLease => Self::CommitLeaseGone,
            Self::GcLease => Self::GcLeaseGone,
            Self::Manifest => Self::ManifestGone,
            Self::Prepared | Self::Located => Self::PreparedGone,
            Self::PartReceipt
            | Self::EncodeReceipt
            | Self::AdaptReceipt
            | Self::IndexReceipt
            | Self::BuildReceipt => Self::ReceiptGone,
            _ => Self::FileGone,
        })
    }

    /// Ends the process here if `SCALINGNOTE_FAIL_AT` says so.
    pub(super) fn pass(self) {
        if let Some((border, left)) = armed()
            && *border == self
            && left.fetch_sub(1, Ordering::AcqRel) == 1
        {
            die();
        }
    }
}

fn armed() -> Option<&'static (Border, AtomicU32)> {
    static ARMED: OnceLock<Option<(Border, AtomicU32)>> = OnceLock::new();
    ARMED.get_or_init(|| parse(&std::env::var(FAIL_AT).ok()?)).as_ref()
}

fn parse(text: &str) -> Option<(Border, AtomicU32)> {
    let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
    let border = Border::ALL.iter().find(|border| border.name() == name)?;
    Some((*border, AtomicU32::new(nth.parse().ok()?)))
}

/// No destructor runs, no buffer is flushed, no thread goes on.
fn die() -> ! {
    #[cfg(unix)]
    // SAFETY: raise takes a number and touches no memory of this program.
    unsafe {
        libc::raise(libc::SIGKILL);
    }
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::layout::ReportName;

    #[test]
    fn names_are_unique_and_parse() {
        for border in Border::ALL {
            let (found, nth) = parse(&format!("{}:3", border.name())).unwrap();
            assert_eq!((found, nth.into_inner()), (*border, 3));
            assert_eq!(parse(border.name()).unwrap().1.into_inner(), 1);
        }
        assert!(parse("nowhere").is_none() && parse("part:x").is_none());
    }

    #[test]
    fn every_border_but_the_torn_write_is_that_of_a_key() {
        let (run, hash) = ("20260101T000000Z-0badcafe", "0123456789abcdef");
        let space = crate::types::SpaceId(hash.to_owned());
        let keys = [
            layout::prepared(run, 0),
            layout::located(run, 0),
            layout::plan(run),
            layout::report(run, ReportName(2)),
            layout::report_page(run, ReportName(1)),
            layout::part(&space, 0, hash, hash),
            layout::part_receipt(&space, 0, hash),
            layout::encode_receipt(&space, 0, "encode-00000-0123456789abcdef"),
            layout::calibration(hash, &space),
            layout::tower_weights(hash),
            layout::adapt_receipt("adapt-0123456789abcdef"),
            layout::index(hash, 0, hash, hash),
            layout::sidecar(hash, 0, hash, hash),
            layout::index_receipt(hash, 0, hash),
            layout::ids_file(hash, 0, hash),
            layout::build_receipt(hash, 0, "build-00000-0123456789abcdef"),
            layout::manifest(1),
            layout::run_lease(1),
            layout::lease(LeaseKind::Commit, hash),
            layout::lease(LeaseKind::Gc, hash),
        ];
        let mut found: Vec<Border> = keys.iter().filter_map(|key| Border::written(key)).collect();
        assert_eq!(found.len(), keys.len());
        found.extend(keys.iter().filter_map(|key| Border::deleted(key)));
        found.push(Border::Torn);
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, Border::ALL);
        assert_eq!(Border::written(&layout::beat(run, 1)), None);
    }
}
