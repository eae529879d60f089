//! Where a model comes from: the string in the options, and the files it leads to.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::named::expand_text;
use crate::tower::fake::FakeTower;
use crate::tower::files::safetensors::shard_names;

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
        .or_error(ErrorKind::Config, || format!("{} is no usable path", joined.display()))
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
            Ok(ModelFiles::Safetensors { weights: vec![path.to_owned()], folder })
        }
        "json" if path.to_string_lossy().ends_with(".safetensors.index.json") => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            Ok(ModelFiles::Safetensors { weights: shards(path)?, folder: folder.to_owned() })
        }
        _ => Err(Error::unsupported(format!(
            "model {} is neither a .gguf nor a .safetensors file",
            path.display()
        ))),
    }
}

fn shards(index: &Path) -> Result<Vec<PathBuf>> {
    let paths: Vec<_> =
        shard_names(index)?.into_iter().map(|name| index.with_file_name(name)).collect();
    match paths.iter().find(|path| !path.is_file()) {
        None => Ok(paths),
        Some(missing) => Err(Error::not_found(format!(
            "{} names the shard {}, which is not there",
            index.display(),
            missing.display()
        ))),
    }
}

fn files_in(folder: &Path) -> Result<ModelFiles> {
    let folder_of = |weights| ModelFiles::Safetensors { weights, folder: folder.to_owned() };
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(folder_of(vec![single]));
    }
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        return Ok(folder_of(shards(&index)?));
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
        ([one], []) => Ok(folder_of(vec![folder.join(one)])),
        ([], [one]) => Ok(ModelFiles::Gguf(folder.join(one))),
        ([], []) if !ending(".bin").is_empty() || !ending(".pt").is_empty() => {
            Err(Error::unsupported(format!(
                "{} holds PyTorch pickles only; convert them to safetensors",
                folder.display()
            )))
        }
        ([], []) => Err(Error::not_found(format!(
            "{} holds no weights: no model.safetensors, no model.safetensors.index.json, no .gguf file",
            folder.display()
        ))),
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
}
