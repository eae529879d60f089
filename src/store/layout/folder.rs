//! Folders, and what is known of a key from its folder and its ending, also where this program did not name it.

use super::super::key;
use super::keys::{Key, parse};
use crate::types::SpaceId;

/// Folder of leases.
pub const LEASES: &str = "leases";

/// Folder of all manifests.
pub const SNAPSHOTS: &str = "snapshots";

/// Folder of all signatures. Not that of the manifests: there the greatest name is the newest snapshot.
pub const SIGNATURES: &str = "signatures";

/// Folder of the prepared files of one run.
pub fn prepared_dir(run: &str) -> String {
    format!("prepared/{run}")
}

/// Folder of all embeddings of one space.
pub fn embeddings_dir(space: &SpaceId) -> String {
    format!("embeddings/{space}")
}

/// Folder of one shard's parts.
pub fn parts_dir(space: &SpaceId, shard: u32) -> String {
    format!("embeddings/{space}/{shard:05}")
}

/// Folder of the books of the executors that worked for a run.
pub fn books(run: &str) -> String {
    format!("runs/{run}/executors")
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
    /// Plan and reports of this run.
    Runs(&'a str),
    /// Manifests.
    Snapshots,
    /// Signatures of manifests.
    Signatures,
    /// Leases.
    Leases,
}

/// The folder that `key` lies in, whatever its name there; `None` where it is none of this program's.
pub fn folder(key: &str) -> Option<Folder<'_>> {
    let (top, rest) = key.split_once('/')?;
    let below = rest.split('/').next()?;
    Some(match top {
        "prepared" => Folder::Prepared(below),
        "embeddings" => Folder::Embeddings(below),
        "indexes" => Folder::Indexes(below),
        "runs" => Folder::Runs(below),
        "snapshots" => Folder::Snapshots,
        "signatures" => Folder::Signatures,
        "leases" => Folder::Leases,
        _ => return None,
    })
}

/// Whether `key` is a receipt: it names files that must not go before it.
pub fn is_receipt(key: &str) -> bool {
    matches!(folder(key), Some(Folder::Embeddings(_) | Folder::Indexes(_)))
        && (key.ends_with(".receipt.json") || key.ends_with(".task.json"))
}

/// Whether `key` is JSON, which may name other objects.
pub fn is_json(key: &str) -> bool {
    key.ends_with(".json")
}

/// Whether `text`, found in some JSON, is the key of a file of vectors or of an index: at least `top/name/shard/file`.
pub fn is_file(text: &str) -> bool {
    matches!(folder(text), Some(Folder::Embeddings(_) | Folder::Indexes(_)))
        && text.split('/').count() >= 4
        && key::check(text).is_ok()
}

/// A run's id, given as such or as the key of its plan.
pub fn run_of(run_or_plan: &str) -> &str {
    let run = run_or_plan.strip_prefix("runs/").unwrap_or(run_or_plan);
    run.strip_suffix("/plan.json").unwrap_or(run)
}

/// The name that a half-written local file will have; `None` for any other file.
pub fn staged_for(name: &str) -> Option<&str> {
    let (whole, digits) = name.rsplit_once('#')?;
    let numbered = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    numbered.then_some(whole)
}

/// What stands behind the name of a file that a local root still writes. `object_store` lists no such file.
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
    use crate::store::layout::{book, located, manifest, part};

    #[test]
    fn keys_lie_in_their_folders() {
        let space = SpaceId("5e".to_owned());
        assert!(book("r", "a", 1).starts_with(&books("r")));
        assert!(located("r", 7).starts_with(&prepared_dir("r")));
        assert!(part(&space, 7, "p", "h").starts_with(&parts_dir(&space, 7)));
        assert!(parts_dir(&space, 7).starts_with(&embeddings_dir(&space)));
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
