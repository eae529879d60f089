//! Days of a Delta table with a change data feed: what is read of it, and that nothing is missed.

use super::both::{both, place_of, planned};
use super::delta::Lake;
use crate::fixture::place::Place;

fn place() -> Place {
    place_of("uri = \"notes\"\nformat = \"delta\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_read() {
    let Some(lake) = Lake::here() else { return };
    let place = place();
    let table = place.path("notes").to_str().unwrap().to_owned();
    lake.step(&table, "feed");
    let (read, all) = planned(&place);
    assert_eq!(read, "version 0 of a Delta table, in 1 file");
    both(&place, "the first day").await;
    let version = lake.step(&table, "feed-edit");
    let (read, some) = planned(&place);
    assert_eq!(
        read,
        format!("what changed from version 0 to {version} of a Delta table, in 3 files")
    );
    println!("{all} bytes of all rows, {some} of those that changed");
    both(&place, "edits, deletions, new notes").await;
    for step in ["feed-move", "feed-back"] {
        lake.step(&table, step);
        assert!(planned(&place).0.starts_with("what changed"));
        both(&place, step).await;
    }
    // Other files, the same rows.
    lake.step(&table, "compact");
    place.says(0, "plan p.toml", &["what changed from", "nothing to do"]);
    place.expect(0, "run p.toml --quiet");
    // Doubt: notes are made in another way, the table has another column, files are gone.
    let plan = place.json(0, "plan p.toml --json --set corpus.types=guessed");
    assert!(plan["tables"][0]["read"].as_str().unwrap().starts_with("version"), "{plan}");
    lake.step(&table, "feed-evolve");
    place.says(0, "plan p.toml", &["changed the table itself, not only its rows"]);
    both(&place, "a new column").await;
    lake.step(&table, "feed-move");
    std::fs::remove_dir_all(place.path("notes/_change_data")).unwrap();
    place.says(0, "plan p.toml", &["all rows of the table are read: its changes cannot be read"]);
    both(&place, "without the files of changes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_over_more_than_a_row_read_everything() {
    let Some(lake) = Lake::here() else { return };
    let place = place();
    let table = place.path("notes").to_str().unwrap().to_owned();
    lake.step(&table, "feed");
    for (sql, why) in [
        ("SELECT max(id) AS note_id, lang AS body FROM notes GROUP BY lang", "does more than"),
        ("SELECT id AS note_id, body FROM notes ORDER BY id LIMIT 20", "does more than"),
        ("SELECT id AS note_id, body FROM notes WHERE now() > TIMESTAMP '2024-01-01'", "the time"),
        ("SELECT id AS note_id, body FROM notes WHERE id IN (SELECT max(id) FROM notes)", ""),
    ] {
        std::fs::remove_dir_all(place.path("root")).ok();
        let file = std::fs::read_to_string(place.path("p.toml")).unwrap();
        let lines = file.lines().map(|line| match line {
            line if line.starts_with("sql = ") => format!("sql = \"{sql}\""),
            line if line.starts_with("stored_columns") => String::new(),
            line => line.to_owned(),
        });
        place.write("q.toml", lines.collect::<Vec<_>>().join("\n"));
        place.expect(0, "run q.toml --quiet");
        lake.step(&table, "random-8");
        place.says(0, "plan q.toml", &["all rows of the table are read", why]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_history_ends_in_the_same_notes() {
    let Some(lake) = Lake::here() else { return };
    for seed in 0..2 {
        let place = place();
        let table = place.path("notes").to_str().unwrap().to_owned();
        lake.step(&table, "feed");
        let mut changes = 0;
        for day in 0..8 {
            both(&place, &format!("seed {seed}, day {day}")).await;
            for commit in 0..=day % 3 {
                lake.step(&table, &format!("random-{seed}-{day}-{commit}"));
            }
            changes += usize::from(planned(&place).0.starts_with("what changed"));
        }
        assert!(changes > 3, "seed {seed}: {changes} days of changes");
    }
}
