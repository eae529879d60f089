//! A root in a folder: file systems that cannot do everything, limits of the process, who may read what is stored.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output};

use crate::fixture::files::walk;
use crate::fixture::machine::{self, without_links, without_renames};
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;
use crate::fixture::program::PROGRAM;

const RUN: &str = "run p.toml --quiet";

fn place() -> Place {
    let place = Place::with(&PipelineFile { root: "root", ..PipelineFile::default() });
    place.write_notes(0..20, |id| format!("note {id}"));
    place
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The program started by a shell that first does something.
fn after(place: &Place, first: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{first}; exec \"$0\" {RUN}"), PROGRAM]);
    command.current_dir(place.folder()).env_remove("SCALINGNOTE_LOG");
    command
}

#[test]
fn a_file_system_without_hard_links_holds_a_root() {
    if !machine::is_there() {
        return;
    }
    for error in [libc::EPERM, libc::EOPNOTSUPP] {
        let place = place();
        let run = without_links(place.command(RUN), error).output().unwrap();
        assert!(run.status.success(), "{}", told(&run));
        let again = without_links(place.command("run p.toml --quiet --json"), error);
        let again = { again }.output().unwrap();
        assert!(String::from_utf8_lossy(&again.stdout).contains("nothing-to-do"), "{again:?}");
        let left = walk(&place.path("root"));
        assert!(!left.iter().any(|name| name.contains('#')), "{left:?}");
        place.expect(0, "snapshot verify root");
    }
}

#[test]
fn a_file_system_that_cannot_decide_a_race_is_refused_before_anything_is_done() {
    if !machine::is_there() {
        return;
    }
    let place = place();
    let run = without_links(place.command(RUN), libc::EPERM);
    let run = { without_renames(run, libc::EINVAL) }.output().unwrap();
    let told = told(&run);
    assert_eq!(run.status.code(), Some(1), "{told}");
    for says in ["neither hard links", "another file system", "overwrite each other"] {
        assert!(told.contains(says), "{told}");
    }
    let left = walk(&place.path("root"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn too_few_descriptors_are_told_as_that() {
    let mut met = 0;
    for limit in 8..40 {
        let place = place();
        let run = after(&place, &format!("ulimit -n {limit}")).output().unwrap();
        let told = told(&run);
        if run.status.success() {
            break;
        }
        // The runtime cannot even start.
        if told.contains("failed to create UnixStream") {
            continue;
        }
        assert!(told.contains("ulimit -n"), "{limit} descriptors: {told}");
        assert!(!told.contains("owner and mode"), "{limit} descriptors: {told}");
        met += 1;
    }
    assert!(met > 2, "the limit was met only {met} times");
}

#[test]
fn what_is_stored_is_as_readable_as_the_umask_says() {
    for (umask, file, folder) in
        [("022", 0o644, 0o755), ("027", 0o640, 0o750), ("077", 0o600, 0o700), ("002", 0o664, 0o775)]
    {
        let place = place();
        let run = after(&place, &format!("umask {umask}")).output().unwrap();
        assert!(run.status.success(), "{}", told(&run));
        let mut folders = vec![place.path("root")];
        let mut files = 0;
        while let Some(at) = folders.pop() {
            assert_eq!(std::fs::metadata(&at).unwrap().mode() & 0o777, folder, "{at:?}");
            for entry in std::fs::read_dir(&at).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                if meta.is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                assert_eq!(meta.mode() & 0o777, file, "umask {umask}: {:?}", entry.path());
                files += 1;
            }
        }
        assert!(files > 8, "only {files} files");
    }
}

/// Without a home folder the cache is in `/tmp`, where anybody may have laid a trap.
#[test]
fn a_cache_in_the_folder_of_all_is_our_own_or_refused() {
    let place = place();
    let shared = tempfile::tempdir().unwrap();
    let search = || {
        let mut command = place.command("search root text -k 1");
        command.env_remove("HOME").env_remove("XDG_CACHE_HOME").env("TMPDIR", shared.path());
        command.output().unwrap()
    };
    place.expect(0, RUN);
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    let user = unsafe { libc::geteuid() };
    let cache = shared.path().join(format!("scalingnote-{user}"));
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), &cache).unwrap();
    let refused = search();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(told(&refused).contains("symbolic link"), "{refused:?}");
    assert!(std::fs::read_dir(elsewhere.path()).unwrap().next().is_none());

    std::fs::remove_file(&cache).unwrap();
    search();
    assert_eq!(std::fs::metadata(&cache).unwrap().mode() & 0o777, 0o700);
}
