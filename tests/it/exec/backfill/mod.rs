//! A new tower without an outage: nights of back-fill beside days that go on being published, and one switch.

mod faults;
mod keys;
mod scheduled;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use scalingnote::config::Pipeline;
use scalingnote::embedding::list_parts;
use scalingnote::error::Result;
use scalingnote::exec::{self, RunContext, RunOptions};
use scalingnote::observe::{Event, Reporter, Stage};
use scalingnote::report::{BackfillState, Outcome, RunReport};
use scalingnote::search::Snapshot;
use scalingnote::snapshot::{self, Manifest, Protected, Provenance, Retention};
use scalingnote::store::Root;
use scalingnote::types::{Cancel, SpaceId};

use crate::fixture::days::{self, Corpus, encoded, newest};
use crate::fixture::pipeline::PipelineFile;

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

fn corpus(notes: i64) -> Corpus {
    Corpus::with(String::new(), notes, |id| id % 3)
}

/// `tower` publishes; `next` is appended to the file.
fn text(tower: &str, next: &str) -> String {
    let file = PipelineFile {
        columns: "body, likes",
        corpus: "stored_columns = [\"likes\"]\nmax_rejected = 1000\n",
        model: tower,
        tower: "max_tokens = 32\n",
        sections: "[encode]\npart_texts = 16\n[index]\nshards = 2\n[gates]\nmax_count_drop_percent = 30.0\n",
        ..PipelineFile::default()
    };
    file.text() + next
}

fn pipeline(corpus: &Corpus, tower: &str, next: &str, set: &[&str]) -> Result<Pipeline> {
    corpus.resolve(&text(tower, next), set)
}

fn context(corpus: &Corpus, root: &Root, next: &str, set: &[&str]) -> RunContext {
    corpus.write(|_| false.into());
    days::context(pipeline(corpus, "fake:16", next, set).unwrap(), root)
}

/// A whole run of `[tower] fake:16` with this `[next]`.
async fn run_over(corpus: &Corpus, root: &Root, next: &str, set: &[&str]) -> Result<RunReport> {
    run(&context(corpus, root, next, set)).await
}

/// Some notes are edited, one comes, one goes.
fn live_a_day(corpus: &mut Corpus, random: &mut StdRng) {
    let notes = &mut corpus.notes;
    let ids: Vec<i64> = notes.keys().copied().collect();
    for _ in 0..3 {
        let id = ids[random.random_range(0..ids.len())];
        notes.insert(id, (format!("edited {}", random.random::<u32>()), 1));
    }
    notes.remove(&ids[random.random_range(0..ids.len())]);
    let new = random.random_range(1_000..1_000_000);
    notes.insert(new, (format!("note {new} came in"), 0));
}

async fn run(ctx: &RunContext) -> Result<RunReport> {
    exec::run(ctx, &RunOptions { attempts: 1, ..RunOptions::default() }).await
}

