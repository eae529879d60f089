//! Golden vectors of a real model from PyTorch.

use std::path::{Path, PathBuf};

use scalingnote::tower::{DeviceSpec, Tower, TowerOptions};
use scalingnote::types::{Arithmetic, Pooling};

use super::encoders::{cosine, resolve_as};

/// SmolLM2-135M, or `None` with a line that says the test is skipped.
pub fn smollm2() -> Option<PathBuf> {
    let places = [
        std::env::var_os("SCALINGNOTE_MODELS").map(Into::into),
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/models")),
        std::env::home_dir().map(|home| home.join(".cache/scalingnote-models")),
    ];
    let name = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let found =
        places.into_iter().flatten().map(|place| place.join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: {name} is not in SCALINGNOTE_MODELS or .cache/models");
    }
    found
}

#[derive(serde::Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    mean: Vec<f32>,
    last: Vec<f32>,
}

async fn resolve(path: &Path, pooling: Pooling, arithmetic: Arithmetic) -> Tower {
    let options = TowerOptions {
        normalize: Some(false),
        arithmetic,
        ..TowerOptions::new(path.to_str().unwrap(), pooling)
    };
    resolve_as(options).await.unwrap()
}

#[tokio::test]
async fn smollm2_in_bf16_and_int8_stays_near_pytorch() {
    let Some(path) = smollm2() else { return };
    let golden: Golden = serde_json::from_str(include_str!("../../golden/smollm2.json")).unwrap();
    let ids: Vec<&[u32]> = golden.cases.iter().map(|case| case.ids.as_slice()).collect();
    for (arithmetic, least, mean) in
        [(Arithmetic::Bf16, 0.9999, 0.99998), (Arithmetic::Int8, 0.995, 0.999)]
    {
        let tower = resolve(&path, Pooling::Mean, arithmetic).await;
        let mut encoder = tower.load(&DeviceSpec::Cpu { threads: 0 }).unwrap();
        let packed = encoder.encode(&ids).unwrap();
        let cosines: Vec<f64> =
            packed.rows().zip(&golden.cases).map(|(row, case)| cosine(row, &case.mean)).collect();
        println!("{arithmetic:?}: {cosines:.6?}");
        assert!(cosines.iter().all(|cosine| *cosine >= least), "{arithmetic:?}: {cosines:?}");
        assert!(cosines.iter().sum::<f64>() / cosines.len() as f64 >= mean, "{arithmetic:?}");
        for at in [0, 4, 11] {
            let alone = encoder.encode(&[ids[at]]).unwrap();
            assert_eq!(alone.row(0), packed.row(at), "{arithmetic:?}: text {at} alone");
        }
    }
}

#[tokio::test]
async fn smollm2_matches_pytorch() {
    let Some(path) = smollm2() else { return };
    let golden: Golden = serde_json::from_str(include_str!("../../golden/smollm2.json")).unwrap();
    assert_eq!(golden.cases.len(), 12);
    let tower = resolve(&path, Pooling::Mean, Arithmetic::F32).await;
    for case in &golden.cases {
        let ours = tower.tokenizer().tokenize(&case.text).unwrap();
        assert_eq!(ours.ids, case.ids, "tokens of {:?}", case.text);
    }
    let ids: Vec<&[u32]> = golden.cases.iter().map(|case| case.ids.as_slice()).collect();
    let last = resolve(&path, Pooling::LastToken, Arithmetic::F32).await;
    for (tower, pooling) in [(tower, "mean"), (last, "last")] {
        let mut encoder = tower.load(&DeviceSpec::Cpu { threads: 0 }).unwrap();
        let packed = encoder.encode(&ids).unwrap();
        for (at, case) in golden.cases.iter().enumerate() {
            let theirs = if pooling == "mean" { &case.mean } else { &case.last };
            let ours = packed.row(at);
            let cosine = cosine(ours, theirs);
            let difference =
                ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            println!("{pooling} of {} tokens: cosine {cosine:.9}, {difference:e}", ids[at].len());
            assert!(cosine >= 0.99999, "{pooling} of text {at}: cosine {cosine}");
            assert!(difference < 5e-3, "{pooling} of text {at}: difference {difference}");
        }
        // The real model keeps the promise too: alone or packed, the same vector.
        for at in [0, 4, 11] {
            let alone = encoder.encode(&[ids[at]]).unwrap();
            assert_eq!(alone.row(0), packed.row(at), "text {at} alone");
        }
    }
}
