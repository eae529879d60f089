//! What the order of a graph's slots in its file, and huge pages, bring a search: `benches/index.sh` runs it.
//!
//! usage: slots FOLDER [--rows N] [--orders NAME,...]
//!
//! FOLDER holds `base.fvecs`, `query.fvecs`, `groundtruth.ivecs` (texmex layout). One index of 8-bit codes is built, in the order
//! of keys as always; its file is written again in every other order, and all are searched in turns, one thread, rescored as
//! served. Standard output gets a table: medians of the turns, and of the ratios to the first row within a turn. Rows in
//! huge pages are files in `/dev/shm`, where the system makes them so (`echo always >
//! /sys/kernel/mm/transparent_hugepage/shmem_enabled`, as root).

#[path = "order.rs"]
mod order;
#[path = "vectors.rs"]
mod vectors;

use std::path::{Path, PathBuf};

use scalingnote::index::{Builder, IndexOptions, ShardIndex, audit, build, calibrate};
use scalingnote::types::Cancel;

use self::order::Links;
use self::vectors::{Data, Failure, cpu_seconds};

/// Candidates while searching.
const EXPANSIONS: [usize; 2] = [64, 128];
/// Turns that count; one more before them brings the pages in.
const TURNS: usize = 9;
const ORDERS: [&str; 5] = ["keys", "breadth first", "reverse Cuthill-McKee", "Gorder", "bisection"];

