//! A purge beside plans, tasks and runs that know nothing of it: what they write of the notes does not stay.

use std::collections::BTreeSet;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::json;

use scalingnote::error::{Error, ErrorKind, Result};
use scalingnote::exec::{self, RunOptions};
use scalingnote::observe::Silent;
use scalingnote::snapshot;
use scalingnote::stage::{self, Envelope, Plan, PurgeRequest, TaskEnv, Worker};
use scalingnote::store::{Root, layout};
use scalingnote::tower::DeviceSpec;
use scalingnote::types::{Cancel, NoteId};

use super::purge::{CANARY, corpus, insert, purge, traces};
use crate::fixture::days::{Corpus, context};
use crate::fixture::faults::{Fault, Faulty};
use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;

/// Note 5 gets this text after the first day.
const LATER: &str = "marmalade obelisk sonata";

/// Picks writes by their path.
type Picks = fn(&str) -> bool;

/// A root after one day, and the corpus of the next one: note 5 changed, and so did others.
async fn a_day() -> (Arc<InMemory>, Root, Corpus) {
    let store = Arc::new(InMemory::new());
    let root = Root::from_store(store.clone(), "memory://lasts", None);
    let mut corpus = corpus(60);
    corpus.run(&root, &[]).await.unwrap();
    insert(&mut corpus, 5, LATER);
    (100..130).for_each(|id| insert(&mut corpus, id, &format!("new note {id}")));
    corpus.write(|_| json!(false));
    (store, root, corpus)
}

async fn nothing_is_left(root: &Root, at: &str) {
    for text in [CANARY, LATER] {
        assert_eq!(traces(root, 5, text).await, Vec::<String>::new(), "{at}");
    }
    let newest = snapshot::newest(root).await.unwrap().unwrap();
    assert!(snapshot::verify_hashes(root, &newest, &|_| {}).await.unwrap().is_empty(), "{at}");
}

fn env(root: &Root) -> TaskEnv {
    TaskEnv::new(root.clone(), Arc::new(Silent), Cancel::new())
}

async fn execute(plan: &Plan, root: &Root) -> Result<()> {
    let mut worker = Worker::new(DeviceSpec::Cpu { threads: 1 }, None);
    let encode = plan.encode.iter().cloned().map(Envelope::Encode);
    let calibrate = plan.calibrate.iter().cloned().map(Envelope::Calibrate);
    let build = plan.build.iter().cloned().map(Envelope::Build);
    let env = env(root);
    for envelope in encode.chain(calibrate).chain(build) {
        Box::pin(stage::execute(&envelope, &mut worker, &env)).await?;
    }
    Ok(())
}

/// Does `work` over a store that holds the first write of what `held` picks, purges note 5 meanwhile, and lets go.
async fn purged_meanwhile<T>(
    store: &Arc<InMemory>,
    held: Picks,
    work: impl AsyncFnOnce(Root) -> Result<T>,
) -> Error {
    let clear = Root::from_store(store.clone(), "memory://lasts", None);
    let inner: Arc<dyn ObjectStore> = store.clone();
    let faulty = Faulty::new(inner, move |operation, path| {
        let writes = matches!(operation, "put" | "complete");
        (writes && held(path)).then_some(Fault::Hold)
    });
    // Boxed: the stack of a test is small.
    let working = Box::pin(work(faulty.clone().root()));
    let purging = Box::pin(async {
        while !faulty.is_holding() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let report = purge(&clear, &[5]).await.unwrap();
        assert_eq!(report.left, [], "nothing is there while the write is held");
        faulty.let_go();
    });
    let (outcome, ()) = tokio::join!(working, purging);
    outcome.err().expect("work that was planned before a purge ends with an error")
}

