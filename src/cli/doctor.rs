//! `scalingnote doctor`.

use std::path::PathBuf;

use clap::Args;

use super::app::App;
use super::args::{place, resolve, root};
use crate::error::{Error, Result};
use crate::exec::{self, Checkup, CheckupRequest, Health};
use crate::observe::format;

/// Check that this machine, and a pipeline's store and models, are ready for a run
///
/// Reports on the processor, devices, memory, disks and open files. With a pipeline file, it also
/// checks whether the store refuses the second of two writers (by writing two small objects and
/// deleting them), whether the clocks agree, whether the tables open and fit the query, whether the
/// evaluation queries are there, and whether the models are on this machine or their hub answers.
/// Every problem is reported with its fix. Nothing is downloaded, the corpus is not read and no
/// weights are loaded.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  scalingnote doctor
  scalingnote doctor daily.toml
  scalingnote doctor daily.toml --json | jq -r '.checks[] | select(.health != \"fine\") | .found'

Exit codes: 0 if nothing is wrong (there may be warnings), otherwise the code with which a run would
fail: 1, 2, or 75 if the problem may be temporary.")]
pub(crate) struct DoctorArgs {
    /// Pipeline file (TOML). Without one, only the machine is checked.
    #[arg(value_name = "PIPELINE", env = "SCALINGNOTE_PIPELINE", value_parser = place::path())]
    pipeline: Option<PathBuf>,
    /// Override one value of the pipeline; repeatable.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", requires = "pipeline")]
    set: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(args: DoctorArgs, app: &App) -> Result<()> {
    let pipeline = args.pipeline.as_deref().map(|file| resolve(file, &args.set)).transpose()?;
    let request = CheckupRequest {
        pipeline: pipeline.map(|resolved| resolved.pipeline),
        cache: root::cache_dir()?,
        reporter: app.reporter.clone(),
    };
    let checkup = exec::examine(&request).await;
    let wrong = checkup.first_wrong().map(|first| {
        let more = match checkup.count(Health::Wrong) {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        Error::new(first.kind, format!("a run would fail: {}{more}", first.name))
    });
    let printed = app.answer(args.json, &checkup, table);
    app.ends(printed, wrong)
}

fn table(checkup: &Checkup) -> String {
    let name = |check: &&exec::Check| format::width(&check.name);
    let widest = checkup.checks.iter().map(|check| name(&check)).max().unwrap_or(0);
    let mut text = String::new();
    for check in &checkup.checks {
        let mark = match check.health {
            Health::Fine => "ok     ",
            Health::Warning => "warning",
            Health::Wrong => "WRONG  ",
        };
        let pad = " ".repeat(widest - name(&check));
        text += &format!("{mark}  {}{pad}  {}\n", check.name, format::printable(&check.found));
        if let Some(way_out) = &check.way_out {
            let pad = " ".repeat(widest);
            text += &format!("         {pad}  -> {}\n", format::printable(way_out));
        }
    }
    text
}
