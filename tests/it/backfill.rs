//! A new tower without an outage: nights of back-fill beside days that go on being published, and one switch.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use scalingnote::config::{Pipeline, resolve_text};
use scalingnote::embedding::list_parts;
use scalingnote::error::{ErrorKind, Result};
use scalingnote::exec::{self, RunContext, RunOptions, TaskStage};
use scalingnote::observe::{Event, Reporter, Silent, Stage};
use scalingnote::search::Snapshot;
use scalingnote::snapshot::{self, Manifest, Protected, Provenance, Retention};
use scalingnote::stage::{BackfillState, Outcome, RunReport};
use scalingnote::store::Root;
use scalingnote::types::{Cancel, SpaceId};

use crate::faults::{Faulty, Tally};

/// Tokens of a night: about 32 of the texts below.
const NIGHT: u64 = 160;

/// What `[next]` holds in most tests.
const NEXT: &str = r#"
[next]
tokens_per_run = 160
[next.tower]
model = "fake:8"
pooling = "mean"
max_tokens = 32
"#;

struct Corpus {
    folder: tempfile::TempDir,
    /// id -> (body, likes)
    notes: BTreeMap<i64, (String, i64)>,
}

impl Corpus {
    fn new(notes: i64) -> Self {
        let notes =
            (0..notes).map(|id| (id, (format!("note {id} about topic {}", id % 7), id % 3)));
        Self { folder: tempfile::tempdir().unwrap(), notes: notes.collect() }
    }

    fn write(&self) {
        let rows = self.notes.iter().map(|(id, (body, likes))| {
            serde_json::json!({ "id": id, "body": body, "likes": likes }).to_string() + "\n"
        });
        std::fs::write(self.folder.path().join("notes.jsonl"), rows.collect::<String>()).unwrap();
    }

    /// `tower` publishes; `next` is appended to the file.
    fn text(&self, tower: &str, next: &str) -> String {
        format!(
            r#"version = 1
[corpus]
sql = "select id as note_id, body, likes from notes"
template = "{{{{ body }}}}"
stored_columns = ["likes"]
max_rejected = 1000
[[corpus.tables]]
name = "notes"
uri = "notes.jsonl"
[tower]
model = "{tower}"
pooling = "mean"
max_tokens = 32
[encode]
part_texts = 16
[index]
shards = 2
[gates]
max_count_drop_percent = 30.0
[publish]
root = "memory://unused"
{next}"#
        )
    }

    fn pipeline(&self, tower: &str, next: &str, set: &[&str]) -> Result<Pipeline> {
        let text = self.text(tower, next);
        let set: Vec<String> = set.iter().map(|&s| s.to_owned()).collect();
        Ok(resolve_text(&text, "nights.toml", self.folder.path(), [], &set)?.pipeline)
    }

    fn context(&self, root: &Root, next: &str, set: &[&str]) -> RunContext {
        self.write();
        RunContext {
            pipeline: self.pipeline("fake:16", next, set).unwrap(),
            root: root.clone(),
            reporter: Arc::new(Silent),
            cancel: Cancel::new(),
        }
    }

    /// A whole run of `[tower] fake:16` with this `[next]`.
    async fn run(&self, root: &Root, next: &str, set: &[&str]) -> Result<RunReport> {
        run(&self.context(root, next, set)).await
    }

    /// Some notes are edited, one comes, one goes.
    fn live_a_day(&mut self, random: &mut StdRng) {
        let ids: Vec<i64> = self.notes.keys().copied().collect();
        for _ in 0..3 {
            let id = ids[random.random_range(0..ids.len())];
            self.notes.insert(id, (format!("edited {}", random.random::<u32>()), 1));
        }
        self.notes.remove(&ids[random.random_range(0..ids.len())]);
        let new = random.random_range(1_000..1_000_000);
        self.notes.insert(new, (format!("note {new} came in"), 0));
    }
}

async fn run(ctx: &RunContext) -> Result<RunReport> {
    exec::run(ctx, &RunOptions { attempts: 1, ..RunOptions::default() }).await
}

async fn newest(root: &Root) -> Manifest {
    snapshot::newest(root).await.unwrap().unwrap()
}

