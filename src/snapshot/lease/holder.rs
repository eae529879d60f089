//! Who holds a lease: told to people, and on one machine enough to see that the holder is dead.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use chrono::Utc;
use serde::{Deserialize, Serialize};

/// Where the system tells of its processes.
const PROC: &str = "/proc";

/// Names of the leases that this process holds.
static HELD_HERE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The content of a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What it does: `run`, `reader`, `commit`, `gc`, `probe`.
    pub kind: String,
    /// The run, where it is one; else a name of its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// Its machine, for people.
    #[serde(default)]
    pub host: String,
    /// Its process on that machine.
    pub process: u32,
    /// When it began by that machine's clock, for people: RFC 3339, UTC.
    pub taken_at: String,
    /// Where `process` and `began` mean something: the machine since its last start, and the namespaces of processes
    /// and of times. Two containers of one machine differ.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    machine: String,
    /// When the process began, in ticks since the machine's start: a process number is used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    began: Option<u64>,
}

impl Holder {
    /// This process.
    pub(super) fn this(kind: &str, run: &str) -> Self {
        let process = std::process::id();
        Self {
            kind: kind.to_owned(),
            run: run.to_owned(),
            host: host_name(),
            process,
            taken_at: Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            machine: machine().unwrap_or_default(),
            began: began_here(),
        }
    }

    /// Of a lease that cannot be read: its age alone counts.
    pub(super) fn unknown() -> Self {
        let unknown = || "unknown".to_owned();
        Self { run: unknown(), host: unknown(), taken_at: unknown(), ..Self::default() }
    }

    /// True only where it is certain: the holder ran on this machine and is there no more. On any other machine, and
    /// where the system hides its processes, the age of its heartbeat has to tell.
    pub(super) fn is_dead(&self) -> bool {
        self.is_dead_by(Path::new(PROC))
    }

    fn is_dead_by(&self, proc: &Path) -> bool {
        let here = !self.machine.is_empty() && machine().as_ref() == Some(&self.machine);
        let Some(began) = self.began.filter(|_| here) else { return false };
        if self.process == std::process::id() && Some(began) == began_here() {
            return !held_here().contains(&self.run);
        }
        if !exists(self.process) {
            return true;
        }
        // There is a process of this number: is it the same one? Where /proc hides it or is another namespace's, nobody
        // knows.
        match began_in(proc, self.process).filter(|_| is_ours(proc)) {
            Some(Began::At(ticks)) => ticks != began,
            Some(Began::Ended) => true,
            None => false,
        }
    }
}

fn held_here() -> std::sync::MutexGuard<'static, BTreeSet<String>> {
    HELD_HERE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that this process holds a lease, until it is dropped.
#[derive(Debug)]
pub(super) struct HeldHere(String);

impl HeldHere {
    pub(super) fn new(run: &str) -> Self {
        held_here().insert(run.to_owned());
        Self(run.to_owned())
    }
}

impl Drop for HeldHere {
    fn drop(&mut self) {
        held_here().remove(&self.0);
    }
}

/// This machine's name, for people.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// `None` where the system (anything but Linux) does not tell.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let mut machine = boot.trim().to_owned();
    // Linux before 5.6 has no namespaces of times.
    for namespace in ["pid", "time"] {
        match std::fs::read_link(format!("/proc/self/ns/{namespace}")) {
            Ok(link) => machine.push_str(&format!(" {}", link.display())),
            Err(_) if namespace == "pid" => return None,
            Err(_) => {}
        }
    }
    Some(machine)
}

/// Whether a process of this number runs, or has ended and nobody has asked for its exit code yet. Told of every
/// process, even one that may not be signalled: `EPERM` is an answer, too.
fn exists(process: u32) -> bool {
    let Ok(process @ 1..) = libc::pid_t::try_from(process) else { return false };
    // SAFETY: signal 0 is none; kill takes two numbers and touches no memory of this program.
    let told = unsafe { libc::kill(process, 0) };
    told == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Whether `proc` counts processes as this one does: a container may be shown that of its host.
fn is_ours(proc: &Path) -> bool {
    let own = std::process::id().to_string();
    std::fs::read_link(proc.join("self")).is_ok_and(|own_link| own_link == Path::new(&own))
}

/// When this process began.
fn began_here() -> Option<u64> {
    let proc = Path::new(PROC);
    match began_in(proc, std::process::id()).filter(|_| is_ours(proc))? {
        Began::At(ticks) => Some(ticks),
        Began::Ended => None,
    }
}

/// What /proc says of a process.
#[derive(Debug, PartialEq)]
enum Began {
    At(u64),
    /// It has ended, and nobody has asked for its exit code yet.
    Ended,
}

/// `None` where nothing is told: no such process, or a hidden one.
fn began_in(proc: &Path, process: u32) -> Option<Began> {
    let stat = std::fs::read_to_string(proc.join(process.to_string()).join("stat")).ok()?;
    // The name in parentheses may hold anything; after it come the state and, 19 fields on, the start time.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return Some(Began::Ended);
    }
    fields.nth(18)?.parse().ok().map(Began::At)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_dead_of_this_machine_are_known_and_others_are_not() {
        let held = HeldHere::new("20260101T000000Z-aaaaaaaa");
        let mine = Holder::this("run", "20260101T000000Z-aaaaaaaa");
        assert!(!mine.is_dead());
        drop(held);
        assert!(mine.is_dead(), "this process no longer holds it");

        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = child.id();
        let Some(Began::At(ticks)) = began_in(Path::new(PROC), process) else { panic!("it runs") };
        let of_child = Holder { process, began: Some(ticks), ..mine.clone() };
        assert!(!of_child.is_dead());
        // Nothing is told of it (`hidepid=2`), or another namespace's processes are shown: it runs all the same.
        let hidden = tempfile::tempdir().unwrap();
        assert!(!of_child.is_dead_by(hidden.path()));
        let strange = hidden.path().join(process.to_string());
        std::fs::create_dir(&strange).unwrap();
        std::os::unix::fs::symlink("1", hidden.path().join("self")).unwrap();
        std::fs::write(strange.join("stat"), "7 (other) S".to_owned() + &" 1".repeat(40)).unwrap();
        assert!(!of_child.is_dead_by(hidden.path()));
        child.kill().unwrap();
        // Killed and not waited for: the process number is still taken, the process is not there.
        while !of_child.is_dead() {
            std::thread::yield_now();
        }
        assert!(!of_child.is_dead_by(hidden.path()), "nobody can tell yet");
        child.wait().unwrap();
        assert!(
            of_child.is_dead() && of_child.is_dead_by(hidden.path()),
            "there is no such process"
        );

        let used_again = Holder { began: mine.began.map(|ticks| ticks + 1), ..mine.clone() };
        assert!(used_again.is_dead());
        let elsewhere = Holder { machine: "another".to_owned(), ..of_child };
        assert!(!elsewhere.is_dead());
    }

    #[test]
    fn leases_of_earlier_releases_are_read() {
        let old = r#"{"kind": "commit", "process": 7, "taken_at": "2026-01-01T00:00:00Z"}"#;
        let holder: Holder = serde_json::from_str(old).unwrap();
        assert!(holder.run.is_empty() && !holder.is_dead());
    }
}
