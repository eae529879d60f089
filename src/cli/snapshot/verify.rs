//! `snapshot verify`: every byte, the canary queries, the query towers, and a sample encoded again.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use tempfile::TempDir;

use crate::cli::app::App;
use crate::cli::args::{number, place, root};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::{Event, Running, Stage, format};
use crate::search::{CheckedTower, FoundTower, Snapshot, check_towers};
use crate::snapshot::{Manifest, Problem, verify_other_hashes};
use crate::stage::{SampleCheck, TaskEnv, Worker, verify_sample};
use crate::store::{Root, make_private};
use crate::tower::DeviceSpec;

/// Least cosine between a stored and a re-encoded vector: arithmetic classes differ by less.
const LEAST_COSINE: f64 = 0.999;

/// Re-hash every file of a snapshot, run its canary queries, check its query towers, and re-encode
/// a sample of its notes
///
/// Exits with 1 if a file is missing or altered, if a canary query is answered differently from
/// when the index was built, if a tower that the snapshot admits for queries was made for other
/// vectors, or if a re-encoded note does not match its stored vector. A query tower whose files are
/// not on this machine is reported as not checked.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Root URI or path, or a pipeline file.
    #[arg(value_parser = place::text())]
    root: String,
    /// Snapshot number; defaults to the newest.
    #[arg(value_parser = number::snapshot)]
    number: Option<u64>,
    /// Number of notes to re-encode; 0 checks only the bytes and opens no tower.
    #[arg(long, value_name = "N", default_value_t = 16)]
    sample: usize,
    /// Device to encode on: cpu, cpu:<threads> or cuda:<number>. Defaults to the pipeline's first
    /// device, or cpu.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Accept only snapshots signed with this Ed25519 key (PEM file). Repeatable; a pipeline's own
    /// keys are accepted too.
    #[arg(long = "public-key", value_name = "FILE", value_parser = place::path())]
    public_keys: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn verify(args: &VerifyArgs, app: &App) -> Result<()> {
    let opened = root::open_trusting(&args.root, &args.public_keys)?;
    let manifest = opened.manifest(args.number).await?;
    // What is opened is hashed by that: where it is, or as it is fetched into a folder of this command's own; what is
    // in the cache says nothing about the root. What cannot be opened is reported below, with every file that is
    // damaged.
    let own = match opened.root.local_folder() {
        None if has_canaries(&manifest) => own_folder(),
        _ => None,
    };
    let in_place = opened.root.local_folder().is_some();
    let snapshot = match (&own, in_place && has_canaries(&manifest)) {
        (Some(own), _) => open(&opened.root, &manifest, own.path()).await.ok(),
        (None, true) => open(&opened.root, &manifest, &root::cache_dir()?).await.ok(),
        (None, false) => None,
    };
    let hashed = snapshot.as_ref().map(Snapshot::files).unwrap_or_default();
    let problems = hashes(&opened.root, &manifest, &hashed, app).await?;
    // Answers from altered files would only say the same again, less clearly.
    let canaries = match (problems.is_empty() && has_canaries(&manifest), snapshot) {
        (false, _) => 0,
        (true, Some(snapshot)) => canaries(snapshot).await?,
        (true, None) => canaries(open(&opened.root, &manifest, &root::cache_dir()?).await?).await?,
    };
    let towers = match args.sample > 0 && problems.is_empty() {
        true => {
            let base_dir = opened.tower_files(None)?.1;
            check_towers(&opened.root, &manifest, &base_dir, &app.reporter).await
        }
        false => Vec::new(),
    };
    let wrong = towers.iter().any(|tower| matches!(tower.found, FoundTower::Wrong { .. }));
    let sample = match args.sample {
        0 => None,
        _ if !problems.is_empty() || wrong => None,
        limit => {
            let device = device(args, opened.pipeline.as_ref())?;
            let (reporter, cancel) = (app.reporter.clone(), app.cancel.clone());
            let env = TaskEnv::new(opened.root.clone(), reporter, cancel);
            let mut worker = Worker::new(device, None);
            Some(verify_sample(&manifest, limit, &mut worker, &env).await?)
        }
    };
    let checked = Checked { problems, canaries, towers, sample };
    let printed = print(args, app, &manifest, &checked);
    app.ends(printed, checked.verdict(manifest.number))
}

/// What was found.
struct Checked {
    problems: Vec<Problem>,
    canaries: usize,
    towers: Vec<CheckedTower>,
    sample: Option<SampleCheck>,
}

