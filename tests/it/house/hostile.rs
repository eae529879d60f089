//! Damaged files of every kind: a clear error that names the file, never a panic, never an abort, never memory for the
//! asking. Each kind is read by a child process with little address space, so an abort is seen too.
//!
//! `SCALINGNOTE_MUTATIONS` says how many damaged copies of each kind are read (40), `SCALINGNOTE_MUTATION_SEED` which
//! are the first (0), `SCALINGNOTE_MUTATION_KINDS` which kinds (comma-separated). `SCALINGNOTE_HOSTILE_COPY` names a
//! file that the last damaged copy stays in.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[path = "../../fuzz/targets/mod.rs"]
pub mod targets;

use targets::{KINDS, fuzz_one, mutated, target};

use crate::fixture::support::env_number;

/// What a child may take beside what it has when everything is set up.
const ROOM: u64 = 3 << 30;

#[test]
fn damaged_files_are_clear_errors() {
    let (count, first) =
        (env_number("SCALINGNOTE_MUTATIONS", 40), env_number("SCALINGNOTE_MUTATION_SEED", 0));
    let chosen = std::env::var("SCALINGNOTE_MUTATION_KINDS").unwrap_or_default();
    let chosen: Vec<&str> = chosen.split(',').filter(|kind| !kind.is_empty()).collect();
    let kinds: Vec<&str> =
        KINDS.iter().copied().filter(|kind| chosen.is_empty() || chosen.contains(kind)).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    // Two at a time: the machines of contributors are small.
    for pair in kinds.chunks(2) {
        let children: Vec<_> = pair
            .iter()
            .map(|kind| {
                let last = folder.path().join(kind);
                let child = Command::new(std::env::current_exe().unwrap())
                    .args(["house::hostile::child", "--exact", "--nocapture", "--test-threads=1"])
                    .env("SCALINGNOTE_HOSTILE_KIND", kind)
                    .env("SCALINGNOTE_HOSTILE_LAST", &last)
                    .env("SCALINGNOTE_MUTATIONS", count.to_string())
                    .env("SCALINGNOTE_MUTATION_SEED", first.to_string())
                    .env("MALLOC_ARENA_MAX", "2")
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn();
                (kind, last, child.unwrap())
            })
            .collect();
        for (kind, last, child) in children {
            let output = child.wait_with_output().unwrap();
            let out = String::from_utf8_lossy(&output.stdout);
            let err = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                if let Some(line) = out.lines().find(|line| line.contains("damaged copies")) {
                    println!("{line}");
                }
                continue;
            }
            let at = std::fs::read_to_string(last).unwrap_or_default();
            let how = match output.status.signal() {
                Some(signal) => format!("killed by signal {signal}"),
                None => format!("{}", output.status),
            };
            failures.push(format!("{kind}, mutation {at}: {how}\n{out}\n{err}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n---\n"));
}

/// What was found once, and must stay fixed: `tests/fuzz/found/<kind>@<what>`.
fn found(kind: &str) -> Vec<PathBuf> {
    let folder = crate::fixture::checkout::package().join("tests/fuzz/found");
    let of_kind = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.split_once('@').is_some_and(|(of, _)| of == kind)
    };
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(of_kind).collect();
    files.sort();
    files
}

/// The child's side; without its environment it is not a test.
#[test]
fn child() {
    let Ok(kind) = std::env::var("SCALINGNOTE_HOSTILE_KIND") else { return };
    let last = PathBuf::from(std::env::var_os("SCALINGNOTE_HOSTILE_LAST").unwrap());
    let (count, first) =
        (env_number("SCALINGNOTE_MUTATIONS", 40), env_number("SCALINGNOTE_MUTATION_SEED", 0));
    let copy = std::env::var_os("SCALINGNOTE_HOSTILE_COPY").map(PathBuf::from);
    let mut target = target(&kind);
    let seeds = target.seeds();
    for seed in &seeds {
        assert!(fuzz_one(target.as_mut(), seed), "{kind}: a valid file is refused");
    }
    limit_memory();
    for found in found(&kind) {
        std::fs::write(&last, found.to_str().unwrap()).unwrap();
        fuzz_one(target.as_mut(), &std::fs::read(&found).unwrap());
    }
    let mut taken = 0;
    for number in first..first + count {
        let data = mutated(&seeds, number);
        std::fs::write(&last, number.to_string()).unwrap();
        if let Some(copy) = &copy {
            std::fs::write(copy, &data).unwrap();
        }
        taken += u64::from(fuzz_one(target.as_mut(), &data));
    }
    println!("{kind}: {count} damaged copies from seed {first}, {taken} of them still readable");
}

fn limit_memory() {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let most = pages * 4096 + ROOM;
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: `limit` lives through the call, which only reads it.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}
