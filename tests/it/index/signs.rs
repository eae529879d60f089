//! Rotated sign codes against what they replace.

use scalingnote::index::{
    Builder, Calibration, IndexOptions, Quantization, RowSet, ShardIndex, SignCodes, calibrate,
};
use scalingnote::types::Embeddings;

use super::{Built, built, clustered, fvecs, glove, keys, mix, options, recall};

/// Vectors about a common direction, as many towers make them: most bits of their signs are alike.
fn slanted(rows: usize, dimensions: usize, seed: u64) -> Embeddings {
    let plain = clustered(rows, dimensions, seed);
    let mut slanted = Embeddings::with_capacity(dimensions, rows);
    for row in plain.rows() {
        let row: Vec<f32> = row.iter().enumerate().map(|(at, x)| x + (at % 4) as f32).collect();
        slanted.push(&row);
    }
    slanted
}

#[test]
fn they_find_more_than_plain_signs_also_about_a_common_direction() {
    let (rows, dimensions) = (6_000, 96);
    for name in ["clustered", "slanted"] {
        let make = if name == "slanted" { slanted } else { clustered };
        let (vectors, queries) = (make(rows, dimensions, 1), make(200, dimensions, 2));
        let found = [Quantization::B1, Quantization::B1r].map(|quantization| {
            recall(&built(&keys(rows), &vectors, options(quantization)).open(), &queries)
        });
        println!("{name}: b1 {}, b1r {}", found[0], found[1]);
        assert!(found[1] > found[0] + 0.05, "{name}: {found:?}");
    }
}

/// 100 dimensions are the fewest of the towers in use; the query's numbers and rescoring make up for the few bits.
#[test]
fn real_vectors_are_found_again() {
    let Some(folder) = glove() else { return };
    let base = fvecs(&folder.join("base.fvecs"), 20_000);
    let queries = fvecs(&folder.join("query.fvecs"), 300);
    for (rescore, least) in [(8, 0.5), (16, 0.6)] {
        let made =
            built(&keys(base.len()), &base, IndexOptions { rescore, ..options(Quantization::B1r) });
        let found = recall(&made.open(), &queries);
        println!("{rescore}: {found}, sampled {:?}", made.report.recall);
        assert!(found >= least, "{rescore}: {found}");
    }
}

#[test]
fn conditions_choose_among_them() {
    let vectors = clustered(4_000, 64, 7);
    let made = built(&keys(4_000), &vectors, options(Quantization::B1r));
    let shard = made.open();
    let passing = (0..4_000).map(|row| !mix(row).is_multiple_of(3));
    let rows = RowSet::new(passing.collect());
    let (mut hits, mut wanted) = (0, 0);
    for query in clustered(50, 64, 8).rows() {
        let exact = shard.search_exact_among(query, 10, &rows).unwrap();
        let found = shard.search_among(query, 10, &rows).unwrap();
        hits += found.iter().filter(|hit| exact.contains(hit)).count();
        wanted += exact.len();
    }
    assert!(hits * 10 >= wanted * 9, "{hits} of {wanted}");
}

/// Both builders store the same bits, and a calibration of other sign codes is another index.
#[test]
fn the_file_holds_the_signs_of_the_calibration() {
    let vectors = clustered(400, 40, 3);
    let of = |builder| {
        built(&keys(400), &vectors, IndexOptions { builder, ..options(Quantization::B1r) })
    };
    let [own, usearch] = [Builder::Scalingnote, Builder::Usearch].map(of);
    let codes = |made: &Built| std::fs::read(made.index()).unwrap()[..8 + 400 * 5].to_vec();
    assert_eq!(codes(&own), codes(&usearch));
    let unfitted = SignCodes::unfitted(40);
    assert_ne!(own.calibration.signs.as_ref().unwrap().mean, unfitted.mean);
    for wrong in
        [None, Some(SignCodes::unfitted(39)), Some(SignCodes { gain: f32::NAN, ..unfitted })]
    {
        let calibration = Calibration { signs: wrong, ..own.calibration.clone() };
        let error =
            ShardIndex::open(&own.index(), &own.sidecar(), &own.options, &calibration).unwrap_err();
        assert!(error.to_string().contains("calibrate again"), "{error}");
    }
}

/// A corpus of one note, or of one text many times, has nothing left after centring.
#[test]
fn one_vector_is_its_own_mean() {
    let mut vectors = Embeddings::with_capacity(8, 20);
    (0..20).for_each(|_| vectors.push(&[0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]));
    let options = options(Quantization::B1r);
    let calibration = calibrate(&vectors, &options).unwrap();
    assert_eq!(calibration.signs.unwrap().mean[0], 16_384);
    for builder in [Builder::Scalingnote, Builder::Usearch] {
        let made = built(&keys(20), &vectors, IndexOptions { builder, ..options.clone() });
        assert_eq!(made.open().search(vectors.row(0), 10).unwrap().len(), 10);
    }
}
