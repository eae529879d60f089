//! `scalingnote serve` as a process of its own, and what it takes.

use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::http::Client;
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::program::{PROGRAM, expect, program};
pub use crate::fixture::server::Served;

/// A folder with a pipeline over notes that all show the day they were made on.
pub struct Place {
    pub folder: tempfile::TempDir,
    /// Characters of the stored column `filler`.
    pub filler: usize,
}

pub const NOTES: i64 = 100;

impl Place {
    pub fn new(filler: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = PipelineFile {
            columns: "body, day, filler",
            corpus: "stored_columns = [\"day\", \"filler\"]\n",
            root: "root",
            sections: "[index]\nshards = 2\n[retention]\nsnapshots = 3\ngrace_hours = 0\nruns_days = 0\n",
            ..PipelineFile::default()
        };
        std::fs::write(folder.path().join("pipeline.toml"), pipeline.text()).unwrap();
        Self { folder, filler }
    }

    /// Publishes `day` with the real program: most texts stay, some are edited, a few notes come and go.
    pub fn publish(&self, day: i64) {
        let filler = "x".repeat(self.filler);
        let mut lines = String::new();
        for id in 0..NOTES + day % 7 {
            let edited =
                if (id + day) % 29 == 0 { format!(" edited on day {day}") } else { String::new() };
            let body = format!("note {id} about topic {}{edited}", id % 7);
            let row = json!({ "id": id, "body": body, "day": day, "filler": filler });
            lines.push_str(&format!("{row}\n"));
        }
        std::fs::write(self.folder.path().join("notes.jsonl"), lines).unwrap();
        expect(self.folder.path(), 0, "run pipeline.toml --quiet");
    }

    /// Serves it on a free port; `setup` is run in the shell that becomes the server.
    pub fn serve(&self, setup: &str, options: &str) -> Served {
        // The environment that the program would get without a shell.
        let plain = program(self.folder.path());
        let mut shell = Command::new("sh");
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let line = format!("{setup} exec \"$1\" serve pipeline.toml --bind 127.0.0.1:0 {options}");
        shell.args(["-c", &line, "sh", PROGRAM]).current_dir(self.folder.path());
        Served::start(&mut shell)
    }
}

impl Served {
    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// `/healthz`, over a connection of its own that is made and answered in seconds.
    pub async fn health(&self) -> Value {
        let asking = async { self.client().await.get("/healthz").await };
        let reply = tokio::time::timeout(Duration::from_secs(5), asking).await;
        let reply = reply.expect("/healthz answers at once");
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()
    }

    /// One number of `/metrics`.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.client().await.get("/metrics").await.body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
    }

    /// Waits until snapshot `number` is in service.
    pub async fn takes_over(&self, number: u64, within: Duration) {
        let began = Instant::now();
        loop {
            let health = self.health().await;
            if health["snapshot"] == number {
                return;
            }
            assert!(began.elapsed() < within, "snapshot {number} is not taken over: {health}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Bytes of memory that are really there.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10)
    }

    /// Open files.
    pub fn descriptors(&self) -> usize {
        let listed = std::fs::read_dir(format!("/proc/{}/fd", self.process.id()));
        listed.map_or(0, Iterator::count)
    }

    /// Waits for its end.
    pub fn ends(&mut self, within: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < within, "it has not ended after {within:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Lets this process have as many connections as the system allows.
pub fn many_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills and reads one struct that outlives the calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max.min(1 << 20);
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
}
