//! `[evaluation]`: what a judged set says of a build before it is published, and the gates on it.

use serde_json::{Value, json};

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;

/// Notes; a query asks for each of the first [`QUERIES`].
pub const NOTES: u32 = 60;
const QUERIES: u32 = 20;

pub const GATED: &str = "[evaluation]\nset = \"judged\"\n[gates]\nmax_count_drop_percent = 90.0\nmax_ndcg_drop = 0.05\n";

fn body(id: u32) -> String {
    format!("note about topic{id} and thing{}", id % 5)
}

pub fn write_notes(place: &Place, ids: impl Iterator<Item = u32>, body: impl Fn(u32) -> String) {
    let line = |id| format!("{}\n", json!({"id": id, "body": body(id)}));
    place.write("notes.jsonl", ids.map(line).collect::<String>());
}

fn write_set(place: &Place, note_of: impl Fn(u32) -> u32) {
    std::fs::create_dir_all(place.path("judged")).unwrap();
    let query = |id| format!("{}\n", json!({"_id": format!("q{id}"), "text": body(id)}));
    place.write("judged/queries.jsonl", (0..QUERIES).map(query).collect::<String>());
    let judged = |id| format!("q{id}\t{}\t1\n", note_of(id));
    place.write("judged/qrels.tsv", (0..QUERIES).map(judged).collect::<String>());
}

fn pipeline(model: &str, sections: &str) -> String {
    PipelineFile { model, sections, root: "root", ..PipelineFile::default() }.text()
}

/// A corpus, a judged set whose queries all find their note first, and `p.toml`.
pub fn place(sections: &str) -> Place {
    let place = Place::new();
    place.write("p.toml", pipeline("fake:32", sections));
    write_notes(&place, 0..NOTES, body);
    write_set(&place, |id| id);
    place
}

pub fn newest(place: &Place) -> Value {
    place.json(0, "snapshot show root --json")
}

