//! Folders, and what is known of a key from its folder and its ending, also where this program did not name it.

use super::super::key;
use super::keys::{Key, parse};
use super::shape::is_number;
use crate::types::SpaceId;

/// Folder of leases.
pub const LEASES: &str = "leases";

/// Folder of all manifests.
pub const SNAPSHOTS: &str = "snapshots";

/// Folder of all signatures. Not that of the manifests: there the greatest name is the newest snapshot.
pub const SIGNATURES: &str = "signatures";

/// The folders at the top of a root: whatever this program stores is in one of them.
pub const TOPS: [&str; 8] =
    ["prepared", "embeddings", "indexes", "towers", "runs", SNAPSHOTS, SIGNATURES, LEASES];

/// Folder of the prepared files of one run.
pub fn prepared_dir(run: &str) -> String {
    format!("prepared/{run}")
}

/// Folder of all embeddings of one space.
pub fn embeddings_dir(space: &SpaceId) -> String {
    format!("embeddings/{space}")
}

/// Folder of everything that was built with one set of index options.
pub fn indexes_dir(options: &str) -> String {
    format!("indexes/{options}")
}

/// Folder of an adapted query tower.
pub fn tower_dir(tower: &str) -> String {
    format!("towers/{tower}")
}

/// Folder of one shard's parts.
pub fn parts_dir(space: &SpaceId, shard: u32) -> String {
    format!("embeddings/{space}/{shard:05}")
}

/// Folder of the statuses of the executors that worked for a run.
pub fn executor_statuses(run: &str) -> String {
    format!("runs/{run}/executors")
}

/// The start of the SHA-256 of a file, which its name ends in; `None` where the name says nothing of it.
pub fn hash_in_name(key: &str) -> Option<String> {
    match parse(key)? {
        Key::Part { hash, .. } | Key::Index { hash, .. } | Key::Sidecar { hash, .. } => Some(hash),
        Key::Ids { ids: hash, .. } | Key::Removed { removed: hash, .. } => Some(hash),
        Key::TowerTexts { hash, .. } => Some(hash),
        _ => None,
    }
}

/// The adapted query tower that `key` is a file of.
pub fn tower_of(key: &str) -> Option<&str> {
    let Some(Folder::Towers(tower)) = folder(key) else { return None };
    let is_its_own = matches!(
        parse(key)?,
        Key::TowerWeights { .. }
            | Key::TowerConfig { .. }
            | Key::TowerTokenizer { .. }
            | Key::TowerTexts { .. }
    );
    is_its_own.then_some(tower)
}

