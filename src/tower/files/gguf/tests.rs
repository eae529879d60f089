use candle_core::quantized::{QTensor, gguf_file};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::tower::files::gguf_config;
use crate::tower::files::weights::GgufWeights;
use crate::tower::testing::{byte_level, llama, smollm2, tiny_tensors};
use crate::tower::tokenize::gguf as gguf_tokenizer;
use crate::tower::tokenize::tokenizer::TowerTokenizer;
use crate::tower::{TowerOptions, WeightSource};
use crate::types::Pooling;

/// The tiny model as llama.cpp's converter would store it, written by candle.
fn tiny_gguf(dtype: GgmlDType, extra: &[(&str, gguf_file::Value)]) -> Vec<u8> {
    let mut definition = byte_level(None);
    // `on` must be a token for the merge to make sense.
    definition["model"]["vocab"]["on"] = 310.into();
    definition["model"]["merges"] = vec!["o n"].into();
    llama::gguf(&tiny_tensors(), &definition, dtype, extra)
}

fn open_bytes(bytes: &[u8]) -> Result<Gguf> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    std::fs::write(&path, bytes).unwrap();
    // The open handle outlives the name.
    Gguf::open(&path)
}

#[test]
fn a_files_tensors_are_the_checkpoints() {
    for (dtype, tolerance) in [
        (GgmlDType::F32, 0.0),
        (GgmlDType::F16, 1e-4),
        (GgmlDType::BF16, 1e-3),
        (GgmlDType::Q8_0, 1e-3),
        (GgmlDType::Q5_1, 8e-3),
        (GgmlDType::Q4_0, 2e-2),
        (GgmlDType::Q4_1, 2e-2),
    ] {
        let gguf = open_bytes(&tiny_gguf(dtype, &[])).unwrap();
        let config = gguf_config::from_gguf(&gguf).unwrap();
        assert_eq!((config.vocab_size, config.head_dim, config.kv_heads), (320, 8, 2));
        let weights = GgufWeights::new(gguf, &config);
        for (name, shape, expected) in tiny_tensors() {
            let tensor = weights.tensor(&name, &shape).unwrap();
            let found: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            let worst =
                found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(worst <= tolerance, "{dtype:?} {name}: {worst}");
        }
        assert!(!weights.contains("lm_head.weight"));
    }
}

#[test]
fn blocks_are_handed_on_as_they_are() {
    let load = |dtype| {
        let gguf = open_bytes(&tiny_gguf(dtype, &[])).unwrap();
        let config = gguf_config::from_gguf(&gguf).unwrap();
        GgufWeights::new(gguf, &config)
    };
    let weights = load(GgmlDType::Q8_0);
    for (name, shape, values) in tiny_tensors() {
        let [rows, width] = shape[..] else { continue };
        let blocks = weights.q8_0(&name, &[rows, width]).unwrap().unwrap();
        let whole = Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap();
        let expected = QTensor::quantize(&whole, GgmlDType::Q8_0).unwrap();
        assert_eq!(blocks, *expected.data().unwrap(), "{name}");
        assert!(weights.q8_0(&name, &[rows + 1, width]).is_err());
        assert!(load(GgmlDType::Q4_0).q8_0(&name, &[rows, width]).unwrap().is_none());
    }
}

#[test]
fn its_tokenizer_is_rebuilt() {
    let gguf = open_bytes(&tiny_gguf(GgmlDType::F32, &[])).unwrap();
    let definition = gguf_tokenizer::from_gguf(&gguf).unwrap();
    let options = TowerOptions::new("tiny", Pooling::Eos);
    let tokenizer = TowerTokenizer::new(definition, &options, 320).unwrap();
    let id = |c: char| c as u32 + 1;
    assert_eq!(tokenizer.tokenize("one").unwrap().ids, [310, id('e'), 0]);
    let text = |s: &str| gguf_file::Value::String(s.to_owned());
    let bos = [
        ("tokenizer.ggml.add_bos_token", gguf_file::Value::Bool(true)),
        ("tokenizer.ggml.bos_token_id", gguf_file::Value::U32(300)),
    ];
    let gguf = open_bytes(&tiny_gguf(GgmlDType::F32, &bos)).unwrap();
    let definition = gguf_tokenizer::from_gguf(&gguf).unwrap();
    let tokenizer = TowerTokenizer::new(definition, &options, 320).unwrap();
    assert_eq!(tokenizer.tokenize("e").unwrap().ids, [300, id('e'), 0]);
    for (key, value, way_out) in [
        ("tokenizer.ggml.pre", text("brand-new"), "give the model's tokenizer.json"),
        ("tokenizer.ggml.model", text("llama"), "give the model's tokenizer.json"),
        ("tokenizer.ggml.merges", gguf_file::Value::Array(vec![text("oneword")]), "merge"),
        ("tokenizer.ggml.eos_token_id", gguf_file::Value::U32(999), "token id"),
    ] {
        let gguf = open_bytes(&tiny_gguf(GgmlDType::F32, &[(key, value)])).unwrap();
        let error = gguf_tokenizer::from_gguf(&gguf).err().unwrap();
        assert!(error.to_string().contains(way_out), "{error}");
    }
}

