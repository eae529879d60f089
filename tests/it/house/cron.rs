//! The crontab's very lines, the systemd units, and what `nightly.sh` does when the program fails.

use std::path::Path;
use std::process::{Command, Output};

use crate::fixture::checkout::{Checkout, package};
use crate::fixture::program::{PROGRAM, said};

/// `nightly.sh` with a stand-in for the program: what is tested is how its exit codes are handled,
/// and some (a killed process, a fault that passes) the program gives only under outside force.
fn night(dir: &Path, program: &str) -> Command {
    let stand_in = dir.join("scalingnote");
    write_script(&stand_in, program);
    let mut command = Command::new(package().join("pipelines/cron/nightly.sh"));
    command.args([dir.join("p.toml"), dir.join("logs")]);
    command.env("SCALINGNOTE", stand_in).env("PAUSE_SECONDS", "0");
    command
}

fn nightly(dir: &Path, program: &str, window_minutes: u32) -> Output {
    let mut command = night(dir, program);
    command.env("WINDOW_MINUTES", window_minutes.to_string()).output().expect("nightly.sh runs")
}

/// Puts a `date` of this text before the system's on the search path.
fn with_date(command: &mut Command, dir: &Path, text: &str) {
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).expect("folder");
    write_script(&bin.join("date"), text);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));
    command.env("PATH", path);
}

/// Has `nightly.sh` find these seconds at its first look at the clock, at its second, and so on. A file `looks` counts
/// them.
fn with_clock(command: &mut Command, dir: &Path, seconds: &[u64]) {
    let times: String = seconds.iter().map(|second| format!("{second}\n")).collect();
    std::fs::write(dir.join("times"), times).expect("write");
    let date = format!(
        "[ \"$1\" = +%s ] || exec /bin/date \"$@\"\necho x >>{0}/looks\n\
         sed -n \"$(wc -l <{0}/looks)p\" {0}/times",
        dir.display()
    );
    with_date(command, dir, &date);
}

fn write_script(file: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(file, format!("#!/bin/sh\n{text}\n")).expect("write");
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn success_is_silent_and_logged() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let output = nightly(dir.path(), "echo \"$@\"", 3);
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
    let logs: Vec<_> = std::fs::read_dir(dir.path().join("logs")).expect("logs").collect();
    let log = logs[0].as_ref().expect("one log").path();
    let log = std::fs::read_to_string(log).expect("the log is text");
    assert!(log.contains("p.toml --deadline 180s"), "{log}");
}

#[test]
fn what_is_not_a_number_is_told_at_once() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for name in ["WINDOW_MINUTES", "PAUSE_SECONDS", "TELL_AFTER", "KEEP_LOGS_DAYS"] {
        for wrong in ["abc", "-1", "1.5", "3 ", "12345678901"] {
            let output = Command::new(package().join("pipelines/cron/nightly.sh"))
                .args([dir.path().join("p.toml"), dir.path().join("logs")])
                .env("SCALINGNOTE", "false")
                .env(name, wrong)
                .output()
                .expect("nightly.sh runs");
            let text = said(&output);
            assert_eq!(output.status.code(), Some(2), "{name}={wrong}: {text}");
            let told = format!("{name} must be a whole number of 0 or more");
            assert!(text.contains(&told) && text.contains(wrong), "{text}");
        }
    }
    assert!(!dir.path().join("logs").exists(), "nothing was started");
}

#[test]
fn passing_faults_are_retried() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let count = dir.path().join("count");
    let program = format!("echo x >>{0}; [ $(wc -l <{0}) -ge 3 ] || exit 75", count.display());
    let output = nightly(dir.path(), &program, 3);
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_to_string(count).expect("counted"), "x\nx\nx\n");
}

/// A suspended machine: the first look is at the start, the second after the try, the third after the pause, when the
/// window of 5 minutes is over.
#[test]
fn a_window_that_ends_in_a_pause_is_not_tried_in_again() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let tries = dir.path().join("tries");
    let mut command = night(dir.path(), &format!("echo \"$@\" >>{}; exit 75", tries.display()));
    with_clock(&mut command, dir.path(), &[0, 200, 400]);
    let output = command.env("WINDOW_MINUTES", "5").output().expect("nightly.sh runs");
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
    let tries = std::fs::read_to_string(tries).expect("tried");
    assert_eq!(tries.lines().count(), 1, "{tries}");
    assert!(tries.contains("--deadline 300s"), "{tries}");
    let looks = std::fs::read_to_string(dir.path().join("looks"));
    assert_eq!(looks.expect("the clock was read"), "x\nx\nx\n");
    assert_eq!(unfinished(dir.path()), "1\n", "the pause ended well, the night did not");
}