impl Checked {
    /// What is wrong with the snapshot.
    fn verdict(&self, number: u64) -> Option<Error> {
        if let Some(first) = self.problems.first() {
            return Some(Error::corrupt(format!(
                "snapshot {number} is damaged: {} of its files, the first is {}; restore them, roll back, or take them \
                 out with `scalingnote snapshot repair`, so that the next run makes them again",
                self.problems.len(),
                first.path
            )));
        }
        for CheckedTower { model, found, .. } in &self.towers {
            if let FoundTower::Wrong { why } = found {
                return Some(Error::corrupt(format!(
                    "queries of snapshot {number} do not fit its vectors: {model}: {why}; bring that tower's files back, roll back, \
                     or publish with the tower that fits"
                )));
            }
        }
        match self.sample {
            Some(SampleCheck::Compared { least_cosine, .. }) if least_cosine < LEAST_COSINE => {
                Some(Error::corrupt(format!(
                    "snapshot {number} does not match its tower: a re-encoded note has cosine {least_cosine:.6} \
                     with its stored vector, at least {LEAST_COSINE} is required"
                )))
            }
            _ => None,
        }
    }
}

/// `hashed`: the keys of files that were hashed just now.
async fn hashes(
    root: &Root,
    manifest: &Manifest,
    hashed: &HashSet<String>,
    app: &App,
) -> Result<Vec<Problem>> {
    let stage = Stage::Verify;
    let files = || manifest.content.files();
    let total: u64 = files().map(|file| file.size).sum();
    let before = files().filter(|file| hashed.contains(&file.path)).map(|file| file.size).sum();
    let done = AtomicU64::new(before);
    let running = Running::begin(&*app.reporter, stage, (total, "bytes"), 0);
    let problems = verify_other_hashes(root, manifest, hashed, &|bytes| {
        let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        app.reporter.event(Event::Progress { stage, done, tokens: 0 });
    })
    .await?;
    running.end(format!("{} hashed", format::bytes(total)));
    Ok(problems)
}

/// Whether the snapshot is not older than canaries are.
fn has_canaries(manifest: &Manifest) -> bool {
    manifest.content.shards.iter().any(|shard| !shard.canaries.is_empty())
}

async fn open(root: &Root, manifest: &Manifest, cache: &Path) -> Result<Snapshot> {
    Snapshot::open(root, Some(manifest.number), cache).await
}

/// A folder in the cache, deleted on drop; `None` where none can be made there.
fn own_folder() -> Option<TempDir> {
    let cache = root::cache_dir().ok()?;
    make_private(&cache).ok()?;
    tempfile::Builder::new().prefix("verify-").tempdir_in(cache).ok()
}

/// How many canaries were asked.
async fn canaries(snapshot: Snapshot) -> Result<usize> {
    tokio::task::spawn_blocking(move || snapshot.check_canaries())
        .await
        .or_error(ErrorKind::Internal, || "asking the canaries")?
}

fn device(args: &VerifyArgs, pipeline: Option<&crate::config::Pipeline>) -> Result<DeviceSpec> {
    let mut encode = pipeline.map(|pipeline| pipeline.encode.clone()).unwrap_or_default();
    if let Some(device) = &args.device {
        encode.devices = vec![device.clone()];
    }
    let mut devices = encode
        .devices()
        .map_err(|error| Error::usage(error.message().replace("encode.devices", "--device")))?;
    Ok(devices.swap_remove(0))
}

fn print(args: &VerifyArgs, app: &App, manifest: &Manifest, checked: &Checked) -> Result<()> {
    let Checked { problems, canaries, towers, sample } = checked;
    let files = manifest.content.files().count();
    let (encoded, said) = match sample {
        Some(SampleCheck::Compared { notes, least_cosine }) => (
            serde_json::json!({ "notes": notes, "least_cosine": least_cosine }),
            format!(
                "  {} encoded again, least cosine with the stored vector {least_cosine:.6}\n",
                format::counted(*notes as u64, "note")
            ),
        ),
        Some(SampleCheck::TextGone) => (
            serde_json::json!({ "notes": 0, "reason": "text gone" }),
            "  no note was encoded again: the prepared text of the run that made it is gone (retention, or a purge)\n"
                .to_owned(),
        ),
        None => (serde_json::Value::Null, String::new()),
    };
    let json = serde_json::json!({
        "snapshot": manifest.number,
        "files": files,
        "problems": problems,
        "canaries": canaries,
        "query_towers": towers,
        "sample": encoded,
    });
    app.answer(args.json, &json, |_| {
        let mut out =
            format!("snapshot {}: {}", manifest.number, format::counted(files as u64, "file"));
        out.push_str(if problems.is_empty() { ", every byte as published\n" } else { "\n" });
        for problem in problems {
            out.push_str(&format!("  {}: {}\n", problem.path, problem.problem));
        }
        if *canaries > 0 {
            out.push_str(&format!(
                "  {} answered as when the index was built\n",
                format::counted(*canaries as u64, "canary query")
            ));
        }
        for tower in towers {
            let found = match &tower.found {
                FoundTower::Fits => "fits its vectors".to_owned(),
                FoundTower::NotChecked { why } => format!("was not checked: {why}"),
                FoundTower::Wrong { why } => format!("does not fit its vectors: {why}"),
            };
            out.push_str(&format!("  query tower {} ({}) {found}\n", tower.model, tower.kind));
        }
        out + &said
    })
}
