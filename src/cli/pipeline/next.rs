//! What to do once a run has ended.

use std::path::Path;

use crate::cli::args::PipelineArgs;
use crate::exec::RunContext;
use crate::report::{Outcome, RunReport};

/// Commands that make something of what a run did; nothing where it did nothing new.
pub(super) fn after(report: &RunReport, context: &RunContext, pipeline: &PipelineArgs) -> String {
    let file = word(&pipeline.pipeline.to_string_lossy());
    // What was overridden is not in the file: the root is what it is, whatever the file says.
    let asked = match pipeline.set.is_empty() {
        true => file.clone(),
        false => word(context.root.uri()),
    };
    let commands = match report.outcome {
        Outcome::Published { snapshot } => published(snapshot, &asked, pipeline),
        Outcome::Planned => vec![
            (
                format!("scalingnote task {file} --plan {} --stage encode", report.run),
                "its tasks, then --stage calibrate and build",
            ),
            (format!("scalingnote publish {file} --plan {}", report.run), "once they are done"),
        ],
        Outcome::NotPublished => vec![(format!("scalingnote run {file}"), "publish what is built")],
        _ => Vec::new(),
    };
    let widest = commands.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
    let line = |(command, what): (String, &str)| {
        let pad = " ".repeat(widest - command.chars().count());
        format!("  {command}{pad}  # {what}\n")
    };
    let lines: String = commands.into_iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("next:\n{lines}") }
}

fn published(snapshot: u64, asked: &str, pipeline: &PipelineArgs) -> Vec<(String, &'static str)> {
    let mut commands = vec![
        (format!("scalingnote search {asked} \"some words\""), "search it"),
        (format!("scalingnote serve {asked}"), "answer over HTTP"),
        (format!("scalingnote snapshot verify {asked}"), "check every file"),
    ];
    // Who has a second snapshot has a way to make them.
    if snapshot == 1 && pipeline.set.is_empty() {
        let file = std::path::absolute(&pipeline.pipeline).unwrap_or_default();
        let program = std::env::current_exe().unwrap_or_else(|_| "scalingnote".into());
        let [program, file] =
            [program.as_path(), &file].map(|path: &Path| word(&path.to_string_lossy()));
        commands.push((format!("15 2 * * * {program} run {file}"), "crontab line: every night"));
    }
    commands
}

/// A word as a shell takes it.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-:~+@%,".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(word("/data/p.toml"), "/data/p.toml");
        assert_eq!(word("s3://b/x"), "s3://b/x");
        assert_eq!(word("my notes.toml"), "'my notes.toml'");
        assert_eq!(word("it's"), r"'it'\''s'");
    }
}