#[test]
fn a_clock_that_is_set_back_does_not_make_the_window_longer() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let tries = dir.path().join("tries");
    let program = format!("echo \"$4\" >>{}; exit 75", tries.display());
    let mut command = night(dir.path(), &program);
    // A day back during the first try; from then on 100 s pass between two looks.
    with_clock(&mut command, dir.path(), &[86_500, 100, 200, 300, 400]);
    let output = command.env("WINDOW_MINUTES", "5").output().expect("nightly.sh runs");
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_to_string(tries).expect("tried"), "300s\n200s\n");
}

#[test]
fn refusals_are_told_and_not_retried() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let count = dir.path().join("count");
    for (code, meaning) in [(3, "a gate refused"), (2, "configuration"), (1, "failed")] {
        let _ = std::fs::remove_file(&count);
        let program = format!("echo x >>{}; echo the reason >&2; exit {code}", count.display());
        let output = nightly(dir.path(), &program, 3);
        assert_eq!(output.status.code(), Some(code));
        assert!(said(&output).contains(meaning), "{}", said(&output));
        assert!(said(&output).contains("the reason"), "the log's end is shown");
        assert_eq!(std::fs::read_to_string(&count).expect("counted"), "x\n");
    }
}

#[test]
fn an_unfinished_night_is_told_when_it_comes_again() {
    let dir = tempfile::tempdir().expect("temporary folder");
    // A window of 0 minutes is used up after one try.
    for round in 0..2 {
        let first = nightly(dir.path(), "exit 75", 0);
        assert_eq!((first.status.code(), said(&first).as_str()), (Some(0), ""), "round {round}");
        let second = nightly(dir.path(), "exit 75", 0);
        assert_eq!(second.status.code(), Some(75), "round {round}");
        let text = said(&second);
        assert!(text.contains("the next run goes on from here"), "{text}");
        assert!(text.contains("night 2 in a row"), "{text}");
        let third = nightly(dir.path(), "exit 75", 0);
        assert!(said(&third).contains("night 3 in a row"), "{}", said(&third));
        // A failure in between is told at once and does not start the count again; a good night does.
        let failed = nightly(dir.path(), "exit 1", 0);
        assert_eq!(failed.status.code(), Some(1));
        let again = nightly(dir.path(), "exit 75", 0);
        assert!(said(&again).contains("night 4 in a row"), "{}", said(&again));
        let good = nightly(dir.path(), "exit 0", 0);
        assert_eq!((good.status.code(), said(&good).as_str()), (Some(0), ""));
    }
}

#[test]
fn a_count_of_nights_that_is_not_a_number_begins_again() {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::create_dir(dir.path().join("logs")).expect("folder");
    // A full disk leaves it empty.
    for text in ["", "\n", "abc\n", "1 2\n", "1\r\n", "08\n", "99999999999999999999\n"] {
        std::fs::write(dir.path().join("logs/unfinished"), text).expect("write");
        let output = nightly(dir.path(), "exit 75", 0);
        assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""), "{text:?}");
        assert_eq!(unfinished(dir.path()), "1\n", "{text:?}");
    }
}

#[test]
fn an_unfinished_night_that_cannot_be_counted_is_told_at_once() {
    let dir = tempfile::tempdir().expect("temporary folder");
    // A folder can be written to by nobody, not even by root.
    std::fs::create_dir_all(dir.path().join("logs/unfinished")).expect("folder");
    let output = nightly(dir.path(), "exit 75", 0);
    assert_eq!(output.status.code(), Some(75));
    assert!(said(&output).contains("the next run goes on from here"), "{}", said(&output));
}

#[test]
fn a_log_that_cannot_be_written_is_told_and_nothing_is_started() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let ran = dir.path().join("ran");
    let mut command = night(dir.path(), &format!("touch {}", ran.display()));
    with_date(&mut command, dir.path(), "echo no/such/folder");
    let output = command.output().expect("nightly.sh runs");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no/such/folder") && !text.contains("configuration"), "{text}");
    assert!(!ran.exists());
}

