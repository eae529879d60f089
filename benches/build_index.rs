//! Measures how fast indexes are built, and what of it is not insertion: `benches/build_index.py` runs it beside its peers.
//!
//! usage: build_index FOLDER [--rows N] [--shards]
//!        build_index --made ROWS DIMENSIONS [--shards]
//!
//! FOLDER holds `base.fvecs`, `query.fvecs`, `groundtruth.ivecs` (texmex layout); `--made` measures vectors around made-up
//! centres instead. Standard output gets one JSON object: {"system", "type", "insert" (vectors/s of the insertions alone),
//! "build" (vectors/s from embeddings to a confirmed file), "shares" of the build (insertion, audit, recall sample, canaries and
//! usearch's confirmation, and the rest: codes, duplicates, sidecar, writing, repair), "repaired", "sampled" (recall@10 by
//! the build's own sample), "recall": {ef: recall@10 as served}, "peak" and "estimated" (bytes)}. One thread, i8 codes, connectivity
//! 16, expansion 128 while building, rows in the order of hashed keys, seconds of the processor. `--shards` adds by the clock
//! two halves one after the other and on two threads, which needs a quiet machine.

#[path = "halves.rs"]
mod halves;
#[path = "vectors.rs"]
mod vectors;

use std::path::PathBuf;

use scalingnote::index::{
    self, Builder, Calibration, IndexOptions, ShardIndex, audit, build, calibrate, measure,
};
use scalingnote::types::{Cancel, Embeddings};
use scalingnote_kernel::distance::Element;
use scalingnote_kernel::graph::{GraphBuilder, Shape};
use serde_json::{Value, json};

use self::halves::two_shards;
use self::vectors::{Data, Failure, cpu_seconds, mix};

/// Candidates while searching.
const EXPANSIONS: [usize; 4] = [32, 64, 128, 256];

fn main() -> Result<(), Failure> {
    let (mut folder, mut made) = (None, None);
    let (mut rows, mut shards) = (usize::MAX, false);
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut number = || -> Result<usize, Failure> {
            Ok(given.next().ok_or("a number is missing")?.parse()?)
        };
        match argument.as_str() {
            "--rows" => rows = number()?,
            "--made" => made = Some((number()?, number()?)),
            "--shards" => shards = true,
            // What cargo itself adds.
            "--bench" => {}
            _ => folder = Some(PathBuf::from(argument)),
        }
    }
    let data = match (made, folder) {
        (Some((rows, dimensions)), _) => around_centres(rows, dimensions)?,
        (None, Some(folder)) => Data::load(&folder, rows)?,
        (None, None) => return Err("a folder or --made is missing".into()),
    };
    let options = IndexOptions { builder: Builder::Scalingnote, ..IndexOptions::default() };
    let calibration = calibrate(&data.base, &options)?;
    let mut line = one(&data, &options, &calibration)?;
    if shards {
        line["two_shards"] = two_shards(&data, &options, &calibration)?;
    }
    println!("{line}");
    Ok(())
}

/// A field of Linux's account of this process, in bytes; 0 elsewhere.
fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kib.unwrap_or(0u64) * 1024
}

