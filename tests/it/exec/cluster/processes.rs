//! A scheduler, executors and drivers as processes on loopback, and ways to end them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fixture::program::PROGRAM;

/// An executor that is silent for this long is lost: the least that the scheduler takes.
pub const LOST_AFTER: Duration = Duration::from_secs(10);

/// Processes of one cluster; all end with it.
pub struct Cluster {
    pub logs: tempfile::TempDir,
    pub address: String,
    scheduler: Child,
    executors: Vec<Child>,
}

fn program(logs: &Path, log: &str, arguments: &[&str]) -> Command {
    let file = std::fs::File::create(logs.join(log)).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null()).stderr(file);
    command
}

fn scheduler(logs: &Path, bind: &str) -> (Child, String) {
    let seconds = format!("{}s", LOST_AFTER.as_secs());
    let arguments = ["cluster", "scheduler", "--bind", bind, "--lost-after", &seconds];
    let mut child =
        program(logs, "scheduler.log", &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("scheduling on df://");
    (child, address.unwrap_or_else(|| panic!("{line}")).to_owned())
}

/// How a process is ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    Kill,
    Terminate,
    Freeze,
}

pub fn end(child: &mut Child, how: End) {
    let signal = match how {
        End::Kill => libc::SIGKILL,
        End::Terminate => libc::SIGTERM,
        End::Freeze => libc::SIGSTOP,
    };
    // SAFETY: a plain system call; the process is our child and was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
    if how != End::Freeze {
        let status = child.wait().unwrap();
        if how == End::Terminate {
            assert_eq!(status.code(), Some(0), "SIGTERM is the orderly way to end an executor");
        }
    }
}

impl Cluster {
    pub fn start(executors: usize) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let (scheduler, address) = scheduler(logs.path(), "127.0.0.1:0");
        let mut cluster = Self { logs, address, scheduler, executors: Vec::new() };
        (0..executors).for_each(|_| cluster.add_executor());
        cluster
    }

    pub fn add_executor(&mut self) {
        let log = format!("executor-{}.log", self.executors.len());
        let arguments = ["cluster", "executor", "--scheduler", &self.address, "--device", "cpu"];
        let child = program(self.logs.path(), &log, &arguments).stdout(Stdio::null()).spawn();
        self.executors.push(child.unwrap());
    }

    pub fn end_executor(&mut self, at: usize, how: End) {
        end(&mut self.executors[at], how);
    }

    pub fn kill_scheduler(&mut self) {
        end(&mut self.scheduler, End::Kill);
    }

    /// A new one at the same address.
    pub fn restart_scheduler(&mut self) {
        self.scheduler = scheduler(self.logs.path(), &self.address).0;
    }

    /// Starts a run of `p.toml` in a folder.
    pub fn driver(&self, folder: &Path, set: &[&str]) -> Child {
        let cluster = format!("df://{}", self.address);
        let mut arguments = vec!["run", "p.toml", "--json", "--cluster", &cluster];
        arguments.extend(set.iter().copied());
        let mut command = program(self.logs.path(), "driver.log", &arguments);
        command.current_dir(folder).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// A run to its end, which must come in time.
    pub fn run(&self, folder: &Path, set: &[&str], within: Duration) -> Output {
        finish(self.driver(folder, set), within)
    }

    /// A run that must publish, or find nothing to do: its report.
    #[track_caller]
    pub fn ok(&self, folder: &Path, set: &[&str]) -> Value {
        let output = self.run(folder, set, Duration::from_secs(120));
        assert_eq!(output.status.code(), Some(0), "{}", self.said());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What all processes wrote.
    pub fn said(&self) -> String {
        let mut said = String::new();
        for entry in std::fs::read_dir(self.logs.path()).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            said.push_str(&format!("--- {}\n{text}", path.display()));
        }
        said
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.executors.iter_mut().chain([&mut self.scheduler]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

/// Waits for a process; one that does not end in time is killed and fails the test.
#[track_caller]
pub fn finish(mut child: Child, within: Duration) -> Output {
    let until = Instant::now() + within;
    // The report fits into the pipe, so waiting before reading cannot block.
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            panic!("a run did not end within {within:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.wait_with_output().unwrap()
}

/// Waits for something to come true.
#[track_caller]
pub fn until(what: &str, mut come: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !come() {
        assert!(Instant::now() < end, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
