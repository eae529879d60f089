//! Index shards on real GloVe vectors and on hostile input.

mod damaged;
mod graphs;
mod signs;
mod witness;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use scalingnote::error::ErrorKind;
use scalingnote::index::{
    BuildReport, Builder, Calibration, IndexOptions, Quantization, RowSet, ShardIndex, audit,
    build, calibrate, estimate_memory, measure,
};
use scalingnote::types::{Cancel, Embeddings};

/// SplitMix64: keys that look like hashes, and noise.
fn mix(seed: u64) -> u64 {
    let x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn noise(seed: u64) -> f32 {
    (mix(seed) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// Vectors around a few centres.
fn clustered(rows: usize, dimensions: usize, seed: u64) -> Embeddings {
    let mut data = Vec::with_capacity(rows * dimensions);
    for row in 0..rows as u64 {
        let centre = mix(seed ^ row) % 20;
        for at in 0..dimensions as u64 {
            data.push(noise(centre << 32 | at) + 0.5 * noise(seed ^ (row << 20) ^ (at << 50)));
        }
    }
    Embeddings::from_vec(dimensions, data).unwrap()
}

fn keys(count: usize) -> Vec<u64> {
    let mut keys: Vec<u64> = (0..count as u64).map(mix).collect();
    keys.sort_unstable();
    keys
}

/// Of a new pipeline.
fn options(quantization: Quantization) -> IndexOptions {
    IndexOptions { quantization, builder: Builder::Scalingnote, ..IndexOptions::default() }
}

/// As [`options`], with the default quantisation.
fn plain() -> IndexOptions {
    options(Quantization::I8)
}

struct Built {
    folder: tempfile::TempDir,
    options: IndexOptions,
    calibration: Calibration,
    report: BuildReport,
}

impl Built {
    fn index(&self) -> PathBuf {
        self.folder.path().join("a.usearch")
    }
    fn sidecar(&self) -> PathBuf {
        self.folder.path().join("a.f16")
    }
    fn open(&self) -> ShardIndex {
        ShardIndex::open(&self.index(), &self.sidecar(), &self.options, &self.calibration).unwrap()
    }
}

fn built(keys: &[u64], vectors: &Embeddings, options: IndexOptions) -> Built {
    let folder = tempfile::tempdir().unwrap();
    let calibration = if vectors.is_empty() {
        Calibration::without_sample(&options, vectors.dimensions())
    } else {
        calibrate(vectors, &options).unwrap()
    };
    let (index, sidecar) = (folder.path().join("a.usearch"), folder.path().join("a.f16"));
    let cancel = Cancel::new();
    let report =
        build(keys, vectors, &options, &calibration, &index, &sidecar, &cancel, &|_| {}).unwrap();
    Built { folder, options, calibration, report }
}

fn glove() -> Option<PathBuf> {
    let shared = std::env::var_os("SCALINGNOTE_SHARED_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    let folder = shared.join("glove-100d-80k");
    if folder.exists() {
        return Some(folder);
    }
    println!("skipped: {} is missing (set SCALINGNOTE_SHARED_DATA)", folder.display());
    None
}

/// texmex layout: i32 length, then that many 4-byte values; the first `most` rows.
fn texmex(path: &Path, most: usize) -> (usize, Vec<[u8; 4]>) {
    let bytes = std::fs::read(path).unwrap();
    let width = i32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let rows = bytes.chunks_exact(4 * (width + 1)).take(most);
    (width, rows.flat_map(|row| row[4..].chunks_exact(4).map(|x| x.try_into().unwrap())).collect())
}

fn fvecs(path: &Path, most: usize) -> Embeddings {
    let (width, values) = texmex(path, most);
    Embeddings::from_vec(width, values.into_iter().map(f32::from_le_bytes).collect()).unwrap()
}

/// Share of the exact ten best (by cosine, ties count) that `search` finds.
fn recall(shard: &ShardIndex, queries: &Embeddings) -> f64 {
    let mut hits = 0;
    for query in queries.rows() {
        let floor = shard.search_exact(query, 10).unwrap().last().unwrap().score - 1e-5;
        let row = |key| shard.vector(key).unwrap();
        let unit = query.iter().map(|x| x * x).sum::<f32>().sqrt();
        hits += shard
            .search(query, 10)
            .unwrap()
            .iter()
            .filter(|hit| {
                let dot: f32 = row(hit.key).iter().zip(query).map(|(x, y)| x * y).sum();
                dot / unit >= floor
            })
            .count();
    }
    hits as f64 / (10 * queries.len()) as f64
}

/// Without rescoring at least 0.89, with it better than 0.908, which f16 had, rows in no order.
#[test]
fn calibrated_i8_keeps_its_recall_on_glove() {
    let Some(folder) = glove() else { return };
    let base = fvecs(&folder.join("base.fvecs"), usize::MAX);
    let queries = fvecs(&folder.join("query.fvecs"), usize::MAX);
    let (width, truth) = texmex(&folder.join("groundtruth.ivecs"), usize::MAX);
    let keys = keys(base.len());
    let recalls = [Builder::Scalingnote, Builder::Usearch].map(|builder| {
        let made = built(&keys, &base, IndexOptions { builder, ..plain() });
        let against_truth = |rescore: usize| {
            let options = IndexOptions { rescore, ..made.options.clone() };
            let shard =
                ShardIndex::open(&made.index(), &made.sidecar(), &options, &made.calibration)
                    .unwrap();
            let mut hits = 0;
            for (at, query) in queries.rows().enumerate() {
                let best: Vec<u64> = truth[at * width..at * width + 10]
                    .iter()
                    .map(|row| keys[i32::from_le_bytes(*row) as usize])
                    .collect();
                let found = shard.search(query, 10).unwrap();
                hits += found.iter().filter(|hit| best.contains(&hit.key)).count();
            }
            hits as f64 / (10 * queries.len()) as f64
        };
        let (direct, rescored) = (against_truth(0), against_truth(8));
        println!(
            "{builder:?}: recall@10: direct {direct:.4}, rescored {rescored:.4}, sampled {:?}, calibration {:?}, {} repaired",
            made.report.recall, made.calibration, made.report.repaired
        );
        assert!(direct >= 0.906, "{builder:?}: {direct}");
        assert!(rescored > 0.918, "{builder:?}: {rescored}");
        assert_eq!((made.report.orphans, made.report.vectors), (0, 80_000));
        // The sampled figure speaks for held-out queries.
        let sampled = made.report.recall;
        assert!((sampled.mean - rescored).abs() < 0.02, "{sampled:?}");
        assert!(sampled.low < sampled.mean && sampled.mean < sampled.high, "{sampled:?}");
        let exact = made.open().search_exact(queries.row(0), 10).unwrap();
        let first = keys[i32::from_le_bytes(truth[0]) as usize];
        assert_eq!(exact[0].key, first);
        assert!(builder == Builder::Usearch || made.report.repaired == 0, "{:?}", made.report);
        (direct, rescored)
    });
    let [ours, theirs] = recalls;
    assert!(
        ours.0 >= theirs.0 - 0.002 && ours.1 >= theirs.1 - 0.002,
        "{ours:?}, usearch {theirs:?}"
    );
}

#[test]
fn every_quantisation_builds_opens_and_finds() {
    let vectors = clustered(3_000, 45, 1);
    let keys = keys(vectors.len());
    let queries = clustered(50, 45, 2);
    for (quantization, least) in [
        (Quantization::F32, 0.97),
        (Quantization::F16, 0.97),
        (Quantization::Bf16, 0.97),
        (Quantization::I8, 0.97),
        (Quantization::B1, 0.4),
        (Quantization::B1r, 0.8),
    ] {
        let made = built(&keys, &vectors, options(quantization));
        let shard = made.open();
        let found = recall(&shard, &queries);
        println!("{quantization:?}: {found} sampled {:?}", made.report.recall);
        assert!(found >= least, "{quantization:?}: {found}");
        assert_eq!(made.report.orphans, 0);
        // A stored vector finds itself, whatever its length was.
        let long: Vec<f32> = vectors.row(7).iter().map(|x| x * 1e3).collect();
        let hit = shard.search(&long, 1).unwrap()[0];
        assert_eq!(hit.key, keys[7], "{quantization:?}");
        assert!((hit.score - 1.0).abs() < 2e-3, "{hit:?}");
        // Without rescoring the score is the index's own, of the same scale.
        let unscored = IndexOptions { rescore: 0, ..made.options.clone() };
        let shard =
            ShardIndex::open(&made.index(), &made.sidecar(), &unscored, &made.calibration).unwrap();
        let hit = shard.search(&long, 1).unwrap()[0];
        // 45 bits tell little of a cosine.
        let most = if quantization == Quantization::B1r { 0.3 } else { 2e-2 };
        assert!((hit.score - 1.0).abs() < most, "{quantization:?}: {hit:?}");
    }
}

/// One tenth of the corpus is copies: the walled-off groups that plain insertion makes would cost both
/// reachability and recall.
#[test]
fn copies_cost_neither_reachability_nor_recall() {
    let distinct = clustered(4_000, 32, 5);
    let mut vectors = distinct.clone();
    for row in distinct.rows().take(5) {
        (0..100).for_each(|_| vectors.push(row));
    }
    (0..500).for_each(|_| vectors.push(distinct.row(9)));
    let keys = keys(vectors.len());
    // Copies must not all stand at the end of the key order.
    let mut order: Vec<usize> = (0..vectors.len()).collect();
    order.sort_by_key(|at| mix(*at as u64 + 77));
    let mut shuffled = Embeddings::with_capacity(32, vectors.len());
    order.iter().for_each(|at| shuffled.push(vectors.row(*at)));
    for quantization in [Quantization::I8, Quantization::F32, Quantization::B1, Quantization::B1r] {
        let made = built(&keys, &shuffled, options(quantization));
        let found = audit(&made.index()).unwrap();
        assert_eq!((found.nodes, found.orphans.len()), (5_000, 0), "{quantization:?}");
        assert_eq!((made.report.vectors, made.report.orphans), (5_000, 0));
        assert_eq!(
            made.report.repaired, 0,
            "{quantization:?}: the copies cut no link that leads on"
        );
        if !quantization.is_of_bits() {
            let found = recall(&made.open(), &clustered(200, 32, 6));
            println!("{quantization:?}: {found}");
            assert!(found > 0.97, "{quantization:?}: {found}");
        }
    }
    // Nothing but copies.
    let mut same = Embeddings::with_capacity(32, 500);
    (0..500).for_each(|_| same.push(distinct.row(0)));
    let made = built(&self::keys(500), &same, options(Quantization::I8));
    assert_eq!((made.report.orphans, made.report.recall.mean), (0, 1.0));
    assert_eq!(made.open().search(distinct.row(0), 10).unwrap().len(), 10);
}

#[test]
fn same_input_same_bytes_also_in_parallel() {
    let shards: Vec<(Vec<u64>, Embeddings)> =
        (0..3).map(|shard| (keys(1_500), clustered(1_500, 40, shard))).collect();
    let bytes = |made: &Built| {
        (std::fs::read(made.index()).unwrap(), std::fs::read(made.sidecar()).unwrap())
    };
    let one_by_one: Vec<_> =
        shards.iter().map(|(keys, vectors)| bytes(&built(keys, vectors, plain()))).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = shards
            .iter()
            .map(|(keys, vectors)| scope.spawn(|| bytes(&built(keys, vectors, plain()))))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(one_by_one == together);
    assert_ne!(one_by_one[0], one_by_one[1]);
}

#[test]
fn tiny_and_empty_shards_work() {
    for count in [0, 1, 2, 11] {
        let vectors = Embeddings::from_vec(3, (0..3 * count as u64).map(noise).collect()).unwrap();
        let made = built(&keys(count), &vectors, plain());
        let shard = made.open();
        assert_eq!((shard.len(), made.report.vectors), (count, count as u64));
        assert_eq!(shard.search(&[1.0, 0.0, 0.0], 5).unwrap().len(), count.min(5));
        assert_eq!(shard.search_exact(&[1.0, 0.0, 0.0], 5).unwrap().len(), count.min(5));
        assert!(shard.search(&[1.0, 0.0, 0.0], 0).unwrap().is_empty());
        assert_eq!(made.report.recall.mean, 1.0);
        assert_eq!(audit(&made.index()).unwrap().orphans, [0u64; 0]);
    }
}

#[test]
fn bad_input_is_refused_by_name_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (index, sidecar) = (folder.path().join("a.usearch"), folder.path().join("a.f16"));
    let calibration = Calibration { scale: 127.0, sample: 1, clipped: 0.0, signs: None };
    let attempt = |keys: &[u64], data: Vec<f32>, options: IndexOptions, cancel: &Cancel| {
        let vectors = Embeddings::from_vec(2, data).unwrap();
        build(keys, &vectors, &options, &calibration, &index, &sidecar, cancel, &|_| {})
            .unwrap_err()
    };
    let (plain, go) = (plain(), Cancel::new());
    for bad in [f32::NAN, f32::INFINITY, 0.0] {
        let error = attempt(&[1, 0xab], vec![1.0, 0.0, bad, 0.0], plain.clone(), &go);
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.to_string().contains("00000000000000ab"), "{error}");
    }
    let error = attempt(&[1, u64::MAX], vec![1.0, 0.0, 0.0, 1.0], plain.clone(), &go);
    assert_eq!(error.kind(), ErrorKind::Input);
    let error = attempt(&[2, 1], vec![1.0, 0.0, 0.0, 1.0], plain.clone(), &go);
    assert!(error.to_string().contains("ascend"), "{error}");
    let wide = IndexOptions { connectivity: 1, ..plain.clone() };
    let error = attempt(&[1], vec![1.0, 0.0], wide, &go);
    assert!(error.to_string().contains("index.connectivity is 1"), "{error}");
    let stop = Cancel::new();
    stop.cancel();
    assert_eq!(attempt(&[1], vec![1.0, 0.0], plain, &stop).kind(), ErrorKind::Cancelled);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn files_of_different_builds_do_not_open_together() {
    let (one, two) = (clustered(300, 16, 1), clustered(301, 16, 2));
    let first = built(&keys(300), &one, plain());
    let second = built(&keys(301), &two, plain());
    let mut other_keys = keys(300);
    other_keys[5] += 1;
    let third = built(&other_keys, &one, plain());
    let open = |index: &Path, sidecar: &Path, quantization| {
        ShardIndex::open(index, sidecar, &options(quantization), &first.calibration)
    };
    for (index, sidecar, quantization) in [
        (first.index(), second.sidecar(), Quantization::I8),
        (first.index(), third.sidecar(), Quantization::I8),
        (first.index(), first.sidecar(), Quantization::F16),
        (first.sidecar(), first.index(), Quantization::I8),
    ] {
        let error = open(&index, &sidecar, quantization).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    let error = open(Path::new("nowhere"), &first.sidecar(), Quantization::I8).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = first.open().search(&[1.0; 17], 3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
}

/// Each has its own marks and heaps, taken from those before.
#[test]
fn many_threads_search_one_shard() {
    let vectors = clustered(500, 16, 1);
    let made = built(&keys(500), &vectors, plain());
    let shard = made.open();
    let expected = shard.search(vectors.row(3), 5).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(shard.search(vectors.row(3), 5).unwrap(), expected);
                }
            });
        }
    });
}

