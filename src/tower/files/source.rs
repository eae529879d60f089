//! Where a model comes from: the string in the options, and the files it leads to.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::named::expand_text;
use crate::tower::fake::FakeTower;
use crate::tower::files::foreign::{no_weights, not_read};
use crate::tower::files::safetensors::shard_names;
use crate::tower::files::whole::{absent, present};

/// What [`crate::tower::TowerOptions::model`] names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ModelSource {
    Fake(FakeTower),
    /// An existing file or directory, absolute.
    Local(PathBuf),
    /// A Hugging Face repo, and a file in it where one is named.
    Hub {
        repo: String,
        file: Option<String>,
    },
}

/// The weight files of a model on disk.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ModelFiles {
    Gguf(PathBuf),
    Safetensors {
        /// Sorted by name.
        weights: Vec<PathBuf>,
        /// Holds `config.json` and usually `tokenizer.json`.
        folder: PathBuf,
        /// Says which tensor is in which of them, where there are shards.
        index: Option<PathBuf>,
    },
}

/// Decides what a model string names. Never touches the network.
///
/// # Errors
/// NotFound for what looks like a path and does not exist; Config for what is neither.
pub(crate) fn parse(model: &str, base_dir: &Path) -> Result<ModelSource> {
    if let Some(fake) = model.strip_prefix("fake:") {
        return FakeTower::parse(fake).map(ModelSource::Fake);
    }
    if let Some(repo) = model.strip_prefix("hf:") {
        return hub(repo).ok_or_else(|| {
            Error::config(format!(
                "model {model:?} must read hf:<organisation>/<name> or hf:<organisation>/<name>/<file>.gguf"
            ))
        });
    }
    if model.is_empty() {
        return Err(Error::config(
            "model is empty; name a file, a directory or a Hugging Face repo",
        ));
    }
    let path = absolute(model, base_dir)?;
    if path.exists() {
        return Ok(ModelSource::Local(path));
    }
    // `models/tower` beside an existing folder `models` is a path with a slip of the pen, no repo.
    let parent = Path::new(model).parent().filter(|parent| !parent.as_os_str().is_empty());
    let in_folder = parent.is_some_and(|parent| base_dir.join(parent).is_dir());
    match hub(model) {
        Some(repo) if !in_folder && !model.starts_with('.') => Ok(repo),
        as_repo => {
            let hint = if as_repo.is_some() && !model.starts_with('.') {
                format!("; if a Hugging Face repo is meant, write hf:{model}")
            } else {
                String::new()
            };
            Err(Error::not_found(format!(
                "model {model:?}: there is no file or directory {}{hint}",
                path.display()
            )))
        }
    }
}

/// A path from the options, made absolute; `~/` is the home folder.
pub(crate) fn absolute(path: &str, base_dir: &Path) -> Result<PathBuf> {
    let joined = base_dir.join(&*expand_text(path, base_dir)?);
    std::path::absolute(&joined)
        .or_error(ErrorKind::Config, || format!("{} is not a usable path", joined.display()))
}

fn hub(text: &str) -> Option<ModelSource> {
    let mut parts = text.splitn(3, '/');
    let (organisation, name) = (parts.next()?, parts.next()?);
    let file = parts.next();
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.len() <= 96
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let named = file.is_none_or(|file| plain(file) && file.ends_with(".gguf"));
    // `weights/model.gguf` is a file that is not there.
    let a_file = [".gguf", ".safetensors", ".json"].iter().any(|end| name.ends_with(end));
    (plain(organisation) && plain(name) && named && !a_file).then(|| ModelSource::Hub {
        repo: format!("{organisation}/{name}"),
        file: file.map(str::to_owned),
    })
}

/// Finds the weight files that a local path leads to.
///
/// # Errors
/// Input or NotFound, saying what was looked for; Unsupported for other formats.
pub(crate) fn files(path: &Path) -> Result<ModelFiles> {
    let extension = |path: &Path| {
        path.extension().and_then(|end| end.to_str()).unwrap_or_default().to_ascii_lowercase()
    };
    if path.is_dir() {
        return files_in(path);
    }
    match extension(path).as_str() {
        "gguf" => Ok(ModelFiles::Gguf(path.to_owned())),
        "safetensors" => {
            let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
            Ok(ModelFiles::Safetensors { weights: vec![path.to_owned()], folder, index: None })
        }
        "json" if path.to_string_lossy().ends_with(".safetensors.index.json") => {
            sharded(path, path.parent().unwrap_or(Path::new("/")))
        }
        _ => Err(not_read(path)),
    }
}

fn sharded(index: &Path, folder: &Path) -> Result<ModelFiles> {
    let names = shard_names(index)?;
    let weights: Vec<_> = names.into_iter().map(|name| index.with_file_name(name)).collect();
    for shard in &weights {
        let there =
            present(shard).and_then(|there| if there { Ok(()) } else { Err(absent(shard)) });
        there.context(|| format!("a shard that {} names", index.display()))?;
    }
    let (folder, index) = (folder.to_owned(), Some(index.to_owned()));
    Ok(ModelFiles::Safetensors { weights, folder, index })
}