/// Whatever else is in the folder, which may be a link: `/var/log` is what somebody would name.
#[test]
fn only_its_own_old_logs_are_removed() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let folder = dir.path().join("elsewhere");
    std::fs::create_dir_all(folder.join("nginx")).expect("folder");
    std::os::unix::fs::symlink(&folder, dir.path().join("logs")).expect("link");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60 * 86_400);
    let (own, others) =
        ("20250102T021500Z.123.log", ["syslog.log", "nginx/20250102T021500Z.123.log"]);
    for name in others.iter().chain([&own]) {
        let file = std::fs::File::create(folder.join(name)).expect("create");
        file.set_modified(old).expect("it gets old");
    }
    assert!(nightly(dir.path(), "exit 0", 3).status.success());
    assert!(!folder.join(own).exists(), "old logs would fill the disk");
    assert!(others.iter().all(|name| folder.join(name).exists()), "they are somebody else's");
}

#[test]
fn a_run_that_is_killed_is_told_at_once() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (program, code, meaning) in
        [("kill -9 $$", 137, "out of memory"), ("exit 124", 124, "did not stop at its deadline")]
    {
        let output = nightly(dir.path(), program, 3);
        assert_eq!(output.status.code(), Some(code));
        assert!(said(&output).contains(meaning), "{}", said(&output));
    }
}

/// Runs a night until the file `ready` is there, and tells it to stop.
fn stopped(dir: &Path, program: &str) -> Output {
    let ready = dir.join("ready");
    let mut command = night(dir, program);
    let night = command.stdout(std::process::Stdio::piped()).spawn().expect("nightly.sh runs");
    for _ in 0..200 {
        if ready.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(ready.exists(), "the program was not started");
    let pid = night.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    night.wait_with_output().expect("nightly.sh ends")
}

fn unfinished(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("logs/unfinished")).expect("counted")
}

#[test]
fn a_signal_reaches_the_program_once_and_is_waited_for() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let here = dir.path().display();
    let program = format!(
        "trap 'echo x >>{here}/told; sleep 1; exit 130' TERM; touch {here}/ready; \
         while :; do sleep 0.1; done"
    );
    let output = stopped(dir.path(), &program);
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""), "no reason to mail");
    let told = std::fs::read_to_string(dir.path().join("told"));
    assert_eq!(told.expect("told"), "x\n", "told once");
    assert_eq!(unfinished(dir.path()), "1\n");
}

#[test]
fn a_program_that_could_not_handle_the_signal_yet_was_stopped_too() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let output =
        stopped(dir.path(), &format!("touch {}/ready; exec sleep 60", dir.path().display()));
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""), "no reason to mail");
    assert_eq!(unfinished(dir.path()), "1\n");
}

/// The signal comes while it looks at the clock for the first time; the log's name tells whom to send it to.
#[test]
fn a_signal_before_the_run_keeps_it_from_starting() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let ran = dir.path().join("ran");
    let mut command = night(dir.path(), &format!("touch {}", ran.display()));
    let date = format!(
        "[ \"$1\" = +%s ] || exec /bin/date \"$@\"\nset -- {}/logs/*.log\npid=${{1%.log}}\n\
         kill -TERM \"${{pid##*.}}\"\nexec /bin/date +%s",
        dir.path().display()
    );
    with_date(&mut command, dir.path(), &date);
    let output = command.output().expect("nightly.sh runs");
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
    assert!(!ran.exists(), "it was told to stop before");
    assert_eq!(unfinished(dir.path()), "1\n");
}

/// A checkout with what the schedulers' files are in, at the places that `here` puts into their lines.
fn installed() -> Checkout {
    let checkout = Checkout::new();
    for folder in ["logs", "metrics", "cache"] {
        std::fs::create_dir_all(checkout.path().join(folder)).expect("folder");
    }
    checkout.install("pipelines/cron/nightly.sh");
    checkout
}

/// A text of `pipelines/cron/` with the places of a checkout. The daily pipeline wants a bucket and GPUs: the
/// quick start's stands in for it.
fn here(text: &str, checkout: &Checkout) -> String {
    let place = checkout.path().to_string_lossy();
    text.replace("/opt/scalingnote", &place)
        .replace("/var/log/scalingnote", &format!("{place}/logs"))
        .replace("/var/lib/prometheus/node-exporter", &format!("{place}/metrics"))
        .replace("/var/cache/scalingnote", &format!("{place}/cache"))
        .replace("/usr/local/bin/scalingnote", PROGRAM)
        .replace("daily.toml", "quickstart.toml")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(package().join("pipelines/cron").join(file)).expect("readable")
}

/// The checks after a good night: one snapshot, and metrics that say so.
fn assert_published(checkout: &Checkout) {
    assert_eq!(checkout.snapshots().len(), 1);
    let metrics = std::fs::read_to_string(checkout.path().join("metrics/scalingnote.prom"));
    let metrics = metrics.expect("the metrics are written");
    assert!(
        metrics.contains("scalingnote_snapshot_number{pipeline=\"quickstart\"} 1\n"),
        "{metrics}"
    );
}

