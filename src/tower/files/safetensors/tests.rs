use super::*;
use crate::tower::testing::{tiny_tensors, write_safetensors, write_tiny_model};

fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn one_file_and_shards_give_the_same_tensors() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_model(folder.path(), false);
    let single = SafetensorsWeights::open(&[folder.path().join("model.safetensors")]).unwrap();
    write_tiny_model(folder.path(), true);
    let names = shard_names(&folder.path().join("model.safetensors.index.json")).unwrap();
    assert_eq!(names.len(), 2);
    let paths: Vec<_> = names.iter().map(|name| folder.path().join(name)).collect();
    let sharded = SafetensorsWeights::open(&paths).unwrap();
    for (name, shape, expected) in tiny_tensors() {
        assert_eq!(values(&single.tensor(&name, &shape).unwrap()), expected);
        assert_eq!(values(&sharded.tensor(&name, &shape).unwrap()), expected);
        let error = single.tensor(&name, &[1, 2, 3]).unwrap_err();
        assert!(error.to_string().contains("has shape"), "{error}");
    }
    assert!(!single.contains("model.layers.2.mlp.up_proj.weight"));
}

#[test]
fn names_without_the_prefix_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bare.safetensors");
    let tensors: Vec<_> = tiny_tensors()
        .into_iter()
        .map(|(name, shape, values)| (name.replacen("model.", "", 1), shape, values))
        .collect();
    write_safetensors(&path, &tensors, None);
    let weights = SafetensorsWeights::open(&[path]).unwrap();
    assert!(weights.tensor("model.norm.weight", &[32]).is_ok());
}

#[test]
fn half_floats_are_widened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.safetensors");
    let header = r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},
        "b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},
        "c":{"dtype":"F64","shape":[1],"data_offsets":[8,16]},
        "d":{"dtype":"I64","shape":[1],"data_offsets":[16,24]}}"#;
    let mut data = Vec::new();
    for value in [1.5f32, -2.25] {
        data.extend(half::f16::from_f32(value).to_le_bytes());
    }
    for value in [1.5f32, -2.25] {
        data.extend(half::bf16::from_f32(value).to_le_bytes());
    }
    data.extend(0.5f64.to_le_bytes());
    data.extend(7i64.to_le_bytes());
    std::fs::write(&path, raw(header, &data)).unwrap();
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(values(&file.read("a").unwrap()), [1.5, -2.25]);
    assert_eq!(values(&file.read("b").unwrap()), [1.5, -2.25]);
    assert_eq!(values(&file.read("c").unwrap()), [0.5]);
    assert_eq!(file.read("d").unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn hostile_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let entry = |shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let huge = u64::MAX.to_string();
    for bytes in [
        vec![],
        vec![0; 7],
        u64::MAX.to_le_bytes().to_vec(),
        raw("nonsense", b""),
        raw("[1]", b""),
        raw(r#"{"__metadata__":{"a":1}}"#, b""),
        raw(&entry("[1]", "[0,8]"), &[0; 8]),
        raw(&entry("[2]", "[0,8]"), &[0; 4]),
        raw(&entry("[2]", "[8,0]"), &[0; 8]),
        raw(&entry("[-2]", "[0,8]"), &[0; 8]),
        raw(&entry("[4611686018427387905]", "[0,4]"), &[0; 4]),
        raw(&entry("[65536,65536,65536,65536]", "[0,0]"), b""),
        raw(&entry("[1]", &format!("[0,{huge}]")), &[0; 8]),
        raw(r#"{"a":{"dtype":"F32"}}"#, b""),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = SafetensorsFile::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        assert!(error.to_string().contains("x.safetensors"), "{error}");
    }
}

#[test]
fn an_index_cannot_lead_out_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors.index.json");
    for shard in [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "..",
        ".",
        "",
        "x.bin",
        "a\\\\b.safetensors",
    ] {
        std::fs::write(&path, format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#)).unwrap();
        let error = shard_names(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{shard}");
    }
    for text in ["{}", "[]", r#"{"weight_map":{}}"#, r#"{"weight_map":{"a":1}}"#] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(shard_names(&path).unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
    }
}

#[test]
fn an_index_and_its_shards_must_agree() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_model(folder.path(), true);
    let index = folder.path().join("model.safetensors.index.json");
    let names = shard_names(&index).unwrap();
    let paths: Vec<_> = names.iter().map(|name| folder.path().join(name)).collect();
    let weights = SafetensorsWeights::open(&paths).unwrap();
    weights.check_index(&index).unwrap();
    let whole = std::fs::read_to_string(&index).unwrap();
    let moved = whole.replacen(&names[0], &names[1], 1);
    let lost = whole.replacen("model.norm.weight", "model.other.weight", 1);
    assert!(moved != whole && lost != whole);
    for (text, tensor) in [(moved, &names[1]), (lost, &"model.other.weight".to_owned())] {
        std::fs::write(&index, text).unwrap();
        let error = weights.check_index(&index).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let told = error.to_string();
        assert!(told.contains(tensor) && told.contains("fetch it again"), "{told}");
    }
}

#[test]
fn weights_of_other_types_are_refused_when_they_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for dtype in ["F8_E4M3", "F8_E5M2", "I8", "U8", "F4"] {
        let header =
            format!(r#"{{"a.weight":{{"dtype":"{dtype}","shape":[4],"data_offsets":[0,4]}}}}"#);
        std::fs::write(&path, raw(&header, &[0; 4])).unwrap();
        let error = SafetensorsWeights::open(std::slice::from_ref(&path)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        for piece in ["a.weight", dtype, "model.safetensors", "before they were quantised"] {
            assert!(error.to_string().contains(piece), "no {piece} in {error}");
        }
    }
    // What is beside the weights may be anything.
    let header = r#"{"position_ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    std::fs::write(&path, raw(header, &[0; 8])).unwrap();
    assert!(SafetensorsWeights::open(&[path]).is_ok());
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a.safetensors", "b.safetensors"].map(|name| folder.path().join(name));
    for path in &paths {
        write_safetensors(path, &tiny_tensors()[1..2], None);
    }
    assert!(SafetensorsWeights::open(&paths).err().unwrap().to_string().contains("in two"));
}

#[test]
fn elements_of_16_bits_are_given_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.safetensors");
    let header = r#"{"b": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]},
        "h": {"dtype": "F16", "shape": [2], "data_offsets": [4, 8]},
        "f": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}"#;
    let data = [0x80, 0x3f, 0x00, 0xc0, 0x00, 0x3c, 0x00, 0xc0, 0, 0, 0x80, 0x3f];
    std::fs::write(&path, raw(header, &data)).unwrap();
    let weights = SafetensorsWeights::open(&[path]).unwrap();
    for (name, shape, dtype) in
        [("b", vec![1, 2], candle_core::DType::BF16), ("h", vec![2], candle_core::DType::F16)]
    {
        let half = weights.half(name, &shape).unwrap().unwrap();
        assert_eq!((half.dtype(), half.dims()), (dtype, shape.as_slice()));
        assert_eq!(values(&half.to_dtype(candle_core::DType::F32).unwrap()), [1., -2.]);
        assert_eq!(values(&weights.tensor(name, &shape).unwrap()), [1., -2.]);
        assert!(weights.half(name, &[3]).is_err());
    }
    assert!(weights.half("f", &[1]).unwrap().is_none());
    assert!(weights.half("none", &[1]).is_err());
}
