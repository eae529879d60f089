//! Days in the life of a corpus: what is encoded and what is kept.

use std::collections::BTreeMap;

use scalingnote::error::ErrorKind;
use scalingnote::exec::{self, RunOptions};
use scalingnote::report::Outcome;
use scalingnote::snapshot::{self, Manifest};
use scalingnote::stage;
use scalingnote::store::Root;

use crate::fixture::days::{Corpus, context, encoded, publish_plan, run, seen};

#[tokio::test(flavor = "multi_thread")]
async fn only_changed_texts_are_encoded() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(100);
    let first = corpus.run(&root, &[]).await.unwrap();
    assert_eq!((encoded(&first), first.outcome), (100, Outcome::Published { snapshot: 1 }));
    let before = snapshot::newest(&root).await.unwrap().unwrap();

    let unchanged = corpus.run(&root, &[]).await.unwrap();
    assert_eq!(unchanged.outcome, Outcome::NothingToDo { snapshot: Some(1) });
    assert_eq!(encoded(&unchanged), 0);
    assert!(root.list("prepared").await.unwrap().iter().all(|f| !f.key.contains(&unchanged.run)));

    for id in 0..5 {
        corpus.notes.get_mut(&id).unwrap().0 = format!("rewritten {id}");
    }
    assert_eq!(encoded(&corpus.run(&root, &[]).await.unwrap()), 5);

    corpus.notes.get_mut(&3).unwrap().0 = "note 3 about topic 3".to_owned();
    let back = corpus.run(&root, &[]).await.unwrap();
    assert_eq!((encoded(&back), back.outcome), (0, Outcome::Published { snapshot: 3 }));

    // A text that another note had, in whatever shard, is not encoded either.
    corpus.notes.insert(900, ("note 50 about topic 1".to_owned(), 0));
    corpus.notes.insert(901, ("note 51 about topic 2".to_owned(), 0));
    assert_eq!(encoded(&corpus.run(&root, &[]).await.unwrap()), 0);

    // Likes are a stored column: the ids file changes, the index and the vectors do not.
    let old = snapshot::newest(&root).await.unwrap().unwrap();
    corpus.notes.get_mut(&50).unwrap().1 = 7;
    assert_eq!(encoded(&corpus.run(&root, &[]).await.unwrap()), 0);
    let new = snapshot::newest(&root).await.unwrap().unwrap();
    assert_eq!(new.number, old.number + 1);
    let index = |m: &Manifest| m.content.shards.iter().map(|s| s.index.clone()).collect::<Vec<_>>();
    assert_eq!(index(&old), index(&new));
    assert_eq!(old.content.parts, new.content.parts);

    // Another shard count: every index is rebuilt, no text is encoded.
    let resharded = corpus.run(&root, &["index.shards=3"]).await.unwrap();
    assert_eq!(encoded(&resharded), 0);
    assert_eq!(resharded.corpus.notes_unchanged, corpus.notes.len() as u64);
    let newest = snapshot::newest(&root).await.unwrap().unwrap();
    assert_eq!((newest.content.shard_count, newest.content.notes), (3, corpus.notes.len() as u64));

    // Nothing published before was touched.
    assert_eq!(snapshot::read(&root, 1).await.unwrap(), before);
    assert!(snapshot::verify_hashes(&root, &before, &|_| {}).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_upserts_and_deletes() {
    let root = Root::in_memory();
    let mut corpus = Corpus::new(60);
    corpus.run(&root, &[]).await.unwrap();
    corpus.notes = BTreeMap::from([
        (3, ("a new text".to_owned(), 5)),
        (4, ("gone".to_owned(), 0)),
        (700, ("a new note".to_owned(), 1)),
    ]);
    corpus.write(|id| (id == 4).into());
    let report = run(corpus.pipeline(&["corpus.mode=\"delta\""]), &root).await.unwrap();
    assert_eq!((encoded(&report), report.outcome), (2, Outcome::Published { snapshot: 2 }));
    let counts = &report.corpus;
    assert_eq!((counts.notes_new, counts.notes_changed, counts.notes_deleted), (1, 1, 1));
    let newest = snapshot::newest(&root).await.unwrap().unwrap();
    assert_eq!(newest.content.notes, 60);
    let cache = tempfile::tempdir().unwrap();
    let seen = seen(&root, &newest, cache.path()).await;
    assert!(seen.contains_key("i:700") && !seen.contains_key("i:4") && seen.contains_key("i:59"));
    assert!(seen["i:3"].contains('5'), "{}", seen["i:3"]);

    let again = run(corpus.pipeline(&["corpus.mode=\"delta\""]), &root).await.unwrap();
    assert_eq!((encoded(&again), again.outcome), (0, Outcome::NothingToDo { snapshot: Some(2) }));

    let other_tower = ["corpus.mode=\"delta\"", "tower.model=\"fake:8\""];
    let refused = run(corpus.pipeline(&other_tower), &root).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
}

/// The schedulers' way, where no lease keeps runs apart: the conditional commit alone decides.
#[tokio::test(flavor = "multi_thread")]
async fn four_planned_runs_at_once_publish_once_and_lose_nothing() {
    let root = Root::in_memory();
    let corpus = Corpus::new(80);
    corpus.write(|_| false.into());
    let runs = (0..4).map(|_| {
        let ctx = context(corpus.pipeline(&[]), &root);
        async move {
            let plan = exec::plan(&ctx).await?.run;
            let tasks = stage::Plan::load(&ctx.root, &plan).await?;
            let encode = tasks.encode.iter().map(|task| &task.id);
            let build = tasks.build.iter().map(|task| &task.id);
            for task in encode.chain(tasks.calibrate.iter().map(|task| &task.id)).chain(build) {
                exec::execute_task(&ctx, &plan, task).await?;
            }
            publish_plan(&ctx, &plan, &RunOptions::default()).await
        }
    });
    let mut published = 0;
    for outcome in futures::future::join_all(runs).await {
        match outcome {
            Ok(report) => {
                published += u32::from(matches!(report.outcome, Outcome::Published { .. }));
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
        }
    }
    assert_eq!(published, 1);
    assert_eq!(snapshot::numbers(&root).await.unwrap(), [1]);
    let again = corpus.run(&root, &[]).await.unwrap();
    assert_eq!(again.outcome, Outcome::NothingToDo { snapshot: Some(1) });
}