#[test]
fn another_models_tokenizer_is_refused() {
    let gguf = open_bytes(&tiny_gguf(GgmlDType::F32, &[])).unwrap();
    let mut definition = gguf_tokenizer::from_gguf(&gguf).unwrap();
    gguf_tokenizer::check_same(&gguf, &definition).unwrap();
    let vocabulary = definition.json["model"]["vocab"].as_object_mut().unwrap();
    // Some tokens were renamed, as fine-tunings do with unused ones.
    let names: Vec<String> = vocabulary.keys().cloned().collect();
    for name in &names[..names.len() / 4] {
        let id = vocabulary.remove(name).unwrap();
        vocabulary.insert(format!("new {name}"), id);
    }
    gguf_tokenizer::check_same(&gguf, &definition).unwrap();
    let vocabulary = definition.json["model"]["vocab"].as_object_mut().unwrap();
    let shifted = |(name, id): (&String, &serde_json::Value)| {
        (name.clone(), serde_json::Value::from(id.as_u64().unwrap() + 1))
    };
    *vocabulary = vocabulary.iter().map(shifted).collect();
    let error = gguf_tokenizer::check_same(&gguf, &definition).unwrap_err();
    assert!(error.to_string().contains("another model's: 320 of its 320 tokens"), "{error}");
}

#[test]
fn what_the_decoder_cannot_compute_is_refused() {
    let text = |s: &str| gguf_file::Value::String(s.to_owned());
    for (key, value, kind) in [
        ("general.architecture", text("gemma2"), ErrorKind::Unsupported),
        ("llama.rope.scaling.type", text("yarn"), ErrorKind::Unsupported),
        ("llama.rope.dimension_count", gguf_file::Value::U32(4), ErrorKind::Unsupported),
        ("llama.expert_count", gguf_file::Value::U32(8), ErrorKind::Unsupported),
        ("llama.attention.head_count", gguf_file::Value::U32(0), ErrorKind::Corrupt),
        ("llama.attention.head_count_kv", gguf_file::Value::U32(3), ErrorKind::Corrupt),
        ("llama.block_count", gguf_file::Value::U32(u32::MAX), ErrorKind::Corrupt),
        ("llama.context_length", text("long"), ErrorKind::Corrupt),
    ] {
        let gguf = open_bytes(&tiny_gguf(GgmlDType::F32, &[(key, value)])).unwrap();
        let error = gguf_config::from_gguf(&gguf).unwrap_err();
        assert_eq!(error.kind(), kind, "{key}: {error}");
    }
    let split = [("split.count", gguf_file::Value::U16(2))];
    let error = open_bytes(&tiny_gguf(GgmlDType::F32, &split)).unwrap_err();
    assert!(error.to_string().contains("llama-gguf-split"), "{error}");
}

#[test]
fn hostile_headers_are_refused() {
    let good = tiny_gguf(GgmlDType::Q8_0, &[]);
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        open_bytes(&file).map(|_| ()).unwrap_err()
    };
    let huge = u64::MAX.to_le_bytes();
    // Magic, version, tensor count, entry count, length of the first key.
    assert_eq!(patched(0, b"JUNK").kind(), ErrorKind::Input);
    assert_eq!(patched(4, &1u32.to_le_bytes()).kind(), ErrorKind::Unsupported);
    assert!(patched(4, &3u32.to_be_bytes()).to_string().contains("big-endian"));
    for at in [8, 16, 24] {
        for claim in [huge, (1u64 << 40).to_le_bytes(), 0x7fff_ffffu64.to_le_bytes()] {
            assert_eq!(patched(at, &claim).kind(), ErrorKind::Corrupt, "{at}");
        }
    }
    // The array of tokens claims 2^62 elements.
    let key = b"tokenizer.ggml.tokens";
    let at = good.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    assert_eq!(patched(at + 8, &(1u64 << 62).to_le_bytes()).kind(), ErrorKind::Corrupt);
    // An offset beyond the file, and one out of line.
    let name = b"output_norm.weight";
    let at = good.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    // rank, one extent, type, offset.
    assert!(patched(at + 16, &(1u64 << 40).to_le_bytes()).to_string().contains("cut off"));
    assert!(patched(at + 16, &1u64.to_le_bytes()).to_string().contains("aligned"));
    assert_eq!(patched(at + 16, &(u64::MAX - 31).to_le_bytes()).kind(), ErrorKind::Corrupt);
    assert_eq!(patched(at + 4, &huge).kind(), ErrorKind::Corrupt);
    assert!(patched(at + 12, &20u32.to_le_bytes()).to_string().contains("IQ"));
    assert_eq!(patched(at, &9u32.to_le_bytes()).kind(), ErrorKind::Corrupt);
}

