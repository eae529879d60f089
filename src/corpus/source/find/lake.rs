//! Folders that are more than their files: tables of Delta, Hudi, Iceberg, Lance and Paimon, and roots of this program.
//! Only their own engines know which files and rows count. Read as plain files they give deleted rows and old versions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::store::layout::{self, Key};

/// How many names of a folder are looked at for a marker.
pub(super) const MAX_NAMES: usize = 5_000;

/// Whose a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Delta,
    Hudi,
    Iceberg,
    Lance,
    Paimon,
    /// A `publish.root` of this program.
    Root,
}

/// Names below a folder that give its owner away: a folder in it, and what must be in that.
pub(super) const MARKERS: [(&str, Owner); 7] = [
    ("_delta_log", Owner::Delta),
    (".hoodie", Owner::Hudi),
    ("_versions", Owner::Lance),
    ("metadata", Owner::Iceberg),
    ("schema", Owner::Paimon),
    (layout::SNAPSHOTS, Owner::Root),
    (layout::LEASES, Owner::Root),
];

impl Owner {
    /// Whether something called `name` in the folder `marker` says so too.
    pub(super) fn has(self, marker: &str, name: &str) -> bool {
        match self {
            Self::Delta | Self::Hudi => true,
            Self::Lance => name.ends_with(".manifest"),
            Self::Iceberg => name == "version-hint.text" || is_iceberg_metadata(name),
            Self::Paimon => name == "schema-0",
            Self::Root => matches!(
                layout::parse(&format!("{marker}/{name}")),
                Some(
                    Key::Manifest { .. }
                        | Key::RunLease { .. }
                        | Key::Beat { .. }
                        | Key::ReaderLease { .. }
                        | Key::Lease { .. }
                )
            ),
        }
    }

    /// Whether a file at `below`, a path in the owner's folder, is the owner's. All are a table's; in a root, those in
    /// the folders that this program makes.
    pub(super) fn owns(self, below: &str) -> bool {
        self != Self::Root || layout::folder(below).is_some()
    }

    /// The refusal of `folder`, which is this owner's.
    pub(super) fn refuse(self, folder: &str) -> Error {
        let (what, marker, wrong) = match self {
            Self::Delta => {
                return Error::unsupported(format!(
                    "{folder} is a Delta table (it has `_delta_log`): its files read one by one would give deleted rows \
                     and old versions of notes; set format = \"delta\" and name that folder"
                ));
            }
            Self::Hudi => ("a Hudi table", ".hoodie", "old versions, and not the newest ones"),
            Self::Iceberg => ("an Iceberg table", "metadata", "deleted rows and old versions"),
            Self::Lance => ("a Lance dataset", "_versions", "deleted rows and old versions"),
            Self::Paimon => ("a Paimon table", "schema", "deleted rows and old versions"),
            Self::Root => {
                return Error::input(format!(
                    "{folder} is a root that this program publishes to: what is there are indexes and prepared texts, \
                     not notes; name the folder of the notes, or move one of the two"
                ));
            }
        };
        Error::unsupported(format!(
            "{folder} is {what} (it has `{marker}`): its files read one by one would give {wrong} of notes; \
             export its current rows to Parquet with an engine that reads it, and name that copy"
        ))
    }
}

/// `v3.metadata.json`, `00003-<uuid>.metadata.json`, and either packed: sidecar files of other data are called
/// otherwise.
fn is_iceberg_metadata(name: &str) -> bool {
    let plain = name.strip_suffix(".gz").unwrap_or(name).replace(".gz.metadata.", ".metadata.");
    let Some(stem) = plain.strip_suffix(".metadata.json") else { return false };
    let numbered = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    match stem.strip_prefix('v') {
        Some(version) => numbered(version),
        None => stem.split_once('-').is_some_and(|(version, _)| numbered(version)),
    }
}

/// Whether the name alone says that a folder is a Lance dataset.
pub(super) fn is_lance(folder: &str) -> bool {
    folder.len() > ".lance".len() && folder.to_ascii_lowercase().ends_with(".lance")
}

/// Looks for the owners of local folders; asks once for each.
#[derive(Default)]
pub(super) struct LocalOwners(BTreeMap<PathBuf, Option<Owner>>);

impl LocalOwners {
    /// Refuses `folder`, a path without links, where it or a folder above it has an owner.
    pub(super) fn check(&mut self, folder: &Path) -> Result<()> {
        for above in folder.ancestors() {
            let owner = *self.0.entry(above.to_owned()).or_insert_with(|| owner(above));
            let below = folder.strip_prefix(above).unwrap_or(folder).join("file");
            if let Some(owner) = owner.filter(|owner| owner.owns(&below.to_string_lossy())) {
                return Err(owner.refuse(&above.display().to_string()));
            }
        }
        Ok(())
    }
}

fn owner(folder: &Path) -> Option<Owner> {
    if folder.file_name().is_some_and(|name| is_lance(&name.to_string_lossy())) {
        return Some(Owner::Lance);
    }
    let says = |(marker, owner): &(&str, Owner)| {
        let names = folder.join(marker);
        match owner {
            // Its first commit may still be under way.
            Owner::Delta | Owner::Hudi => names.is_dir(),
            _ => std::fs::read_dir(names).is_ok_and(|names| {
                let mut names = names.take(MAX_NAMES).flatten();
                names.any(|entry| owner.has(marker, &entry.file_name().to_string_lossy()))
            }),
        }
    };
    MARKERS.iter().find(|marker| says(marker)).map(|(_, owner)| *owner)
}

