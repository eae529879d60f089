//! `scalingnote completions`.

use clap::{Args, Command};
use clap_complete::Shell;

use super::app::App;
use crate::error::{ErrorKind, Result, ResultExt};

/// Print shell completions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote completions bash > ~/.local/share/bash-completion/completions/scalingnote
  scalingnote completions zsh > \"${fpath[1]}/_scalingnote\"
  scalingnote completions fish > ~/.config/fish/completions/scalingnote.fish")]
pub(crate) struct CompletionsArgs {
    /// Shell to print completions for.
    shell: Shell,
}

pub(super) fn execute(args: &CompletionsArgs, mut command: Command, app: &App) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "scalingnote", &mut script);
    let script = String::from_utf8(script)
        .or_error(ErrorKind::Internal, || "the completion script is not UTF-8")?;
    app.print(&script)
}