fn state(report: &RunReport) -> BackfillState {
    report.backfill.as_ref().expect("a back-fill").state
}

fn encoded(report: &RunReport) -> u64 {
    report.stages.iter().find(|stage| stage.stage == Stage::Encode).unwrap().actual.texts
}

/// Texts and tokens that are stored for a space.
async fn stored(root: &Root, space: &SpaceId) -> (u64, u64) {
    let parts = list_parts(root, space, None).await.unwrap();
    let sum =
        |value: fn(&scalingnote::embedding::PartReceipt) -> u64| parts.iter().map(value).sum();
    (sum(|part| part.rows), sum(|part| part.tokens))
}

/// The spaces of the two towers.
async fn spaces(corpus: &Corpus) -> (SpaceId, SpaceId) {
    let of = |tower: &'static str| async move {
        let root = Root::in_memory();
        let mut ctx = corpus.context(&root, "", &[]);
        ctx.pipeline = corpus.pipeline(tower, "", &[]).unwrap();
        run(&ctx).await.unwrap();
        newest(&root).await.content.space_id
    };
    (of("fake:16").await, of("fake:8").await)
}

/// What a reader sees: every note with the score of its vector against one query, and its stored column.
async fn seen(root: &Root, manifest: &Manifest) -> BTreeMap<String, String> {
    let cache = tempfile::tempdir().unwrap();
    let opened = Snapshot::open(root, Some(manifest.number), cache.path()).await.unwrap();
    let mut probe = vec![0.1f32; manifest.content.space.dimensions as usize];
    probe[3] = 0.7;
    let all = manifest.content.vectors as usize;
    let found = opened.search_vector(&probe, all, true).unwrap();
    found
        .into_iter()
        .map(|hit| (hit.note_id.to_string(), format!("{} {:?}", hit.score, hit.stored)))
        .collect()
}

