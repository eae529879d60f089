//! Each field of the run report says something: in some run it is not what an empty report has.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use scalingnote::error::ErrorKind;
use scalingnote::exec::{self, RunContext, RunOptions};
use scalingnote::report::{Outcome, RunReport};
use scalingnote::store::Root;

use crate::fixture::days::{self, Corpus};
use crate::fixture::pipeline::PipelineFile;
use crate::house::hostile::targets::write_model;

/// What no run on a machine like this one has.
const ELSEWHERE: &[&str] = &[
    // Measured on GPUs alone.
    "ceiling_share",
    // Of clusters, whose tests look at it.
    "executors",
    // Of runs whose query tower adapts, whose tests look at it.
    "query_tower",
    // Of pipelines with `[evaluation]`, whose tests look at it.
    "evaluation",
    "backfill.evaluation",
];

fn text(model: &str, sections: &str) -> String {
    let file = PipelineFile {
        columns: "body, likes, deleted",
        corpus: "stored_columns = [\"likes\"]\nmax_rejected = 1000\n",
        model,
        tower: "max_tokens = 32\n",
        sections,
        ..PipelineFile::default()
    };
    file.text()
}

const SMALL: &str =
    "[encode]\npart_texts = 16\n[index]\nshards = 2\n[gates]\nmax_count_drop_percent = 60.0\n";

/// Every report of some runs.
#[derive(Default)]
struct Reports(Vec<Value>);

impl Reports {
    /// A whole run; its report, whether or not it went well.
    async fn run(&mut self, ctx: &RunContext, options: &RunOptions) -> RunReport {
        let mut report = RunReport::default();
        let _ = exec::run_into(ctx, options, &mut report).await;
        self.0.push(serde_json::to_value(&report).unwrap());
        report
    }

    fn of(&self, pointer: &str) -> BTreeSet<&str> {
        self.0.iter().filter_map(|report| report.pointer(pointer)?.as_str()).collect()
    }
}

fn once() -> RunOptions {
    RunOptions { attempts: 1, ..RunOptions::default() }
}

async fn days_of_a_corpus(reports: &mut Reports) {
    let root = Root::in_memory();
    let mut corpus = Corpus::with(text("fake:16?tokens_per_second=4000", SMALL), 200, |id| id % 3);
    corpus.write(|_| false.into());
    let ctx = |corpus: &Corpus, set: &[&str]| days::context(corpus.pipeline(set), &root);

    // Built, and published by the next run, which finds the tasks done.
    let built = reports.run(&ctx(&corpus, &[]), &RunOptions { no_publish: true, ..once() }).await;
    assert_eq!((built.outcome, built.tasks_adopted), (Outcome::NotPublished, 0));
    assert!(built.tasks_done >= 4 && built.written.indexes > 0, "{built:?}");
    let first = reports.run(&ctx(&corpus, &[]), &once()).await;
    assert_eq!((first.outcome, first.tasks_adopted), (Outcome::Published { snapshot: 1 }, 2));
    // What somebody else wrote is not this run's.
    assert_eq!((first.tasks_done, first.written.indexes, first.written.parts), (0, 0, 0));
    assert_eq!((first.reuse.encoded, first.vectors_inserted), (0, 0));
    let file = Path::new(&first.config.pipeline);
    assert_eq!(file, corpus.folder.path().join("days.toml"), "the file, not its folder");

    // A day with everything in it: three of five rows of each part change.
    for id in (0..200).filter(|id| id % 10 < 6) {
        corpus.notes.insert(id, (format!("edited {id}"), 0));
    }
    corpus.notes.insert(500, ("word ".repeat(60), 1));
    corpus.notes.insert(501, (String::new(), 1));
    corpus.notes.insert(502, ("new".to_owned(), 1));
    corpus.write(|id| (id == 9).into());
    let notes = corpus.folder.path().join("notes.jsonl");
    let twice = std::fs::read_to_string(&notes).unwrap();
    let again = twice.lines().next().unwrap();
    std::fs::write(&notes, format!("{twice}{again}\n")).unwrap();
    let refused = reports.run(&ctx(&corpus, &["gates.min_notes=1000"]), &once()).await;
    assert_eq!(refused.outcome, Outcome::GateRefused);
    let overrides = vec![("count-change".to_owned(), "they come tomorrow".to_owned())];
    let options = RunOptions { overrides, ..once() };
    let second = reports.run(&ctx(&corpus, &["gates.min_notes=1000"]), &options).await;
    assert_eq!(second.outcome, Outcome::Published { snapshot: 2 });
    let third = reports.run(&ctx(&corpus, &[]), &once()).await;
    assert_eq!(third.outcome, Outcome::NothingToDo { snapshot: Some(2) });

    // A plan for others, who are slower than the next run.
    corpus.notes.insert(600, ("late".to_owned(), 1));
    corpus.write(|_| false.into());
    let planned = reports.run(&ctx(&corpus, &[]), &RunOptions { only_plan: true, ..once() }).await;
    assert_eq!(planned.outcome, Outcome::Planned);
    assert!(matches!(
        reports.run(&ctx(&corpus, &[]), &once()).await.outcome,
        Outcome::Published { snapshot: 3 }
    ));
    let mut report = RunReport::default();
    let late = exec::publish_plan(&ctx(&corpus, &[]), &planned.run, &once(), &mut report).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(report.outcome, Outcome::LostTo { snapshot: 3 });
    reports.0.push(serde_json::to_value(&report).unwrap());
}

