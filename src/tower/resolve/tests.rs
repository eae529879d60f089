use super::*;
use crate::observe::Silent;
use crate::tower::files::hub::tests::{COMMIT, LoopbackHub};
use crate::tower::testing::{smollm2, write_safetensors, write_tiny_model};
use crate::types::Pooling;

async fn resolve(options: &TowerOptions, base: &Path) -> Result<Tower> {
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    Tower::resolve(options, base, &reporter).await
}

fn tiny(model: &str) -> TowerOptions {
    TowerOptions { max_tokens: Some(64), ..TowerOptions::new(model, Pooling::Mean) }
}

#[tokio::test]
async fn a_directory_a_file_and_a_repo_are_one_tower() {
    let base = tempfile::tempdir().unwrap();
    let folder = base.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    write_tiny_model(&folder, false);
    let template = Digest256::of(b"{{ title }}");
    let tower = resolve(&tiny("model"), base.path()).await.unwrap();
    let space = tower.space(template);
    assert_eq!((tower.dimensions(), space.dimensions), (32, 32));
    assert_eq!(tower.weights_digest(), space.weights);
    let file = resolve(&tiny("./model/model.safetensors"), base.path()).await.unwrap();
    assert_eq!(file.space(template), space);
    // Stored options lead back from anywhere.
    let stored = serde_json::to_value(file.options()).unwrap();
    let again: TowerOptions = serde_json::from_value(stored).unwrap();
    assert!(Path::new(&again.model).is_absolute());
    assert_eq!(resolve(&again, Path::new("/")).await.unwrap().space(template), space);

    let cache = base.path().join("cache");
    let loopback = LoopbackHub::start(&folder, &cache, None).await;
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let hub = || Ok(loopback.hub.clone());
    let remote = tiny("tiny/model");
    let remote = Tower::resolve_with(&remote, base.path(), &reporter, hub).await.unwrap();
    assert_eq!(remote.space(template), space);
    assert_eq!(remote.options().revision.as_deref(), Some(COMMIT));
    assert_eq!(remote.options().model, "hf:tiny/model");
    let again = Tower::resolve_with(remote.options(), Path::new("/"), &reporter, hub).await;
    assert_eq!(again.unwrap().space(template), space);
}

#[tokio::test]
async fn every_part_of_the_identity_shows() {
    let base = tempfile::tempdir().unwrap();
    write_tiny_model(base.path(), false);
    let template = Digest256::of(b"");
    let plain = resolve(&tiny("."), base.path()).await.unwrap().space(template);
    // The same weights mean something else under another base of the rotation.
    let path = base.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("10000.0", "20000.0")).unwrap();
    let other = resolve(&tiny("."), base.path()).await.unwrap().space(template);
    assert_ne!(other.weights, plain.weights);
    // What the decoder does not look at changes nothing.
    std::fs::write(&path, text.replace("LlamaForCausalLM", "LlamaModel")).unwrap();
    assert_eq!(resolve(&tiny("."), base.path()).await.unwrap().space(template), plain);
    let cut = TowerOptions { dimensions: Some(8), ..tiny(".") };
    assert_eq!(resolve(&cut, base.path()).await.unwrap().space(template).dimensions, 8);
}

