//! Where everything lies under the root. No other module makes a path.
//!
//! ```text
//! prepared/<run>/00017.parquet                      prepared text of a shard (gone after retention)
//! prepared/<run>/00017.located.parquet              where already stored vectors of the shard lie
//! embeddings/<space>/00017/<part>-<hash>.parquet    newly encoded vectors
//! embeddings/<space>/00017/<part>.receipt.json      the file of that part that counts
//! embeddings/<space>/00017/<task>.task.json         receipt of an encode task
//! indexes/<options>/00017/<index>-<hash>.usearch, .f16, <index>.receipt.json
//! indexes/<options>/00017/<hash>.ids.parquet
//! indexes/<options>/00017/<hash>.removed.parquet    keys of an index that no longer count
//! indexes/<options>/00017/<task>.task.json          receipt of a build task
//! indexes/<options>/calibration-<space>.json        the frozen i8 scale
//! runs/<run>/plan.json, report.json, report.html
//! runs/<run>/prepared.json, checked.json            receipts of the steps that a cluster does before the tasks
//! runs/<run>/executors/<executor>@<n>.book          what an executor of a cluster did so far: the highest number counts
//! snapshots/00000000000000000042.json               the manifest: put-if-absent is the one commit point
//! leases/run-00000000000000000007.json              the run that is going on: put-if-absent, the highest number counts
//! leases/beat-<run>-00000000000000000012.json       its heartbeat
//! leases/reader-<snapshot>-<id>-<n>.json            a reader that asks gc to keep its snapshot
//! leases/<kind>-<id>.json                           a commit or a gc batch, for a moment; gone when done, as all leases
//! ```

use crate::types::SpaceId;

/// Folder of the prepared files of one run.
pub fn prepared_dir(run: &str) -> String {
    format!("prepared/{run}")
}

/// Prepared notes of one shard.
pub fn prepared(run: &str, shard: u32) -> String {
    format!("prepared/{run}/{shard:05}.parquet")
}

/// Where the already stored vectors of one shard lie.
pub fn located(run: &str, shard: u32) -> String {
    format!("prepared/{run}/{shard:05}.located.parquet")
}

/// Folder of all embeddings of one space.
pub fn embeddings_dir(space: &SpaceId) -> String {
    format!("embeddings/{space}")
}

/// Folder of one shard's parts.
pub fn parts_dir(space: &SpaceId, shard: u32) -> String {
    format!("embeddings/{space}/{shard:05}")
}

/// A part file; `hash` is the start of its bytes' SHA-256, so attempts that differ cannot clash.
pub fn part(space: &SpaceId, shard: u32, part: &str, hash: &str) -> String {
    format!("embeddings/{space}/{shard:05}/{part}-{hash}.parquet")
}

/// The receipt that says which attempt of a part counts.
pub fn part_receipt(space: &SpaceId, shard: u32, part: &str) -> String {
    format!("embeddings/{space}/{shard:05}/{part}.receipt.json")
}

/// The receipt of an encode task: which parts hold its texts.
pub fn encode_receipt(space: &SpaceId, shard: u32, task: &str) -> String {
    format!("embeddings/{space}/{shard:05}/{task}.task.json")
}

/// The receipt of a build task: the finished shard.
pub fn build_receipt(options: &str, shard: u32, task: &str) -> String {
    format!("indexes/{options}/{shard:05}/{task}.task.json")
}

/// Ending of part receipts.
pub const PART_RECEIPT_SUFFIX: &str = ".receipt.json";

/// Ending of task receipts.
pub const TASK_RECEIPT_SUFFIX: &str = ".task.json";

/// Whether `key` is a receipt: it names files that must not go before it.
pub fn is_receipt(key: &str) -> bool {
    (key.starts_with("embeddings/") || key.starts_with("indexes/"))
        && (key.ends_with(PART_RECEIPT_SUFFIX) || key.ends_with(TASK_RECEIPT_SUFFIX))
}

/// Folder of one shard's indexes under one set of index options.
pub fn index_dir(options: &str, shard: u32) -> String {
    format!("indexes/{options}/{shard:05}")
}

/// One attempt's file of an index; `extension` is `usearch` or `f16`.
pub fn index_file(
    options: &str,
    shard: u32,
    index: &str,
    attempt: &str,
    extension: &str,
) -> String {
    format!("indexes/{options}/{shard:05}/{index}-{attempt}.{extension}")
}

/// The receipt of an index.
pub fn index_receipt(options: &str, shard: u32, index: &str) -> String {
    format!("indexes/{options}/{shard:05}/{index}.receipt.json")
}

/// An ids file (key -> note, place of the vector, stored columns), named by its own hash.
pub fn ids_file(options: &str, shard: u32, ids: &str) -> String {
    format!("indexes/{options}/{shard:05}/{ids}.ids.parquet")
}

/// A file of the keys of an index that no longer count, named by its own hash.
pub fn removed_file(options: &str, shard: u32, removed: &str) -> String {
    format!("indexes/{options}/{shard:05}/{removed}.removed.parquet")
}

/// The frozen quantisation scale of a space under one set of index options.
pub fn calibration(options: &str, space: &SpaceId) -> String {
    format!("indexes/{options}/calibration-{space}.json")
}

/// Folder of one run.
pub fn run_dir(run: &str) -> String {
    format!("runs/{run}")
}