fn state(report: &RunReport) -> BackfillState {
    report.backfill.as_ref().expect("a back-fill").state
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
        let mut ctx = context(corpus, &root, "", &[]);
        ctx.pipeline = pipeline(corpus, tower, "", &[]).unwrap();
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
    let mut ctx = context(corpus, &root, "", &[]);
    ctx.pipeline = pipeline(corpus, tower, "", &[]).unwrap();
    run(&ctx).await.unwrap();
    seen(&root, &newest(&root).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn days_go_on_while_the_next_space_grows_and_the_switch_comes_once() {
    let root = Root::in_memory();
    let mut corpus = corpus(120);
    let (old, new) = spaces(&corpus).await;
    let mut random = StdRng::seed_from_u64(7);
    let (mut nights, mut before) = (0, 0);
    let switched = loop {
        nights += 1;
        assert!(nights < 12, "about five nights are needed");
        live_a_day(&mut corpus, &mut random);
        let day = snapshot::numbers(&root).await.unwrap().len() as u64 + 1;
        let report = run_over(&corpus, &root, NEXT, &[]).await.unwrap();
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
                assert!(report.to_html().unwrap().contains("<h2>Next tower</h2>"));
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
    let idle = run_over(&corpus, &root, NEXT, &[]).await.unwrap();
    assert_eq!(idle.outcome, Outcome::NothingToDo { snapshot: Some(switched) });
    live_a_day(&mut corpus, &mut random);
    let next_day = run_over(&corpus, &root, NEXT, &[]).await.unwrap();
    assert_eq!(next_day.outcome, Outcome::Published { snapshot: switched + 1 });
    assert!(encoded(&next_day) <= 4 && next_day.backfill.is_none());
    let live = format!("live since snapshot {switched}");
    assert!(next_day.warnings.iter().any(|warning| warning.contains(&live)), "{next_day:?}");
    assert_eq!(next_day.config.model, "fake:8");
    let old_stored = stored(&root, &old).await;

    // Moving it to [tower] changes nothing.
    let mut moved = context(&corpus, &root, "", &[]);
    moved.pipeline = pipeline(&corpus, "fake:8", "", &[]).unwrap();
    let report = run(&moved).await.unwrap();
    assert_eq!(report.outcome, Outcome::NothingToDo { snapshot: Some(switched + 1) });
    assert_eq!((encoded(&report), stored(&root, &old).await), (0, old_stored));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_is_encoded_twice_whatever_its_shard() {
    let root = Root::in_memory();
    let mut corpus = corpus(120);
    let (_, new) = spaces(&corpus).await;
    for (night, shards) in [2, 3, 5, 2, 4, 2, 1].into_iter().enumerate() {
        let set = format!("index.shards={shards}");
        let report = run_over(&corpus, &root, NEXT, &[&set]).await.unwrap();
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
    let corpus = corpus(60);
    let next = NEXT.replace("tokens_per_run = 160\n", "");
    let report = run_over(&corpus, &root, &next, &[]).await.unwrap();
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
    let corpus = corpus(60);
    let (_, new) = spaces(&corpus).await;
    let next = NEXT.replace("tokens_per_run = 160\n", "");
    let mut ctx = context(&corpus, &root, &next, &["encode.token_budget=50"]);
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

    let report = run_over(&corpus, &root, &next, &[]).await.unwrap();
    assert_eq!(report.outcome, Outcome::Published { snapshot: 2 });
    assert_eq!(
        (state(&report), stored(&root, &new).await.0),
        (BackfillState::Switched { snapshot: 2 }, 60)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_switch_leaves_the_old_tower_publishing() {
    let root = Root::in_memory();
    let mut corpus = corpus(60);
    let (old, _) = spaces(&corpus).await;
    // A template that has no text for a third of the notes.
    let next = NEXT
        .replace("tokens_per_run = 160", "template = \"{% if likes != 2 %}{{ body }}{% endif %}\"");
    let mut random = StdRng::seed_from_u64(3);
    for day in 1..=2 {
        let report = run_over(&corpus, &root, &next, &[]).await.unwrap();
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
        live_a_day(&mut corpus, &mut random);
    }
    let overrides = ["rejected", "count-change"].map(|gate| (gate.into(), "as wanted".into()));
    let options = RunOptions { overrides: overrides.to_vec(), ..RunOptions::default() };
    let report = exec::run(&context(&corpus, &root, &next, &[]), &options).await.unwrap();
    assert_eq!(state(&report), BackfillState::Switched { snapshot: 4 });
    assert!(!report.is_refused());
    // The run after it renders with the template of [next].
    let report = run_over(&corpus, &root, &next, &["gates.max_rejected_percent=50"]).await.unwrap();
    assert_eq!(report.outcome, Outcome::NothingToDo { snapshot: Some(4) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_tower_does_not_come_back_by_itself() {
    let root = Root::in_memory();
    let mut corpus = corpus(40);
    let (old, new) = spaces(&corpus).await;
    let next = NEXT.replace("tokens_per_run = 160\n", "");
    run_over(&corpus, &root, &next, &[]).await.unwrap();
    assert_eq!(newest(&root).await.content.space_id, new);
    snapshot::rollback(&root, 1, Provenance::default()).await.unwrap();
    assert_eq!(newest(&root).await.blocked_spaces, std::slice::from_ref(&new));

    let mut random = StdRng::seed_from_u64(5);
    for day in 4..=5 {
        live_a_day(&mut corpus, &mut random);
        let report = run_over(&corpus, &root, &next, &[]).await.unwrap();
        assert_eq!(report.outcome, Outcome::Published { snapshot: day });
        assert_eq!(state(&report), BackfillState::RolledBack);
        assert!(!report.is_refused(), "a person's decision is not a failure");
        assert_eq!(newest(&root).await.content.space_id, old);
        assert_eq!(stored(&root, &new).await.0, 40, "nothing is encoded for it");
    }
    let plan = exec::plan(&context(&corpus, &root, &next, &[])).await.unwrap();
    assert_eq!(plan.backfill.unwrap().progress.state, BackfillState::RolledBack);

    // A person may still publish it, and that lifts the block.
    let mut moved = context(&corpus, &root, "", &[]);
    moved.pipeline = pipeline(&corpus, "fake:8", "", &[]).unwrap();
    let report = run(&moved).await.unwrap();
    assert_eq!(report.outcome, Outcome::Published { snapshot: 6 });
    assert!(encoded(&report) <= 8, "only what came since");
    assert!(newest(&root).await.blocked_spaces.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_leaves_a_growing_space_alone_and_collects_an_abandoned_one() {
    let root = Root::in_memory();
    let corpus = corpus(60);
    let (old, new) = spaces(&corpus).await;
    run_over(&corpus, &root, NEXT, &[]).await.unwrap();
    let kept = stored(&root, &new).await;
    assert!(kept.0 > 0);
    // Months later, without a run in between.
    let now = root.now().await.unwrap() + TimeDelta::days(100);
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
    let report = run_over(&corpus, &root, NEXT, &[]).await.unwrap();
    assert_eq!(state(&report), BackfillState::Growing);
    assert_eq!(stored(&root, &new).await, kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_tower_that_cannot_be_opened_does_not_stop_the_day() {
    let root = Root::in_memory();
    let mut corpus = corpus(40);
    let next = NEXT.replace("fake:8", "missing.gguf");
    for day in 1..=2 {
        let error = run_over(&corpus, &root, &next, &[]).await.unwrap_err();
        assert!(!error.is_retryable(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("published snapshot {day}")), "{text}");
        assert!(text.contains("[next.tower]") && text.contains("missing.gguf"), "{text}");
        assert_eq!(newest(&root).await.number, day);
        live_a_day(&mut corpus, &mut StdRng::seed_from_u64(day));
    }
    // Where it may be the one that publishes, nothing is published in its place.
    let live = NEXT.replace("tokens_per_run = 160\n", "");
    let report = run_over(&corpus, &root, &live, &[]).await.unwrap();
    assert!(report.has_switched());
    let number = newest(&root).await.number;
    let error = run_over(&corpus, &root, &next, &[]).await.unwrap_err();
    assert!(error.to_string().contains("may be live"), "{error}");
    assert_eq!(newest(&root).await.number, number);
}
