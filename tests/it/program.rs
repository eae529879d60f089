//! The program under test, started as a user would start it.

use std::path::Path;
use std::process::{Command, Stdio};

/// Where it lies.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_scalingnote");

/// The program in a folder, without input and without what the environment of the tests would tell it.
pub fn program(folder: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SCALINGNOTE") || name == "NO_COLOR" {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).stdin(Stdio::null());
    command
}