/// A file of one run: `plan.json`, `report.json`, `report.html`, `receipts/<task>.json`.
pub fn run_file(run: &str, name: &str) -> String {
    format!("runs/{run}/{name}")
}

/// The receipt of a cluster's preparation of a run: which attempt's plan counts.
pub fn prepared_receipt(run: &str) -> String {
    run_file(run, "prepared.json")
}

/// The receipt of the check before anything is encoded on a cluster.
pub fn checked_receipt(run: &str) -> String {
    run_file(run, "checked.json")
}

/// Folder of the books of the executors that worked for a run.
pub fn books(run: &str) -> String {
    format!("runs/{run}/executors")
}

/// The `number`th state of an executor's book. It is not called `.json`: gc reads those of a run, and books come and go.
pub fn book(run: &str, executor: &str, number: u64) -> String {
    format!("runs/{run}/executors/{executor}@{number:010}.book")
}

/// The executor and the number of a book; `None` for anything else.
pub fn book_of(key: &str) -> Option<(&str, u64)> {
    let (_, name) = key.rsplit_once("/executors/")?;
    let (executor, number) = name.strip_suffix(".book")?.rsplit_once('@')?;
    Some((executor, number.parse().ok()?))
}

/// Folder of leases.
pub const LEASES: &str = "leases";

/// A lease of `kind` (`commit`, `gc`) under a name of its own.
pub fn lease(kind: &str, id: &str) -> String {
    format!("leases/{kind}-{id}.json")
}

/// The lease of the `number`th run. A run that takes over from a dead one takes the next number.
pub fn run_lease(number: u64) -> String {
    format!("leases/run-{number:020}.json")
}

/// The number of a run's lease; `None` for anything else.
pub fn run_lease_number(key: &str) -> Option<u64> {
    key.strip_prefix("leases/run-")?.strip_suffix(".json")?.parse().ok()
}

/// What the heartbeats of `run` begin with.
pub fn beats(run: &str) -> String {
    format!("leases/beat-{run}-")
}

/// The `number`th heartbeat of `run`.
pub fn beat(run: &str, number: u64) -> String {
    format!("leases/beat-{run}-{number:020}.json")
}

/// The lease of a reader of snapshot `snapshot`; each renewal takes the next `number`.
pub fn reader_lease(snapshot: u64, id: &str, number: u64) -> String {
    format!("leases/reader-{snapshot:020}-{id}-{number:010}.json")
}

/// The snapshot of a reader's lease; `None` for anything else.
pub fn reader_lease_snapshot(key: &str) -> Option<u64> {
    key.strip_prefix("leases/reader-")?.get(..20)?.parse().ok()
}

/// Folder of all manifests.
pub const SNAPSHOTS: &str = "snapshots";

/// The manifest of snapshot `number`.
pub fn manifest(number: u64) -> String {
    format!("snapshots/{number:020}.json")
}

/// The snapshot number of a manifest's key; `None` for anything else.
pub fn manifest_number(key: &str) -> Option<u64> {
    let digits = key.strip_prefix("snapshots/")?.strip_suffix(".json")?;
    if digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    }
}

/// Every snapshot number that a text names by its manifest's file name, ascending: for index pages.
pub fn manifest_numbers_in(page: &str) -> Vec<u64> {
    let before = page.match_indices(".json").map(|(at, _)| &page[..at]);
    let mut numbers: Vec<u64> = before
        .filter_map(|text| {
            let digits = text.len() - text.bytes().rev().take_while(u8::is_ascii_digit).count();
            manifest_number(&format!("snapshots/{}.json", &text[digits..]))
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_names_sort_and_parse_back() {
        assert_eq!(manifest(42), "snapshots/00000000000000000042.json");
        assert_eq!(manifest_number(&manifest(42)), Some(42));
        assert_eq!(manifest_number("snapshots/42.json"), None);
        assert!(manifest(9) < manifest(10));
    }

    #[test]
    fn an_index_page_names_manifests() {
        let page = r#"<a href="../">../</a><a href="00000000000000000012.json">00000000000000000012.json</a>
            <a href="/x/snapshots/00000000000000000003.json">3</a> 1.json 000000000000000000042.json"#;
        assert_eq!(manifest_numbers_in(page), [3, 12]);
        assert!(manifest_numbers_in("<html>é.json</html>").is_empty());
    }

    #[test]
    fn books_parse_back() {
        assert_eq!(book_of(&book("r", "node-1-0a", 7)), Some(("node-1-0a", 7)));
        assert_eq!(book_of(&run_file("r", "plan.json")), None);
        assert!(
            book("r", "a", 9) < book("r", "a", 10) && book("r", "a", 1).starts_with(&books("r"))
        );
    }

    #[test]
    fn leases_parse_back() {
        assert_eq!(run_lease_number(&run_lease(7)), Some(7));
        assert_eq!(run_lease_number(&beat("20260101T000000Z-aaaaaaaa", 7)), None);
        assert!(beat("r", 7).starts_with(&beats("r")));
        assert_eq!(reader_lease_snapshot(&reader_lease(42, "0f", 1)), Some(42));
        assert_eq!(reader_lease_snapshot(&run_lease(7)), None);
        assert_eq!(reader_lease_snapshot("leases/reader-\u{e9}"), None);
    }
}
