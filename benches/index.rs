//! Measures index building and search on real vectors: `benches/index.sh` runs it beside its peers.
//!
//! usage: index FOLDER [--rows N] [--only TYPE] [--shards | --filter]
//!
//! FOLDER holds `base.fvecs`, `query.fvecs`, `groundtruth.ivecs` (texmex layout). Standard output gets one
//! JSON object per index: {"system", "type", "build" (vectors/s), "bytes", "sidecar" (bytes), "heap" (bytes allocated
//! by opening), "open" (ms), "curve": [[ef, recall@10, queries/s], ...]}. One thread, connectivity 16, expansion 128
//! while building, by our own builder; `lean` is 15 and 160. Rows come in the order of hashed keys, as in a shard.
//! Seconds are the processor's (equal to the clock's for one thread on an idle machine, and still fair on a busy one).
//! `--only` measures one of the types. `--shards` measures instead, by the clock, two halves one after the other and on
//! two threads; `--filter` measures searches among a share of the rows: as served, and by scan.

#[path = "budget.rs"]
mod budget;
#[path = "halves.rs"]
mod halves;
#[path = "vectors.rs"]
mod vectors;

use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::buffer::BooleanBuffer;
use scalingnote::index::{
    Builder, Calibration, IndexOptions, Quantization, RowSet, ShardIndex, build, calibrate,
};
use scalingnote::types::Cancel;
use serde_json::{Value, json};

use self::budget::Budget;
use self::halves::two_shards;
use self::vectors::{Data, Failure, cpu_seconds, mix};

/// Candidates while searching, along the curve.
const EXPANSIONS: [usize; 7] = [16, 32, 64, 80, 128, 192, 256];

/// Searches of all queries at each of them, where the step's time allows so many; the best counts.
const TURNS: usize = 5;

fn main() -> Result<(), Failure> {
    let (budget, mut plain) = (Budget::new(), Vec::new());
    let (mut rows, mut shards, mut filter) = (usize::MAX, false, false);
    let mut only = None;
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--rows" => rows = given.next().ok_or("a number is missing")?.parse()?,
            "--only" => only = given.next(),
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
    let data = Data::load(&folder, rows)?;
    if shards {
        let options = IndexOptions::default();
        println!("{}", two_shards(&data, &options, &calibrate(&data.base, &options)?)?);
        return Ok(());
    }
    if filter {
        return filtered(&data);
    }
    let plain = |quantization| IndexOptions {
        quantization,
        builder: Builder::Scalingnote,
        ..IndexOptions::default()
    };
    let lean = IndexOptions { connectivity: 15, expansion_add: 160, ..plain(Quantization::I8) };
    let all = [
        ("i8", plain(Quantization::I8)),
        ("i8 lean", lean),
        ("b1r", plain(Quantization::B1r)),
        ("f16", plain(Quantization::F16)),
        ("f32", plain(Quantization::F32)),
    ];
    let folder = tempfile::tempdir()?;
    let (mut lines, mut longest) = (Vec::new(), 0.);
    for (name, options) in
        all.into_iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
    {
        // No type takes much more than twice as long as another.
        if 2. * longest > budget.left() {
            eprintln!("cut: {name}: some {:.0} s expected at most", 2. * longest);
            continue;
        }
        let begun = Instant::now();
        lines.extend(measure(name, &data, &options, folder.path())?);
        longest = begun.elapsed().as_secs_f64().max(longest);
    }
    // All in turns: what else the machine does then hits all alike.
    for _ in 0..TURNS {
        let begun = Instant::now();
        for at in 0..EXPANSIONS.len() {
            for line in &mut lines {
                line.turn(&data, at)?;
            }
        }
        if begun.elapsed().as_secs_f64() > budget.left() {
            break;
        }
    }
    lines.into_iter().for_each(|line| println!("{}", line.finish()));
    Ok(())
}

/// Bytes that this process has allocated and that are resident; 0 where Linux does not tell.
fn allocated() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    kib.unwrap_or(0u64) * 1024
}

