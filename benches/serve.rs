//! What a request to `scalingnote serve` costs beside the search itself: `make bench-serve`.
//!
//! usage: serve [--notes N] [--requests N] [--dimensions N]
//!
//! Builds a root of generated notes (fake tower, one shard, 8-bit codes) with the program itself, then asks for the same ten
//! nearest, in turns, the library in this process (`Snapshot::search_vector`) and the server over one kept connection on
//! loopback, by vector. Standard output gets a table of processor time: medians of the turns. A server's is that of all its
//! threads, as Linux accounts for it to the nanosecond.

#[path = "clock.rs"]
mod clock;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use scalingnote::search::Snapshot;
use scalingnote::store::Root;

use self::clock::{Failure, cpu_seconds, mix};

const PROGRAM: &str = env!("CARGO_BIN_EXE_scalingnote");
const TURNS: usize = 7;

fn main() -> Result<(), Failure> {
    let (mut notes, mut requests, mut dimensions) = (20_000, 2_000, 384);
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let number = match argument.as_str() {
            "--notes" => &mut notes,
            "--requests" => &mut requests,
            "--dimensions" => &mut dimensions,
            // What cargo itself adds.
            "--bench" => continue,
            other => return Err(format!("{other} is not known").into()),
        };
        *number = given.next().ok_or("a number is missing")?.parse()?;
    }
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    publish(folder.path(), &root, notes, dimensions)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let uri = root.to_str().ok_or("a temporary folder has a name in UTF-8")?;
    let snapshot =
        runtime.block_on(Snapshot::open(&Root::open(uri)?, None, &folder.path().join("cache")))?;
    let queries: Vec<Vec<f32>> = (0..requests as u64).map(|at| query(at, dimensions)).collect();
    let mut server = Server::start(&root)?;
    let (mut alone, mut served) = (Vec::new(), Vec::new());
    // The first brings pages and threads in.
    for turn in 0..=TURNS {
        let begun = cpu_seconds();
        let mut found = 0;
        for query in &queries {
            found += snapshot.search_vector(query, 10, false)?.len();
        }
        let library = cpu_seconds() - begun;
        let begun = server.cpu_seconds()?;
        for query in &queries {
            let answer = server.ask(query)?;
            assert!(answer.contains("\"hits\""), "no answer: {answer}");
        }
        let service = server.cpu_seconds()? - begun;
        assert_eq!(found, 10 * queries.len(), "every search finds ten notes");
        if turn > 0 {
            alone.push(1e6 * library / queries.len() as f64);
            served.push(1e6 * service / queries.len() as f64);
        }
    }
    let more = alone.iter().zip(&served).map(|(alone, served)| served - alone).collect();
    println!("{notes} notes, {dimensions} dimensions, {requests} requests a turn, {TURNS} turns\n");
    println!("| processor time of | us |\n|---|--:|");
    let rows = [
        ("a search by the library", alone),
        ("a request", served),
        ("a request, less the library's", more),
    ];
    for (what, mut values) in rows {
        values.sort_unstable_by(f64::total_cmp);
        let (least, most) = (values[0], values[values.len() - 1]);
        println!("| {what} | {:.1} ({least:.1}-{most:.1}) |", values[values.len() / 2]);
    }
    Ok(())
}

fn query(at: u64, dimensions: usize) -> Vec<f32> {
    let noise = |dimension| (mix(at << 16 | dimension) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    (0..dimensions as u64).map(noise).collect()
}

fn publish(folder: &Path, root: &Path, notes: usize, dimensions: usize) -> Result<(), Failure> {
    let mut lines = String::new();
    for id in 0..notes {
        writeln!(lines, r#"{{"id": {id}, "body": "note {id} about {:x}"}}"#, mix(id as u64))?;
    }
    std::fs::write(folder.join("notes.jsonl"), lines)?;
    let pipeline = folder.join("pipeline.toml");
    let text = format!(
        r#"version = 2
[corpus]
sql = "select id as note_id, body from notes"
template = "{{{{ body }}}}"
[[corpus.tables]]
name = "notes"
uri = "notes.jsonl"
[tower]
model = "fake:{dimensions}"
pooling = "mean"
[index]
shards = 1
[gates]
recall_min = 0.0
[publish]
root = "{}"
"#,
        root.display()
    );
    std::fs::write(&pipeline, text)?;
    let ran = Command::new(PROGRAM).arg("run").arg(&pipeline).output()?;
    if ran.status.success() {
        return Ok(());
    }
    Err(format!("the run failed: {}", String::from_utf8_lossy(&ran.stderr)).into())
}

/// A server and a connection to it.
struct Server {
    process: Child,
    connection: BufReader<TcpStream>,
}

impl Server {
    fn start(root: &Path) -> Result<Self, Failure> {
        let mut process = Command::new(PROGRAM)
            .args(["serve", "--vectors-only", "--in-place", "--bind", "127.0.0.1:0"])
            .arg(root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        let out = process.stdout.take().ok_or("standard output was piped")?;
        BufReader::new(out).read_line(&mut line)?;
        let (_, address) = line.trim().rsplit_once("http://").ok_or("the server does not start")?;
        let connection = TcpStream::connect(address)?;
        connection.set_nodelay(true)?;
        Ok(Self { process, connection: BufReader::new(connection) })
    }

    fn ask(&mut self, query: &[f32]) -> Result<String, Failure> {
        let body = format!(r#"{{"vector": {}, "k": 10}}"#, serde_json::to_string(query)?);
        let head = format!(
            "POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.connection.get_mut().write_all((head + &body).as_bytes())?;
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if self.connection.read_line(&mut line)? == 0 {
                return Err("the server closed the connection".into());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut answer = vec![0; length];
        self.connection.read_exact(&mut answer)?;
        Ok(String::from_utf8(answer)?)
    }

    /// Processor time of all its threads.
    fn cpu_seconds(&self) -> Result<f64, Failure> {
        let mut nanoseconds = 0u64;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let account = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds +=
                account.split_whitespace().next().ok_or("an account is empty")?.parse::<u64>()?;
        }
        Ok(nanoseconds as f64 / 1e9)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already where this fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
