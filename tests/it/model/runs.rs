//! Scenes of whole steps: runs, tasks, publishing, back-fill, the watcher, with the fake tower.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use scalingnote::error::Result;
use scalingnote::exec::{self, RunContext, RunOptions, Share, TaskStage};
use scalingnote::report::{Outcome, RunReport};
use scalingnote::search::{SnapshotWatcher, WatchOptions};
use scalingnote::snapshot::{self, Retention};
use scalingnote::store::{Root, layout};

use super::after;
use super::core::{STRICT, collector, prologue, roller, scene};
use super::process::{Body, Seat, body, failed};
use super::scene::{End, Fault, Scene};
use super::world::{Objects, Told};
use crate::fixture::days::{self, Corpus, publish_plan};
use crate::fixture::pipeline::PipelineFile;

/// A next tower that one night completes.
const NEXT: &str = "
[next]
tokens_per_run = 1000000
[next.tower]
model = \"fake:8\"
pooling = \"mean\"
max_tokens = 32
";

/// Four notes in one shard.
pub fn corpus() -> Corpus {
    let file = PipelineFile {
        columns: "body, substr(body, 1, 10) as start",
        corpus: "stored_columns = [\"start\"]\n",
        tower: "max_tokens = 32\n",
        sections: "[encode]\npart_texts = 16\n[index]\nshards = 1\n[gates]\nmax_count_drop_percent = 90.0\n",
        ..PipelineFile::default()
    };
    Corpus::with(file.text(), 4, |_| 0)
}

/// The same on the day after: one text is another.
pub fn tomorrow(mut corpus: Corpus) -> Arc<Corpus> {
    corpus.notes.insert(2, ("a text of the second day".to_owned(), 0));
    written(corpus)
}

pub fn written(corpus: Corpus) -> Arc<Corpus> {
    corpus.write(|_| false.into());
    Arc::new(corpus)
}

pub fn context(corpus: &Corpus, root: &Root) -> RunContext {
    days::context(corpus.pipeline(&[]), root)
}

pub fn once() -> RunOptions {
    RunOptions { attempts: 1, ..RunOptions::default() }
}

/// What a report says.
pub fn told(report: Result<RunReport>) -> Told {
    match report {
        Ok(report) => match report.outcome {
            Outcome::Published { snapshot } => Told::Published(snapshot),
            Outcome::NothingToDo { .. } => Told::Nothing,
            other => Told::Failed(format!("{other:?}")),
        },
        Err(error) => failed(&error),
    }
}

/// A root with the first day's snapshot.
pub fn first_day(corpus: &Corpus) -> Objects {
    prologue(async |root| drop(corpus.run(&root, &[]).await.unwrap()))
}

pub fn runner(corpus: &Arc<Corpus>) -> Body {
    let corpus = Arc::clone(corpus);
    body(move |Seat { root, .. }| {
        let ctx = context(&corpus, &root);
        async move { told(exec::run(&ctx, &once()).await) }
    })
}

/// Makes and stores a plan, as a scheduler's first step does; its key.
pub async fn planned(corpus: &Corpus, root: &Root) -> String {
    let options = RunOptions { only_plan: true, ..once() };
    exec::run(&context(corpus, root), &options).await.unwrap();
    let objects = root.list("runs").await.unwrap();
    let plans = objects.iter().filter(|object| object.key.ends_with("/plan.json"));
    // An earlier run's plan is there too; a plan without a report has not been run.
    let fresh = plans.filter(|plan| {
        let folder = plan.key.trim_end_matches("plan.json");
        !objects.iter().any(|other| other.key.starts_with(&format!("{folder}report")))
    });
    fresh.map(|plan| plan.key.clone()).next_back().unwrap()
}

/// All tasks of a plan, in order.
pub async fn tasks(ctx: &RunContext, plan: &str) -> Result<()> {
    for stage in [TaskStage::Encode, TaskStage::Calibrate, TaskStage::Build] {
        exec::execute_share(ctx, plan, stage, Share::ALL, 1).await?;
    }
    Ok(())
}

