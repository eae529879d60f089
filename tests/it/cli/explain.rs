//! `scalingnote explain`: where a note is, and why.

use serde_json::Value;

use crate::fixture::place::Place;

const PIPELINE: &str = r#"version = 2
[corpus]
sql = "select id as note_id, body, updated_at, deleted from notes"
template = "{{ body }}"
max_rejected = 5
[[corpus.tables]]
name = "notes"
uri = "data/"
[tower]
model = "fake:16"
pooling = "mean"
[gates]
max_rejected_percent = 50.0
max_count_drop_percent = 50.0
[publish]
root = "root"
"#;

fn row(id: i64, body: &str, day: u32, deleted: bool) -> String {
    let updated = format!("2024-01-{day:02}");
    format!(
        "{}\n",
        serde_json::json!({"id": id, "body": body, "updated_at": updated, "deleted": deleted})
    )
}

/// Two files: 1 to 20, and of 3 a newer row; 30 has no text, 31 is deleted, 4 and 5 say the same.
fn place() -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("data")).unwrap();
    let body = |id: i64| match id {
        5 => "secret words of note 4".to_owned(),
        _ => format!("secret words of note {id}"),
    };
    let first: String = (1..=20).map(|id| row(id, &body(id), 1, false)).collect();
    place.write("data/a.jsonl", first + &row(30, "", 1, false) + &row(31, "gone", 1, true));
    place.write("data/b.jsonl", row(3, "newer words", 2, false) + &row(21, "alone", 1, false));
    place.write("p.toml", PIPELINE);
    place
}

fn explain(place: &Place, rest: &str) -> Value {
    place.json(0, &format!("explain p.toml {rest} --json"))
}

#[track_caller]
fn because(found: &Value, piece: &str) {
    let said = found["because"].to_string();
    assert!(said.contains(piece), "no {piece:?} in {found:#}");
}

#[test]
fn a_note_is_followed_from_its_file_to_its_rank() {
    let place = place();
    because(&explain(&place, "3"), "there is no snapshot yet; the next run puts it in");
    place.expect(0, "run p.toml");

    let found = explain(&place, "3 --query words --text");
    assert_eq!((&found["note"], &found["corpus"]["rows"]), (&"i:3".into(), &2.into()));
    assert_eq!(found["corpus"]["duplicates"], 1);
    let files = found["corpus"]["files"].as_array().unwrap();
    let names: Vec<&str> = files
        .iter()
        .map(|file| file["uri"].as_str().unwrap().rsplit('/').next().unwrap())
        .collect();
    assert_eq!(names, ["a.jsonl", "b.jsonl"]);
    assert_eq!(found["corpus"]["texts"][0]["text"], "newer words");
    let vector = &found["snapshot"]["vectors"][0];
    assert_eq!(vector["text_hash"], found["corpus"]["texts"][0]["text_hash"]);
    assert_eq!((&vector["live"], &vector["segment"]), (&true.into(), &0.into()));
    for key in ["index", "part"] {
        let file = vector[key].as_str().unwrap();
        assert!(place.path("root").join(file).is_file(), "{file}");
    }
    assert_eq!(vector["key"].as_str().unwrap().len(), 16);
    because(&found, "the one with the newest updated_at counts");
    because(&found, "has it with the text that the corpus has now");
    // The rank is that of a search.
    let hits = place.json(0, "search p.toml words -k 100 --exact --json");
    let hits = hits["hits"].as_array().unwrap();
    let at = hits.iter().position(|hit| hit["note_id"] == 3).unwrap();
    assert_eq!(found["rank"]["exact"], at + 1);
    assert_eq!((&found["rank"]["notes"], found["rank"]["graph"].is_u64()), (&21.into(), true));

    let twin = explain(&place, "i:4");
    assert_eq!(twin["snapshot"]["same_text"], serde_json::json!(["i:5"]));
    assert_eq!(twin["corpus"]["files"][0]["rows"], 1);
    // Text is shown only where it is asked for.
    let told = place.said(0, "explain p.toml 4 --query words");
    assert!(!told.contains("secret") && told.contains("by exact search"), "{told}");
    assert!(place.said(0, "explain p.toml 4 --text").contains("  secret words of note 4"));
}

#[test]
fn what_is_not_found_says_why() {
    let place = place();
    place.expect(0, "run p.toml");
    let rejected = explain(&place, "30 --query words");
    assert_eq!(rejected["corpus"]["rejected"], serde_json::json!(["no text"]));
    because(&rejected, "its row is rejected: no text");
    because(&rejected, "it has no rank");
    let deleted = explain(&place, "31");
    assert_eq!(deleted["corpus"]["deleted"], true);
    because(&deleted, "says that it is deleted");
    let nowhere = explain(&place, "999");
    because(&nowhere, "returns no row with this id");
    because(&nowhere, "snapshot 1 does not have it");
    // It reads the same, and is another note; what the corpus has counts.
    assert_eq!(explain(&place, "s:7")["note"], "i:7");
    because(&explain(&place, "s:7"), "there is no note s:7; showing i:7 instead");

    place.write("data/b.jsonl", row(21, "alone no more", 1, false));
    because(&explain(&place, "21"), "with another text than the corpus has now");
    place.write("data/b.jsonl", row(22, "new", 1, false));
    because(&explain(&place, "21"), "snapshot 1 still has it; the next run takes it out");
    because(&explain(&place, "22"), "snapshot 1 does not have it; the next run puts it in");
    place.expect(0, "purge p.toml --note-id i:7");
    let purged = explain(&place, "7");
    assert_eq!(purged["snapshot"]["purged"], true);
    because(&purged, "it was purged");

    std::fs::rename(place.path("data"), place.path("elsewhere")).unwrap();
    let unread = explain(&place, "8");
    let error = unread["corpus"]["error"].as_str().unwrap();
    assert!(error.starts_with("p.toml:8:7: table `notes`: "), "{error}");
    because(&unread, "snapshot 2 has it");
    place.says(2, "explain p.toml s:", &["id is empty"]);
    let output = place.command("explain p.toml 8 --query").arg("").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn of_rows_without_a_time_none_is_called_older() {
    let place = place();
    place.write("q.toml", PIPELINE.replace("body, updated_at, deleted", "body, deleted"));
    let told = place.said(0, "explain q.toml 3");
    assert!(told.contains("2 rows, 1 of them left out"), "{told}");
    assert!(told.contains("the query has no updated_at") && !told.contains("them older"), "{told}");
    assert!(place.said(0, "explain p.toml 3").contains("2 rows, 1 of them older"));
}