/// A tower that is to take over: refused, then half there, then in its place, then rolled back.
async fn nights(reports: &mut Reports) {
    let next = |rest: &str| {
        format!(
            "[next]\ntokens_per_run = 160\n{rest}[next.tower]\nmodel = \"fake:8\"\npooling = \"mean\"\nmax_tokens = 32\n"
        )
    };
    let root = Root::in_memory();
    let corpus = Corpus::with(String::new(), 60, |id| id % 3);
    corpus.write(|_| false.into());
    let ctx = |rest: &str| {
        let text = text("fake:16", SMALL) + &next(rest);
        // Each day has to be let through by a person, the switch too.
        days::context(corpus.resolve(&text, &["gates.min_notes=1000"]).unwrap(), &root)
    };
    let overrides = vec![("count-change".to_owned(), "they come tomorrow".to_owned())];
    let options = RunOptions { overrides, ..once() };
    let wrong = "template = \"{% if likes != 2 %}{{ body }}{% endif %}\"\n";
    for rest in [wrong, wrong, wrong, "", "", "", ""] {
        reports.run(&ctx(rest), &options).await;
    }
    let newest = scalingnote::snapshot::newest(&root).await.unwrap().unwrap();
    let provenance = scalingnote::snapshot::Provenance::default();
    let rolled = scalingnote::snapshot::rollback(&root, newest.parent.unwrap(), provenance).await;
    rolled.unwrap();
    reports.run(&ctx(""), &options).await;
}

/// A model whose vectors of some texts are not numbers, and a device that runs out of memory.
async fn bad_devices(reports: &mut Reports) {
    let mut corpus = Corpus::with(String::new(), 20, |_| 0);
    corpus.notes.insert(99, ("zzz".to_owned(), 1));
    corpus.write(|_| false.into());
    let model = corpus.folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    write_model(&model, Some('z'));
    let set =
        ["encode.self_test=false", "gates.max_quarantined_percent=100.0", "gates.recall_min=0.0"];
    let set: Vec<&str> = set.to_vec();
    let text_of = |model: &str| text(model, "[index]\nshards = 1\n");
    let pipeline = corpus.resolve(&text_of("model"), &set).unwrap();
    let report = reports.run(&days::context(pipeline, &Root::in_memory()), &once()).await;
    assert!(report.corpus.quarantined > 0, "{report:?}");
    let pipeline = corpus.resolve(&text_of("fake:8?memory_tokens=1"), &set).unwrap();
    let report = reports.run(&days::context(pipeline, &Root::in_memory()), &once()).await;
    assert_eq!(report.outcome, Outcome::Unfinished);
}

/// Whether a value is that of an empty report.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// The fields of a schema that say nothing in any of these values.
fn silent(root: &Value, schema: &Value, values: &[&Value], path: &str, found: &mut Vec<String>) {
    if let Some(target) = schema["$ref"].as_str() {
        return silent(root, root.pointer(&target[1..]).unwrap(), values, path, found);
    }
    let branches: Vec<&Value> = ["anyOf", "oneOf", "allOf"]
        .iter()
        .filter_map(|key| schema[*key].as_array())
        .flatten()
        .collect();
    let branches: Vec<&Value> =
        branches.into_iter().filter(|branch| branch["type"] != "null").collect();
    // Each branch of a choice has to be seen by its own fields; a choice of words is one leaf.
    if branches
        .iter()
        .any(|branch| branch.get("properties").is_some() || branch.get("$ref").is_some())
    {
        for branch in branches {
            silent(root, branch, values, path, found);
        }
        return;
    }
    let join =
        |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            let below: Vec<&Value> = values.iter().filter_map(|value| value.get(name)).collect();
            silent(root, property, &below, &join(name), found);
        }
    } else if schema["additionalProperties"].is_object() {
        let below: Vec<&Value> = values
            .iter()
            .filter_map(|value| value.as_object())
            .flat_map(|map| map.values())
            .collect();
        silent(root, &schema["additionalProperties"], &below, &join("*"), found);
    } else if schema.get("items").is_some() {
        let below: Vec<&Value> =
            values.iter().filter_map(|value| value.as_array()).flatten().collect();
        silent(root, &schema["items"], &below, path, found);
    } else if values.iter().all(|value| is_default(value)) {
        found.push(path.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_says_something_in_some_run() {
    let mut reports = Reports::default();
    days_of_a_corpus(&mut reports).await;
    nights(&mut reports).await;
    bad_devices(&mut reports).await;

    let schema = schemars::schema_for!(RunReport).to_value();
    let values: Vec<&Value> = reports.0.iter().collect();
    let mut found = Vec::new();
    silent(&schema, &schema, &values, "", &mut found);
    found.retain(|path| {
        !ELSEWHERE.iter().any(|name| path == name || path.starts_with(&format!("{name}.")))
    });
    assert_eq!(found, Vec::<String>::new(), "these fields are never set");
    let outcomes = reports.of("/outcome/result");
    let all = [
        "gate-refused",
        "lost-to",
        "not-published",
        "nothing-to-do",
        "planned",
        "published",
        "unfinished",
    ];
    assert_eq!(outcomes, BTreeSet::from(all));
    assert_eq!(
        reports.of("/backfill/state/is"),
        BTreeSet::from(["growing", "refused", "rolled-back", "switched"])
    );
}