/// What one run over the corpus of now publishes in an empty root.
async fn from_scratch(corpus: &Corpus, tower: &str) -> BTreeMap<String, String> {
    let root = Root::in_memory();
    let mut ctx = corpus.context(&root, "", &[]);
    ctx.pipeline = corpus.pipeline(tower, "", &[]).unwrap();
    run(&ctx).await.unwrap();
    seen(&root, &newest(&root).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn days_go_on_while_the_next_space_grows_and_the_switch_comes_once() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(120);
    let (old, new) = spaces(&corpus).await;
    let mut random = StdRng::seed_from_u64(7);
    let (mut nights, mut before) = (0, 0);
    let switched = loop {
        nights += 1;
        assert!(nights < 12, "about five nights are needed");
        corpus.live_a_day(&mut random);
        let day = snapshot::numbers(&root).await.unwrap().len() as u64 + 1;
        let report = corpus.run(&root, NEXT, &[]).await.unwrap();
        let (_, tokens) = stored(&root, &new).await;
        assert!(
            tokens > before && tokens <= before + NIGHT,
            "night {nights}: {before} -> {tokens}"
        );
        before = tokens;
        // The day was published with the tower of now, whatever the night did.
        let published = snapshot::read(&root, day).await.unwrap();
        assert_eq!(published.content.space_id, old);
        assert_eq!(seen(&root, &published).await, from_scratch(&corpus, "fake:16").await);
        let backfill = report.backfill.as_ref().unwrap();
        match backfill.state {
            BackfillState::Growing => {
                assert_eq!(report.outcome, Outcome::Published { snapshot: day });
                assert_eq!(newest(&root).await.number, day);
                assert!(backfill.texts_stored < backfill.texts, "{backfill:?}");
                assert!(backfill.tokens_encoded > NIGHT - 32, "{backfill:?}");
                let text = report.to_string();
                assert!(text.contains("  next     tower fake:8 ") && text.contains("more night"));
                assert!(report.to_html().contains("<h2>Next tower</h2>"));
            }
            BackfillState::Switched { snapshot } => {
                assert_eq!(report.outcome, Outcome::Published { snapshot });
                assert_eq!((snapshot, backfill.texts_stored), (day + 1, backfill.texts));
                assert!(backfill.recall.is_some() && !backfill.gates.is_empty());
                break snapshot;
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(nights >= 4, "{nights}");
    let manifest = newest(&root).await;
    assert_eq!((manifest.number, &manifest.content.space_id), (switched, &new));
    assert_eq!(manifest.content.query_towers[0].options["model"], "fake:8");
    assert_eq!(seen(&root, &manifest).await, from_scratch(&corpus, "fake:8").await);
    assert!(snapshot::verify_hashes(&root, &manifest, &|_| {}).await.unwrap().is_empty());

    // The same file goes on in the new space alone, and says so.
    let idle = corpus.run(&root, NEXT, &[]).await.unwrap();
    assert_eq!(idle.outcome, Outcome::NothingToDo { snapshot: Some(switched) });
    corpus.live_a_day(&mut random);
    let next_day = corpus.run(&root, NEXT, &[]).await.unwrap();
    assert_eq!(next_day.outcome, Outcome::Published { snapshot: switched + 1 });
    assert!(encoded(&next_day) <= 4 && next_day.backfill.is_none());
    let live = format!("live since snapshot {switched}");
    assert!(next_day.warnings.iter().any(|warning| warning.contains(&live)), "{next_day:?}");
    assert_eq!(next_day.config.model, "fake:8");
    let old_stored = stored(&root, &old).await;

    // Moving it to [tower] changes nothing.
    let mut moved = corpus.context(&root, "", &[]);
    moved.pipeline = corpus.pipeline("fake:8", "", &[]).unwrap();
    let report = run(&moved).await.unwrap();
    assert_eq!(report.outcome, Outcome::NothingToDo { snapshot: Some(switched + 1) });
    assert_eq!((encoded(&report), stored(&root, &old).await), (0, old_stored));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_is_encoded_twice_whatever_its_shard() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(120);
    let (_, new) = spaces(&corpus).await;
    for (night, shards) in [2, 3, 5, 2, 4, 2, 1].into_iter().enumerate() {
        let set = format!("index.shards={shards}");
        let report = corpus.run(&root, NEXT, &[&set]).await.unwrap();
        if report.has_switched() {
            assert!(night >= 3, "{night}");
            break;
        }
        // Texts move to other notes, and so to other shards; no text is new.
        let last = corpus.notes.pop_last().unwrap().1;
        corpus.notes.insert(5_000 + night as i64, last);
    }
    let manifest = newest(&root).await;
    assert_eq!(manifest.content.space_id, new);
    assert_eq!(stored(&root, &new).await.0, 120, "each text once");
    assert_eq!(seen(&root, &manifest).await.len(), 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_budget_one_night_is_enough() {
    let root = Root::in_memory();
    let corpus = Corpus::new(60);
    let next = NEXT.replace("tokens_per_run = 160\n", "");
    let report = corpus.run(&root, &next, &[]).await.unwrap();
    assert_eq!(state(&report), BackfillState::Switched { snapshot: 2 });
    assert_eq!(snapshot::numbers(&root).await.unwrap(), [1, 2]);
}

/// Stands still in the middle of the night until the deadline has passed.
struct Sleepy {
    cancel: Cancel,
    night: AtomicBool,
}

impl Reporter for Sleepy {
    fn event(&self, event: Event) {
        match event {
            Event::Info { message } if message.starts_with("next ") => {
                self.night.store(true, Ordering::Release);
            }
            Event::Progress { stage: Stage::Encode, .. } if self.night.load(Ordering::Acquire) => {
                std::thread::sleep(self.cancel.time_left().unwrap_or(Duration::ZERO));
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_the_normal_end_of_a_night() {
    let root = Root::in_memory();
    let corpus = Corpus::new(60);
    let (_, new) = spaces(&corpus).await;
    let next = NEXT.replace("tokens_per_run = 160\n", "");
    let mut ctx = corpus.context(&root, &next, &["encode.token_budget=50"]);
    ctx.cancel = Cancel::with_deadline(Duration::from_secs(6));
    let night = AtomicBool::new(false);
    ctx.reporter = Arc::new(Sleepy { cancel: ctx.cancel.clone(), night });
    let report = run(&ctx).await.unwrap();
    assert_eq!(report.outcome, Outcome::Published { snapshot: 1 });
    let backfill = report.backfill.as_ref().unwrap();
    assert_eq!(backfill.state, BackfillState::Growing);
    let (texts, tokens) = stored(&root, &new).await;
    assert!(texts > 0 && texts < 60, "{texts} of 60: what was encoded is kept");
    assert_eq!((backfill.texts_stored, backfill.tokens_encoded), (texts, tokens));
    assert!(backfill.nights_left.is_some());

    let report = corpus.run(&root, &next, &[]).await.unwrap();
    assert_eq!(report.outcome, Outcome::Published { snapshot: 2 });
    assert_eq!(
        (state(&report), stored(&root, &new).await.0),
        (BackfillState::Switched { snapshot: 2 }, 60)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_switch_leaves_the_old_tower_publishing() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(60);
    let (old, _) = spaces(&corpus).await;
    // A template that has no text for a third of the notes.
    let next = NEXT
        .replace("tokens_per_run = 160", "template = \"{% if likes != 2 %}{{ body }}{% endif %}\"");
    let mut random = StdRng::seed_from_u64(3);
    for day in 1..=2 {
        let report = corpus.run(&root, &next, &[]).await.unwrap();
        assert_eq!(report.outcome, Outcome::Published { snapshot: day });
        assert!(report.is_refused(), "{report:?}");
        let backfill = report.backfill.as_ref().unwrap();
        assert_eq!(backfill.state, BackfillState::Refused);
        assert!(backfill.refusal.as_ref().unwrap().contains("rejected"), "{backfill:?}");
        assert!(report.gates.iter().all(|gate| gate.passed), "those of the day");
        let said =
            format!("published snapshot {day}; the switch to [next.tower] fake:8 was refused");
        assert!(report.warnings.iter().any(|warning| warning.starts_with(&said)), "{report:?}");
        assert!(report.to_string().contains("REFUSED"));
        assert_eq!(newest(&root).await.content.space_id, old);
        corpus.live_a_day(&mut random);
    }
    let overrides = ["rejected", "count-change"].map(|gate| (gate.into(), "as wanted".into()));
    let options = RunOptions { overrides: overrides.to_vec(), ..RunOptions::default() };
    let report = exec::run(&corpus.context(&root, &next, &[]), &options).await.unwrap();
    assert_eq!(state(&report), BackfillState::Switched { snapshot: 4 });
    assert!(!report.is_refused());
    // The run after it renders with the template of [next].
    let report = corpus.run(&root, &next, &["gates.max_rejected_percent=50"]).await.unwrap();
    assert_eq!(report.outcome, Outcome::NothingToDo { snapshot: Some(4) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_tower_does_not_come_back_by_itself() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(40);
    let (old, new) = spaces(&corpus).await;
    let next = NEXT.replace("tokens_per_run = 160\n", "");
    corpus.run(&root, &next, &[]).await.unwrap();
    assert_eq!(newest(&root).await.content.space_id, new);
    snapshot::rollback(&root, 1, Provenance::default()).await.unwrap();
    assert_eq!(newest(&root).await.blocked_spaces, std::slice::from_ref(&new));

    let mut random = StdRng::seed_from_u64(5);
    for day in 4..=5 {
        corpus.live_a_day(&mut random);
        let report = corpus.run(&root, &next, &[]).await.unwrap();
        assert_eq!(report.outcome, Outcome::Published { snapshot: day });
        assert_eq!(state(&report), BackfillState::RolledBack);
        assert!(!report.is_refused(), "a person's decision is no failure");
        assert_eq!(newest(&root).await.content.space_id, old);
        assert_eq!(stored(&root, &new).await.0, 40, "nothing is encoded for it");
    }
    let plan = exec::plan(&corpus.context(&root, &next, &[])).await.unwrap();
    assert_eq!(plan.backfill.unwrap().progress.state, BackfillState::RolledBack);

    // A person may still publish it, and that lifts the block.
    let mut moved = corpus.context(&root, "", &[]);
    moved.pipeline = corpus.pipeline("fake:8", "", &[]).unwrap();
    let report = run(&moved).await.unwrap();
    assert_eq!(report.outcome, Outcome::Published { snapshot: 6 });
    assert!(encoded(&report) <= 8, "only what came since");
    assert!(newest(&root).await.blocked_spaces.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_leaves_a_growing_space_alone_and_collects_an_abandoned_one() {
    let root = Root::in_memory();
    let corpus = Corpus::new(60);
    let (old, new) = spaces(&corpus).await;
    corpus.run(&root, NEXT, &[]).await.unwrap();
    let kept = stored(&root, &new).await;
    assert!(kept.0 > 0);
    // Months later, without a run in between.
    let now = snapshot::store_time(&root).await.unwrap() + TimeDelta::days(100);
    let gc = async |growing| {
        let protected = Protected { growing, ..Protected::default() };
        snapshot::gc(&root, &Retention::default(), now, false, &protected).await.unwrap()
    };
    gc(true).await;
    assert_eq!(stored(&root, &new).await, kept, "while [next] is configured");
    gc(false).await;
    assert_eq!(stored(&root, &new).await, (0, 0), "[next] was removed");
    assert!(root.list(&format!("embeddings/{new}")).await.unwrap().is_empty());
    assert!(stored(&root, &old).await.0 > 0);
    // Changing one's mind again only costs the encoding.
    let report = corpus.run(&root, NEXT, &[]).await.unwrap();
    assert_eq!(state(&report), BackfillState::Growing);
    assert_eq!(stored(&root, &new).await, kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_tower_that_cannot_be_opened_does_not_stop_the_day() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(40);
    let next = NEXT.replace("fake:8", "missing.gguf");
    for day in 1..=2 {
        let error = corpus.run(&root, &next, &[]).await.unwrap_err();
        assert!(!error.is_retryable(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("published snapshot {day}")), "{text}");
        assert!(text.contains("[next.tower]") && text.contains("missing.gguf"), "{text}");
        assert_eq!(newest(&root).await.number, day);
        corpus.live_a_day(&mut StdRng::seed_from_u64(day));
    }
    // Where it may be the one that publishes, nothing is published in its place.
    let live = NEXT.replace("tokens_per_run = 160\n", "");
    let report = corpus.run(&root, &live, &[]).await.unwrap();
    assert!(report.has_switched());
    let number = newest(&root).await.number;
    let error = corpus.run(&root, &next, &[]).await.unwrap_err();
    assert!(error.to_string().contains("may be live"), "{error}");
    assert_eq!(newest(&root).await.number, number);
}

async fn publish_plan(ctx: &RunContext, plan: &str) -> Result<RunReport> {
    crate::days::publish_plan(ctx, plan, &RunOptions::default()).await
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
    let mut corpus = Corpus::new(120);
    let (old, new) = spaces(&corpus).await;
    let mut random = StdRng::seed_from_u64(11);
    let mut before = 0;
    for night in 0..12 {
        corpus.live_a_day(&mut random);
        let ctx = corpus.context(&root, NEXT, &[]);
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
    corpus.live_a_day(&mut random);
    let ctx = corpus.context(&root, NEXT, &[]);
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
    let mut corpus = Corpus::new(60);
    let (_, new) = spaces(&corpus).await;
    for night in 0..6 {
        let ctx = corpus.context(&root, NEXT, &[]);
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
            let live = exec::plan_brief(&corpus.context(&root, NEXT, &[])).await.unwrap();
            assert_eq!((live.tasks, live.backfill), (0, None));
            return;
        }
        corpus.live_a_day(&mut StdRng::seed_from_u64(night));
    }
    panic!("three nights are enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_how_far_the_night_is() {
    let root = Root::in_memory();
    let corpus = Corpus::new(120);
    let ctx = corpus.context(&root, NEXT, &[]);
    let first = exec::plan(&ctx).await.unwrap().backfill.unwrap();
    assert_eq!((first.progress.texts, first.progress.texts_stored), (120, 0));
    assert_eq!(first.tokens_tonight, NIGHT);
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
    let ctx = corpus.context(&root, NEXT, &["encode.devices=[\"cpu\", \"cpu\"]"]);
    assert_eq!(exec::plan(&ctx).await.unwrap().backfill.unwrap().encode_tasks.len(), 2);
}

#[test]
fn a_budget_that_cannot_work_is_refused() {
    let corpus = Corpus::new(1);
    let refused = |next: &str, set: &[&str]| {
        let error = corpus.pipeline("fake:16", next, set).expect_err("must be refused");
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    };
    for (set, message) in [
        (
            "next.tokens_per_run=0",
            "`next.tokens_per_run` must be at least `next.tower.max_tokens` (32)",
        ),
        ("next.tokens_per_run=31", "`next.tokens_per_run` must be at least"),
        ("next.minutes_per_run=0", "`next.minutes_per_run` must be at least 1"),
        ("corpus.mode=delta", "`next` needs `corpus.mode = \"full\"`"),
        ("next.template=fixed", "`next.template` names no column"),
        ("next.tower.model=", "`next.tower.model` is empty"),
        ("next.tower.modle=x", "unknown key `modle` in [next.tower]"),
        ("next.token_per_run=99", "did you mean `tokens_per_run`?"),
        ("next.chunking.window_tokens=64", "must be at most `next.tower.max_tokens` (32)"),
        ("chunking.window_tokens=64", "must be at most `tower.max_tokens` (32)"),
    ] {
        let text = refused(NEXT, &[set]);
        assert!(text.contains(message), "{set}: {text}");
    }
    let missing = refused("[next]\ntokens_per_run = 5000\n", &[]);
    assert!(missing.contains("key `tower` is missing in [next]"), "{missing}");
    assert!(corpus.pipeline("fake:16", NEXT, &["next.minutes_per_run=240"]).is_ok());
}

/// The commented `[next]` of the files that people copy is right once it is uncommented.
#[test]
fn the_documented_keys_are_right() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    for (name, keys) in [("daily.toml", 6), ("quickstart.toml", 6)] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let mut uncommented = 0;
        let mut lines: Vec<&str> = text.lines().collect();
        let start = lines.iter().position(|line| *line == "# [next]").expect("a [next] section");
        for line in &mut lines[start..] {
            let Some(rest) = line.strip_prefix('#') else { break };
            *line = rest.trim_start();
            uncommented += usize::from(line.contains(" = "));
        }
        assert_eq!(uncommented, keys, "{name}");
        let resolved = resolve_text(&lines.join("\n"), name, &folder, [], &[]).unwrap();
        let next = resolved.pipeline.next.expect("a next tower");
        assert!(next.tokens_per_run.is_some());
        assert_ne!(resolved.pipeline.tower.model, next.tower.model);
    }
}

/// Every call of the store may fail; a run is repeated until it gets through. Days and the switch come out as
/// without faults.
#[tokio::test(flavor = "multi_thread")]
async fn faults_neither_lose_nor_hurry_the_switch() {
    let mut failures = 0;
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let store = Arc::new(InMemory::new());
        let clear = Root::from_store(store.clone(), "memory://nights", None);
        let mut corpus = Corpus::new(60);
        let (mut attempts, mut switches) = (0, 0);
        for night in 0..12 {
            corpus.live_a_day(&mut random);
            let switched = loop {
                attempts += 1;
                let share = 0.03 / f64::from(1 + attempts / 8);
                let faulty =
                    Faulty::random(store.clone(), share, random.random(), Tally::default()).root();
                let outcome = corpus.run(&faulty, NEXT, &[]).await;
                if let Some(newest) = snapshot::newest(&clear).await.unwrap() {
                    let problems = snapshot::verify_hashes(&clear, &newest, &|_| {}).await.unwrap();
                    assert!(problems.is_empty(), "seed {seed}, night {night}: {problems:?}");
                }
                match outcome {
                    Ok(report) => break report.has_switched() || report.backfill.is_none(),
                    Err(error) => {
                        failures += 1;
                        assert!(error.is_retryable(), "seed {seed}, night {night}: {error:?}");
                    }
                }
            };
            let manifest = newest(&clear).await;
            let tower = if switched { "fake:8" } else { "fake:16" };
            assert_eq!(
                seen(&clear, &manifest).await,
                from_scratch(&corpus, tower).await,
                "seed {seed}, night {night}"
            );
            if switched {
                switches += 1;
                break;
            }
        }
        assert_eq!(switches, 1, "seed {seed}");
    }
    assert!(failures > 0, "the faults must have bitten");
}

/// The program in the corpus's folder, with a pipeline file there.
struct Program<'a>(&'a Corpus);

impl Program<'_> {
    fn command(&self, next: &str, arguments: &[&str]) -> Command {
        self.0.write();
        let pipeline = self.0.text("fake:16", next).replace("memory://unused", "root");
        std::fs::write(self.0.folder.path().join("p.toml"), pipeline).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_scalingnote"));
        command.current_dir(self.0.folder.path()).args(arguments).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SCALINGNOTE") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs a line that must end with `code`; stdout and stderr.
    fn expect(&self, code: i32, next: &str, arguments: &[&str]) -> (String, String) {
        let output = self.command(next, arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
        (out, err)
    }

    /// How many parts the root holds.
    fn parts(&self) -> usize {
        let Ok(spaces) = std::fs::read_dir(self.0.folder.path().join("root/embeddings")) else {
            return 0;
        };
        let shards = spaces.flat_map(|space| std::fs::read_dir(space.unwrap().path()).unwrap());
        let files = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".receipt.json")).count()
    }
}

#[test]
fn a_killed_night_costs_a_part_and_the_exit_codes_tell_day_and_switch_apart() {
    let corpus = Corpus::new(120);
    let program = Program(&corpus);
    let slow = NEXT
        .replace("tokens_per_run = 160\n", "")
        .replace("fake:8", "fake:8?tokens_per_second=300");
    let fast = NEXT.replace("tokens_per_run = 160\n", "");

    let small = ["--set", "encode.part_tokens=100", "--set", "encode.token_budget=100"];
    let mut child = program
        .command(&slow, &[&["run", "p.toml"], &small[..]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let snapshot = corpus.folder.path().join("root/snapshots/00000000000000000001.json");
    while !snapshot.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended too soon");
        std::thread::sleep(Duration::from_millis(5));
    }
    let of_the_day = program.parts();
    while program.parts() < of_the_day + 2 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended too soon");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(std::fs::read_dir(snapshot.parent().unwrap()).unwrap().count(), 1);
    program.expect(0, &slow, &["snapshot", "verify", "p.toml"]);

    // Far too little time for what is left: the night ends, the day was done.
    let late = [&["run", "p.toml", "--deadline", "3s", "--json"], &small[..]].concat();
    let slower = slow.replace("=300", "=20");
    let (out, _) = program.expect(0, &slower, &late);
    let report: RunReport = serde_json::from_str(&out).unwrap();
    assert_eq!(state(&report), BackfillState::Growing);
    assert_eq!(report.outcome, Outcome::NothingToDo { snapshot: Some(1) });

    let (out, _) = program.expect(0, &fast, &["config", "check", "p.toml"]);
    assert!(out.contains("next tower fake:8"), "{out}");
    let (out, _) = program.expect(0, &fast, &["plan", "p.toml"]);
    assert!(out.contains("\nnext tower fake:8 ") && out.contains("then the switch"), "{out}");

    let template = "next.template={% if likes != 2 %}{{ body }}{% endif %}";
    let (out, err) = program.expect(3, &fast, &["run", "p.toml", "--set", template]);
    assert!(out.starts_with("nothing to do: snapshot 1 is up to date\n"), "{out}");
    assert!(out.contains("refused by a gate") && err.contains("the switch to [next.tower]"));

    let (out, _) = program.expect(0, &fast, &["run", "p.toml", "--json"]);
    let report: RunReport = serde_json::from_str(&out).unwrap();
    assert_eq!(state(&report), BackfillState::Switched { snapshot: 2 });
    let tokens = report.backfill.as_ref().unwrap().tokens_encoded;
    assert!(
        tokens > 0 && tokens < 500,
        "{tokens}: what the killed night stored is not encoded again"
    );
    let (out, _) =
        program.expect(0, &fast, &["search", "root", "note 5 about topic 5", "--json", "-k", "1"]);
    let hit: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&hit["snapshot"], &hit["hits"][0]["note_id"]), (&2.into(), &5.into()));
    let (out, err) = program.expect(0, &fast, &["run", "p.toml"]);
    assert!(out.starts_with("nothing to do: snapshot 2"), "{out}");
    assert!(err.contains("[next.tower] is live since snapshot 2: move it to [tower]"), "{err}");
    program.expect(0, &fast, &["snapshot", "verify", "p.toml"]);
}