fn files_in(folder: &Path) -> Result<ModelFiles> {
    let of_one = |file| {
        let (weights, folder) = (vec![file], folder.to_owned());
        ModelFiles::Safetensors { weights, folder, index: None }
    };
    let single = folder.join("model.safetensors");
    if present(&single)? {
        return Ok(of_one(single));
    }
    let index = folder.join("model.safetensors.index.json");
    if present(&index)? {
        return sharded(&index, folder);
    }
    let unreadable = || format!("cannot list {}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).or_error(ErrorKind::Input, unreadable)? {
        let entry = entry.or_error(ErrorKind::Input, unreadable)?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort_unstable();
    let ending =
        |end: &str| names.iter().filter(|name| name.ends_with(end)).collect::<Vec<&String>>();
    let adapter = |name: &&&String| !name.starts_with("adapter_");
    let tensors = ending(".safetensors");
    let tensors: Vec<_> = tensors.iter().filter(adapter).copied().collect();
    match (tensors.as_slice(), ending(".gguf").as_slice()) {
        ([one], []) => Ok(of_one(folder.join(one))),
        ([], [one]) => Ok(ModelFiles::Gguf(folder.join(one))),
        ([], []) => Err(no_weights(folder, &names)?),
        ([first, ..], []) if tensors.iter().all(|name| name.contains("-of-")) => {
            Err(absent(&index)).context(|| format!("{first} is one of several shards"))
        }
        (tensors, ggufs) => {
            let all: Vec<&str> = tensors.iter().chain(ggufs).map(|name| name.as_str()).collect();
            Err(Error::input(format!(
                "{} holds several weight files ({}); name the one to use in `model`",
                folder.display(),
                all.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_strings() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("models")).unwrap();
        std::fs::write(base.path().join("models/tower.gguf"), b"").unwrap();
        let parse = |model: &str| parse(model, base.path());
        let repo = |name: &str| ModelSource::Hub { repo: name.into(), file: None };
        assert_eq!(parse("Qwen/Qwen3-Embedding-0.6B").unwrap(), repo("Qwen/Qwen3-Embedding-0.6B"));
        assert_eq!(parse("hf:models/tower").unwrap(), repo("models/tower"));
        assert!(matches!(
            parse("org/name/weights.Q8_0.gguf").unwrap(),
            ModelSource::Hub { file: Some(_), .. }
        ));
        assert!(matches!(parse("fake:8").unwrap(), ModelSource::Fake(_)));
        assert_eq!(
            parse("models/tower.gguf").unwrap(),
            ModelSource::Local(base.path().join("models/tower.gguf"))
        );
        for path in
            ["models/tower", "./org/name", "/no/such", "smollm", "a/b/c/d", "weights/x.gguf"]
        {
            let error = parse(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{path}: {error}");
        }
        assert!(parse("models/tower").unwrap_err().to_string().contains("hf:models/tower"));
        for wrong in ["", "hf:org", "hf:../x", "hf:org/name/../../etc/x.gguf", "fake:x"] {
            assert_eq!(parse(wrong).unwrap_err().kind(), ErrorKind::Config, "{wrong}");
        }
    }

    #[test]
    fn folders_lead_to_their_weights() {
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: &str| std::fs::write(folder.path().join(name), b"{}").unwrap();
        assert_eq!(files(folder.path()).unwrap_err().kind(), ErrorKind::NotFound);
        touch("pytorch_model.bin");
        assert_eq!(files(folder.path()).unwrap_err().kind(), ErrorKind::Unsupported);
        touch("a.gguf");
        assert_eq!(files(folder.path()).unwrap(), ModelFiles::Gguf(folder.path().join("a.gguf")));
        touch("b.gguf");
        assert!(files(folder.path()).unwrap_err().to_string().contains("a.gguf, b.gguf"));
        touch("model.safetensors");
        assert!(matches!(files(folder.path()).unwrap(), ModelFiles::Safetensors { .. }));
    }

    #[test]
    fn what_is_missing_of_a_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let told = |kind: ErrorKind, pieces: &[&str]| {
            let error = files(folder.path()).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            for piece in pieces {
                assert!(error.to_string().contains(piece), "no {piece:?} in {error}");
            }
        };
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        std::fs::write(path("model-00001-of-00002.safetensors.incomplete"), b"half").unwrap();
        told(ErrorKind::NotFound, &["holds no weights", "00001-of-00002.safetensors.incomplete"]);
        shards.iter().for_each(|shard| std::fs::write(path(shard), b"{}").unwrap());
        told(ErrorKind::NotFound, &[shards[0], "model.safetensors.index.json is not there"]);
        let map = shards.map(|shard| format!("\"{shard}\": \"{shard}\"")).join(",");
        let index = path("model.safetensors.index.json");
        std::fs::write(index, format!("{{\"weight_map\": {{{map}}}}}")).unwrap();
        assert!(matches!(
            files(folder.path()).unwrap(),
            ModelFiles::Safetensors { index: Some(_), .. }
        ));
        std::fs::remove_file(path(shards[1])).unwrap();
        told(
            ErrorKind::NotFound,
            &["index.json names", shards[1], "not finished", "fetch it again"],
        );
        std::os::unix::fs::symlink("../../blobs/gone", path(shards[1])).unwrap();
        told(
            ErrorKind::NotFound,
            &["index.json names", shards[1], "is a link to ../../blobs/gone"],
        );
        std::os::unix::fs::symlink("../../blobs/lost", path("model.safetensors")).unwrap();
        told(ErrorKind::NotFound, &["model.safetensors is a link to ../../blobs/lost"]);
    }
}
