//! A night under a scheduler: its plan beside the day's, its tasks and shares, its publication.

use rand::SeedableRng;
use rand::rngs::StdRng;

use scalingnote::error::{ErrorKind, Result};
use scalingnote::exec::{self, RunContext, RunOptions, TaskStage};
use scalingnote::report::{Outcome, RunReport};
use scalingnote::snapshot;
use scalingnote::store::Root;
use scalingnote::types::SpaceId;

use super::{
    NEXT, NIGHT, context, corpus, from_scratch, live_a_day, newest, run, seen, spaces, stored,
};

async fn publish_plan(ctx: &RunContext, plan: &str) -> Result<RunReport> {
    crate::fixture::days::publish_plan(ctx, plan, &RunOptions::default()).await
}

/// The steps of a scheduler: plan, the day's tasks, publish; then the night's tasks, publish.
async fn scheduled(ctx: &RunContext, stop_after: Option<usize>) -> (RunReport, Option<RunReport>) {
    let plan = exec::plan(ctx).await.unwrap();
    let mut day = RunReport::default();
    let key = plan.plan_key.as_ref().unwrap();
    let calibrate = plan.calibrate_task.iter();
    for task in plan.encode_tasks.iter().chain(calibrate).chain(&plan.build_tasks) {
        exec::execute_task(ctx, key, task).await.unwrap();
    }
    if plan.tasks > 0 {
        day = publish_plan(ctx, key).await.unwrap();
        // A scheduler that lost the acknowledgement asks again.
        let again = publish_plan(ctx, key).await.unwrap();
        assert!(again.outcome.is_nothing(), "{:?}", again.outcome);
    }
    let Some(night) = plan.backfill else { return (day, None) };
    let key = night.plan_key.as_ref().unwrap();
    let tasks = night.encode_tasks.iter().chain(&night.calibrate_task).chain(&night.build_tasks);
    for (at, task) in tasks.enumerate() {
        if stop_after == Some(at) {
            let unfinished = publish_plan(ctx, key).await.unwrap_err();
            assert_eq!(unfinished.kind(), ErrorKind::Transient);
            return (day, None);
        }
        exec::execute_task(ctx, key, task).await.unwrap();
        exec::execute_task(ctx, key, task).await.unwrap();
    }
    let report = publish_plan(ctx, key).await.unwrap();
    assert_eq!(report.has_switched(), night.switches);
    let again = publish_plan(ctx, key).await.unwrap();
    assert_eq!(again.has_switched(), night.switches, "asking again changes nothing");
    (day, Some(report))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_runs_the_nights_tasks_after_the_day() {
    let root = Root::in_memory();
    let mut corpus = corpus(120);
    let (old, new) = spaces(&corpus).await;
    let mut random = StdRng::seed_from_u64(11);
    let mut before = 0;
    for night in 0..12 {
        live_a_day(&mut corpus, &mut random);
        let ctx = context(&corpus, &root, NEXT, &[]);
        let day = snapshot::numbers(&root).await.unwrap().len() as u64 + 1;
        // One night its machine is lost.
        let (published, report) = scheduled(&ctx, (night == 1).then_some(1)).await;
        assert_eq!(published.outcome, Outcome::Published { snapshot: day });
        assert_eq!(snapshot::read(&root, day).await.unwrap().content.space_id, old);
        let tokens = stored(&root, &new).await.1;
        assert!(tokens > before && tokens <= before + NIGHT, "{before} -> {tokens}");
        before = tokens;
        let Some(report) = report else { continue };
        if report.has_switched() {
            assert!(night >= 3, "{night}");
            assert_eq!(newest(&root).await.number, day + 1);
            break;
        }
        assert_eq!(report.outcome, Outcome::NothingToDo { snapshot: Some(day) });
        assert!(report.to_string().contains("  next     tower fake:8 "), "{report}");
    }
    let manifest = newest(&root).await;
    assert_eq!(manifest.content.space_id, new);
    assert_eq!(seen(&root, &manifest).await, from_scratch(&corpus, "fake:8").await);

    // Days after the switch: the plan is of the new space, and so is what is published.
    live_a_day(&mut corpus, &mut random);
    let ctx = context(&corpus, &root, NEXT, &[]);
    let plan = exec::plan(&ctx).await.unwrap();
    assert!(plan.backfill.is_none() && plan.space == new.to_string());
    assert!(plan.warnings.iter().any(|warning| warning.contains("is live since")), "{plan}");
    let (day, night) = scheduled(&ctx, None).await;
    assert_eq!((day.outcome, night), (Outcome::Published { snapshot: manifest.number + 1 }, None));
    let after = newest(&root).await;
    assert_eq!(after.content.query_towers, manifest.content.query_towers);
    assert_eq!(seen(&root, &after).await, from_scratch(&corpus, "fake:8").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_of_stages_run_a_night_like_a_day() {
    let root = Root::in_memory();
    let mut corpus = corpus(60);
    let (_, new) = spaces(&corpus).await;
    for night in 0..6 {
        let ctx = context(&corpus, &root, NEXT, &[]);
        let day = exec::plan_brief(&ctx).await.unwrap();
        let night_plan = day.backfill.as_deref().expect("a night").clone();
        assert!(night_plan.tokens <= NIGHT, "{night_plan:?}");
        let before = stored(&root, &new).await.1;
        let mut switched = false;
        for plan in [&day, &night_plan].into_iter().filter(|plan| plan.tasks > 0) {
            let key = plan.plan_key.as_ref().unwrap();
            for stage in TaskStage::NAMES {
                for share in ["0/2", "1/2"] {
                    let (stage, share) = (stage.parse().unwrap(), share.parse().unwrap());
                    exec::execute_share(&ctx, key, stage, share, 1).await.unwrap();
                }
            }
            switched |= publish_plan(&ctx, key).await.unwrap().has_switched();
        }
        assert!(stored(&root, &new).await.1 <= before + NIGHT);
        if switched {
            assert!(night >= 1, "{night}");
            assert_eq!(newest(&root).await.content.space_id, new);
            let live = exec::plan_brief(&context(&corpus, &root, NEXT, &[])).await.unwrap();
            assert_eq!((live.tasks, live.backfill), (0, None));
            return;
        }
        live_a_day(&mut corpus, &mut StdRng::seed_from_u64(night));
    }
    panic!("three nights are enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_how_far_the_night_is() {
    let root = Root::in_memory();
    let corpus = corpus(120);
    let ctx = context(&corpus, &root, NEXT, &[]);
    let first = exec::plan(&ctx).await.unwrap().backfill.unwrap();
    assert_eq!((first.progress.texts, first.progress.texts_stored), (120, 0));
    assert_eq!(first.tokens_this_run, NIGHT);
    let missing = first.progress.tokens_missing;
    assert_eq!(first.progress.nights_left, Some(missing.div_ceil(NIGHT)));
    assert!(!first.switches && first.build_tasks.is_empty() && first.tasks >= 1);
    run(&ctx).await.unwrap();
    let plan = exec::plan(&ctx).await.unwrap();
    let second = plan.backfill.as_ref().unwrap();
    assert!(second.progress.texts_stored >= 25, "{second:?}");
    assert!(missing - second.progress.tokens_missing <= NIGHT);
    assert_eq!(plan.tasks, 0, "the day has nothing to do");
    let text = plan.to_string();
    assert!(
        text.contains("next tower fake:8 2") && text.contains("of 120 texts), about"),
        "{text}"
    );
    assert!(text.ends_with("nothing to do: 0 tasks\n"), "{text}");
    let stored = stored(&root, &SpaceId(second.progress.space.clone())).await;
    assert_eq!(stored.0, second.progress.texts_stored, "planning encodes nothing");
    // As many shards as devices have a share each.
    let ctx = context(&corpus, &root, NEXT, &["encode.devices=[\"cpu\", \"cpu\"]"]);
    assert_eq!(exec::plan(&ctx).await.unwrap().backfill.unwrap().encode_tasks.len(), 2);
}