/// A folder at the top of the root, with what the folder below it is named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Folder<'a> {
    /// Prepared text of this run.
    Prepared(&'a str),
    /// Vectors of this embedding space.
    Embeddings(&'a str),
    /// Indexes with these options.
    Indexes(&'a str),
    /// The adapted query tower of this fingerprint, or the receipt of an adaptation.
    Towers(&'a str),
    /// Plan and reports of this run.
    Runs(&'a str),
    /// Manifests.
    Snapshots,
    /// Signatures of manifests.
    Signatures,
    /// Leases.
    Leases,
}

/// The folder that `key` is in, whatever its name there; `None` where it is none of this program's.
pub fn folder(key: &str) -> Option<Folder<'_>> {
    let (top, rest) = key.split_once('/')?;
    let below = rest.split('/').next()?;
    Some(match top {
        "prepared" => Folder::Prepared(below),
        "embeddings" => Folder::Embeddings(below),
        "indexes" => Folder::Indexes(below),
        "towers" => Folder::Towers(below),
        "runs" => Folder::Runs(below),
        "snapshots" => Folder::Snapshots,
        "signatures" => Folder::Signatures,
        "leases" => Folder::Leases,
        _ => return None,
    })
}

/// Whether this program makes a folder of this path, which holds something or is empty.
pub fn makes(folder: &str) -> bool {
    // A folder is one where some name in it makes a key of it.
    const NAMES: [&str; 7] = [
        "config.json",
        "plan.json",
        "executors/name@0000000000.book",
        "name@0000000000.book",
        "00000.parquet",
        "0000000000000000.receipt.json",
        "00000/0000000000000000.receipt.json",
    ];
    NAMES.iter().any(|name| parse(&format!("{folder}/{name}")).is_some())
}

/// The folder below the root that is a root of its own, as far as `key` tells: what follows is a key that this program
/// makes.
pub fn root_around(key: &str) -> Option<&str> {
    let slashes = key.match_indices('/').map(|(at, _)| at);
    slashes.into_iter().find(|at| parse(&key[at + 1..]).is_some()).map(|at| &key[..at])
}

/// Whether `key` is a receipt: it names files that must not go before it.
pub fn is_receipt(key: &str) -> bool {
    // Asked of every object of a root: most are seen to be none without being taken apart.
    let may_be = key.ends_with(".receipt.json") || key.ends_with(".task.json");
    may_be
        && matches!(
            parse(key),
            Some(
                Key::PartReceipt { .. }
                    | Key::EncodeReceipt { .. }
                    | Key::IndexReceipt { .. }
                    | Key::BuildReceipt { .. }
                    | Key::AdaptReceipt { .. }
            )
        )
}

/// Whether `key` is JSON, which may name other objects.
pub fn is_json(key: &str) -> bool {
    key.ends_with(".json")
}

/// Whether `text`, found in some JSON, is the key of a file of vectors or of an index, at least `top/name/shard/file`,
/// or of an adapted tower.
pub fn is_file(text: &str) -> bool {
    let pieces = match folder(text) {
        Some(Folder::Embeddings(_) | Folder::Indexes(_)) => 4,
        Some(Folder::Towers(_)) => 3,
        _ => return false,
    };
    text.split('/').count() >= pieces && key::check(text).is_ok()
}

/// A run's id, given as such or as the key of its plan, or of the plan of its shares.
pub fn run_of(run_or_plan: &str) -> &str {
    let run = run_or_plan.strip_prefix("runs/").unwrap_or(run_or_plan);
    run.strip_suffix("/plan.json").or(run.strip_suffix("/shares.json")).unwrap_or(run)
}

/// The key that a half-written local file of this path will have; `None` for any other file: `report#2024` is somebody
/// else's.
pub fn staged_for(path: &str) -> Option<Key> {
    let (whole, number) = path.rsplit_once('#')?;
    parse(whole).filter(|_| is_number(number))
}

/// What is behind the name of a file that a local root still writes. `object_store` lists no such file.
pub fn staged(number: u64) -> String {
    format!("#{number}")
}

/// The snapshot number of a manifest's key; `None` for anything else.
pub fn manifest_number(key: &str) -> Option<u64> {
    // Asked of every object of a root: most are seen to be none without being taken apart.
    let parsed = (folder(key)? == Folder::Snapshots).then(|| parse(key))?;
    match parsed? {
        Key::Manifest { number } => Some(number),
        _ => None,
    }
}

/// The number of the snapshot that a manifest or a signature of one is of; `None` for anything else.
pub fn snapshot_of(key: &str) -> Option<u64> {
    let ours = matches!(folder(key)?, Folder::Snapshots | Folder::Signatures);
    match ours.then(|| parse(key))?? {
        Key::Manifest { number } | Key::Signature { number, .. } => Some(number),
        _ => None,
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
    use crate::store::layout::{executor_status, located, manifest, part};

    #[test]
    fn keys_lie_in_their_folders() {
        let space = SpaceId("5e".repeat(8));
        assert!(TOPS.iter().all(|top| folder(&format!("{top}/x")).is_some()));
        assert!(executor_status("r", "a", 1).starts_with(&executor_statuses("r")));
        assert!(located("r", 7).starts_with(&prepared_dir("r")));
        assert!(part(&space, 7, "p", "h").starts_with(&parts_dir(&space, 7)));
        assert!(parts_dir(&space, 7).starts_with(&embeddings_dir(&space)));
    }

    #[test]
    fn folders_and_half_written_files_of_this_program_are_told_from_others() {
        let (run, hash) = ("20260101T000000Z-0badcafe", "0123456789abcdef");
        let filled = |text: &str| text.replace('R', run).replace('H', hash);
        for ours in "prepared/R runs/R-next runs/R/executors embeddings/H/00007 indexes/H/00000 embeddings/H indexes/H towers/H"
            .split(' ')
        {
            assert!(makes(&filled(ours)), "{ours}");
        }
        for foreign in
            "mine prepared/old runs/R/mine embeddings/mine embeddings/H/7 sub/runs/R runs towers towers/mine"
                .split(' ')
        {
            assert!(!makes(&filled(foreign)), "{foreign}");
        }
        assert!(staged_for(&filled("runs/R/plan.json#18446744073709551615")).is_some());
        for foreign in "report#2024 runs/report#2024 runs/R/report#2024 runs/R/plan.json#01 runs/R/plan.json# runs/R/plan.json"
            .split(' ')
        {
            assert_eq!(staged_for(&filled(foreign)), None, "{foreign}");
        }
        let below = filled("a/b/embeddings/H/00007/H-H.parquet");
        assert_eq!(root_around(&below), Some("a/b"));
        for none in "snapshots/00000000000000000001.json a/b.json a/snapshots/1.json".split(' ') {
            assert_eq!(root_around(none), None, "{none}");
        }
    }

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
}
