//! Whether a file of a model is really there, and not what is in its place until somebody fetches it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Begins every pointer (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1";
/// Pointers are shorter.
pub(crate) const MAX_POINTER: u64 = 1024;
/// How clients name what they have not fetched to its end.
const UNFINISHED: [&str; 5] = [".incomplete", ".part", ".partial", ".crdownload", ".aria2"];

/// Whether the file exists.
///
/// # Errors
/// NotFound for a link that leads nowhere: that is not the same as no file.
pub(crate) fn present(path: &Path) -> Result<bool> {
    if path.is_file() {
        return Ok(true);
    }
    match std::fs::read_link(path) {
        Ok(target) if !path.exists() => Err(Error::not_found(format!(
            "{} is a link to {}, which is not there; {}",
            path.display(),
            target.display(),
            again(path)
        ))),
        _ => Ok(false),
    }
}

/// The error for a file that a model cannot do without.
pub(crate) fn absent(path: &Path) -> Error {
    let folder = path.parent().unwrap_or(Path::new("/"));
    Error::not_found(match unfinished(folder) {
        Some(begun) => format!(
            "{} is not there, but {} is: its download was not finished; {}",
            path.display(),
            begun.display(),
            again(path)
        ),
        None => {
            format!(
                "{} is not there: the model's folder is incomplete; {}",
                path.display(),
                again(path)
            )
        }
    })
}

/// Refuses the text that Git leaves in the place of a large file. `head` is how the file begins.
///
/// # Errors
/// Input, with the command that fetches the file itself.
pub(crate) fn refuse_pointer(path: &Path, head: &[u8]) -> Result<()> {
    if !head.starts_with(POINTER) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    Err(Error::input(format!(
        "{} is a Git LFS pointer, not the file itself; fetch it with `git -C {} lfs pull` (after `git lfs install`), or \
         download the repository with `hf download`",
        path.display(),
        quoted(&folder.display().to_string())
    )))
}

/// A download into this folder that was not finished: in it, or where the hub's clients keep them.
pub(crate) fn unfinished(folder: &Path) -> Option<PathBuf> {
    let mut places = vec![folder.to_owned(), folder.join(".cache/huggingface/download")];
    if let Some(repo) = folder.parent().filter(|parent| parent.ends_with("snapshots")) {
        places.push(repo.with_file_name("blobs"));
    }
    let begun = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        UNFINISHED.iter().any(|end| name.ends_with(end))
    };
    places.into_iter().find_map(|place| {
        let entries = std::fs::read_dir(place).ok()?;
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(begun).min()
    })
}

/// How a file is fetched again, as far as its place says where it is from.
pub(crate) fn again(path: &Path) -> String {
    match in_cache(path) {
        None => "fetch it again".to_owned(),
        Some((repo, None)) => format!("fetch it again with `hf download {repo}`"),
        Some((repo, Some(commit))) => {
            format!("fetch it again with `hf download {repo} --revision {commit}`")
        }
    }
}

/// Repository and commit of a path in a hub's cache, `models--<organisation>--<name>/snapshots/<commit>/...`.
pub(crate) fn in_cache(path: &Path) -> Option<(String, Option<String>)> {
    let mut parts = path.iter().filter_map(OsStr::to_str);
    let repo = parts.find_map(|part| part.strip_prefix("models--"))?.replacen("--", "/", 1);
    let commit = parts.next().filter(|part| *part == "snapshots").and_then(|_| parts.next());
    Some((repo, commit.map(str::to_owned)))
}

/// As a shell reads it as one word.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_link_that_leads_nowhere_is_no_missing_file() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--org--some--name/snapshots/abc123");
        std::fs::create_dir_all(&folder).unwrap();
        let link = folder.join("model.safetensors");
        std::os::unix::fs::symlink("../../blobs/gone", &link).unwrap();
        let error = present(&link).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let told = error.to_string();
        assert!(told.contains("blobs/gone"), "{told}");
        assert!(told.contains("`hf download org/some--name --revision abc123`"), "{told}");
        assert!(!present(&folder.join("config.json")).unwrap());
        std::fs::create_dir_all(cache.path().join("models--org--some--name/blobs")).unwrap();
        std::fs::write(folder.join("../../blobs/gone"), b"{}").unwrap();
        assert!(present(&link).unwrap());
    }

    #[test]
    fn an_unfinished_download_is_named() {
        for place in ["model", "model/.cache/huggingface/download", "models--a--b/blobs"] {
            let base = tempfile::tempdir().unwrap();
            let folder = match place.starts_with("models--") {
                true => base.path().join("models--a--b/snapshots/c"),
                false => base.path().join("model"),
            };
            std::fs::create_dir_all(&folder).unwrap();
            assert_eq!(unfinished(&folder), None);
            let begun = base.path().join(place).join("model.safetensors.incomplete");
            std::fs::create_dir_all(begun.parent().unwrap()).unwrap();
            std::fs::write(&begun, b"half").unwrap();
            assert_eq!(unfinished(&folder), Some(begun));
            let told = absent(&folder.join("model.safetensors")).to_string();
            assert!(told.contains("not finished") && told.contains(".incomplete"), "{told}");
        }
    }
}
