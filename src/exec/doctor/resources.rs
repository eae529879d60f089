//! Memory, disks and open files.

use std::path::{Path, PathBuf};

use super::check::{Check, CheckupRequest};
use crate::error::ErrorKind;
use crate::exec::machine::{existing, memory, room};
use crate::observe::format;

const MIB: u64 = 1 << 20;
/// Below this a run of any size ends with a full disk.
const LEAST_ROOM: u64 = 256 * MIB;
/// Below this a larger one may.
const LITTLE_ROOM: u64 = 4096 * MIB;
/// What the program takes beside what the pipeline says.
const LEAST_MEMORY: u64 = 512 * MIB;
/// Descriptors that a run of many files and shards may need.
const FEW_FILES: u64 = 1024;

pub(super) fn checks(request: &CheckupRequest) -> Vec<Check> {
    let mut checks = vec![memory_check(request)];
    let mut folders: Vec<(&str, PathBuf)> = Vec::new();
    if let Some(pipeline) = &request.pipeline {
        folders.extend(local(&pipeline.publish.root).map(|root| ("disk of the root", root)));
    }
    folders.push(("disk of the cache", request.cache.clone()));
    folders.push(("disk for spilling", std::env::temp_dir()));
    checks.extend(folders.iter().map(|(name, folder)| disk(name, folder)));
    checks.extend(files());
    checks
}

/// The folder of a root on this machine.
pub(super) fn local(root: &str) -> Option<PathBuf> {
    match root.split_once("://") {
        None => Some(PathBuf::from(root)),
        Some(("file", _)) => url::Url::parse(root).ok()?.to_file_path().ok(),
        Some(_) => None,
    }
}

fn memory_check(request: &CheckupRequest) -> Check {
    let Some(memory) = memory() else {
        return Check::fine("memory", "this system does not say how much there is");
    };
    let limit = if memory.limited { " that this process's control group allows" } else { "" };
    let found =
        format!("{} free of {}{limit}", format::bytes(memory.free), format::bytes(memory.total));
    let sql =
        request.pipeline.as_ref().map_or(0, |pipeline| pipeline.corpus.memory_limit_mib * MIB);
    if memory.free < LEAST_MEMORY {
        let way_out = "end other programs, or raise the limit of the container or service";
        return Check::wrong("memory", found, way_out, ErrorKind::Resource);
    }
    if memory.free < sql {
        let way_out = format!(
            "the SQL may take {} (corpus.memory_limit_mib); set it below what is free, e.g. {}",
            format::bytes(sql),
            memory.free / MIB / 2
        );
        return Check::warning("memory", found, way_out);
    }
    Check::fine("memory", found)
}

fn disk(name: &str, folder: &Path) -> Check {
    let there = existing(folder);
    let Some(free) = room(&there) else {
        return Check::fine(
            name,
            format!("{}: its system does not say how much is free", folder.display()),
        );
    };
    let found = format!("{} free at {}", format::bytes(free), folder.display());
    let way_out = "free some, or take a folder on another disk";
    match free {
        0..LEAST_ROOM => Check::wrong(name, found, way_out, ErrorKind::Resource),
        LEAST_ROOM..LITTLE_ROOM => Check::warning(name, found, way_out),
        _ => Check::fine(name, found),
    }
}

/// How many files this process may have open.
fn files() -> Option<Check> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills one struct that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return None;
    }
    let found = format!("at most {} at once", format::count(limit.rlim_cur));
    Some(match limit.rlim_cur < FEW_FILES {
        false => Check::fine("open files", found),
        true => Check::warning("open files", found, "`ulimit -n 65536` before the run raises it"),
    })
}
