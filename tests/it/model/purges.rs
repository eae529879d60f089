//! Scenes of a purge: what a purge told is gone stays away, whatever else is at work.

use std::sync::Arc;

use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use scalingnote::exec;
use scalingnote::observe::Silent;
use scalingnote::stage::PurgeRequest;
use scalingnote::types::{Cancel, Digest256, NoteId, NoteKey};

use super::after;
use super::core::scene;
use super::process::{Body, Seat, body, failed};
use super::runs::{self, Step, context, runner, scheduled, second_day};
use super::scene::{End, Fault, Scene};
use super::world::{Objects, Told};
use crate::fixture::days::Corpus;

/// Words that only the purged note has.
const MARKER: &str = "zanzibar quicksilver telegram";
const NOTE: i64 = 1;

/// A corpus with the note.
fn corpus() -> Corpus {
    let mut corpus = runs::corpus();
    corpus.notes.insert(NOTE, (MARKER.to_owned(), 0));
    corpus
}

fn purger() -> Body {
    body(|Seat { root, .. }| async move {
        let (reporter, cancel) = (Arc::new(Silent), Cancel::new());
        let notes = [NoteId::Int(NOTE)];
        let request = PurgeRequest { root: &root, notes: &notes, dry_run: false, reporter, cancel };
        match exec::purge(request).await {
            Ok(report) if report.left.is_empty() => Told::Did("purged".to_owned()),
            // Exit code 1: it says so itself.
            Ok(report) => Told::Did(format!("left: {:?}", report.left)),
            Err(error) => failed(&error),
        }
    })
}

/// Makes a plan.
fn planner(corpus: &Arc<Corpus>) -> Body {
    let corpus = Arc::clone(corpus);
    body(move |Seat { root, .. }| {
        let ctx = context(&corpus, &root);
        async move {
            match exec::plan_brief(&ctx).await {
                Ok(_) => Told::Did("planned".to_owned()),
                Err(error) => failed(&error),
            }
        }
    })
}

/// Objects that hold something of the note, found by this test's own means.
fn traces(objects: &Objects) -> Vec<String> {
    let note = NoteId::Int(NOTE);
    let (id, hash) = (note.to_string(), Digest256::of(MARKER.as_bytes()).to_hex());
    let key = NoteKey::derive(&note, 0, 0).0;
    let spelled = format!("{key:016x}");
    let words = [format!("\"{id}\""), hash.clone(), MARKER.to_owned(), spelled];
    let holds = |name: &str, bytes: &Bytes| -> bool {
        if !name.ends_with(".parquet") {
            let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
            return has(&key.to_le_bytes()) || words.iter().any(|word| has(word.as_bytes()));
        }
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap();
        reader.build().unwrap().any(|batch| {
            let batch = batch.unwrap();
            batch.columns().iter().any(|column| {
                (0..batch.num_rows()).any(|row| {
                    let value = array_value_to_string(column, row).unwrap();
                    value == id || value == hash || value.contains(MARKER)
                })
            })
        })
    };
    let found = objects.iter().filter(|(key, object)| holds(key, &object.bytes));
    found.map(|(key, _)| key.clone()).collect()
}

/// After a purge that ended well no object holds the note, now that everybody has ended.
fn stays_away(end: &End) -> Result<(), String> {
    let purged = end.told[0] == Told::Did("purged".to_owned());
    let left = if purged { traces(&end.world.lock().objects) } else { Vec::new() };
    match left.is_empty() {
        true => Ok(()),
        false => Err(format!("what is purged stays away: {left:?}")),
    }
}

/// The purge is the first process. Others may find that it was first.
fn purging(name: &'static str, objects: Objects, beside: Vec<Body>) -> Scene {
    let processes = std::iter::once(purger()).chain(beside).collect();
    let mut scene = scene(name, objects, processes);
    scene.fine = false;
    scene.rules.purges.insert(0);
    scene.after = Arc::new(|end| {
        stays_away(end)?;
        after::forgives(end, &["NotFound"])
    });
    scene
}

/// A purge, and then a run of a corpus that still has the note.
pub fn purge_then_run() -> Scene {
    let first = corpus();
    let objects = runs::first_day(&first);
    let corpus = runs::tomorrow(first);
    let mut scene = purging("a purge and a run", objects, vec![runner(&corpus)]);
    scene.faults = vec![Fault::Unheard, Fault::Fails, Fault::Dies];
    scene.after = Arc::new(|end| {
        stays_away(end)?;
        // A run that comes before or after brings nothing back.
        match &end.told[0] {
            Told::Did(left) if left != "purged" => Err(format!("a purge leaves nothing: {left}")),
            _ => after::forgives(end, &["NotFound"]),
        }
    });
    scene
}

/// A purge beside the tasks and the publication of a plan that was made before it.
pub fn purge_and_tasks() -> Scene {
    let (objects, corpus, plan) = second_day(corpus(), false);
    purging(
        "a purge and the tasks of a plan",
        objects,
        vec![scheduled(&corpus, &plan, Step::Tasks)],
    )
}

/// A purge beside the publication of a plan whose tasks are done.
pub fn purge_and_publish() -> Scene {
    let (objects, corpus, plan) = second_day(corpus(), true);
    let publish = scheduled(&corpus, &plan, Step::Publish);
    let mut scene = purging("a purge and a publication", objects, vec![publish]);
    scene.faults = vec![Fault::Unheard, Fault::Dies];
    scene
}

/// A purge beside a plan that is being made.
pub fn purge_and_plan() -> Scene {
    let first = corpus();
    let objects = runs::first_day(&first);
    let corpus = runs::tomorrow(first);
    purging("a purge and a plan that is being made", objects, vec![planner(&corpus)])
}

/// A purge beside a run that stood still for longer than its lease lasts.
pub fn purge_and_late_run() -> Scene {
    let first = corpus();
    let objects = runs::first_day(&first);
    let corpus = runs::tomorrow(first);
    let mut scene = purging("a purge and a run that stands still", objects, vec![runner(&corpus)]);
    scene.jumps = vec![6 * 60];
    scene.apart = true;
    scene
}

/// A purge beside a rollback to a snapshot that holds the note.
pub fn purge_and_rollback() -> Scene {
    let roller = super::core::roller(1);
    let mut scene = purging("a purge and a rollback", runs::two_days(corpus()), vec![roller]);
    scene.faults = vec![Fault::Unheard, Fault::Dies];
    scene
}
