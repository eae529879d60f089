//! What an index keeps in memory, and what it finds for that: `benches/index.sh` runs it.
//!
//! usage: resident FOLDER [--rows N]
//!
//! FOLDER holds `base.fvecs`, `query.fvecs`, `groundtruth.ivecs` (texmex layout). Standard output gets a table, a row for each
//! element type and number of candidates that are rescored at most for ten hits. "resident" is the index file and what
//! this program allocates to search it, counted exactly, in bytes a vector, and as a share of that of f32 and of the bare
//! f32 vectors. "touched" are pages of the sidecar's map that all queries together brought in, with the neighbours that the
//! system maps along. One thread, connectivity 16, expansion 128 while building by our own builder, 64 while searching.

#[path = "vectors.rs"]
mod vectors;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use scalingnote::index::{Builder, IndexOptions, Quantization, ShardIndex, build, calibrate};
use scalingnote::types::Cancel;

use self::vectors::{Data, Failure, cpu_seconds};

/// The system's allocator, with a count of the bytes that are in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is left to the system's allocator; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Element types, each with the candidates that are rescored for an asked hit.
const TYPES: [(&str, Quantization, &[usize]); 4] = [
    ("f32", Quantization::F32, &[0]),
    ("i8", Quantization::I8, &[8]),
    ("b1", Quantization::B1, &[8]),
    ("b1r", Quantization::B1r, &[0, 4, 8, 16]),
];

fn main() -> Result<(), Failure> {
    let (mut folder, mut rows) = (None, usize::MAX);
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--rows" => rows = given.next().ok_or("a number is missing")?.parse()?,
            // What cargo itself adds.
            "--bench" => {}
            _ => folder = Some(PathBuf::from(argument)),
        }
    }
    let Some(folder) = folder.filter(|folder| folder.exists()) else {
        println!("skipped: no folder with vectors");
        return Ok(());
    };
    let data = Data::load(&folder, rows)?;
    let (rows, width) = (data.base.len(), data.base.dimensions());
    println!("{rows} vectors of {width} dimensions, {} queries\n", data.queries.len());
    println!(
        "| type | rescored at most | recall@10 | queries/s | vectors/s | resident bytes a vector | of f32 | of bare f32 \
         | touched bytes a vector |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    );
    let mut whole = None;
    for (name, quantization, rescores) in TYPES {
        let options =
            IndexOptions { quantization, builder: Builder::Scalingnote, ..IndexOptions::default() };
        let folder = tempfile::tempdir()?;
        let (index, sidecar) = (folder.path().join("index"), folder.path().join("sidecar"));
        let calibration = calibrate(&data.base, &options)?;
        let (begun, cancel) = (cpu_seconds(), Cancel::new());
        let report = build(
            &data.keys,
            &data.base,
            &options,
            &calibration,
            &index,
            &sidecar,
            &cancel,
            &|_| {},
        )?;
        let built = rows as f64 / (cpu_seconds() - begun);
        eprintln!("{name}: {report:?}");
        for rescore in rescores {
            let options = IndexOptions { rescore: *rescore, ..options.clone() };
            let before = IN_USE.load(Ordering::Relaxed);
            let shard = ShardIndex::open(&index, &sidecar, &options, &calibration)?;
            // What one search leaves for the next.
            shard.search(data.queries.row(0), 10)?;
            let allocated = IN_USE.load(Ordering::Relaxed) - before;
            let begun = cpu_seconds();
            let found: Result<Vec<_>, _> =
                data.queries.rows().map(|query| shard.search(query, 10)).collect();
            let seconds = cpu_seconds() - begun;
            let keys = |hits: Vec<_>| hits.iter().map(key).collect();
            let found: Vec<Vec<u64>> = found?.into_iter().map(keys).collect();
            let resident = (std::fs::metadata(&index)?.len() as usize + allocated) as f64;
            let whole = *whole.get_or_insert(resident);
            println!(
                "| {name} | {} | {:.4} | {:.0} | {built:.0} | {:.1} | 1/{:.2} | 1/{:.2} | {:.0} |",
                10 * rescore,
                data.recall(&found),
                data.queries.len() as f64 / seconds,
                resident / rows as f64,
                whole / resident,
                (4 * rows * width) as f64 / resident,
                touched(&sidecar) as f64 / rows as f64,
            );
        }
    }
    Ok(())
}

fn key(hit: &scalingnote::index::Hit) -> u64 {
    hit.key
}

/// Bytes of a file that are mapped into this process now; 0 where Linux does not tell.
fn touched(path: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let name = path.display().to_string();
    let of_file = maps.lines().skip_while(|line| !line.ends_with(&name));
    let line = of_file.skip(1).find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    kib.unwrap_or(0u64) * 1024
}
