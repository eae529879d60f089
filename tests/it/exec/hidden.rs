//! A live run of another user, on a machine that shows nobody the processes of others (`hidepid=2`).

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::fixture::machine::{self, Stopped, stopping};
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;
use crate::fixture::program::PROGRAM;

/// In a mount namespace of its own, as a user who is nobody else and does not see the process.
const HIDDEN: &str = "mount -t proc -o hidepid=2 proc /proc || exit 76
    nobody='setpriv --reuid=65534 --regid=65534 --clear-groups'
    $nobody test -e \"/proc/$1\" && exit 76
    exec $nobody ./program run p.toml --quiet";

#[test]
fn a_run_that_the_system_hides_is_alive() {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    if !machine::is_there() || unsafe { libc::geteuid() } != 0 {
        println!("skipped: only root can be somebody else");
        return;
    }
    let place = Place::with(&PipelineFile { root: "root", ..PipelineFile::default() });
    place.write("notes.jsonl", "{\"id\": 1, \"body\": \"a note\"}\n");
    // Where everybody may start it.
    std::fs::copy(PROGRAM, place.path("program")).unwrap();
    std::fs::set_permissions(place.path("program"), PermissionsExt::from_mode(0o755)).unwrap();
    let run = stopping(place.command("run p.toml --quiet"), "before:plan.json");
    let run = Stopped::start(run);
    let opened = Command::new("chmod").args(["-R", "a+rwX"]).arg(place.folder()).status().unwrap();
    assert!(opened.success());

    let other = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", HIDDEN, "sh"])
        .arg(run.process().to_string())
        .current_dir(place.folder())
        .env("HOME", place.folder())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&other.stderr).into_owned();
    if other.status.code() == Some(76) || told.contains("unshare failed") {
        println!("skipped: this machine gives no mount namespace, or hides nothing: {told}");
        return;
    }
    assert_eq!(other.status.code(), Some(75), "{told}");
    assert!(told.contains("is in progress"), "{told}");
    let done = run.go_on();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