/// Two segments with removed rows serve like one index of what is left, and are measured like one.
#[test]
fn segments_serve_together_like_one_index() {
    let vectors = clustered(3_000, 32, 3);
    let all = keys(3_000);
    let pick = |which: &dyn Fn(usize) -> bool| {
        let rows: Vec<usize> = (0..all.len()).filter(|at| which(*at)).collect();
        let mut picked = Embeddings::with_capacity(32, rows.len());
        rows.iter().for_each(|at| picked.push(vectors.row(*at)));
        (rows.into_iter().map(|at| all[at]).collect::<Vec<u64>>(), picked)
    };
    // One in fifty of the base is removed; a tenth of it again comes in a delta, some of it under removed keys.
    let gone = |at: usize| at % 50 == 7;
    let late = |at: usize| at % 10 == 7;
    let (base_keys, base) = pick(&|at| !late(at) || gone(at));
    let (removed, _) = pick(&gone);
    let (delta_keys, delta) = pick(&late);
    let one = built(&all, &vectors, plain());
    let whole = one.open();
    let segments = [built(&base_keys, &base, plain()), built(&delta_keys, &delta, plain())];
    let opened: Vec<ShardIndex> = segments
        .iter()
        .map(|made| {
            let (index, sidecar) = (made.index(), made.sidecar());
            // One scale for all, as a space has.
            ShardIndex::open(&index, &sidecar, &made.options, &made.calibration).unwrap()
        })
        .collect();
    let live = [
        RowSet::without(opened[0].keys(), &removed).unwrap(),
        RowSet::without(opened[1].keys(), &[]).unwrap(),
    ];
    assert_eq!(live.iter().map(RowSet::len).sum::<usize>(), all.len());
    let query = vectors.row(57);
    let mut exact: Vec<_> = opened
        .iter()
        .zip(&live)
        .flat_map(|(shard, live)| shard.search_exact_among(query, 20, live).unwrap())
        .collect();
    exact.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.key.cmp(&b.key)));
    exact.truncate(20);
    assert_eq!(exact, whole.search_exact(query, 20).unwrap());
    let hits = opened[0].search_among(query, 50, &live[0]).unwrap();
    assert!(hits.len() == 50 && hits.iter().all(|hit| !removed.contains(&hit.key)));
    let cancel = Cancel::new();
    let together = measure(&[(&opened[0], &live[0]), (&opened[1], &live[1])], &cancel).unwrap();
    println!("together {together:?}, one index {:?}", one.report.recall);
    assert_eq!(together.queries, one.report.recall.queries);
    assert!(together.mean >= one.report.recall.mean - 0.02, "{together:?}");
    let every = RowSet::without(whole.keys(), &[]).unwrap();
    assert_eq!(measure(&[(&whole, &every)], &cancel).unwrap(), one.report.recall);
    assert_eq!(RowSet::without(&all, &[7]).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn the_memory_estimate_covers_what_a_build_holds() {
    let options = plain();
    let estimate = estimate_memory(80_000, 100, &options);
    // 80,000 x (400 input + 100 codes + 150 links) is 52 MB; the fixed part 64 MiB.
    assert!((100 << 20..200 << 20).contains(&estimate), "{estimate}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn exact_search_is_brute_force_and_the_sidecar_keeps_its_vectors(
        rows in 1..60usize,
        dimensions in 1..40usize,
        seed in any::<u64>(),
        k in 1..15usize,
    ) {
        let data: Vec<f32> = (0..rows * dimensions).map(|at| noise(seed ^ at as u64) + 1e-3).collect();
        let vectors = Embeddings::from_vec(dimensions, data).unwrap();
        let keys = keys(rows);
        let made = built(&keys, &vectors, options(Quantization::F16));
        let shard = made.open();
        prop_assert_eq!(shard.keys(), &keys[..]);
        let unit = |row: &[f32]| {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter().map(|x| x / norm).collect::<Vec<f32>>()
        };
        for (key, row) in keys.iter().zip(vectors.rows()) {
            for (stored, given) in shard.vector(*key).unwrap().iter().zip(unit(row)) {
                prop_assert!((stored - given).abs() <= 1e-3 * given.abs() + 1e-6);
            }
        }
        let query = vectors.row(rows / 2);
        let mut brute: Vec<(f32, u64)> = keys
            .iter()
            .map(|key| {
                let row = shard.vector(*key).unwrap();
                (row.iter().zip(unit(query)).map(|(x, y)| x * y).sum(), *key)
            })
            .collect();
        brute.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let found = shard.search_exact(query, k).unwrap();
        prop_assert_eq!(found.len(), k.min(rows));
        for (hit, (score, _)) in found.iter().zip(&brute) {
            prop_assert!((hit.score - score).abs() < 1e-5, "{:?} {}", hit, score);
        }
        prop_assert!(found.windows(2).all(|w| (w[1].score, w[0].key) < (w[0].score, w[1].key)));
    }
}
