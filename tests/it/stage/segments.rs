//! A day's small change: deltas beside the base, removed keys, rebuilds, compaction, and the drift check.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use scalingnote::corpus::PreparedReader;
use scalingnote::report::{Outcome, RunReport};
use scalingnote::search::Snapshot;
use scalingnote::snapshot::{self, Protected, Retention};
use scalingnote::stage::Plan;
use scalingnote::store::Root;

use crate::fixture::days::{Corpus, encoded, found, newest};

/// What a reader finds in `root`, which must be what it finds where everything was built in one go from these notes.
async fn assert_serves(root: &Root, corpus: &Corpus, set: &[&str]) -> Snapshot {
    let cache = tempfile::tempdir().unwrap();
    let fresh = Root::in_memory();
    corpus.run(&fresh, set).await.unwrap();
    let expected = Snapshot::open(&fresh, None, cache.path()).await.unwrap();
    let opened = Snapshot::open(root, None, cache.path()).await.unwrap();
    assert_eq!(found(&opened), found(&expected));
    let problems = snapshot::verify_hashes(root, opened.manifest(), &|_| {}).await.unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    opened
}

pub fn edit(corpus: &mut Corpus, ids: impl IntoIterator<Item = i64>, day: u32) {
    for id in ids {
        corpus.notes.insert(id, (format!("day {day} rewrote note {id} on subject {}", id % 13), 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_day_adds_a_delta_and_rewrites_nothing() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(600);
    corpus.run(&root, &[]).await.unwrap();
    let first = newest(&root).await;
    assert!(first.content.shards.iter().all(|shard| shard.deltas.is_empty()));

    edit(&mut corpus, 0..6, 2);
    (100..103).for_each(|id| drop(corpus.notes.remove(&id)));
    edit(&mut corpus, 9_000..9_004, 2);
    let report = corpus.run(&root, &[]).await.unwrap();
    assert_eq!((encoded(&report), report.vectors_inserted, report.shards_rebuilt), (10, 10, 0));
    assert_eq!((report.reuse.encoded, report.reuse.from_parent), (10, 591));
    let second = newest(&root).await;
    let mut gone = 0;
    for (old, new) in first.content.shards.iter().zip(&second.content.shards) {
        assert_eq!((&old.index, &old.sidecar, &old.ids), (&new.index, &new.sidecar, &new.ids));
        assert_eq!(new.deltas.len(), 1);
        assert_eq!(new.base_vectors(), Some(old.vectors));
        gone += new.removed.as_ref().map_or(0, |removed| removed.vectors);
    }
    assert_eq!(gone, 9);
    let opened = assert_serves(&root, &corpus, &[]).await;
    // The graph search finds the new text of an edited note and no deleted note.
    let mut probe = [0.2f32; 16];
    probe[5] = -0.4;
    let hits = opened.search_vector(&probe, 300, false).unwrap();
    let ids: BTreeSet<String> = hits.iter().map(|hit| hit.note_id.to_string()).collect();
    assert_eq!(ids.len(), 300);
    assert!(!ids.contains("i:100"));

    let diff = snapshot::diff(&first, &second);
    assert_eq!((&diff.indexes_changed[..], &diff.ids_changed[..]), (&[0, 1][..], &[0, 1][..]));
    let notes = snapshot::diff_ids(&root, &first, &second, 9).await.unwrap();
    assert_eq!((notes.added, notes.removed, notes.changed, notes.unchanged), (4, 3, 6, 591));

    // Likes are columns: ids files change, what is searched does not.
    corpus.notes.get_mut(&50).unwrap().1 = 3;
    corpus.notes.get_mut(&3).unwrap().1 = 4;
    let liked = corpus.run(&root, &[]).await.unwrap();
    assert_eq!((liked.vectors_inserted, liked.shards_rebuilt), (0, 0));
    assert_eq!((liked.written.indexes, liked.written.sidecars), (0, 0));
    assert!(liked.written.ids > 0);
    assert_serves(&root, &corpus, &[]).await;

    // Garbage collection keeps everything that the newest snapshot is made of, and nothing of the others.
    let retention = Retention { snapshots: 1, grace_hours: 0, runs_days: 0 };
    let later = Utc::now() + TimeDelta::days(1);
    snapshot::gc(&root, &retention, later, false, &Protected::default()).await.unwrap();
    assert_eq!(snapshot::numbers(&root).await.unwrap(), [3]);
    assert_serves(&root, &corpus, &[]).await;
    let quiet = corpus.run(&root, &[]).await.unwrap();
    assert_eq!(quiet.outcome, Outcome::NothingToDo { snapshot: Some(3) });
}

#[tokio::test(flavor = "multi_thread")]
async fn deltas_are_merged_as_a_counter_carries_until_churn_rebuilds() {
    let root = Root::in_memory();
    let mut random = StdRng::seed_from_u64(7);
    let mut corpus = Corpus::new(400);
    let set = ["index.shards=1"];
    corpus.run(&root, &set).await.unwrap();
    let (mut rebuilds, mut most, mut merged) = (0, 0, false);
    for day in 1..=26 {
        let ids: Vec<i64> = corpus.notes.keys().copied().collect();
        let picked: Vec<i64> = (0..4).map(|_| ids[random.random_range(0..ids.len())]).collect();
        edit(&mut corpus, picked, day);
        let report: RunReport = corpus.run(&root, &set).await.unwrap();
        let shard = newest(&root).await.content.shards.remove(0);
        rebuilds += report.shards_rebuilt;
        most = most.max(shard.segments().len());
        merged |= report.shards_rebuilt == 0 && report.vectors_inserted > report.reuse.encoded;
        let base = shard.base_vectors().unwrap();
        let removed = shard.removed.as_ref().map_or(0, |removed| removed.vectors);
        assert!(removed * 100 <= base * 20, "day {day}: {removed} of {base}");
    }
    println!("{rebuilds} rebuilds, at most {most} segments");
    assert!(rebuilds >= 1 && merged && (3..=7).contains(&most), "{rebuilds} {most} {merged}");
    assert_serves(&root, &corpus, &set).await;
    // With 0 a changed shard is always one base.
    edit(&mut corpus, [5], 90);
    let set = ["index.shards=1", "index.rebuild_churn_percent=0"];
    assert_eq!(corpus.run(&root, &set).await.unwrap().shards_rebuilt, 1);
    assert!(newest(&root).await.content.shards[0].deltas.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_missing_or_damaged_is_rebuilt_with_a_warning() {
    for (kind, damage) in [("index", true), ("sidecar", false), ("ids", true), ("removed", false)] {
        let root = Root::in_memory();
        let mut corpus = Corpus::new(300);
        corpus.run(&root, &[]).await.unwrap();
        edit(&mut corpus, 0..6, 2);
        corpus.run(&root, &[]).await.unwrap();
        let shard = newest(&root).await.content.shards.remove(0);
        let segment = shard.segments().remove(0);
        let file = match kind {
            "index" => segment.index,
            "sidecar" => segment.sidecar,
            "ids" => segment.ids,
            _ => segment.removed.expect("six edits touch both shards").file,
        };
        root.delete(&file.path).await.unwrap();
        if damage {
            root.put(&file.path, vec![7; file.size as usize].into()).await.unwrap();
        }
        edit(&mut corpus, 20..26, 3);
        let report = corpus.run(&root, &[]).await.unwrap();
        assert!(matches!(report.outcome, Outcome::Published { .. }), "{kind}: {report:?}");
        assert_eq!((encoded(&report), report.shards_rebuilt), (6, 1), "{kind}");
        assert!(
            report.warnings.iter().any(|warning| warning.contains("shard 0 is")),
            "{kind}: {:?}",
            report.warnings
        );
        assert_serves(&root, &corpus, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_which_few_rows_are_live_are_compacted_without_encoding() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(200);
    corpus.run(&root, &[]).await.unwrap();
    let first = newest(&root).await;
    // Two of five rows of every part stay.
    edit(&mut corpus, (0..200).filter(|id| id % 10 < 6), 2);
    let report = corpus.run(&root, &[]).await.unwrap();
    assert_eq!(encoded(&report), 120);
    assert_eq!(report.parts.live_rows, 80);
    assert!(report.parts.compacted >= 5 && report.written.compacted > 0, "{:?}", report.parts);
    let second = newest(&root).await;
    let old: BTreeSet<_> = first.content.parts.iter().map(|part| &part.path).collect();
    let left = second.content.parts.iter().filter(|part| old.contains(&part.path)).count();
    assert_eq!(left as u64, report.parts.parts - report.parts.compacted);
    assert_serves(&root, &corpus, &[]).await;
    // What is compacted is found there: on the next day by the parent's ids, and after a change of the shard count.
    edit(&mut corpus, [7], 3);
    assert_eq!(encoded(&corpus.run(&root, &[]).await.unwrap()), 1);
    let resharded = corpus.run(&root, &["index.shards=3"]).await.unwrap();
    assert_eq!(encoded(&resharded), 0);
    assert_eq!((resharded.reuse.from_parent, resharded.reuse.from_elsewhere), (0, 200));
    assert_serves(&root, &corpus, &["index.shards=3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_whose_vectors_are_stored_stay_out_of_the_prepared_files() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(6_000);
    let set = ["encode.part_texts=4096"];
    let full = corpus.run(&root, &set).await.unwrap();
    edit(&mut corpus, 0..60, 2);
    let day = corpus.run(&root, &set).await.unwrap();
    assert_eq!((encoded(&day), day.vectors_inserted), (60, 60));
    assert!(day.written.prepared < full.written.prepared, "{:?} {:?}", day.written, full.written);
    let (mut left_out, mut changed) = (0, 0);
    for shard in Plan::load(&root, &day.run).await.unwrap().shards {
        let mut reader = PreparedReader::open(&root, &shard.prepared).await.unwrap();
        while let Some(batch) = reader.next().await.unwrap() {
            left_out += batch.rows.iter().filter(|row| row.text.is_empty()).count();
            changed += batch.rows.iter().filter(|row| row.text.starts_with("day 2")).count();
        }
    }
    // Of the 2,048 kept texts some may be among the 60 that changed.
    assert!((3_892..=3_952).contains(&left_out) && changed == 60, "{left_out} {changed}");
    assert!(day.written.indexes * 20 < full.written.indexes);
    assert_serves(&root, &corpus, &set).await;
    // Nothing needs the texts that were left out: not another shard count, not another split of the notes.
    assert_eq!(encoded(&corpus.run(&root, &["index.shards=5"]).await.unwrap()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tower_that_changed_under_its_name_is_refused_before_it_encodes() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(120);
    corpus.run(&root, &[]).await.unwrap();
    let before = root.list("embeddings").await.unwrap();
    edit(&mut corpus, [3, 40], 2);
    let changed = ["tower.model=\"fake:16?tilt=0.1\""];
    let refused = corpus.run(&root, &changed).await.unwrap();
    assert_eq!(refused.outcome, Outcome::GateRefused);
    let said = refused.warnings.join("\n");
    for piece in ["the tower changed under the same name", "--override drift"] {
        assert!(said.contains(piece), "no {piece:?} in {said}");
    }
    assert_eq!(root.list("embeddings").await.unwrap(), before, "no vector of it may be kept");
    assert_eq!(newest(&root).await.number, 1);
    // A tilt below what the gate allows is arithmetic, not another tower.
    let near = corpus.run(&root, &["tower.model=\"fake:16?tilt=0.001\""]).await.unwrap();
    assert_eq!(near.outcome, Outcome::Published { snapshot: 2 });
    edit(&mut corpus, [5], 3);
    assert!(matches!(
        corpus.run(&root, &[]).await.unwrap().outcome,
        Outcome::Published { snapshot: 3 }
    ));
}
