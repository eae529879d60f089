//! Weights in formats that are not read here, and the command that makes safetensors of them.

use std::path::Path;

use crate::error::{Error, Result};
use crate::tower::files::whole::{again, in_cache, present, quoted, unfinished};

/// A format that is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// What `torch.save` writes.
    Pickle,
    TensorFlow,
    Flax,
    Onnx,
    OpenVino,
}

/// Endings and names of files and folders; the first that fits counts.
const NAMES: [(&str, Format); 11] = [
    (".bin", Format::Pickle),
    (".pt", Format::Pickle),
    (".pth", Format::Pickle),
    (".ckpt", Format::Pickle),
    (".pkl", Format::Pickle),
    (".h5", Format::TensorFlow),
    (".msgpack", Format::Flax),
    (".onnx", Format::Onnx),
    ("onnx", Format::Onnx),
    ("openvino", Format::OpenVino),
    ("openvino_model.xml", Format::OpenVino),
];

/// Saves every module of a model as safetensors.
const CONVERT_SENTENCE: &str = "import sys; from sentence_transformers import SentenceTransformer; \
     SentenceTransformer(sys.argv[1], device='cpu').save_pretrained(sys.argv[2])";
/// Of one file with a state dict; nothing but tensors is taken from it.
const CONVERT_FILE: &str = "import sys, torch; from safetensors.torch import save_file; \
     d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = d.get('state_dict', d); \
     save_file({k: v.clone().contiguous() for k, v in d.items()}, sys.argv[2])";
/// Writes the tokenizer.json of a folder that has only what older tokenizers read.
const TOKENIZER: &str = "import sys; from transformers import AutoTokenizer; \
     AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])";
/// What such tokenizers read.
const OLD_TOKENIZERS: [&str; 7] = [
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spiece.model",
    "spm.model",
];

fn format_of(name: &str) -> Option<Format> {
    // What a trainer leaves beside the weights.
    let beside = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"];
    let fits = |known: &&(&str, Format)| match known.0.starts_with('.') {
        true => name.ends_with(known.0),
        false => name == known.0,
    };
    NAMES.iter().find(fits).filter(|_| !beside.contains(&name)).map(|(_, format)| *format)
}

/// The error for a folder without weights that can be read; `names` are all in it, sorted.
///
/// # Errors
/// NotFound for a link that leads nowhere.
pub(crate) fn no_weights(folder: &Path, names: &[String]) -> Result<Error> {
    for name in names.iter().filter(|name| is_weights(name)) {
        present(&folder.join(name))?;
    }
    let shown = folder.display();
    if let Some(begun) = unfinished(folder) {
        return Ok(Error::not_found(format!(
            "{shown} holds no weights, but {}: their download was not finished; {}",
            begun.display(),
            again(folder)
        )));
    }
    let repo = in_cache(folder).map(|(repo, _)| repo);
    let new = match &repo {
        Some(repo) => repo.rsplit('/').next().unwrap_or_default().to_owned(),
        None => format!("{shown}-safetensors"),
    };
    let found = refusal(&shown.to_string(), names, &shown.to_string(), &new);
    Ok(found.unwrap_or_else(|| {
        let has = |file: &str| names.iter().any(|name| name == file);
        let below = if has("snapshots") {
            "; the folder of a commit is in its folder snapshots"
        } else if has("adapter_config.json") {
            "; it is a LoRA adapter: name its LLM as the model, and this folder as the adapter"
        } else if has("modules.json") && !has("config.json") {
            "; its modules follow a pooling: name what they were fitted to as the model, and this folder as the head"
        } else {
            ""
        };
        Error::not_found(format!(
            "{shown} holds no weights: no model.safetensors, no model.safetensors.index.json, no .gguf file{below}"
        ))
    }))
}

/// As [`no_weights`], of a hub's repository with these files.
pub(crate) fn no_weights_in_repo(repo: &str, names: &[String]) -> Error {
    let new = repo.rsplit('/').next().unwrap_or(repo);
    let what = format!("Hugging Face repo {repo}");
    let top: Vec<String> = names
        .iter()
        .map(|name| name.split_once('/').map_or(name.as_str(), |(folder, _)| folder).to_owned())
        .chain(names.iter().filter(|name| *name == "modules.json").cloned())
        .collect();
    refusal(&what, &top, repo, new)
        .unwrap_or_else(|| Error::unsupported(format!("{what} holds neither safetensors nor GGUF")))
}

/// The error for a single file that is neither safetensors nor GGUF.
pub(crate) fn not_read(path: &Path) -> Error {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let shown = path.display();
    Error::unsupported(match format_of(name) {
        Some(Format::Pickle) => format!(
            "{shown} is a PyTorch pickle, which may run code when it is read; convert it with {} and name the new file \
             in `model`",
            python(
                CONVERT_FILE,
                &[&shown.to_string(), &path.with_extension("safetensors").display().to_string()]
            )
        ),
        Some(format) => format!("{shown} is {}; {}", called(format), instead(format)),
        None => format!("model {shown} is neither a .gguf nor a .safetensors file"),
    })
}

/// The way out where a folder has no tokenizer.json, but what older tokenizers read.
pub(crate) fn tokenizer_command(folder: &Path) -> Option<String> {
    let old = OLD_TOKENIZERS.iter().find(|name| folder.join(name).is_file())?;
    let shown = folder.display().to_string();
    Some(format!(
        "{old} is there, of which this makes a tokenizer.json: {}",
        python(TOKENIZER, &[&shown, &shown])
    ))
}

/// The command that saves a whole folder or repository of sentence-transformers as safetensors.
pub(crate) fn sentence_command(from: &str, to: &str) -> String {
    python(CONVERT_SENTENCE, &[from, to])
}