#[test]
fn the_crontab_lines_publish() {
    let checkout = installed();
    let crontab = here(&read("crontab"), &checkout);
    let lines: Vec<&str> =
        crontab.lines().filter(|line| line.starts_with(char::is_numeric)).collect();
    assert_eq!(lines.len(), 2, "the run and the gc");
    // cron's settings, but for the search path: the shell of the checkout finds the program.
    let settings: String = crontab
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains('=') && !lines.contains(line))
        .filter(|line| !line.starts_with("PATH="))
        .map(|line| format!("export {line}; "))
        .collect();
    assert!(settings.contains("MAILTO") && settings.contains("WINDOW_MINUTES"), "{settings}");
    for line in lines {
        // Five fields of time, then the command.
        let command = line.splitn(6, ' ').nth(5).expect("a command after five fields");
        assert!(!command.contains('%'), "cron makes a line end of a percent sign");
        let output = checkout.shell(&format!("{settings}{command}"));
        assert!(output.status.success(), "`{command}` failed:\n{}", said(&output));
        assert_eq!(said(&output), "", "cron would mail this");
    }
    assert_published(&checkout);
}

/// The values of a key of a unit file, in order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_units_of_systemd_publish() {
    let checkout = installed();
    let service = here(&read("scalingnote.service"), &checkout);
    let settings: String =
        values(&service, "Environment").iter().map(|line| format!("export {line}; ")).collect();
    assert!(settings.contains("HF_HOME"), "ProtectHome hides ~/.cache: {settings}");
    let commands = [values(&service, "ExecStart"), values(&service, "ExecStartPost")].concat();
    assert_eq!(commands.len(), 2, "the run and the gc");
    for command in commands {
        let output = checkout.shell(&format!("{settings}{command}"));
        assert!(output.status.success(), "`{command}` failed:\n{}", said(&output));
    }
    assert_published(&checkout);
    // Killed by systemd only after nightly.sh had its window, its grace and the kill of the program.
    assert_eq!(values(&service, "TimeoutStartSec"), ["5h"]);
    assert!(settings.contains("WINDOW_MINUTES=240"));
}

#[test]
fn a_failed_unit_is_mailed() {
    let unit = read("scalingnote-failed@.service");
    let command = values(&unit, "ExecStart")[0];
    let dir = tempfile::tempdir().expect("temporary folder");
    for (name, text) in
        [("journalctl", "echo \"journal $*\""), ("mail", "{ echo \"mail $*\"; cat; } >$0.sent")]
    {
        write_script(&dir.path().join(name), text);
    }
    let service = read("scalingnote.service");
    assert_eq!(values(&service, "OnFailure"), ["scalingnote-failed@%n.service"]);
    let command = command.replace("%i", "scalingnote.service").replace("%H", "host1");
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let output = Command::new("sh").args(["-c", &command]).env("PATH", path).output();
    assert!(output.expect("sh runs").status.success());
    let sent = std::fs::read_to_string(dir.path().join("mail.sent")).expect("a mail was sent");
    assert_eq!(
        sent,
        "mail -s scalingnote.service failed on host1 search-team@example.org\n\
         journal --unit=scalingnote.service --lines=60 --no-pager\n"
    );
}

#[test]
fn systemd_and_cron_accept_the_files() {
    let checkout = installed();
    let units = ["scalingnote.service", "scalingnote.timer", "scalingnote-failed@.service"];
    let folder = checkout.path().join("units");
    std::fs::create_dir_all(&folder).expect("folder");
    for unit in units {
        std::fs::write(folder.join(unit), here(&read(unit), &checkout)).expect("write");
    }
    let analyze = Command::new("systemd-analyze")
        .arg("verify")
        .args(units.map(|unit| folder.join(unit)))
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.display()))
        .output();
    match analyze {
        Ok(output) => {
            let text = said(&output);
            let ours: Vec<&str> =
                text.lines().filter(|line| line.contains("scalingnote")).collect();
            assert!(output.status.success() && ours.is_empty(), "systemd-analyze: {text}");
        }
        Err(_) => println!("skipped: systemd-analyze is not on the PATH"),
    }
    let calendar =
        ["calendar", values(&read("scalingnote.timer"), "OnCalendar")[0]].map(str::to_owned);
    if let Ok(output) = Command::new("systemd-analyze").args(calendar).output() {
        assert!(output.status.success(), "{}", said(&output));
    }
}
