//! Measures index building and search on real vectors: `benches/index.sh` runs it beside its peers.
//!
//! usage: index FOLDER [--rows N] [--shards | --filter]
//!
//! FOLDER holds `base.fvecs`, `query.fvecs`, `groundtruth.ivecs` (texmex layout). Standard output gets one
//! JSON object per index: {"system", "type", "build" (vectors/s), "raw" (vectors/s of usearch's insertions
//! alone), "bytes", "open" (ms), "curve": [[ef, recall@10, queries/s], ...]}. One thread, connectivity 16,
//! expansion 128 while building. Seconds are the processor's (equal to the clock's for one thread on an idle
//! machine, and still fair on a busy one); `--shards` measures instead, by the clock, two halves one after the
//! other and on two threads; `--filter` measures searches among a share of the rows: as served, and by scan.

use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::buffer::BooleanBuffer;
use scalingnote::index::{
    Calibration, IndexOptions, Quantization, RowSet, ShardIndex, build, calibrate,
};
use scalingnote::types::{Cancel, Embeddings};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

/// Candidates while searching, along the curve.
const EXPANSIONS: [usize; 7] = [16, 32, 64, 80, 128, 192, 256];

struct Data {
    keys: Vec<u64>,
    base: Embeddings,
    queries: Embeddings,
    /// Per query the keys of the ten nearest.
    truth: Vec<Vec<u64>>,
}

fn main() -> Result<(), Failure> {
    let mut plain = Vec::new();
    let (mut rows, mut shards, mut filter) = (usize::MAX, false, false);
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--rows" => rows = given.next().ok_or("a number is missing")?.parse()?,
            "--shards" => shards = true,
            "--filter" => filter = true,
            // What cargo itself adds.
            "--bench" => {}
            _ => plain.push(argument),
        }
    }
    let folder = plain.first().map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/glove-100d-80k"),
        PathBuf::from,
    );
    if !folder.exists() {
        println!("skipped: {} is missing", folder.display());
        return Ok(());
    }
    let data = load(&folder, rows)?;
    if shards {
        println!("{}", two_shards(&data)?);
        return Ok(());
    }
    if filter {
        return filtered(&data);
    }
    for (name, quantization) in
        [("i8", Quantization::I8), ("f16", Quantization::F16), ("f32", Quantization::F32)]
    {
        let options = IndexOptions { quantization, ..IndexOptions::default() };
        for line in measure(name, &data, &options)? {
            println!("{line}");
        }
    }
    Ok(())
}

