//! Our walk beside usearch's own search of the same file.

use half::{bf16, f16};
use scalingnote::index::{IndexOptions, Quantization, RowSet, ShardIndex};
use scalingnote::types::Embeddings;
use usearch::b1x8;

use super::{Built, built, clustered, fvecs, glove, keys, mix, options};

/// Hits of ours at the same rank.
#[derive(Debug, Default, PartialEq)]
struct Differences {
    /// At the same distance, under a key that usearch has not found and nothing is tied with.
    keys: usize,
    /// Nearer.
    better: usize,
    /// Farther.
    worse: usize,
}

/// usearch's answer to a query: keys and distances, nearest first.
fn asked(
    index: &usearch::Index,
    made: &Built,
    query: &[f32],
    count: usize,
    passes: Option<&dyn Fn(u64) -> bool>,
) -> (Vec<u64>, Vec<f32>) {
    fn found<T: usearch::VectorType>(
        index: &usearch::Index,
        code: &[T],
        count: usize,
        passes: Option<&dyn Fn(u64) -> bool>,
    ) -> (Vec<u64>, Vec<f32>) {
        let found = match passes {
            Some(passes) => index.filtered_search(code, count, passes),
            None => index.search(code, count),
        };
        let found = found.unwrap();
        (found.keys, found.distances)
    }
    let norm = query.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    let unit: Vec<f32> = query.iter().map(|x| (f64::from(*x) / norm) as f32).collect();
    match made.options.quantization {
        Quantization::I8 => {
            let mut code = Vec::new();
            made.calibration.quantize(&unit, &mut code);
            found(index, &code, count, passes)
        }
        Quantization::F16 => {
            let halves: Vec<i16> =
                unit.iter().map(|x| f16::from_f32(*x).to_bits().cast_signed()).collect();
            found(index, usearch::f16::from_i16s(&halves), count, passes)
        }
        Quantization::B1 => {
            let bytes: Vec<u8> = unit
                .chunks(8)
                .map(|eight| {
                    let bits = eight.iter().enumerate();
                    bits.fold(0, |byte, (at, x)| byte | u8::from(*x > 0.) << at)
                })
                .collect();
            found(index, b1x8::from_u8s(&bytes), count, passes)
        }
        Quantization::Bf16 => {
            // Rounded here: usearch's own cast truncates.
            let rounded: Vec<f32> = unit.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
            found(index, &rounded, count, passes)
        }
        _ => found(index, &unit, count, passes),
    }
}

/// Compares all answers to all queries, rank by rank.
fn compare(
    made: &Built,
    shard: &ShardIndex,
    queries: &Embeddings,
    rows: Option<&RowSet>,
) -> Differences {
    let index = usearch::Index::restore_view(made.index().to_str().unwrap()).unwrap();
    index.change_expansion_search(made.options.expansion_search);
    let passes =
        rows.map(|rows| |key: u64| rows.contains(shard.keys().binary_search(&key).unwrap()));
    let passes = passes.as_ref().map(|passes| passes as &dyn Fn(u64) -> bool);
    let mut differences = Differences::default();
    for (at, query) in queries.rows().enumerate() {
        let (keys, distances) = asked(&index, made, query, 20, passes);
        let hits = match rows {
            Some(rows) => shard.search_among(query, 20, rows).unwrap(),
            None => shard.search(query, 20).unwrap(),
        };
        assert_eq!(hits.len(), keys.len(), "query {at}");
        let width = shard.dimensions() as f32;
        for (rank, (hit, distance)) in hits.iter().zip(&distances).enumerate() {
            let score = match made.options.quantization {
                Quantization::B1 => (std::f32::consts::PI * distance / width).cos(),
                _ => 1. - distance,
            };
            if (hit.score - score).abs() > 1e-5 {
                differences.worse += usize::from(hit.score < score);
                differences.better += usize::from(hit.score > score);
                continue;
            }
            let tied = |other: &f32| (other - distance).abs() < 2e-5;
            let known = keys.contains(&hit.key) || distances.iter().filter(|d| tied(d)).count() > 1;
            differences.keys += usize::from(!known && rank + 1 < hits.len());
        }
    }
    println!("{:?}: {differences:?}", made.options.quantization);
    differences
}

#[test]
fn the_walk_finds_what_usearch_finds_in_the_same_file() {
    let (base, queries) = match glove() {
        Some(folder) => {
            (fvecs(&folder.join("base.fvecs"), 16_000), fvecs(&folder.join("query.fvecs"), 300))
        }
        None => (clustered(16_000, 100, 1), clustered(300, 100, 2)),
    };
    let keys = keys(base.len());
    for quantization in [
        Quantization::F32,
        Quantization::F16,
        Quantization::Bf16,
        Quantization::I8,
        Quantization::B1,
    ] {
        let plain = IndexOptions { rescore: 0, ..options(quantization) };
        let made = built(&keys, &base, plain);
        let shard = made.open();
        let bits = (0..base.len()).map(|row| !mix(row as u64).is_multiple_of(20));
        let rows = RowSet::new(bits.collect());
        for rows in [None, Some(&rows)] {
            let found = compare(&made, &shard, &queries, rows);
            if quantization == Quantization::B1 {
                // Whole numbers up to 100: nearly all distances are tied, and the two break ties differently.
                assert!(found.worse <= found.better, "{found:?}");
            } else {
                assert_eq!(found, Differences::default(), "{quantization:?}");
            }
        }
    }
}