fn built(
    data: &Data,
    options: &IndexOptions,
    calibration: &Calibration,
    folder: &Path,
    name: &str,
) -> Result<f64, Failure> {
    let (index, sidecar) =
        (folder.join(format!("{name}.usearch")), folder.join(format!("{name}.f16")));
    let begun = cpu_seconds();
    let report = build(
        &data.keys,
        &data.base,
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

/// One line of the output: what was built, opened once for every point of its curve.
struct Line {
    said: Value,
    shards: Vec<ShardIndex>,
    curve: Vec<Option<Point>>,
}

impl Line {
    fn turn(&mut self, data: &Data, at: usize) -> Result<(), Failure> {
        let shard = &self.shards[at];
        let search = |query| Ok(shard.search(query, 10)?.iter().map(|hit| hit.key).collect());
        let queries = || data.queries.rows().map(search).collect();
        self.curve[at] = Some(Point::measure(data, queries, self.curve[at])?);
        Ok(())
    }

    fn finish(mut self) -> Value {
        let points = EXPANSIONS.into_iter().zip(&self.curve);
        let points = points.filter_map(|(ef, point)| point.map(|point| point.said(ef)));
        self.said["curve"] = points.collect();
        self.said
    }
}

fn measure(
    name: &str,
    data: &Data,
    options: &IndexOptions,
    folder: &Path,
) -> Result<Vec<Line>, Failure> {
    let calibration = calibrate(&data.base, options)?;
    let seconds = built(data, options, &calibration, folder, name)?;
    let (index, sidecar) =
        (folder.join(format!("{name}.usearch")), folder.join(format!("{name}.f16")));
    let mut lines = Vec::new();
    // f16 and f32 have nothing that rescoring could win back.
    let coarse = matches!(options.quantization, Quantization::I8 | Quantization::B1r);
    let rescored = |rescored: &bool| !rescored || coarse;
    for rescored in [false, true].into_iter().filter(rescored) {
        let mut shards = Vec::new();
        let (mut open, mut heap) = (f64::INFINITY, 0);
        for expansion in EXPANSIONS {
            let rescore = if rescored { expansion.div_ceil(10) } else { 0 };
            let options = IndexOptions { expansion_search: expansion, rescore, ..options.clone() };
            let (begun, before) = (cpu_seconds(), allocated());
            shards.push(ShardIndex::open(&index, &sidecar, &options, &calibration)?);
            open = open.min(cpu_seconds() - begun);
            // A later one may take over what the build gave back.
            heap = heap.max(allocated().saturating_sub(before));
        }
        let said = json!({
            "system": "scalingnote",
            "type": if rescored { format!("{name}+rescore") } else { name.to_owned() },
            "build": data.base.len() as f64 / seconds,
            "bytes": std::fs::metadata(&index)?.len(),
            "sidecar": if rescored { std::fs::metadata(&sidecar)?.len() } else { 0 },
            "heap": heap,
            "open": open * 1e3,
        });
        lines.push(Line { said, shards, curve: vec![None; EXPANSIONS.len()] });
    }
    Ok(lines)
}

/// One point of a curve.
#[derive(Clone, Copy)]
struct Point {
    recall: f64,
    queries_per_second: f64,
}

impl Point {
    /// Searches all queries; the better of this time and of those before.
    fn measure(
        data: &Data,
        search: impl Fn() -> Result<Vec<Vec<u64>>, Failure>,
        before: Option<Self>,
    ) -> Result<Self, Failure> {
        let begun = cpu_seconds();
        let found = search()?;
        let rate = data.queries.len() as f64 / (cpu_seconds() - begun);
        Ok(Self {
            recall: data.recall(&found),
            queries_per_second: before.map_or(rate, |before| before.queries_per_second.max(rate)),
        })
    }

    fn said(self, expansion: usize) -> Value {
        json!([expansion, self.recall, self.queries_per_second])
    }
}

/// Searches among every n-th row: microseconds a query as served and by scan, and the recall of the first.
fn filtered(data: &Data) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let options = IndexOptions::default();
    let calibration = calibrate(&data.base, &options)?;
    let rows = data.base.len();
    built(data, &options, &calibration, folder.path(), "i8")?;
    let (index, sidecar) = (folder.path().join("i8.usearch"), folder.path().join("i8.f16"));
    let shard = ShardIndex::open(&index, &sidecar, &options, &calibration)?;
    for percent in [1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 95, 100] {
        // Which rows pass has nothing to do with where they are.
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
