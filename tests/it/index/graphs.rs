//! Graphs of our own builder beside usearch's: the same file, read by the same library.

use scalingnote::index::{
    Builder, IndexOptions, Quantization, audit, check_with_usearch, record_canaries, stored_keys,
};
use scalingnote::types::{Canary, CanaryHit, Embeddings, HexKey};

use super::{Built, built, clustered, keys, options, recall};

const ALL: [Quantization; 6] = [
    Quantization::F32,
    Quantization::F16,
    Quantization::Bf16,
    Quantization::I8,
    Quantization::B1,
    Quantization::B1r,
];

fn confirmed(made: &Built, canaries: &[Canary]) -> scalingnote::error::Result<()> {
    check_with_usearch(&made.index(), &made.sidecar(), &made.options, &made.calibration, canaries)
}

/// Every vector is asked for, as if it were a canary.
fn every(made: &Built) -> Vec<Canary> {
    let keys = stored_keys(&made.index()).unwrap().keys;
    let hit = |key| CanaryHit { key: HexKey(key), score: 1.0 };
    keys.into_iter().map(|key| Canary { key: HexKey(key), hits: vec![hit(key)] }).collect()
}

#[test]
fn usearch_finds_in_our_files_what_we_find() {
    for count in [0, 1, 2, 30, 1_500] {
        let mut vectors = clustered(count, 33, 4);
        // Copies of one vector hang below it in the file.
        (0..count / 20).for_each(|_| vectors.push(clustered(count, 33, 4).row(0)));
        let keys = keys(vectors.len());
        for quantization in ALL {
            for builder in [Builder::Scalingnote, Builder::Usearch] {
                let made =
                    built(&keys, &vectors, IndexOptions { builder, ..options(quantization) });
                let what = format!("{count} vectors, {quantization:?}, {builder:?}");
                assert_eq!(audit(&made.index()).unwrap().orphans, [0u64; 0], "{what}");
                let canaries = record_canaries(&made.open()).unwrap();
                confirmed(&made, &canaries).expect(&what);
                confirmed(&made, &every(&made)).expect(&what);
            }
        }
    }
}

/// usearch's own head, so that its readers of every language and release see no difference.
#[test]
fn the_heads_are_usearchs_own() {
    for count in [0, 3, 200] {
        let vectors = clustered(count, 20, 9);
        for quantization in ALL {
            let heads = [Builder::Scalingnote, Builder::Usearch].map(|builder| {
                let made = built(
                    &keys(count),
                    &vectors,
                    IndexOptions { builder, ..options(quantization) },
                );
                let bytes = std::fs::read(made.index()).unwrap();
                let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
                let head = 8 + number(0) as usize * number(4) as usize;
                // Vectors, the 64 bytes about them, and of the graph size and connectivity.
                (bytes[..head + 64 + 24].to_vec(), (count == 0).then_some(bytes))
            });
            assert!(heads[0] == heads[1], "{count} vectors, {quantization:?}");
        }
    }
}

/// At any connectivity and expansion, with and without copies: nothing to repair, and a recall like usearch's.
#[test]
fn graphs_are_as_good_as_usearchs_and_need_no_repair() {
    let vectors = clustered(6_000, 24, 11);
    let keys = keys(vectors.len());
    let queries = clustered(400, 24, 12);
    for (quantization, connectivity, expansion_add) in [
        (Quantization::I8, 16, 128),
        (Quantization::F32, 8, 40),
        (Quantization::Bf16, 5, 200),
        (Quantization::I8, 3, 30),
    ] {
        let recalls = [Builder::Scalingnote, Builder::Usearch].map(|builder| {
            let made = built(
                &keys,
                &vectors,
                IndexOptions {
                    builder,
                    connectivity,
                    expansion_add,
                    expansion_search: 24,
                    rescore: 0,
                    ..options(quantization)
                },
            );
            assert!(builder == Builder::Usearch || made.report.repaired == 0, "{:?}", made.report);
            recall(&made.open(), &queries)
        });
        println!("{quantization:?}, {connectivity}, {expansion_add}: {recalls:?}");
        let [ours, theirs] = recalls;
        // One graph in many is luckier than the other by as much. Where a list has few places, those that keep every node
        // within reach cost some of the near ones.
        let margin = if connectivity < 8 { 0.02 } else { 0.01 };
        assert!(
            ours >= theirs - margin,
            "{quantization:?}, {connectivity}: {ours}, usearch {theirs}"
        );
    }
}

/// What an earlier release stored about its options still names them, and a new builder is another name.
#[test]
fn usearchs_options_keep_their_name() {
    let old = IndexOptions::default();
    let stored = r#"{"quantization":"i8","connectivity":16,"expansion_add":128,"expansion_search":64,"rescore":8}"#;
    assert_eq!(serde_json::to_string(&old).unwrap(), stored);
    assert_eq!(serde_json::from_str::<IndexOptions>(stored).unwrap(), old);
    let new = options(Quantization::I8);
    assert_ne!(new.id().unwrap(), old.id().unwrap());
    let said = serde_json::to_string(&new).unwrap();
    assert!(said.ends_with(r#","builder":"scalingnote"}"#), "{said}");
    assert_eq!(serde_json::from_str::<IndexOptions>(&said).unwrap(), new);
}

#[test]
fn one_vector_many_times_is_one_point_with_a_tree_of_copies() {
    let one = clustered(1, 8, 3);
    let mut vectors = Embeddings::with_capacity(8, 300);
    (0..300).for_each(|_| vectors.push(one.row(0)));
    for connectivity in [2, 3, 16] {
        let made =
            built(&keys(300), &vectors, IndexOptions { connectivity, ..options(Quantization::I8) });
        assert_eq!((made.report.repaired, made.report.orphans), (0, 0));
        confirmed(&made, &record_canaries(&made.open()).unwrap()).unwrap();
    }
}
