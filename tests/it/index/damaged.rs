//! Index files and sidecars with bits flipped, cut off, or with other values in their fields.

use proptest::prelude::*;
use scalingnote::error::ErrorKind;
use scalingnote::index::{Calibration, ShardIndex, audit};

use super::{built, clustered, keys, plain};

fn small() -> &'static (Vec<u8>, Vec<u8>) {
    static SMALL: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
    SMALL.get_or_init(|| {
        let made = built(&keys(120), &clustered(120, 8, 1), plain());
        (std::fs::read(made.index()).unwrap(), std::fs::read(made.sidecar()).unwrap())
    })
}

/// Opens damaged files; whatever opens must also search without falling over.
fn try_damaged(index: &[u8], sidecar: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let (index_path, sidecar_path) = (folder.path().join("a"), folder.path().join("b"));
    std::fs::write(&index_path, index).unwrap();
    std::fs::write(&sidecar_path, sidecar).unwrap();
    let calibration = Calibration { scale: 127.0, sample: 1, clipped: 0.0, signs: None };
    if let Err(error) = audit(&index_path) {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    let options = plain();
    match ShardIndex::open(&index_path, &sidecar_path, &options, &calibration) {
        Ok(shard) => {
            shard.search(&vec![0.5; shard.dimensions()], 7).unwrap();
            shard.search_exact(&vec![0.5; shard.dimensions()], 7).unwrap();
        }
        Err(error) => assert!(
            matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported),
            "{error:?}"
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn bit_flips_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..4)) {
        let (index, sidecar) = small();
        let (mut damaged, mut beside) = (index.clone(), sidecar.clone());
        for (at, bit) in flips {
            // Vectors are most of the file and harmless: aim at the graph.
            let graph = 8 + 120 * 8;
            let at = at.index(damaged.len() - graph) + graph;
            damaged[at] ^= 1 << bit;
            let head = beside.len().min(96);
            beside[at % head] ^= 1 << bit;
        }
        try_damaged(&damaged, sidecar);
        try_damaged(index, &beside);
    }

    #[test]
    fn truncation_is_corrupt(index_cut in any::<prop::sample::Index>(), sidecar_cut in any::<prop::sample::Index>()) {
        let (index, sidecar) = small();
        try_damaged(&index[..index_cut.index(index.len())], sidecar);
        try_damaged(index, &sidecar[..sidecar_cut.index(sidecar.len())]);
    }

    #[test]
    fn a_field_of_any_value_never_panics(at in 0..160usize, value in any::<u64>()) {
        let (index, sidecar) = small();
        let mut damaged = index.clone();
        let graph = 8 + 120 * 8;
        let at = if at < 8 { at } else { graph + at - 8 };
        for (byte, new) in damaged[at..].iter_mut().zip(value.to_le_bytes()) {
            *byte = new;
        }
        try_damaged(&damaged, sidecar);
    }
}