/// Folders with an owner, by what a listing of objects names: their paths, without a `/` at the end.
#[derive(Debug, Default)]
pub(super) struct ListedOwners(BTreeMap<String, Owner>);

impl ListedOwners {
    /// Looks at one object of the listing, by its whole path.
    pub(super) fn see(&mut self, path: &str) {
        let mut start = 0;
        while let Some(length) = path[start..].find('/') {
            let part = &path[start..start + length];
            let next = path[start + length + 1..].split('/').next().unwrap_or_default();
            let folder = path[..start].trim_end_matches('/');
            if is_lance(part) {
                self.0.entry(path[..start + length].to_owned()).or_insert(Owner::Lance);
            }
            for (marker, owner) in MARKERS {
                if marker == part && owner.has(marker, next) {
                    self.0.entry(folder.to_owned()).or_insert(owner);
                }
            }
            start += length + 1;
        }
    }

    /// Remembers an owner that was found in another way.
    pub(super) fn add(&mut self, folder: &str, owner: Owner) {
        self.0.entry(folder.to_owned()).or_insert(owner);
    }

    /// Every folder with an owner.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Owner)> {
        self.0.iter().map(|(folder, owner)| (folder.as_str(), *owner))
    }

    /// The folder that owns the object at `path`, and its owner.
    pub(super) fn of(&self, path: &str) -> Option<(&str, Owner)> {
        if self.0.is_empty() {
            return None;
        }
        let ends = path.match_indices('/').map(|(at, _)| at);
        [0].into_iter().chain(ends).find_map(|end| {
            let (folder, owner) = self.0.get_key_value(&path[..end])?;
            let below = path[end..].trim_start_matches('/');
            owner.owns(below).then_some((folder.as_str(), *owner))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::layout::manifest;

    /// A file that gives an owner away, a file of it, and a word of the refusal.
    fn cases() -> Vec<(String, &'static str, &'static str)> {
        let case = |marker: &str, file, word| (marker.to_owned(), file, word);
        vec![
            case("_delta_log/00000000000000000000.json", "part-0.parquet", "Delta"),
            case(".hoodie/hoodie.properties", "a/b.parquet", "Hudi"),
            case("metadata/v1.metadata.json", "data/x=1/b.parquet", "Iceberg"),
            case("metadata/00000-5f.gz.metadata.json", "data/b.parquet", "Iceberg"),
            case("_versions/1.manifest", "data/b.parquet", "Lance"),
            case("schema/schema-0", "bucket-0/b.parquet", "Paimon"),
            case(&manifest(1), "embeddings/s/00000/p.parquet", "root"),
        ]
    }

    #[test]
    fn local_tables_are_refused_from_any_folder_of_theirs() {
        for (marker, file, word) in cases() {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().canonicalize().unwrap();
            for name in [marker.as_str(), file] {
                let path = root.join("table").join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "x").unwrap();
            }
            let folder = root.join("table").join(file);
            let error = LocalOwners::default().check(folder.parent().unwrap()).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert!(error.to_string().contains(&format!("{} is", root.join("table").display())));
            LocalOwners::default().check(&root).unwrap();
        }
    }

    #[test]
    fn listed_tables_are_refused_with_the_files_in_them() {
        for (marker, file, word) in cases() {
            for folder in ["lake/table", ""] {
                let at = |name: &str| format!("{folder}/{name}").trim_start_matches('/').to_owned();
                let mut owners = ListedOwners::default();
                owners.see(&at(file));
                owners.see(&at(&marker));
                let (found, owner) = owners.of(&at(file)).unwrap();
                assert_eq!(found, folder);
                assert!(owner.refuse(found).to_string().contains(word));
                assert_eq!(
                    owners.of("other/a.parquet").is_some(),
                    folder.is_empty() && word != "root"
                );
            }
        }
        let mut owners = ListedOwners::default();
        owners.see("x/notes.lance/data/0.lance");
        assert_eq!(owners.of("x/notes.lance/data/0.lance"), Some(("x/notes.lance", Owner::Lance)));
        assert_eq!(owners.of("x/0.lance"), None);
    }

    #[test]
    fn folders_with_such_names_alone_are_data() {
        let mut owners = ListedOwners::default();
        for path in [
            "metadata/notes.json",
            "metadata/notes.metadata.json",
            "schema/notes.parquet",
            "snapshots/2024.json",
            "leases/contract.json",
            "_versions/a.json",
            "delta_log/a.json",
        ] {
            owners.see(path);
            assert_eq!(owners.of(path), None, "{path}");
        }
    }

    #[test]
    fn notes_beside_the_folders_of_a_root_are_notes() {
        let mut owners = ListedOwners::default();
        owners.see(&format!("root/{}", manifest(7)));
        assert_eq!(owners.of("root/notes/a.json"), None);
        let (folder, owner) = owners.of("root/prepared/r/00000.parquet").unwrap();
        assert_eq!((folder, owner), ("root", Owner::Root));
    }
}