#[tokio::test]
async fn impossible_options_are_refused() {
    let base = tempfile::tempdir().unwrap();
    write_tiny_model(base.path(), false);
    for (options, kind, told) in [
        (TowerOptions { max_tokens: Some(129), ..tiny(".") }, ErrorKind::Config, "128 positions"),
        (TowerOptions { dimensions: Some(33), ..tiny(".") }, ErrorKind::Config, "between 1 and 32"),
        (TowerOptions { dimensions: Some(0), ..tiny(".") }, ErrorKind::Config, "between 1 and 32"),
        (
            TowerOptions { tokenizer: Some("t.json".into()), ..tiny(".") },
            ErrorKind::NotFound,
            "t.json",
        ),
        (TowerOptions { adapter: Some("lora".into()), ..tiny(".") }, ErrorKind::NotFound, "lora"),
        (TowerOptions { adapter: Some("x".into()), ..tiny("fake:8") }, ErrorKind::Config, "fake"),
        (tiny("./absent"), ErrorKind::NotFound, "absent"),
    ] {
        let error = resolve(&options, base.path()).await.err().expect("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
    std::fs::remove_file(base.path().join("tokenizer.json")).unwrap();
    let error = resolve(&tiny("."), base.path()).await.err().unwrap();
    assert!(error.to_string().contains("name a tokenizer.json"), "{error}");
}

#[tokio::test]
async fn a_fake_tower_encodes() {
    let options = TowerOptions { prompt_suffix: Some("!".into()), ..tiny("fake:16") };
    let tower = resolve(&options, Path::new("/")).await.unwrap();
    let ids = tower.tokenizer().tokenize("some words").unwrap().ids;
    assert_eq!(ids.len(), 3);
    let mut encoder = tower.load(&DeviceSpec::Cpu { threads: 1 }).unwrap();
    let rows = encoder.encode(&[&ids, &ids[..1]]).unwrap();
    assert_eq!((rows.len(), rows.dimensions()), (2, 16));
    assert_eq!(rows.row(0), encoder.encode(&[&ids]).unwrap().row(0));
    let slow = TowerOptions { model: "fake:16?tokens_per_second=100".into(), ..options };
    let slow = resolve(&slow, Path::new("/")).await.unwrap();
    let template = Digest256::of(b"");
    assert_eq!(slow.space(template), tower.space(template), "speed is not part of the identity");
    let begun = std::time::Instant::now();
    slow.load(&DeviceSpec::Cpu { threads: 1 }).unwrap().encode(&[&ids]).unwrap();
    assert!(begun.elapsed().as_millis() >= 30);
}

#[tokio::test]
async fn smollm2_resolves() {
    let Some(path) = smollm2() else { return };
    let options = TowerOptions::new(path.to_str().unwrap(), Pooling::Eos);
    let begun = std::time::Instant::now();
    let tower = resolve(&options, Path::new("/")).await.unwrap();
    eprintln!("resolved in {:?}", begun.elapsed());
    assert_eq!(tower.dimensions(), 576);
    assert_eq!(tower.weights_digest().short(), "b179c9523d0e6a0f");
    assert_eq!(tower.tokenizer().tokenize("Hello").unwrap().ids.last(), Some(&2));
    // 135 M parameters in f32, and room for 4,096 tokens.
    let memory = tower.memory(4_096);
    assert!((538_000_000..800_000_000).contains(&memory), "{memory}");
}

/// Turns the sign of the last values of a file over, in place: size and time of modification stay. Twice brings it
/// back.
fn write_into(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let before = file.metadata().unwrap();
    let mut bytes = [0; 64];
    let at = before.len() - 64;
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes.iter_mut().skip(3).step_by(4).for_each(|byte| *byte ^= 0x80);
    file.write_all_at(&bytes, at).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
}

#[tokio::test]
async fn a_tower_loads_the_weights_that_were_hashed() {
    let base = tempfile::tempdir().unwrap();
    let path = |name: &str| base.path().join(name);
    for (folder, sharded) in [("one", false), ("two", true)] {
        std::fs::create_dir(path(folder)).unwrap();
        write_tiny_model(&path(folder), sharded);
    }
    std::fs::create_dir(path("lora")).unwrap();
    let module = "base_model.model.model.layers.1.self_attn.v_proj";
    let matrix = |half: &str, shape: [usize; 2]| {
        (format!("{module}.{half}.weight"), shape.to_vec(), vec![0.5; shape[0] * shape[1]])
    };
    let pair = [matrix("lora_A", [2, 32]), matrix("lora_B", [16, 2])];
    write_safetensors(&path("lora/adapter_model.safetensors"), &pair, None);
    std::fs::write(
        path("lora/adapter_config.json"),
        r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4}"#,
    )
    .unwrap();
    let adapted = TowerOptions { adapter: Some("lora".into()), ..tiny("one") };
    for (options, file) in [
        (tiny("one"), "one/model.safetensors"),
        (tiny("two"), "two/model-00002-of-00002.safetensors"),
        (adapted, "lora/adapter_model.safetensors"),
    ] {
        let device = DeviceSpec::Cpu { threads: 1 };
        let tower = resolve(&options, base.path()).await.unwrap();
        let ids = tower.tokenizer().tokenize("some words").unwrap().ids;
        let encode = |encoder: &mut dyn Encoder| encoder.encode(&[&ids]).unwrap().row(0).to_vec();
        let mut loaded = tower.load(&device).unwrap();
        let vector = encode(&mut *loaded);
        // Written into: it is not loaded any more, and what is loaded stays what it is.
        write_into(&path(file));
        let error = tower.load(&device).err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Input, "{error}");
        assert!(error.to_string().contains("written into after it was hashed"), "{error}");
        assert_eq!(encode(&mut *loaded), vector);
        let other = resolve(&options, base.path()).await.unwrap();
        assert_ne!(other.fingerprint().unwrap(), tower.fingerprint().unwrap());
        assert_ne!(encode(&mut *other.load(&device).unwrap()), vector);
        // Brought back, it is.
        write_into(&path(file));
        assert_eq!(encode(&mut *tower.load(&device).unwrap()), vector);
        // Another file takes its name: the tower is what it was.
        let changed = path("changed");
        std::fs::copy(path(file), &changed).unwrap();
        write_into(&changed);
        std::fs::rename(changed, path(file)).unwrap();
        assert_eq!(encode(&mut *tower.load(&device).unwrap()), vector);
        write_into(&path(file));
    }
}