fn main() -> Result<(), Failure> {
    let (mut folder, mut rows) = (None, usize::MAX);
    let mut orders = ORDERS.map(str::to_owned).to_vec();
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or("a value is missing");
        match argument.as_str() {
            "--rows" => rows = value()?.parse()?,
            "--orders" => orders = value()?.split(',').map(str::to_owned).collect(),
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
    let options = IndexOptions { builder: Builder::Scalingnote, ..IndexOptions::default() };
    let calibration = calibrate(&data.base, &options)?;
    let (plain, cancel) = (tempfile::tempdir()?, Cancel::new());
    let (index, sidecar) = (plain.path().join("keys"), plain.path().join("sidecar"));
    build(&data.keys, &data.base, &options, &calibration, &index, &sidecar, &cancel, &|_| {})?;
    let file = File::read(&index)?;
    let links = Links::new(file.rows, |slot| file.links(slot));
    let huge = huge_pages().then(|| tempfile::tempdir_in("/dev/shm")).transpose()?;
    let mut arms = Vec::new();
    for name in &orders {
        let begun = cpu_seconds();
        let order = match name.as_str() {
            "keys" => (0..file.rows as u32).collect(),
            "breadth first" => order::breadth_first(&links, file.entry),
            "reverse Cuthill-McKee" => order::reverse_cuthill_mckee(&links),
            "Gorder" => order::gorder(&links, file.entry),
            "bisection" => order::bisection(&data.base),
            other => return Err(format!("order {other} is none of {ORDERS:?}").into()),
        };
        let seconds = cpu_seconds() - begun;
        let bytes = file.in_order(&order);
        for (folder, pages) in [(Some(&plain), "small"), (huge.as_ref(), "huge")] {
            let Some(folder) = folder else { continue };
            let path = folder.path().join(name);
            std::fs::write(&path, &bytes)?;
            assert!(audit(&path)?.orphans.is_empty(), "an order changes no link");
            let open = |expansion: usize| {
                let rescore = expansion.div_ceil(10);
                let options =
                    IndexOptions { expansion_search: expansion, rescore, ..options.clone() };
                ShardIndex::open(&path, &sidecar, &options, &calibration)
            };
            let shards = EXPANSIONS.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
            arms.push(Arm { name: name.clone(), pages, seconds, shards, turns: Vec::new() });
        }
    }
    let mut recalls = Vec::new();
    for turn in 0..=TURNS {
        for arm in &mut arms {
            let mut rates = [0.; EXPANSIONS.len()];
            for (shard, rate) in arm.shards.iter().zip(&mut rates) {
                let begun = cpu_seconds();
                let found: Result<Vec<Vec<u64>>, Failure> = data
                    .queries
                    .rows()
                    .map(|query| Ok(shard.search(query, 10)?.iter().map(|hit| hit.key).collect()))
                    .collect();
                *rate = data.queries.len() as f64 / (cpu_seconds() - begun);
                let found = found?;
                if turn == 0 {
                    recalls.push(data.recall(&found));
                }
            }
            if turn > 0 {
                arm.turns.push(rates);
            }
        }
    }
    said(&data, &file, &arms, &recalls, huge.is_some());
    Ok(())
}

/// One file that is searched.
struct Arm {
    name: String,
    pages: &'static str,
    seconds: f64,
    shards: Vec<ShardIndex>,
    turns: Vec<[f64; EXPANSIONS.len()]>,
}

fn said(data: &Data, file: &File, arms: &[Arm], recalls: &[f64], huge: bool) {
    println!(
        "{} vectors of {} dimensions, {} queries, {:.0} MB\n",
        file.rows,
        data.base.dimensions(),
        data.queries.len(),
        file.bytes.len() as f64 / 1e6
    );
    print!("| slots by | pages | seconds to order |");
    EXPANSIONS.iter().for_each(|ef| print!(" recall@10 ef {ef} | queries/s | to the first row |"));
    println!("\n|---|---|--:|{}", "--:|--:|--:|".repeat(EXPANSIONS.len()));
    for (at, arm) in arms.iter().enumerate() {
        print!("| {} | {} | {:.1} |", arm.name, arm.pages, arm.seconds);
        for ef in 0..EXPANSIONS.len() {
            let rate = median(arm.turns.iter().map(|turn| turn[ef]));
            let pairs = arm.turns.iter().zip(&arms[0].turns);
            let ratio = median(pairs.map(|(turn, first)| turn[ef] / first[ef]));
            print!(" {:.4} | {rate:.0} | {ratio:.3} |", recalls[EXPANSIONS.len() * at + ef]);
        }
        println!();
    }
    if !huge {
        println!("\nhuge pages: not measured, the system does not make them in /dev/shm");
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Whether files in `/dev/shm` get huge pages without asking.
fn huge_pages() -> bool {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    setting.is_ok_and(|setting| setting.contains("[always]") || setting.contains("[force]"))
}

/// Bytes in front of the levels: the head and the graph's own numbers (`src/index/file/format.rs`).
const HEADS: usize = 64 + 40;
/// Key and level of a node, in front of its links.
const NODE_HEAD: usize = 10;

/// A usearch file that this program wrote.
struct File {
    bytes: Vec<u8>,
    rows: usize,
    vector_bytes: usize,
    entry: u32,
    /// Offset of every node and of the end.
    nodes: Vec<usize>,
    /// Bytes of a list in the base level and in those above.
    lists: [usize; 2],
}

impl File {
    fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = std::fs::read(path)?;
        let number = |at: usize| u32_at(&bytes, at) as usize;
        let (rows, vector_bytes) = (number(0), number(4));
        let head = 8 + rows * vector_bytes;
        let [upper, base, entry] = [8, 16, 32].map(|at| number(head + 64 + at));
        let lists = [4 + 4 * base, 4 + 4 * upper];
        let mut nodes = vec![head + HEADS + 2 * rows];
        for slot in 0..rows {
            let at = head + HEADS + 2 * slot;
            let level = usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
            nodes.push(nodes[slot] + NODE_HEAD + lists[0] + level * lists[1]);
        }
        assert_eq!(nodes[rows], bytes.len(), "the file ends with its last node");
        Ok(Self { rows, vector_bytes, entry: entry as u32, nodes, lists, bytes })
    }

    fn head(&self) -> usize {
        8 + self.rows * self.vector_bytes
    }

    fn links(&self, slot: usize) -> impl Iterator<Item = u32> {
        let at = self.nodes[slot] + NODE_HEAD;
        let count = u32_at(&self.bytes, at) as usize;
        (1..=count).map(move |link| u32_at(&self.bytes, at + 4 * link))
    }

    /// The same file with its slots in another order: old slots by new ones.
    fn in_order(&self, order: &[u32]) -> Vec<u8> {
        let mut now = vec![u32::MAX; self.rows];
        order.iter().zip(0..).for_each(|(slot, place)| now[*slot as usize] = place);
        assert!(order.len() == self.rows && !now.contains(&u32::MAX), "every slot once");
        let slots = || order.iter().map(|slot| *slot as usize);
        let mut out = Vec::with_capacity(self.bytes.len());
        out.extend_from_slice(&self.bytes[..8]);
        for slot in slots() {
            let at = 8 + slot * self.vector_bytes;
            out.extend_from_slice(&self.bytes[at..at + self.vector_bytes]);
        }
        out.extend_from_slice(&self.bytes[self.head()..self.head() + HEADS]);
        let entry = out.len() - 8;
        out[entry..].copy_from_slice(&u64::from(now[self.entry as usize]).to_le_bytes());
        for slot in slots() {
            let at = self.head() + HEADS + 2 * slot;
            out.extend_from_slice(&self.bytes[at..at + 2]);
        }
        for slot in slots() {
            let node = out.len();
            out.extend_from_slice(&self.bytes[self.nodes[slot]..self.nodes[slot + 1]]);
            let (mut at, mut bytes) = (node + NODE_HEAD, self.lists[0]);
            while at < out.len() {
                for link in 1..=u32_at(&out, at) as usize {
                    let place = at + 4 * link;
                    let to = now[u32_at(&out, place) as usize];
                    out[place..place + 4].copy_from_slice(&to.to_le_bytes());
                }
                (at, bytes) = (at + bytes, self.lists[1]);
            }
        }
        out
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