/// The steps of a scheduler from the tasks on.
pub fn scheduled(corpus: &Arc<Corpus>, plan: &str, from: Step) -> Body {
    let (corpus, plan) = (Arc::clone(corpus), plan.to_owned());
    body(move |Seat { root, .. }| {
        let (ctx, plan) = (context(&corpus, &root), plan.clone());
        async move {
            if from == Step::Tasks
                && let Err(error) = tasks(&ctx, &plan).await
            {
                return failed(&error);
            }
            told(publish_plan(&ctx, &plan, &once()).await)
        }
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Tasks,
    Publish,
}

/// A root with the first day's snapshot and the second day's plan, its tasks done or not; the plan's key.
pub fn second_day(corpus: Corpus, done: bool) -> (Objects, Arc<Corpus>, String) {
    let objects = std::cell::RefCell::new(None);
    let lies = prologue(async |root| {
        corpus.run(&root, &[]).await.unwrap();
        let corpus = tomorrow(corpus);
        let plan = planned(&corpus, &root).await;
        if done {
            tasks(&context(&corpus, &root), &plan).await.unwrap();
        }
        *objects.borrow_mut() = Some((corpus, plan));
    });
    let (corpus, plan) = objects.into_inner().unwrap();
    (lies, corpus, plan)
}

/// The next run ends well, and what it leaves is whole: "run the same command again".
pub fn goes_on(corpus: &Corpus, end: &End) -> Result<(), String> {
    if end.told.iter().all(|told| matches!(told, Told::Published(_) | Told::Did(_))) {
        return Ok(());
    }
    // Whoever died or stood still has done so for long.
    end.world.pass(3600, None, false);
    let root = end.root();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let again = days::run(corpus.pipeline(&[]), &root).await;
        again.map_err(|error| format!("the same command ends well: {error:?}"))?;
        let newest = snapshot::newest(&root).await.unwrap().unwrap();
        let problems = snapshot::verify_hashes(&root, &newest, &|_| {}).await.unwrap();
        match problems.is_empty() && newest.content.notes == corpus.notes.len() as u64 {
            true => Ok(()),
            false => Err(format!("the same command ends well: {problems:?}")),
        }
    })
}

/// A scene of whole runs: reads are no steps of their own, and in the end the same command goes on.
fn whole(
    name: &'static str,
    objects: Objects,
    processes: Vec<Body>,
    faults: &[Fault],
    corpus: Arc<Corpus>,
) -> Scene {
    let mut scene = scene(name, objects, processes);
    scene.fine = false;
    scene.faults = faults.to_vec();
    scene.after = Arc::new(move |end| {
        after::settled(end)?;
        goes_on(&corpus, end)
    });
    scene
}

const ANY: &[Fault] = &[Fault::Unheard, Fault::Fails, Fault::Dies];

/// One run, in a store that fails once, or one that dies.
pub fn run_alone() -> Scene {
    let first = corpus();
    let objects = first_day(&first);
    let corpus = tomorrow(first);
    whole("a run alone", objects, vec![runner(&corpus)], ANY, corpus)
}

/// The last step of a scheduler, likewise.
pub fn publish_alone() -> Scene {
    let (objects, corpus, plan) = second_day(corpus(), true);
    let publish = scheduled(&corpus, &plan, Step::Publish);
    whole("a publication alone", objects, vec![publish], ANY, corpus)
}

/// Two runs of the same day.
pub fn two_runs() -> Scene {
    let first = corpus();
    let objects = first_day(&first);
    let corpus = tomorrow(first);
    let runs = vec![runner(&corpus), runner(&corpus)];
    let mut scene = whole("two runs", objects, runs, ANY, corpus);
    scene.rules.retained = 1;
    scene
}

/// The last step of a scheduler, twice at once: it was asked again while the first still works.
pub fn two_publishes() -> Scene {
    let (objects, corpus, plan) = second_day(corpus(), true);
    let publish = scheduled(&corpus, &plan, Step::Publish);
    let mut scene = scene("one plan, published twice", objects, vec![publish.clone(), publish]);
    scene.fine = false;
    scene.one_run = true;
    scene.faults = ANY.to_vec();
    scene.after = Arc::new(move |end| {
        after::settled(end)?;
        let newest = end.world.lock().rules.published.keys().next_back().copied();
        let failed =
            end.told.iter().all(|told| !matches!(told, Told::Published(_) | Told::Nothing));
        match newest == Some(2) || (failed && end.faults > 0) {
            true => Ok(()),
            false => Err(format!("a plan is published once: {newest:?}")),
        }
    });
    scene
}

/// Every task of a plan, twice at once: the scheduler took the first worker for dead.
pub fn same_tasks_twice() -> Scene {
    let (objects, corpus, plan) = second_day(corpus(), false);
    let steps = scheduled(&corpus, &plan, Step::Tasks);
    let (twice, faults) = (vec![steps.clone(), steps], [Fault::Unheard, Fault::Dies]);
    let mut scene = whole("the tasks of one plan, twice", objects, twice, &faults, corpus);
    scene.one_run = true;
    scene
}

