//! `snapshot verify` where a command and no run committed what is served.

use serde_json::{Value, json};

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;

fn write_notes(place: &Place, word: &str) {
    place.write_notes(0..80, |at| format!("{word} number {at}"));
}

/// Three days of 80 notes in two shards.
fn three_days() -> Place {
    let sections = "[index]\nshards = 2\n";
    let place = Place::with(&PipelineFile { root: "root", sections, ..PipelineFile::default() });
    for (number, word) in ["sail", "keel", "mast"].into_iter().enumerate() {
        write_notes(&place, word);
        assert_eq!(place.json(0, "run p.toml --json")["outcome"]["snapshot"], number + 1);
    }
    place
}

fn provenance(place: &Place, number: u64) -> Value {
    place.json(0, &format!("snapshot show root {number} --json"))["provenance"].take()
}

/// Checks that notes of the newest snapshot are encoded again, and that the run `by` is named as the one that made them.
#[track_caller]
fn assert_encoded_again(place: &Place, number: u64, by: &Value) {
    let verified = place.json(0, "snapshot verify p.toml --json");
    assert_eq!((&verified["snapshot"], &verified["problems"]), (&number.into(), &json!([])));
    let sample = &verified["sample"];
    assert!(sample["notes"].as_u64() >= Some(16), "{sample}");
    assert!(sample["least_cosine"].as_f64() > Some(0.999), "{sample}");
    place.says(0, "snapshot show root", &["made by", by.as_str().unwrap()]);
}

#[test]
fn a_rollback_is_verified_with_the_text_of_the_run_that_made_it() {
    let place = three_days();
    let first = provenance(&place, 1);
    place.expect(0, "snapshot rollback root 1 --reason mistake");
    assert_encoded_again(&place, 4, &first["run"]);
    let rolled = provenance(&place, 4);
    assert_eq!(rolled["run"], "rollback to 1: mistake");
    assert_eq!(rolled["gates"], json!([]), "none was judged");
    for known in ["recall", "recall_by_shard", "rejected"] {
        assert_ne!(first["measured"][known], Value::Null, "{known}");
        assert_eq!(rolled["measured"][known], first["measured"][known], "{known}");
    }

    // On to another and back to the rollback, whose content is the first run's still.
    place.expect(0, "snapshot rollback root 3 --reason forward");
    place.expect(0, "snapshot rollback root 4 --reason back");
    assert_encoded_again(&place, 6, &first["run"]);
    // The snapshots of all runs go, but their text is young.
    place.expect(0, "snapshot gc root --keep 1 --grace-hours 0");
    assert_eq!(place.json(0, "snapshot list root --json").as_array().unwrap().len(), 1);
    assert_encoded_again(&place, 6, &first["run"]);

    // With retention it goes, and that is what is said then.
    place.expect(0, "snapshot gc root --keep 1 --grace-hours 0 --runs-days 0");
    let verified = place.json(0, "snapshot verify root --json");
    assert_eq!(verified["sample"], json!({"notes": 0, "reason": "text gone"}));
}

#[test]
fn the_next_day_counts_the_recall_of_what_a_rollback_left() {
    let place = three_days();
    let queries = |provenance: &Value| provenance["measured"]["recall"]["queries"].clone();
    place.expect(0, "snapshot rollback root 1 --reason mistake");
    write_notes(&place, "sail");
    // One note changes, so one of the two shards is built again.
    let notes = std::fs::read_to_string(place.path("notes.jsonl")).unwrap();
    place.write("notes.jsonl", notes.replacen("sail number 7\"", "oars number 7\"", 1));
    assert_eq!(place.json(0, "run p.toml --json")["outcome"]["snapshot"], 5);
    assert_eq!(queries(&provenance(&place, 5)), queries(&provenance(&place, 1)));
}

#[test]
fn what_was_rolled_back_is_told_before_a_run_is_refused() {
    const TOLD: &str = "newer content than that of snapshot 4 was rolled back";
    let place = three_days();
    place.expect(0, "snapshot rollback root 2 --reason mistake");
    place.says(0, "explain p.toml 7", &["the next run encodes the new one", TOLD]);
    place.says(0, "plan p.toml", &[&format!("warning: {TOLD}")]);
    write_notes(&place, "keel");
    assert!(!place.said(0, "explain p.toml 7").contains(TOLD), "the snapshot has this text");

    write_notes(&place, "oars");
    assert_eq!(place.json(0, "run p.toml --json")["outcome"]["snapshot"], 5);
    write_notes(&place, "sail");
    assert!(!place.said(0, "explain p.toml 7").contains(TOLD), "a run had the last word");
}

#[test]
fn tombstones_alone_leave_the_text_of_the_run_and_a_purge_takes_it() {
    let place = three_days();
    let third = provenance(&place, 3);
    place.expect(0, "purge root --note-id i:5000");
    assert_encoded_again(&place, 4, &third["run"]);
    place.expect(0, "purge root --note-id i:5000 --lift");
    assert_encoded_again(&place, 5, &third["run"]);
    place.expect(0, "purge root --note-id i:7");
    let verified = place.json(0, "snapshot verify root --json");
    assert_eq!(verified["problems"], json!([]));
    assert_eq!(verified["sample"], json!({"notes": 0, "reason": "text gone"}));
}