/// Seconds of processor time that this process has used.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that the call may write to.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the processor clock exists on every system that this bench runs on");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// SplitMix64: keys like the hashes that the pipeline uses.
fn mix(seed: u64) -> u64 {
    let x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn texmex(path: &Path, most: usize) -> Result<(usize, Vec<[u8; 4]>), Failure> {
    let bytes = std::fs::read(path)?;
    let width = i32::from_le_bytes(bytes[..4].try_into()?) as usize;
    let rows = bytes.chunks_exact(4 * (width + 1)).take(most);
    let values = rows.flat_map(|row| row[4..].chunks_exact(4).map(|x| [x[0], x[1], x[2], x[3]]));
    Ok((width, values.collect()))
}

fn fvecs(path: &Path, most: usize) -> Result<Embeddings, Failure> {
    let (width, values) = texmex(path, most)?;
    Ok(Embeddings::from_vec(width, values.into_iter().map(f32::from_le_bytes).collect())?)
}

fn load(folder: &Path, rows: usize) -> Result<Data, Failure> {
    let base = fvecs(&folder.join("base.fvecs"), rows)?;
    let queries = fvecs(&folder.join("query.fvecs"), usize::MAX)?;
    let mut keys: Vec<u64> = (0..base.len() as u64).map(mix).collect();
    keys.sort_unstable();
    let (width, truth) = texmex(&folder.join("groundtruth.ivecs"), usize::MAX)?;
    let truth = truth.chunks_exact(width).map(|row| {
        let rows = row[..10].iter().map(|row| i32::from_le_bytes(*row) as usize);
        rows.filter_map(|row| keys.get(row).copied()).collect()
    });
    let truth = truth.collect();
    Ok(Data { keys, base, queries, truth })
}

fn built(
    data: &Data,
    rows: std::ops::Range<usize>,
    options: &IndexOptions,
    calibration: &Calibration,
    folder: &Path,
    name: &str,
) -> Result<f64, Failure> {
    let width = data.base.dimensions();
    let values = data.base.as_slice()[rows.start * width..rows.end * width].to_vec();
    let vectors = Embeddings::from_vec(width, values)?;
    let (index, sidecar) =
        (folder.join(format!("{name}.usearch")), folder.join(format!("{name}.f16")));
    let begun = cpu_seconds();
    let report = build(
        &data.keys[rows],
        &vectors,
        options,
        calibration,
        &index,
        &sidecar,
        &Cancel::new(),
        &|_| {},
    )?;
    assert_eq!(report.orphans, 0);
    eprintln!("{name}: {report:?}");
    Ok(cpu_seconds() - begun)
}

fn measure(name: &str, data: &Data, options: &IndexOptions) -> Result<Vec<Value>, Failure> {
    let folder = tempfile::tempdir()?;
    let calibration = calibrate(&data.base, options)?;
    let raw = raw_seconds(data, options)?;
    let seconds = built(data, 0..data.base.len(), options, &calibration, folder.path(), name)?;
    let (index, sidecar) =
        (folder.path().join(format!("{name}.usearch")), folder.path().join(format!("{name}.f16")));
    let mut lines = Vec::new();
    // f16 and f32 have nothing that rescoring could win back.
    for rescored in [false, true].into_iter().filter(|rescored| !rescored || name == "i8") {
        let mut curve = Vec::new();
        let mut open = f64::INFINITY;
        for expansion in EXPANSIONS {
            let rescore = if rescored { expansion.div_ceil(10) } else { 0 };
            let options = IndexOptions { expansion_search: expansion, rescore, ..options.clone() };
            let begun = cpu_seconds();
            let shard = ShardIndex::open(&index, &sidecar, &options, &calibration)?;
            open = open.min(cpu_seconds() - begun);
            curve.push(point(data, &shard, expansion)?);
        }
        let bytes = std::fs::metadata(&index)?.len();
        let beside = if rescored { std::fs::metadata(&sidecar)?.len() } else { 0 };
        lines.push(json!({
            "system": "scalingnote",
            "type": if rescored { format!("{name}+rescore") } else { name.to_owned() },
            "build": data.base.len() as f64 / seconds,
            "raw": data.base.len() as f64 / raw,
            "bytes": bytes,
            "sidecar": beside,
            "open": open * 1e3,
            "curve": curve,
        }));
    }
    Ok(lines)
}

/// Recall and queries per second, best of three rounds.
fn point(data: &Data, shard: &ShardIndex, expansion: usize) -> Result<Value, Failure> {
    let (mut hits, mut wanted, mut best) = (0, 0, f64::INFINITY);
    for round in 0..3 {
        let begun = cpu_seconds();
        let mut found = Vec::with_capacity(data.queries.len());
        for query in data.queries.rows() {
            found.push(shard.search(query, 10)?);
        }
        best = best.min(cpu_seconds() - begun);
        if round == 0 {
            for (found, truth) in found.iter().zip(&data.truth) {
                hits += found.iter().filter(|hit| truth.contains(&hit.key)).count();
                wanted += truth.len();
            }
        }
    }
    Ok(json!([expansion, hits as f64 / wanted as f64, data.queries.len() as f64 / best]))
}

/// Searches among every n-th row: microseconds a query as served and by scan, and the recall of the first.
fn filtered(data: &Data) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let options = IndexOptions::default();
    let calibration = calibrate(&data.base, &options)?;
    let rows = data.base.len();
    built(data, 0..rows, &options, &calibration, folder.path(), "i8")?;
    let (index, sidecar) = (folder.path().join("i8.usearch"), folder.path().join("i8.f16"));
    let shard = ShardIndex::open(&index, &sidecar, &options, &calibration)?;
    for percent in [1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 95, 100] {
        // Which rows pass has nothing to do with where they lie.
        let passes = |row: usize| mix(row as u64 ^ 0x5eed) % 100 < percent;
        let set = RowSet::new(BooleanBuffer::collect_bool(rows, passes));
        let (mut served, mut scanned) = (f64::INFINITY, f64::INFINITY);
        let (mut hits, mut wanted) = (0, 0);
        for _ in 0..3 {
            let begun = cpu_seconds();
            let found: Vec<_> = data
                .queries
                .rows()
                .map(|query| shard.search_among(query, 10, &set))
                .collect::<Result<_, _>>()?;
            served = served.min(cpu_seconds() - begun);
            let begun = cpu_seconds();
            let exact: Vec<_> = data
                .queries
                .rows()
                .map(|query| shard.search_exact_among(query, 10, &set))
                .collect::<Result<_, _>>()?;
            scanned = scanned.min(cpu_seconds() - begun);
            for (found, exact) in found.iter().zip(&exact) {
                hits += exact.iter().filter(|hit| found.iter().any(|f| f.key == hit.key)).count();
                wanted += exact.len();
            }
        }
        let each = 1e6 / data.queries.len() as f64;
        println!(
            "{}",
            json!({
                "percent": percent,
                "rows": set.len(),
                "served_us": served * each,
                "scan_us": scanned * each,
                "recall": hits as f64 / f64::from(wanted as u32),
            })
        );
    }
    Ok(())
}