fn refusal(what: &str, names: &[String], from: &str, new: &str) -> Option<Error> {
    let found = |wanted: Format| names.iter().find(|name| format_of(name) == Some(wanted));
    if let Some(pickle) = found(Format::Pickle) {
        let command = match names.iter().any(|name| name == "modules.json") {
            true => sentence_command(from, new),
            false => python(&convert(""), &[from, new]),
        };
        return Some(Error::unsupported(format!(
            "{what} holds its weights as a PyTorch pickle only ({pickle}), which may run code when it is read; if you trust it, \
             convert it once with {command} and name {new} in `model`"
        )));
    }
    let others = [Format::TensorFlow, Format::Flax, Format::Onnx, Format::OpenVino];
    let (format, name) = others.into_iter().find_map(|format| Some((format, found(format)?)))?;
    Some(Error::unsupported(format!(
        "{what} holds its weights as {} only ({name}); {}",
        called(format),
        match format {
            Format::TensorFlow | Format::Flax => {
                let flag =
                    if format == Format::Flax { ", from_flax=True" } else { ", from_tf=True" };
                format!(
                    "convert it once, with a transformers before 5, with {} and name {new} in `model`",
                    python(&convert(flag), &[from, new])
                )
            }
            _ => instead(format).to_owned(),
        }
    )))
}

fn called(format: Format) -> &'static str {
    match format {
        Format::Pickle => "a PyTorch pickle",
        Format::TensorFlow => "TensorFlow weights",
        Format::Flax => "Flax weights",
        Format::Onnx => "an ONNX graph",
        Format::OpenVino => "an OpenVINO graph",
    }
}

fn instead(format: Format) -> &'static str {
    match format {
        Format::Onnx | Format::OpenVino => {
            "a graph is not read here: name the model that it was exported from, as safetensors or GGUF"
        }
        _ => "name the model's safetensors or GGUF",
    }
}

/// Whether a file of this name holds weights in a format that is read here.
fn is_weights(name: &str) -> bool {
    [".safetensors", ".gguf", ".safetensors.index.json"].iter().any(|end| name.ends_with(end))
}

/// Saves a model again, tokenizer included: transformers writes safetensors.
fn convert(flag: &str) -> String {
    format!(
        "import sys; from transformers import AutoModel, AutoTokenizer; \
         AutoModel.from_pretrained(sys.argv[1]{flag}).save_pretrained(sys.argv[2]); \
         AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
    )
}

fn python(code: &str, arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
    format!("`python3 -c \"{code}\" {}`", arguments.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn told(names: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut all: Vec<String> = Vec::new();
        for name in names {
            let path = folder.path().join(name);
            match name.contains('.') {
                true => std::fs::write(path, b"x").unwrap(),
                false => std::fs::create_dir(path).unwrap(),
            }
            all.push((*name).to_owned());
        }
        let error = no_weights(folder.path(), &all).unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{names:?}: {error}");
        error.to_string()
    }

    #[test]
    fn every_foreign_format_is_named_with_its_way_out() {
        for name in ["pytorch_model.bin", "model.pt", "last.ckpt", "weights.pth", "model.pkl"] {
            let told = told(&["config.json", name, "training_args.bin"]);
            assert!(told.contains(&format!("pickle only ({name})")), "{told}");
            assert!(
                told.contains("AutoModel.from_pretrained(sys.argv[1])")
                    && told.contains("-safetensors`"),
                "{told}"
            );
        }
        let sentence = told(&["modules.json", "pytorch_model.bin"]);
        assert!(sentence.contains("SentenceTransformer(sys.argv[1]"), "{sentence}");
        for (name, piece) in [
            ("tf_model.h5", "from_tf=True"),
            ("flax_model.msgpack", "from_flax=True"),
            ("model.onnx", "exported from"),
            ("onnx", "exported from"),
            ("openvino", "exported from"),
        ] {
            let told = told(&["config.json", name]);
            assert!(told.contains(&format!("only ({name})")) && told.contains(piece), "{told}");
        }
        let files =
            |names: &[&str]| -> Vec<String> { names.iter().map(|n| (*n).to_owned()).collect() };
        let repo = no_weights_in_repo("org/old", &files(&["modules.json", "pytorch_model.bin"]));
        assert!(
            repo.to_string().contains("SentenceTransformer")
                && repo.to_string().contains(" org/old old`"),
            "{repo}"
        );
        let repo = no_weights_in_repo("org/graph", &files(&["config.json", "onnx/model.onnx"]));
        assert!(repo.to_string().contains("an ONNX graph only"), "{repo}");
        for (name, said) in
            [("adapter_config.json", "a LoRA adapter"), ("modules.json", "as the head")]
        {
            let part = no_weights(Path::new("/none"), &files(&[name])).unwrap();
            assert!(part.to_string().contains(said), "{part}");
        }
        // What a trainer leaves behind is not a model.
        let none = no_weights(Path::new("/none"), &files(&["training_args.bin"])).unwrap();
        assert_eq!(none.kind(), ErrorKind::NotFound, "{none}");
    }

    #[test]
    fn single_files_are_told_apart() {
        let told = |name: &str| not_read(Path::new(name)).to_string();
        assert!(told("/m/it's x.ckpt").contains(r"'/m/it'\''s x.ckpt' '/m/it'\''s x.safetensors'"));
        assert!(told("/m/x.pt").contains("weights_only=True"), "{}", told("/m/x.pt"));
        assert!(told("/m/x.onnx").contains("exported from"));
        assert!(told("/m/x.txt").contains("neither a .gguf nor a .safetensors"));
    }
}