#[test]
fn a_cut_off_file_is_refused_wherever_it_is_cut() {
    let good = tiny_gguf(GgmlDType::Q8_0, &[]);
    let last = good.len() - 1;
    for length in (0..good.len()).step_by(97).chain([1, 4, 8, 24, last]) {
        let kind = open_bytes(&good[..length]).map(|_| ()).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Corrupt, "cut at {length}");
    }
}

#[test]
fn damaged_headers_never_panic() {
    let good = tiny_gguf(GgmlDType::Q8_0, &[]);
    let patches = prop::collection::vec((0..good.len().min(9_000), any::<u8>()), 1..6);
    proptest!(ProptestConfig::with_cases(300), |(patches in patches)| {
        let mut file = good.clone();
        for (at, byte) in patches {
            file[at] = byte;
        }
        if let Ok(gguf) = open_bytes(&file) {
            let _ = gguf_tokenizer::from_gguf(&gguf);
            if let Ok(config) = gguf_config::from_gguf(&gguf) {
                let weights = GgufWeights::new(gguf, &config);
                for (name, shape, _) in tiny_tensors() {
                    let _ = weights.tensor(&name, &shape);
                }
            }
        }
    });
}

#[test]
fn smollm2_reads_as_candle_reads_it() {
    let Some(path) = smollm2() else { return };
    let gguf = Gguf::open(&path).unwrap();
    let config = gguf_config::from_gguf(&gguf).unwrap();
    assert_eq!((config.layers, config.hidden_size, config.heads, config.kv_heads), (30, 576, 9, 3));
    assert_eq!((config.vocab_size, config.rope_theta, config.max_positions), (49_152, 1e5, 8192));
    let weights = GgufWeights::new(gguf, &config);
    let mut file = std::fs::File::open(&path).unwrap();
    let theirs = gguf_file::Content::read(&mut file).unwrap();
    let mut theirs = |name: &str| {
        theirs.tensor(&mut file, name, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap()
    };
    let ours = |name: &str, shape: &[usize]| {
        weights.tensor(name, shape).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let down = ours("model.layers.29.mlp.down_proj.weight", &[576, 1536]);
    assert!(down == flat(&theirs("blk.29.ffn_down.weight")));
    let embedding = ours("model.embed_tokens.weight", &[49_152, 576]);
    assert!(embedding == flat(&theirs("token_embd.weight")));
    // The Python package `gguf` gives these, and transformers' reverse permutation the last.
    let row = |values: &[f32], row: usize, width: usize| values[row * width..][..width].to_vec();
    assert_eq!(
        row(&down, 575, 1536)[1532..],
        [0.056_640_625, 0.203125, -0.089_843_75, 0.056_640_625]
    );
    assert_eq!(row(&embedding, 49_151, 576)[..3], [0.011_505_127, 0.005_752_563_5, 0.097_793_58]);
    let q = ours("model.layers.3.self_attn.q_proj.weight", &[576, 576]);
    assert_eq!(row(&q, 101, 576)[..3], [-0.313_293_46, 0.496_032_7, -0.178_405_76]);
    // Row p * 32 + j of a head is stored as row 2 j + p.
    let stored: Vec<Vec<f32>> = theirs("blk.3.attn_k.weight").to_vec2().unwrap();
    let k = ours("model.layers.3.self_attn.k_proj.weight", &[192, 576]);
    for (row, values) in k.chunks(576).enumerate() {
        let (head, within) = (row / 64, row % 64);
        assert_eq!(values, stored[head * 64 + 2 * (within % 32) + within / 32], "row {row}");
    }
}

#[test]
fn tensors_are_those_of_the_file_that_was_hashed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let bytes = tiny_gguf(GgmlDType::Q8_0, &[]);
    std::fs::write(&path, &bytes).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let digest = gguf.file.digest().unwrap();
    assert_eq!(digest, crate::types::Digest256::of(&bytes));
    let config = gguf_config::from_gguf(&gguf).unwrap();
    let weights = GgufWeights::new(gguf, &config);
    let name = "model.layers.1.mlp.down_proj.weight";
    let read = || weights.q8_0(name, &[32, 64]).and_then(|_| weights.tensor(name, &[32, 64]));
    let before: Vec<f32> = read().unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &other).unwrap();
    for error in [weights.q8_0(name, &[32, 64]).unwrap_err(), read().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    }
    std::fs::write(&path, &bytes).unwrap();
    let after: Vec<f32> = read().unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(before, after);
}
