//! Who holds a lease: told to people, and on one machine enough to see that the holder is dead.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use chrono::Utc;
use serde::{Deserialize, Serialize};

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
    /// Where `process` means something: the machine since its last start, and the process namespace.
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
            began: process_began(process),
        }
    }

    /// Of a lease that cannot be read: its age alone counts.
    pub(super) fn unknown() -> Self {
        let unknown = || "unknown".to_owned();
        Self { run: unknown(), host: unknown(), taken_at: unknown(), ..Self::default() }
    }

    /// True only where it is certain: the holder ran on this machine and is there no more. On any other machine
    /// the age of its heartbeat has to tell.
    pub(super) fn is_dead(&self) -> bool {
        let here = !self.machine.is_empty() && machine().as_ref() == Some(&self.machine);
        if !here || self.began.is_none() {
            return false;
        }
        if self.process == std::process::id() && self.began == process_began(self.process) {
            return !held_here().contains(&self.run);
        }
        process_began(self.process) != self.began
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
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// `None` where no such process runs, or it has ended and nobody has asked for its exit code yet.
fn process_began(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything; after it come the state and, 19 fields on, the start time.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
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
        let of_child = Holder { process, began: process_began(process), ..mine.clone() };
        assert!(of_child.began.is_some() && !of_child.is_dead());
        child.kill().unwrap();
        // Killed and not waited for: the process number is still taken, the process is not there.
        while !of_child.is_dead() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(of_child.is_dead());

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