/// A scheduler's tasks and publication beside a gc: nothing that they have written or take up goes.
pub fn tasks_and_gc() -> Scene {
    let (mut objects, corpus, plan) = second_day(corpus(), false);
    // Only the first day is old.
    let old: Vec<String> = objects
        .keys()
        .filter(|key| key.as_str() != plan && !key.contains(layout::run_of(&plan)))
        .cloned()
        .collect();
    for key in old {
        objects.entry(key).and_modify(|object| object.written = -40 * 24 * 3600);
    }
    let processes = vec![scheduled(&corpus, &plan, Step::Tasks), collector(Retention::default())];
    whole("tasks of a plan and a gc", objects, processes, &[], corpus)
}

/// A run beside a gc that keeps nothing it need not keep.
pub fn run_and_gc() -> Scene {
    let first = corpus();
    let objects = prologue(async |root| {
        first.run(&root, &[]).await.unwrap();
        // Files that nothing names any more and that the next run takes up again.
        let other = tomorrow(self::corpus());
        other.run(&root, &[]).await.unwrap();
    });
    let corpus = written(first);
    let (processes, faults) =
        (vec![runner(&corpus), collector(STRICT)], [Fault::Unheard, Fault::Dies]);
    let mut scene = whole("a run and a gc", objects, processes, &faults, Arc::clone(&corpus));
    scene.after = Arc::new(move |end| {
        after::unless_gone(end)?;
        goes_on(&corpus, end)
    });
    scene
}

/// A run beside a rollback.
pub fn run_and_rollback() -> Scene {
    let objects = two_days(corpus());
    let mut third = corpus();
    third.notes.insert(3, ("a text of the third day".to_owned(), 0));
    let corpus = written(third);
    let processes = vec![runner(&corpus), roller(1)];
    whole("a run and a rollback", objects, processes, &[Fault::Unheard], corpus)
}

/// Two snapshots of two days.
pub fn two_days(first: Corpus) -> Objects {
    prologue(async |root| {
        first.run(&root, &[]).await.unwrap();
        tomorrow(first).run(&root, &[]).await.unwrap();
    })
}

/// Looks for a newer snapshot, twice, as a server does.
pub fn watcher() -> Body {
    body(|Seat { root, .. }| async move {
        let folder = tempfile::tempdir().unwrap();
        let (every, cache) = (Duration::from_millis(1), PathBuf::from(folder.path()));
        let options = WatchOptions { every, cache, in_place: false, tower: None, first: None };
        let watcher = SnapshotWatcher::new(root, options).unwrap();
        for _ in 0..2 {
            if let Err(error) = watcher.look().await {
                return failed(&error);
            }
        }
        let seen = watcher.current().map(|serving| serving.snapshot.manifest().number);
        watcher.close().await;
        Told::Did(format!("serves {seen:?}"))
    })
}

/// A server beside a publication and a gc.
pub fn watcher_publish_gc() -> Scene {
    let (objects, corpus, plan) = second_day(corpus(), true);
    let processes = vec![watcher(), scheduled(&corpus, &plan, Step::Publish), collector(STRICT)];
    let mut scene = scene("a server, a publication and a gc", objects, processes);
    scene.fine = false;
    scene.after = Arc::new(after::unless_gone);
    scene
}

/// A day's plan and the night's of the next tower, both done, published at once.
pub fn day_and_night() -> Scene {
    let mut corpus = corpus();
    let keys = std::cell::RefCell::new(None);
    let objects = prologue(async |root| {
        corpus.run(&root, &[]).await.unwrap();
        corpus.text.push_str(NEXT);
        let corpus = tomorrow(corpus);
        let ctx = context(&corpus, &root);
        let day = exec::plan_brief(&ctx).await.unwrap();
        let night = day.backfill.and_then(|night| night.plan_key).unwrap();
        let day = day.plan_key.unwrap();
        tasks(&ctx, &day).await.unwrap();
        tasks(&ctx, &night).await.unwrap();
        *keys.borrow_mut() = Some((corpus, day, night));
    });
    let (corpus, day, night) = keys.into_inner().unwrap();
    let processes =
        vec![scheduled(&corpus, &day, Step::Publish), scheduled(&corpus, &night, Step::Publish)];
    let mut scene = scene("a day and a night", objects, processes);
    scene.fine = false;
    scene.faults = vec![Fault::Unheard, Fault::Dies];
    scene
}