/// The query that note 3 answers, and who answers it in the newest snapshot.
fn served(place: &Place) -> Value {
    let mut command = place.command("search root --json -k 1");
    let output = command.arg(body(3)).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The first of the notes whose texts go to their neighbours: the judged ones are then found in other places.
pub fn shuffled(id: u32) -> String {
    if id < QUERIES { body((id + 7) % QUERIES) } else { body(id) }
}

#[test]
fn a_build_is_measured_and_one_that_is_as_good_passes() {
    let place = place(GATED);
    let first = place.json(0, "run p.toml --json");
    let asked = &first["evaluation"];
    assert_eq!(
        (&asked["set"], &asked["queries"], &asked["missing"]),
        (&json!("judged"), &json!(20), &json!(0))
    );
    assert_eq!((&asked["ndcg_10"], &asked["against"]), (&json!(1.0), &Value::Null), "{first}");
    let manifest = newest(&place);
    let told = &manifest["provenance"]["measured"]["evaluation"];
    assert_eq!((&told["ndcg_10"], told["per_query"].as_array().unwrap().len()), (&json!(1.0), 20));
    let gate = &manifest["provenance"]["gates"][6];
    assert_eq!((&gate["gate"], &gate["passed"]), (&json!("ndcg-drop"), &json!(true)), "{manifest}");
    place.says(0, "snapshot show root", &["nDCG@10 1.0000 over 20 queries of judged"]);

    // Another day whose corpus differs where nobody asks.
    write_notes(&place, 0..NOTES + 5, body);
    let second = place.json(0, "run p.toml --json");
    let against = &second["evaluation"]["against"];
    assert_eq!(
        (&against["snapshot"], &against["difference"]),
        (&json!(1), &json!(0.0)),
        "{second}"
    );
    assert_eq!(second["outcome"]["snapshot"], 2);
    // A day without news asks nobody.
    let third = place.json(0, "run p.toml --json");
    assert_eq!(
        (&third["outcome"]["result"], third.get("evaluation")),
        (&json!("nothing-to-do"), None)
    );
}

#[test]
fn a_build_that_finds_less_for_sure_is_refused_and_the_old_one_stays() {
    let place = place(GATED);
    place.expect(0, "run p.toml");
    let before = served(&place);
    write_notes(&place, 0..NOTES, shuffled);
    let said = place.said(3, "run p.toml");
    for piece in [
        "ndcg-drop",
        "nDCG@10 of judged 1.0000 (snapshot 1) -> ",
        "95% interval",
        "at most 0.05",
        "--override GATE --reason TEXT",
    ] {
        assert!(said.contains(piece), "no {piece:?} in\n{said}");
    }
    assert_eq!(newest(&place)["number"], 1);
    assert_eq!(served(&place), before);
    // The scheduler's last step says the same.
    let plan = place.json(3, "run p.toml --json");
    assert!(plan["evaluation"]["against"]["high"].as_f64() < Some(-0.05), "{plan}");
    place.expect(0, "run p.toml --plan-only");
    let brief = place.json(0, "plan p.toml --brief");
    let key = brief["plan_key"].as_str().unwrap();
    for stage in ["encode", "calibrate", "build"] {
        place.expect(0, &format!("task p.toml --plan {key} --stage {stage}"));
    }
    place.says(3, &format!("publish p.toml --plan {key}"), &["ndcg-drop", "snapshot 1"]);
    assert_eq!(newest(&place)["number"], 1);
    // A person decides otherwise, and the reason stays.
    place.expect(0, "run p.toml --override ndcg-drop --reason meant");
    let manifest = newest(&place);
    assert_eq!(
        (&manifest["number"], &manifest["provenance"]["gates"][6]["overridden"]),
        (&json!(2), &json!("meant"))
    );
    // What was let through is what the next day is compared with.
    write_notes(&place, 0..NOTES + 1, shuffled);
    place.expect(0, "run p.toml");
}

#[test]
fn a_loss_that_may_be_chance_is_not_refused() {
    let place = place(GATED);
    place.expect(0, "run p.toml");
    // Two of the twenty queries lose their note: the mean falls by 0.1, and the interval reaches above -0.05.
    write_notes(&place, 0..NOTES, |id| match id {
        4 | 9 => format!("quite unlike {id}"),
        _ => body(id),
    });
    let report = place.json(0, "run p.toml --json");
    let against = &report["evaluation"]["against"];
    assert!(against["difference"].as_f64() < Some(-0.05), "{report}");
    assert!(against["high"].as_f64() > Some(-0.05), "{report}");
}

#[test]
fn notes_that_are_gone_are_counted() {
    let place = place("[evaluation]\nset = \"judged\"\n[gates]\nmax_count_drop_percent = 90.0\n");
    place.expect(0, "run p.toml");
    write_notes(&place, (0..NOTES).filter(|id| *id != 2 && *id != 3), body);
    let report = place.json(0, "run p.toml --json");
    assert_eq!(
        (&report["evaluation"]["missing"], &report["evaluation"]["relevant"]),
        (&json!(2), &json!(20))
    );
    // Without a limit it is said and not judged.
    assert!(report["evaluation"]["ndcg_10"].as_f64() < Some(0.95), "{report}");
    assert_eq!(report["gates"].as_array().unwrap().len(), 6);
    place.says(0, "snapshot show root", &["2 of 20 relevant notes are not in it"]);
}

#[test]
fn a_set_of_other_notes_is_refused_before_the_work() {
    let place = place(GATED);
    write_set(&place, |id| 1000 + id);
    for line in ["run p.toml", "plan p.toml", "plan p.toml --brief", "run p.toml --plan-only"] {
        place.says(2, line, &["[evaluation] set judged", "none of the notes", "\"1000\""]);
    }
    assert!(!place.path("root/embeddings").exists(), "nothing was encoded");
    place.write("judged/qrels.tsv", "nobody\t1\t1\n");
    place.says(2, "run p.toml", &["judges no note as relevant", "queries that are not there: 1"]);
    std::fs::remove_dir_all(place.path("judged")).unwrap();
    place.says(1, "run p.toml", &["[evaluation]", "queries.jsonl"]);
}

#[test]
fn a_set_that_changed_is_asked_of_the_snapshot_that_was() {
    let place = place(GATED);
    place.expect(0, "run p.toml");
    // Other judgements, which are answered worse: what snapshot 1 said of the old ones is of no use.
    write_set(&place, |id| (id + 1) % QUERIES);
    let unlike = |id| if id == NOTES { "quite unlike".to_owned() } else { body(id) };
    write_notes(&place, 0..=NOTES, unlike);
    let report = place.json(0, "run p.toml --json");
    let against = &report["evaluation"]["against"];
    assert_eq!(
        (&against["snapshot"], &against["difference"]),
        (&json!(1), &json!(0.0)),
        "{report}"
    );
    assert!(against["ndcg_10"].as_f64() < Some(0.9));
}

#[test]
fn a_purge_takes_the_scores_along() {
    let place = place(GATED);
    place.expect(0, "run p.toml");
    place.expect(0, "purge p.toml --note-id i:3");
    assert_eq!(newest(&place)["provenance"]["measured"].get("evaluation"), None);
    // The next build is compared with what is served now, which lacks the note as well.
    write_notes(&place, 0..NOTES + 1, body);
    let report = place.json(0, "run p.toml --json");
    assert_eq!(report["evaluation"]["missing"], 1);
    let against = &report["evaluation"]["against"];
    assert_eq!(
        (&against["snapshot"], &against["difference"]),
        (&json!(2), &json!(0.0)),
        "{report}"
    );
}

const FIRST: &str = "[evaluation]\nqueries = \"asked.txt\"\n[gates]\nmax_top1_change = 0.25\n";

/// Makes every query one for note 12.
const PROMPTED: &str =
    "[query]\nprompt_prefix = \"topic12 topic12 topic12 topic12 topic12 thing2 \"\n";

fn write_asked(place: &Place) {
    place.write("asked.txt", (0..QUERIES).map(|id| body(id) + "\n").collect::<String>());
}

#[test]
fn another_tower_may_change_so_many_first_hits() {
    let place = place(FIRST);
    write_asked(&place);
    place.expect(0, "run p.toml");
    // The same tower: whatever the corpus does to first hits is not this gate's.
    write_notes(&place, 0..NOTES, shuffled);
    let report = place.json(0, "run p.toml --json");
    assert_eq!(report["gates"][6]["gate"], "top1-change");
    assert_eq!(
        (&report["gates"][6]["passed"], report["evaluation"]["first_hits"].clone()),
        (&json!(true), Value::Null)
    );
    // Another tower, which finds the same notes first.
    place.write("p.toml", pipeline("fake:24", FIRST));
    let report = place.json(0, "run p.toml --json");
    let hits = &report["evaluation"]["first_hits"];
    assert_eq!(
        (&hits["snapshot"], &hits["queries"], &hits["changed"]),
        (&json!(2), &json!(20), &json!(0)),
        "{report}"
    );
    let comparison = &report["evaluation"]["comparison"];
    assert_eq!(
        (&comparison["snapshots"], &comparison["k"], &comparison["all"]["first_changed"]),
        (&json!([2, 3]), &json!(10), &json!(0.0)),
        "{comparison}"
    );
    let why = comparison["not_crosswise"].as_str().unwrap();
    assert!(comparison["crosswise"].is_null() && why.contains("mean nothing"), "{comparison}");
    // One whose queries all are about note 12: it is of the same space.
    place.write("p.toml", pipeline("fake:24", &format!("{FIRST}{PROMPTED}")));
    let before = served(&place);
    place.says(
        3,
        "run p.toml",
        &["top1-change", "have another first hit than in snapshot 3, at most 25% allowed"],
    );
    assert_eq!(served(&place), before);
    let report = place.json(0, "run p.toml --override top1-change --reason tried --json");
    // The corpus is the same, so that all of it is the tower's doing.
    let crosswise = &report["evaluation"]["comparison"]["crosswise"];
    let changed = |what: &str| crosswise[what]["first_changed"].as_f64().unwrap();
    assert_eq!(changed("corpus_by_tower_before"), 0.0, "{crosswise}");
    assert_eq!(changed("corpus_by_tower_after"), 0.0, "{crosswise}");
    assert!(changed("tower_on_snapshot_before") > 0.25, "{crosswise}");
    assert_eq!(changed("tower_on_snapshot_before"), changed("tower_on_snapshot_after"));
}

#[test]
fn a_tower_that_is_gone_cannot_be_compared_with() {
    let place = place(FIRST);
    write_asked(&place);
    place.expect(0, "run p.toml");
    let number = place.path("root/snapshots/00000000000000000001.json");
    let manifest = std::fs::read_to_string(&number).unwrap();
    let (content, hash) = without_tower(&manifest);
    std::fs::write(&number, content.replace(&hash.0, &hash.1)).unwrap();
    place.write("p.toml", pipeline("fake:24", FIRST));
    place.says(3, "run p.toml", &["top1-change", "snapshot 1 cannot be asked"]);
    place.expect(0, "run p.toml --override top1-change --reason lost");
}

/// A manifest whose query tower is nowhere, and the hash that it had and has.
fn without_tower(manifest: &str) -> (String, (String, String)) {
    let mut json: Value = serde_json::from_str(manifest).unwrap();
    let old = json["content_hash"].as_str().unwrap().to_owned();
    json["content"]["query_towers"][0]["options"]["model"] = json!("/nowhere/model");
    let content = serde_json::from_value(json["content"].clone()).unwrap();
    let new = scalingnote::snapshot::content_hash(&content).unwrap().to_hex();
    (serde_json::to_string_pretty(&json).unwrap(), (old, new))
}

#[test]
fn the_switch_to_the_next_tower_is_asked_beside_the_one_of_now() {
    let next = "[next.tower]\nmodel = \"fake:24\"\npooling = \"mean\"\n";
    let place = place(&format!("{FIRST}{next}{}", PROMPTED.replace("[query]", "[next.query]")));
    write_asked(&place);
    let report = place.json(3, "run p.toml --json");
    assert_eq!(
        (&report["outcome"]["snapshot"], &report["backfill"]["state"]["is"]),
        (&json!(1), &json!("refused"))
    );
    let hits = &report["backfill"]["evaluation"]["first_hits"];
    assert_eq!((&hits["snapshot"], &hits["queries"]), (&json!(1), &json!(20)), "{report}");
    assert!(hits["changed"].as_u64() > Some(5), "{report}");
    let comparison = &report["backfill"]["evaluation"]["comparison"];
    assert_eq!(comparison["all"]["queries"], 20, "{comparison}");
    let worst = comparison["worst"].as_array().unwrap();
    assert!(!worst.is_empty() && worst.iter().all(|query| query.get("text").is_none()));
    let run = report["run"].as_str().unwrap();
    let page = place.path(&format!("root/runs/{run}/report.html"));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("Queries that change most") && page.contains("places moved"), "{page}");
    place.says(3, "run p.toml", &["asked    ", "first hits are others than in snapshot 1"]);
    assert_eq!(newest(&place)["number"], 1);
}

#[test]
fn gates_need_something_to_ask() {
    let place = place("[gates]\nmax_ndcg_drop = 0.01\nmax_top1_change = 2.0\n");
    place.says(
        2,
        "config check p.toml",
        &[
            "`gates.max_ndcg_drop` needs `evaluation.set`",
            "`gates.max_top1_change` must be 0 to 1",
            "`evaluation.queries`",
        ],
    );
    place.write("p.toml", pipeline("fake:32", &FIRST.replace("[gates]", "by = \"lang\"\n[gates]")));
    place.says(
        2,
        "config check p.toml",
        &["`evaluation.by` must be one of `corpus.stored_columns`"],
    );
    place.write("p.toml", pipeline("fake:32", "[evaluation]\ndevice = \"gpu\"\n"));
    place.says(2, "config check p.toml", &["`evaluation` asks nothing", "evaluation.device"]);
    place.write("p.toml", pipeline("fake:32", "[evaluation]\nsets = \"x\"\n"));
    place.says(2, "config check p.toml", &["did you mean `set`"]);
}