/// Vectors around one centre in a thousand rows, and no queries.
fn around_centres(rows: usize, dimensions: usize) -> Result<Data, Failure> {
    let noise = |seed: u64| (mix(seed) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    let mut base = Embeddings::with_capacity(dimensions, rows);
    let mut row = vec![0.0; dimensions];
    for at in 0..rows as u64 {
        let centre = mix(at) % (rows as u64 / 1_000).max(1);
        for (dimension, value) in row.iter_mut().enumerate() {
            let dimension = dimension as u64;
            *value = noise(centre << 32 | dimension) + 0.7 * noise(at << 20 ^ dimension ^ 1 << 63);
        }
        base.push(&row);
    }
    let mut keys: Vec<u64> = (0..rows as u64).map(mix).collect();
    keys.sort_unstable();
    Ok(Data { keys, base, queries: Embeddings::with_capacity(dimensions, 0), truth: Vec::new() })
}

/// Insertion alone: seconds.
fn inserted(
    data: &Data,
    options: &IndexOptions,
    calibration: &Calibration,
) -> Result<f64, Failure> {
    let mut codes = Vec::with_capacity(data.base.as_slice().len());
    let mut code = Vec::new();
    for row in data.base.rows() {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        let unit: Vec<f32> = row.iter().map(|x| x / length).collect();
        calibration.quantize(&unit, &mut code);
        codes.extend(code.iter().map(|x| *x as u8));
    }
    let connectivity = options.connectivity;
    let level = |key: u64| {
        let (drawn, mut below, mut level) = (mix(key), u64::MAX / connectivity as u64, 0);
        while drawn < below {
            (below, level) = (below / connectivity as u64, level + 1);
        }
        level
    };
    let levels = data.keys.iter().map(|key| level(*key)).sum();
    let shape = Shape { head: 10, base: 2 * connectivity, upper: connectivity };
    let (width, rows) = (data.base.dimensions(), data.keys.len());
    let begun = cpu_seconds();
    let mut graph =
        GraphBuilder::new(Element::I8, width, shape, options.expansion_add, rows, levels)?;
    for (key, code) in data.keys.iter().zip(codes.chunks_exact(width)) {
        graph.insert(&[0; 10], code, level(*key));
    }
    graph.finish();
    Ok(cpu_seconds() - begun)
}

fn one(data: &Data, options: &IndexOptions, calibration: &Calibration) -> Result<Value, Failure> {
    let (rows, width) = (data.base.len(), data.base.dimensions());
    let insertion = inserted(data, options, calibration)?;
    let folder = tempfile::tempdir()?;
    let (index, sidecar) = (folder.path().join("index"), folder.path().join("sidecar"));
    let before = status("VmRSS:") as i64;
    let begun = cpu_seconds();
    let cancel = Cancel::new();
    let report =
        build(&data.keys, &data.base, options, calibration, &index, &sidecar, &cancel, &|_| {})?;
    let built = cpu_seconds();
    let shard = ShardIndex::open(&index, &sidecar, options, calibration)?;
    let canaries = index::record_canaries(&shard)?;
    index::check_with_usearch(&index, &sidecar, options, calibration, &canaries)?;
    let confirmed = cpu_seconds();
    assert!(audit(&index)?.orphans.is_empty());
    let audited = cpu_seconds();
    let every = index::RowSet::without(shard.keys(), &[])?;
    measure(&[(&shard, &every)], &cancel)?;
    let sampled = cpu_seconds();
    let all = confirmed - begun;
    let parts = [insertion, audited - confirmed, sampled - audited, confirmed - built];
    let rest = all - parts.iter().sum::<f64>();
    let [insertion, audit, sample, witness] = parts.map(|part| part / all);
    let mut recall = serde_json::Map::new();
    for expansion in EXPANSIONS {
        let options = IndexOptions {
            expansion_search: expansion,
            rescore: expansion.div_ceil(10),
            ..options.clone()
        };
        let shard = ShardIndex::open(&index, &sidecar, &options, calibration)?;
        let search = |query| -> Result<Vec<u64>, Failure> {
            Ok(shard.search(query, 10)?.iter().map(|hit| hit.key).collect())
        };
        let found: Vec<Vec<u64>> = data.queries.rows().map(search).collect::<Result<_, _>>()?;
        if !found.is_empty() {
            recall.insert(expansion.to_string(), data.recall(&found).into());
        }
    }
    Ok(json!({
        "system": "scalingnote",
        "type": "i8+rescore",
        "vectors": rows,
        "dimensions": width,
        "insert": rows as f64 / parts[0],
        "build": rows as f64 / all,
        "shares": {
            "insertion": insertion, "audit": audit, "recall sample": sample, "canaries and usearch": witness, "rest": rest / all,
        },
        "repaired": report.repaired,
        "sampled": report.recall.mean,
        "recall": recall,
        // The vectors were there before.
        "peak": status("VmHWM:") as i64 - before + 4 * (rows * width) as i64,
        "estimated": index::estimate_memory(rows as u64, width as u32, options),
    }))
}
