//! What this machine has left: memory within the limits of its control group, and room on its disks.

use std::path::{Path, PathBuf};

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// What this process may have at most.
    pub total: u64,
    /// What is free of it.
    pub free: u64,
    /// Whether a control group, as of a container or a service, sets the limit.
    pub limited: bool,
}

/// Memory of this machine, or of its control group where that allows less; `None` where the system is not Linux.
pub(super) fn memory() -> Option<Memory> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let machine = Memory { total: of("MemTotal:")?, free: of("MemAvailable:")?, limited: false };
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(within(machine, &groups, Path::new("/sys/fs/cgroup")))
}

/// The least of what the machine and each group around this process have.
fn within(machine: Memory, groups: &str, mounted: &Path) -> Memory {
    let mut least = machine;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (base, limit, usage) = match controllers {
            "" => (mounted.to_owned(), "memory.max", "memory.current"),
            v1 if v1.split(',').any(|controller| controller == "memory") => {
                (mounted.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        // In a container the group may be mounted as the root: its path then leads nowhere, and the root has the files.
        let path = path.trim_start_matches('/');
        let mut group = base.join(path);
        loop {
            if let Some(limit) = number(&group.join(limit)).filter(|limit| *limit < machine.total) {
                let used = number(&group.join(usage)).unwrap_or(0);
                let used = used.saturating_sub(reclaimable(&group));
                let free = limit.saturating_sub(used).min(least.free);
                least = Memory { total: least.total.min(limit), free, limited: true };
            }
            if group == base || !group.pop() {
                break;
            }
        }
    }
    least
}

/// A file with one number; `max` is none.
fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// File pages that the system takes back before it runs out.
fn reclaimable(group: &Path) -> u64 {
    let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let of = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse::<u64>().ok())
    };
    of("total_inactive_file").or_else(|| of("inactive_file")).unwrap_or(0)
}

/// The nearest folder on the way to `path` that exists.
pub(super) fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|folder| folder.is_dir());
    found.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Bytes that this user may still write to the file system of a folder; `None` where the system does not say.
pub(super) fn room(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;

    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends in a zero byte, and the call fills the struct where it returns 0, which is looked at first.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
            return None;
        }
        found.assume_init()
    };
    // The types of these fields differ between systems.
    #[allow(clippy::unnecessary_cast)]
    Some((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn machine() -> Memory {
        Memory { total: 64 * GIB, free: 32 * GIB, limited: false }
    }

    fn write(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_narrowest_group_counts_without_its_cache() {
        let mounted = tempfile::tempdir().unwrap();
        let mounted = mounted.path();
        assert_eq!(within(machine(), "0::/a/b\n", mounted), machine(), "no limits");
        write(
            &mounted.join("a"),
            &[("memory.max", "8589934592\n"), ("memory.current", "1073741824")],
        );
        write(
            &mounted.join("a/b"),
            &[
                ("memory.max", "4294967296"),
                ("memory.current", "3221225472"),
                ("memory.stat", "anon 1\ninactive_file 1073741824\n"),
            ],
        );
        let found = within(machine(), "0::/a/b\n", mounted);
        assert_eq!(found, Memory { total: 4 * GIB, free: 2 * GIB, limited: true });
        // A container sees its own group as the root.
        write(mounted, &[("memory.max", "max"), ("memory.current", "5")]);
        assert_eq!(within(machine(), "0::/elsewhere\n", mounted), machine());
        write(mounted, &[("memory.max", "2147483648"), ("memory.current", "0")]);
        assert_eq!(within(machine(), "0::/elsewhere\n", mounted).total, 2 * GIB);
    }

    #[test]
    fn the_older_kind_of_groups_counts_too() {
        let mounted = tempfile::tempdir().unwrap();
        let group = mounted.path().join("memory/x");
        let unlimited = "9223372036854771712";
        write(&group, &[("memory.limit_in_bytes", unlimited), ("memory.usage_in_bytes", "7")]);
        let groups = "5:cpu,cpuacct:/x\n4:memory:/x\n";
        assert_eq!(within(machine(), groups, mounted.path()), machine());
        write(&group, &[("memory.limit_in_bytes", "1073741824")]);
        assert_eq!(within(machine(), groups, mounted.path()).total, GIB);
    }

    #[test]
    fn a_disk_has_room() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        assert_eq!(existing(&deep), folder.path());
        assert!(room(folder.path()).is_some_and(|bytes| bytes > 0));
        assert_eq!(room(&deep), None);
    }
}