/// usearch alone: the same codes, inserted in the same order, nothing written or checked.
fn raw_seconds(data: &Data, options: &IndexOptions) -> Result<f64, Failure> {
    use usearch::{MetricKind, ScalarKind};
    let (metric, quantization) = match options.quantization {
        Quantization::I8 => (MetricKind::Cos, ScalarKind::I8),
        Quantization::F16 => (MetricKind::IP, ScalarKind::F16),
        _ => (MetricKind::IP, ScalarKind::F32),
    };
    let index = usearch::Index::new(&usearch::IndexOptions {
        dimensions: data.base.dimensions(),
        metric,
        quantization,
        connectivity: options.connectivity,
        expansion_add: options.expansion_add,
        expansion_search: options.expansion_search,
        multi: false,
    })?;
    index.reserve_capacity_and_threads(data.base.len(), 1)?;
    let full = Calibration { scale: 127.0, sample: 0, clipped: 0.0 };
    let mut code = Vec::new();
    let begun = cpu_seconds();
    for (key, row) in data.keys.iter().zip(data.base.rows()) {
        if options.quantization == Quantization::I8 {
            full.quantize(row, &mut code);
            index.add(*key, &code)?;
        } else {
            index.add(*key, row)?;
        }
    }
    Ok(cpu_seconds() - begun)
}

fn two_shards(data: &Data) -> Result<Value, Failure> {
    let options = IndexOptions::default();
    let calibration = calibrate(&data.base, &options)?;
    let folder = tempfile::tempdir()?;
    let half = data.base.len() / 2;
    let halves = [("a", 0..half), ("b", half..data.base.len())];
    let begun = Instant::now();
    for (name, rows) in halves.clone() {
        built(data, rows, &options, &calibration, folder.path(), name)?;
    }
    let one = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let threads = halves.map(|(name, rows)| {
            let (options, calibration, folder) = (&options, &calibration, folder.path());
            scope.spawn(move || {
                built(data, rows, options, calibration, folder, name).map_err(|e| e.to_string())
            })
        });
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| "a builder panicked".to_owned())?.map(|_| ())
        })
    })?;
    let two = begun.elapsed().as_secs_f64();
    Ok(json!({"shards": 2, "one_thread_s": one, "two_threads_s": two, "speedup": one / two}))
}
