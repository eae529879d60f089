//! The page on clusters is executed.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::fixture::checkout::{Checkout, package};
use crate::house::readme;

/// Ends what the commands left in the background.
struct Background(Vec<std::process::Child>);

impl Drop for Background {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // SAFETY: a plain system call on the process group that `command` made for this child.
            unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
            let _ = child.wait();
        }
    }
}

#[test]
fn its_commands_run_as_written() {
    use std::os::unix::process::CommandExt;

    let checkout = Checkout::new();
    // Another test, or a person's own cluster, may have the port.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut background = Background(Vec::new());
    let mut published = false;
    for line in readme::commands(&readme::page(readme::CLUSTERS)) {
        let here = line.replace("50050", &port.to_string());
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["cargo", "build", "--release", "--features", "cluster"] => {}
            ["make", target] => {
                let made =
                    Command::new("make").args(["-n", target]).current_dir(package()).output();
                assert!(made.unwrap().status.success(), "`{line}` is not a target of the Makefile");
            }
            ["scalingnote", "cluster", .., "&"] => {
                let here = here.trim_end_matches('&').to_owned();
                // The scheduler takes its default address where none is given.
                let here = match words[2] {
                    "scheduler" => format!("{here} --bind 127.0.0.1:{port}"),
                    _ => here,
                };
                let mut command = checkout.command(&format!("exec {here}"));
                command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
                background.0.push(command.spawn().unwrap());
                std::thread::sleep(Duration::from_millis(200));
            }
            ["scalingnote", "run", ..] => {
                checkout.ok(&format!("exec {here} --patience 30s"));
                assert_eq!(checkout.snapshots().len(), 1, "`{line}` publishes");
                published = true;
            }
            _ => panic!("no test runs `{line}`"),
        }
    }
    assert!(published && background.0.len() == 2);
}
