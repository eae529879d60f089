//! Models that cannot be opened: what is wrong is said with the file and the way out, before a note is read.

use std::path::Path;

use serde_json::{Value, json};

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;
use crate::fixture::training::write_encoder;

const POINTER: &str =
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 90868376\n";

/// An encoder in `model`, and a pipeline whose corpus is not there: code that gets as far as reading it fails.
fn place() -> Place {
    let place =
        Place::with(&PipelineFile { model: "model", root: "root", ..PipelineFile::default() });
    write_encoder(&place.path("model"));
    place
}

/// Breaks the model, and checks that a run ends with 1 and says `pieces`, none of them about the corpus.
#[track_caller]
fn refused(pieces: &[&str], breaking: impl FnOnce(&Path)) {
    let place = place();
    breaking(&place.path("model"));
    for line in ["run p.toml", "tower model"] {
        let said = place.said(1, line);
        for piece in pieces {
            assert!(said.contains(piece), "{line}: no {piece:?} in\n{said}");
        }
        assert!(!said.contains("notes.jsonl"), "{line}: {said}");
    }
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn without(folder: &Path, name: &str) {
    std::fs::remove_file(folder.join(name)).unwrap();
}

/// The model's configuration with one field set.
fn set(folder: &Path, key: &str, value: Value) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn the_corpus_is_read_when_the_model_is_whole() {
    // What the other tests rely on.
    place().says(1, "run p.toml", &["notes.jsonl"]);
}

#[test]
fn weights_in_other_formats_come_with_the_command_that_converts_them() {
    for (name, piece) in [
        ("pytorch_model.bin", "python3 -c"),
        ("pytorch_model-00001-of-00002.bin", "python3 -c"),
        ("model.pt", "python3 -c"),
        ("epoch=3.ckpt", "python3 -c"),
        ("tf_model.h5", "from_tf=True"),
        ("flax_model.msgpack", "from_flax=True"),
        ("onnx/model.onnx", "exported from"),
        ("openvino/openvino_model.xml", "exported from"),
    ] {
        refused(&["model holds its weights as", piece], |folder| {
            without(folder, "model.safetensors");
            write(folder, name, "x");
        });
    }
    // One file, named itself.
    let place = place();
    place.write("weights.ckpt", "x");
    place.says(1, "tower weights.ckpt", &["weights.ckpt is a PyTorch pickle", "weights_only=True"]);
}

#[test]
fn a_pickled_module_behind_the_pooling_comes_with_its_command() {
    refused(
        &["2_Dense/pytorch_model.bin is a PyTorch pickle", "SentenceTransformer(sys.argv[1]"],
        |folder| {
            let module = |path: &str, class: &str| json!({"path": path, "type": format!("sentence_transformers.models.{class}")});
            let modules = json!([
                module("", "Transformer"),
                module("1_Pooling", "Pooling"),
                module("2_Dense", "Dense")
            ]);
            write(folder, "modules.json", modules.to_string());
            write(folder, "1_Pooling/config.json", r#"{"pooling_mode_mean_tokens": true}"#);
            write(folder, "2_Dense/config.json", r#"{"in_features": 16, "out_features": 8}"#);
            write(folder, "2_Dense/pytorch_model.bin", "x");
            // Of a pipeline of version 1 it counts where pooling is left to the model.
            let pipeline = folder.with_file_name("p.toml");
            let text = std::fs::read_to_string(&pipeline).unwrap();
            std::fs::write(pipeline, text.replace("version = 1", "version = 2")).unwrap();
        },
    );
}

#[test]
fn what_stands_in_the_place_of_a_file_is_named() {
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let told = format!("model/{name} is a Git LFS pointer");
        refused(&[&told, "lfs pull"], |folder| write(folder, name, POINTER));
        let link = format!("model/{name} is a link to ../blobs/gone, which is not there");
        refused(&[&link, "fetch it again"], |folder| {
            without(folder, name);
            std::os::unix::fs::symlink("../blobs/gone", folder.join(name)).unwrap();
        });
    }
    let place = place();
    place.write("weights.gguf", POINTER);
    place.says(1, "tower weights.gguf", &["weights.gguf is a Git LFS pointer", "lfs pull"]);
}

#[test]
fn half_a_download_is_found_before_it_is_used() {
    let name = "model.safetensors";
    refused(&["model.safetensors", "cut off", "fetch it again"], |folder| {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        write(folder, name, &bytes[..bytes.len() - 100]);
    });
    refused(&["model.safetensors", "header claims", "fetch it again"], |folder| {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        write(folder, name, &bytes[..100]);
    });
    refused(&["model.safetensors.incomplete", "not finished"], |folder| {
        without(folder, name);
        write(folder, "model.safetensors.incomplete", "half");
    });
    refused(&["model.safetensors.index.json", "b.safetensors", "is not there"], |folder| {
        std::fs::rename(folder.join(name), folder.join("a.safetensors")).unwrap();
        let map = json!({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}});
        write(folder, "model.safetensors.index.json", map.to_string());
    });
    refused(&["index.json", "tensor gone.weight", "a.safetensors", "fetch it again"], |folder| {
        std::fs::rename(folder.join(name), folder.join("a.safetensors")).unwrap();
        let map = json!({"weight_map": {"gone.weight": "a.safetensors"}});
        write(folder, "model.safetensors.index.json", map.to_string());
    });
}

#[test]
fn what_is_not_computed_is_named() {
    refused(&["config.json", "mish"], |folder| set(folder, "hidden_act", "mish".into()));
    refused(&["config.json", "auto_map", "modeling_x.JinaBertModel"], |folder| {
        set(folder, "auto_map", json!({"AutoModel": "modeling_x.JinaBertModel"}));
    });
    refused(&["model.safetensors", "F8_E4M3", "before they were quantised"], |folder| {
        let header = r#"{"x.weight":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 4]);
        write(folder, "model.safetensors", bytes);
    });
    for old in ["vocab.txt", "sentencepiece.bpe.model", "tokenizer.model"] {
        refused(&["tokenizer.json", old, "AutoTokenizer.from_pretrained"], |folder| {
            without(folder, "tokenizer.json");
            write(folder, old, "x");
        });
    }
}
