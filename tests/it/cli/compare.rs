//! `snapshot compare`: the same queries on two snapshots.

use serde_json::{Value, json};

use crate::fixture::pipeline::PipelineFile;
use crate::fixture::place::Place;

fn write_notes(place: &Place, body: impl Fn(u32) -> String) {
    let line = |id: u32| {
        let lang = if id.is_multiple_of(3) { "de" } else { "en" };
        format!("{}\n", json!({"id": id, "body": body(id), "lang": lang}))
    };
    place.write("notes.jsonl", (0..60).map(line).collect::<String>());
}

fn pipeline(model: &str) -> String {
    let file = PipelineFile {
        columns: "body, lang",
        corpus: "stored_columns = [\"lang\"]\n",
        model,
        root: "root",
        ..PipelineFile::default()
    };
    file.text()
}

/// Three snapshots: of the first day, with the texts of three notes exchanged, and by another tower.
fn place() -> Place {
    let place = Place::new();
    place.write("p.toml", pipeline("fake:32"));
    place.write("other.toml", pipeline("fake:24"));
    write_notes(&place, |id| format!("note about topic {id}"));
    place.expect(0, "run p.toml");
    write_notes(&place, |id| match id {
        7..=9 => format!("note about topic {}", 7 + (id - 6) % 3),
        _ => format!("note about topic {id}"),
    });
    place.expect(0, "run p.toml");
    place.expect(0, "run other.toml");
    let query = |id: u32| {
        format!("{}\n", json!({"_id": format!("q{id}"), "text": format!("note about topic {id}")}))
    };
    place.write("queries.jsonl", (0..20).map(query).collect::<String>());
    place
}

#[test]
fn what_changes_is_told_by_query_id() {
    let place = place();
    let same = place.json(0, "snapshot compare p.toml 1 1 --queries queries.jsonl --json");
    assert_eq!((&same["all"]["overlap"], &same["all"]["same"]), (&json!(1.0), &json!(1.0)));
    assert_eq!(
        (&same["worst"], &same["by"], &same["groups"]),
        (&json!([]), &Value::Null, &json!([]))
    );

    let line = "snapshot compare root 1 2 --queries queries.jsonl --by lang --html page.html -k 5";
    let found = place.json(0, &format!("{line} --json"));
    assert_eq!((&found["snapshots"], &found["k"]), (&json!([1, 2]), &json!(5)));
    assert_eq!(found["all"]["queries"], 20);
    // The three queries for what was exchanged find another note first.
    assert_eq!(found["all"]["first_changed"], json!(3.0 / 20.0), "{found}");
    let worst: Vec<&str> =
        found["worst"].as_array().unwrap().iter().map(|w| w["query"].as_str().unwrap()).collect();
    for query in ["q7", "q8", "q9"] {
        assert!(worst.contains(&query), "{worst:?}");
    }
    let seven = found["worst"].as_array().unwrap().iter().find(|w| w["query"] == "q7").unwrap();
    assert_eq!(seven["first"], json!([7, 9]));
    let groups = found["groups"].as_array().unwrap();
    let queries = |lang: &str| {
        groups.iter().find(|g| g["value"] == lang).unwrap()["queries"].as_u64().unwrap()
    };
    assert_eq!((queries("de"), queries("en")), (7, 13));
    assert_eq!(found["query_towers"][0], found["query_towers"][1]);

    let said = place.said(0, line);
    let page = std::fs::read_to_string(place.path("page.html")).unwrap();
    for shown in [&said, &page, &found.to_string()] {
        assert!(shown.contains("q7") && !shown.contains("about topic"), "{shown}");
    }
    assert!(page.contains("15.0%") && !page.contains("http://") && !page.contains("<script"));
    place.says(0, &format!("{line} --texts"), &["note about topic 7", "15.0%"]);
    let page = std::fs::read_to_string(place.path("page.html")).unwrap();
    assert!(page.contains("note about topic 7"));
}

#[test]
fn each_snapshot_is_asked_by_its_own_tower() {
    let place = place();
    let found = place.json(0, "snapshot compare root 2 3 --queries queries.jsonl --json");
    assert_ne!(found["query_towers"][0], found["query_towers"][1]);
    // Both towers give a text its own note first.
    assert_eq!(found["all"]["first_changed"], 0.0, "{found}");
    assert!(found["all"]["overlap"].as_f64() < Some(1.0), "{found}");
    place.write("asked.txt", "note about topic 3\n\nnote about topic 5\n");
    let found = place.json(0, "snapshot compare root 1 2 --queries asked.txt --exact --json");
    assert_eq!(found["all"]["queries"], 2);
}

#[test]
fn two_towers_of_one_space_are_asked_crosswise() {
    let place = place();
    // The corpus and the space of snapshot 2, the towers of queries: with a prompt.
    let prompted =
        pipeline("fake:32") + "[query]\nprompt_prefix = \"topic 12 topic 12 topic 12 \"\n";
    place.write("prompted.toml", prompted);
    place.expect(0, "run p.toml");
    place.expect(0, "run prompted.toml");
    let line = "--queries queries.jsonl";
    let found = place.json(0, &format!("snapshot compare root 2 5 {line} --json"));
    assert_ne!(found["query_towers"][0], found["query_towers"][1]);
    let share = |what: &str| found["crosswise"][what]["same"].as_f64().unwrap();
    for what in ["corpus_by_tower_before", "corpus_by_tower_after"] {
        assert_eq!(share(what), 1.0, "{found}");
    }
    assert!(share("tower_on_snapshot_before") < 1.0, "{found}");
    assert_eq!(share("tower_on_snapshot_before"), share("tower_on_snapshot_after"));
    assert_eq!(found["crosswise"]["tower_on_snapshot_after"], found["all"]);
    // The corpus of snapshot 1 is another one, too.
    let line = format!("snapshot compare root 1 5 {line} --html page.html");
    place.says(0, &line, &["corpus, by the tower before", "tower, on the snapshot after"]);
    let page = std::fs::read_to_string(place.path("page.html")).unwrap();
    assert!(page.contains("corpus, by the tower after"), "{page}");
    let queries = "--queries queries.jsonl";
    place.says(
        0,
        &format!("snapshot compare root 1 2 {queries}"),
        &["not asked crosswise: both have one query tower, so what changes is the corpus"],
    );
    place.says(
        0,
        &format!("snapshot compare root 2 3 {queries}"),
        &["not asked crosswise", "mean nothing to each other's queries"],
    );
}

#[test]
fn what_cannot_be_compared_is_told() {
    let place = place();
    place.says(
        1,
        "snapshot compare root 1 9 --queries queries.jsonl",
        &["snapshot 9 does not exist"],
    );
    place.says(1, "snapshot compare root 1 2 --queries none.jsonl", &["none.jsonl"]);
    place.says(2, "snapshot compare root 1 2 --queries queries.jsonl --by title", &["it has lang"]);
    place.says(2, "snapshot compare root 1 2", &["--queries"]);
    place.write("bad.jsonl", "{\"text\": secret}\n");
    let said = place.said(1, "snapshot compare root 1 2 --queries bad.jsonl");
    assert!(said.contains("bad.jsonl, line 1") && !said.contains("secret"), "{said}");
}