fn assert_void(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert_eq!(error.kind().exit_code(), 75);
    assert!(error.to_string().contains("notes were purged"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_made_beside_a_purge_takes_back_what_it_prepared() {
    let is_prepared = |path: &str| path.starts_with("prepared/") && !path.contains("located");
    let is_plan = |path: &str| path.ends_with("plan.json");
    for (at, held) in [("prepared", is_prepared as Picks), ("plan", is_plan)] {
        let (store, root, corpus) = a_day().await;
        let plan =
            async |faulty: Root| exec::plan_brief(&context(corpus.pipeline(&[]), &faulty)).await;
        let error = purged_meanwhile(&store, held, plan).await;
        assert!(error.is_retryable(), "{at}: {error:?}");
        nothing_is_left(&root, at).await;
        // And again, as told.
        corpus.run(&root, &[]).await.unwrap();
        nothing_is_left(&root, at).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_an_older_plan_refuse_and_take_back_what_they_wrote() {
    let is_part = |path: &str| path.starts_with("embeddings/") && path.ends_with(".parquet");
    let is_receipt =
        |path: &str| path.starts_with("embeddings/") && path.ends_with(".receipt.json");
    let is_task = |path: &str| path.starts_with("embeddings/") && path.ends_with(".task.json");
    let is_ids = |path: &str| path.ends_with(".ids.parquet");
    let is_index = |path: &str| path.ends_with(".usearch");
    let is_sidecar = |path: &str| path.ends_with(".f16");
    let is_built = |path: &str| path.starts_with("indexes/") && path.ends_with(".task.json");
    let all: [(&str, Picks); 7] = [
        ("part", is_part),
        ("part receipt", is_receipt),
        ("encode receipt", is_task),
        ("ids", is_ids),
        ("index", is_index),
        ("sidecar", is_sidecar),
        ("build receipt", is_built),
    ];
    for (at, held) in all {
        let (store, root, corpus) = a_day().await;
        let brief = exec::plan_brief(&context(corpus.pipeline(&[]), &root)).await.unwrap();
        let plan = Plan::load(&root, &brief.run).await.unwrap();
        let error =
            purged_meanwhile(&store, held, async |faulty| execute(&plan, &faulty).await).await;
        assert!(error.is_retryable() || error.kind() == ErrorKind::NotFound, "{at}: {error:?}");
        nothing_is_left(&root, at).await;

        // A task that begins after the purge does nothing, although its envelope came from elsewhere.
        let error = execute(&plan, &root).await.unwrap_err();
        assert_void(&error);
        let plan_key = brief.plan_key.unwrap();
        let ctx = context(corpus.pipeline(&[]), &root);
        let gone = exec::execute_task(&ctx, &plan_key, &plan.encode[0].id).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "the plan held the note's text: {gone}");
        // A plan without the note is void, too.
        let key = root.put(&plan_key, serde_json::to_vec(&plan).unwrap().into()).await.unwrap();
        let void = exec::execute_task(&ctx, &plan_key, &plan.encode[0].id).await.unwrap_err();
        assert_void(&void);
        root.delete(&key.path).await.unwrap();
        corpus.run(&root, &[]).await.unwrap();
        nothing_is_left(&root, at).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_slept_beyond_its_lease_takes_back_what_it_wrote() {
    let is_part = |path: &str| path.starts_with("embeddings/") && path.ends_with(".parquet");
    let is_prepared = |path: &str| path.starts_with("prepared/");
    for held in [is_part as Picks, is_prepared] {
        let (store, root, corpus) = a_day().await;
        let run = async |faulty: Root| {
            let options = RunOptions { attempts: 1, ..RunOptions::default() };
            exec::run(&context(corpus.pipeline(&[]), &faulty), &options).await
        };
        let error = purged_meanwhile(&store, held, run).await;
        assert!(error.is_retryable(), "{error:?}");
        nothing_is_left(&root, "slept").await;
    }
}

/// What writers that died between a write and their look at the tombstones leave.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_writer_left_is_found_by_the_next_run_and_by_a_scan() {
    let (_, root, corpus) = a_day().await;
    let brief = exec::plan_brief(&context(corpus.pipeline(&[]), &root)).await.unwrap();
    let plan = Plan::load(&root, &brief.run).await.unwrap();
    execute(&plan, &root).await.unwrap();
    let mut old = Vec::new();
    for object in root.list("").await.unwrap() {
        if layout::manifest_number(&object.key).is_none() {
            old.push((object.key.clone(), root.get(&object.key).await.unwrap()));
        }
    }
    assert!(purge(&root, &[5]).await.unwrap().left.is_empty());
    nothing_is_left(&root, "purged").await;
    let there: BTreeSet<String> =
        root.list("").await.unwrap().into_iter().map(|object| object.key).collect();
    let risen: Vec<_> = old.into_iter().filter(|(key, _)| !there.contains(key)).collect();
    assert!(risen.len() > 8, "{}", risen.len());
    let found = async || stage::find_risen(&root, true, &Cancel::new()).await.unwrap().notes;
    assert_eq!(found().await, []);
    for whole in [true, false] {
        for (key, bytes) in &risen {
            root.put(key, bytes.clone()).await.unwrap();
        }
        assert!(!traces(&root, 5, LATER).await.is_empty());
        assert_eq!(found().await, [NoteId::Int(5)]);
        match whole {
            true => {
                let request = PurgeRequest {
                    root: &root,
                    notes: &[],
                    dry_run: false,
                    reporter: Arc::new(Silent),
                    cancel: Cancel::new(),
                };
                let report = exec::purge_again(request, true).await.unwrap();
                assert_eq!((report.notes, &report.left), (1, &vec![]), "{report:?}");
            }
            false => drop(corpus.run(&root, &[]).await.unwrap()),
        }
        nothing_is_left(&root, "risen").await;
    }
}

#[test]
fn gc_and_scan_find_what_came_back_and_say_so() {
    let place = Place::with(&PipelineFile { root: "root", ..PipelineFile::default() });
    place.write_notes(0..30, |id| format!("body number {id}"));
    place.expect(0, "run p.toml");
    let prepared = place.path("root/prepared");
    let copy = place.path("copy");
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        let done = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
        assert!(done.success());
    };
    copied(&prepared, &copy);
    place.expect(0, "purge root --note-id i:7");
    place.says(0, "purge root --scan", &["no purged note is stored again"]);
    for command in ["snapshot gc root", "purge root --scan"] {
        std::fs::remove_dir_all(&prepared).unwrap_or_default();
        copied(&copy, &prepared);
        place.says(0, "purge root --scan --dry-run", &["would purge 1 note and"]);
        let said = place.said(0, command);
        assert!(said.contains("purged") && said.contains('1'), "{said}");
        place.says(0, "purge root --scan", &["no purged note is stored again"]);
    }
    place.expect(2, "purge root --scan --note-id i:7");
}

#[test]
fn ids_of_any_kind_leave_reports_and_their_pages() {
    let place = Place::with(&PipelineFile {
        root: "root",
        corpus: "max_rejected = 100\n",
        sections: "[gates]\nmax_rejected_percent = 90.0\n",
        ..PipelineFile::default()
    });
    let long = |id: &str| format!("{id}{}", "x".repeat(300 - id.len()));
    let odd = ["it's", "a&b", "a<b>c", "say \"so\"", "ünï ☃ cödé", "back\\slash", "tab\tbed"];
    let ids: Vec<String> =
        odd.iter().flat_map(|id| [(*id).to_owned(), long(&format!("{id} long "))]).collect();
    let mut lines: Vec<String> = (0..20)
        .map(|id| json!({"id": format!("n{id}"), "body": format!("body {id}")}))
        .map(|l| l.to_string())
        .collect();
    lines.extend(ids.iter().map(|id| json!({"id": id, "body": ""}).to_string()));
    place.write("notes.jsonl", lines.join("\n"));
    place.expect(0, "run p.toml");
    let reports = || -> Vec<String> {
        let all = crate::fixture::files::walk(&place.path("root/runs"));
        all.into_iter().filter(|path| path.contains("report")).collect()
    };
    assert_eq!(reports().len(), 2);
    let kept = reports()
        .iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect::<Vec<_>>();
    for id in &ids {
        for (path, bytes) in &kept {
            std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        if id.contains(['\n', '\t']) {
            continue;
        }
        place.write("ids.txt", format!("s:{id}\n"));
        place.expect(0, "purge root --from ids.txt");
        assert_eq!(reports(), Vec::<String>::new(), "{id}");
    }
    // The page goes with its report, also where it alone would tell nothing.
    for (path, bytes) in &kept {
        let html = path.ends_with(".html");
        std::fs::write(path, if html { b"<p>nothing</p>".as_slice() } else { bytes }).unwrap();
    }
    place.expect(0, "purge root --from ids.txt");
    assert_eq!(reports(), Vec::<String>::new());
}

#[test]
fn only_what_was_stored_is_said_to_be_purged() {
    let place = Place::with(&PipelineFile { root: "root", ..PipelineFile::default() });
    place.write_notes(0..30, |id| format!("body number {id}"));
    place.says(0, "purge p.toml --note-id i:7", &["a root without a snapshot keeps no tombstones"]);
    place.expect(0, "run p.toml");
    let other = ["nothing is stored of note s:7, but i:7 is a note here"];
    for dry in ["", " --dry-run"] {
        place.says(2, &format!("purge root --note-id s:7{dry}"), &other);
    }
    let says = ["note i:777: nothing of it is stored here", "purged 0 notes; published snapshot 2"];
    place.says(0, "purge root --note-id i:777", &says);
    place.write("ids.txt", "i:7\nseven\n");
    place.says(2, "purge root --from ids.txt", &["ids.txt:2: `seven` is not a note id"]);
    let says = ["purged 1 note; published snapshot 3", "a tombstone keeps them out of every run"];
    place.says(0, "purge root --note-id i:7", &says);
    // Gone, and kept out under either type.
    place.says(0, "purge root --note-id s:7", &["nothing of it is stored here"]);
}

#[test]
fn a_rollback_to_what_a_purge_made_is_what_the_next_run_finds() {
    let place = Place::with(&PipelineFile {
        root: "root",
        columns: "body, likes",
        corpus: "stored_columns = [\"likes\"]\n",
        sections: "[index]\nshards = 2\n",
        ..PipelineFile::default()
    });
    let line = |id| json!({"id": id, "body": format!("body {id}"), "likes": id}).to_string() + "\n";
    let notes = |count| place.write("notes.jsonl", (0..count).map(line).collect::<String>());
    let outcome = || place.json(0, "run p.toml --json")["outcome"].clone();
    notes(60);
    place.expect(0, "run p.toml");
    place.expect(0, "purge root --note-id i:7");
    // Nothing changed but what was purged.
    assert_eq!(outcome(), json!({"result": "nothing-to-do", "snapshot": 2}));
    notes(61);
    assert_eq!(outcome(), json!({"result": "published", "snapshot": 3}));
    place.expect(0, "snapshot rollback root 2 --reason mistake");
    notes(60);
    assert_eq!(outcome(), json!({"result": "nothing-to-do", "snapshot": 4}));
    // What was purged is gone.
    place.says(1, "snapshot rollback root 1 --reason back", &["snapshot 1 does not exist"]);
}
