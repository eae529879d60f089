//! Days of a database's table whose rows say when they were written.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;

use super::both::{both, place_of, planned};
use super::databases::{postgres, server};
use crate::fixture::place::Place;

const SQLITE: &str = "uri = \"notes.db\"\nformat = \"sqlite\"\nchanged_at = \"seq\"";
const TABLE: &str =
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, lang TEXT, seq INTEGER)";

fn notes(place: &Place) -> Connection {
    let writer = Connection::open(place.path("notes.db")).unwrap();
    writer.execute_batch(TABLE).unwrap();
    for id in 0..40 {
        let lang = if id % 4 == 0 { "zh" } else { "en" };
        let row = (id, format!("note {id}"), lang, id);
        writer.execute("INSERT INTO notes VALUES (?1, ?2, ?3, ?4)", row).unwrap();
    }
    writer
}

const SOME: &str = "the rows whose `seq` is";
const ALL: &str = "one statement, in one read transaction of SQLite";

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_written_since_are_read_and_deletions_are_noticed() {
    let place = place_of(SQLITE);
    let writer = notes(&place);
    assert_eq!(planned(&place).0, ALL);
    both(&place, "the first day").await;
    // An edit, a note that the query takes no longer, one that it takes now, a new one, and one without a number.
    let edits = "UPDATE notes SET body = 'edited', seq = 40 WHERE id = 1; UPDATE notes SET lang = 'zh', seq = 41 WHERE id = 2;
        UPDATE notes SET lang = 'en', seq = 42 WHERE id = 4; INSERT INTO notes VALUES (100, 'new', 'en', 43);
        INSERT INTO notes VALUES (101, 'unnumbered', 'en', NULL)";
    writer.execute_batch(edits).unwrap();
    let (read, _) = planned(&place);
    assert_eq!(read, format!("{SOME} 39 or later, by {ALL}"));
    let plan = place.json(0, "plan p.toml --json");
    assert_eq!(plan["total"]["notes_deleted"], 1, "{plan}");
    both(&place, "edits").await;
    let report = place.json(0, "run p.toml --json");
    assert_eq!(report["outcome"]["result"], "nothing-to-do", "the last rows, read again: {report}");
    // A row that is gone leaves no number behind, but one row less.
    writer.execute_batch("DELETE FROM notes WHERE id = 5").unwrap();
    let says = ["all rows of the table are read", "leads to 32 notes, and the query has 31 now"];
    place.says(0, "plan p.toml", &says);
    assert_eq!(planned(&place).0, ALL);
    both(&place, "a deletion").await;
    assert!(planned(&place).0.starts_with(SOME));
    // Doubt: notes are made in another way, the numbers begin again, the column is another one, or no number.
    let plan = place.json(0, "plan p.toml --json --set corpus.types=guessed");
    assert_eq!(plan["tables"][0]["read"], ALL, "{plan}");
    let file = std::fs::read_to_string(place.path("p.toml")).unwrap();
    for (column, code, says) in [
        ("id", 0, "one statement"),
        ("body", 2, "a time, a date or a whole number is needed"),
        ("absent", 2, "has no column `absent`, which changed_at names"),
    ] {
        let line = format!("changed_at = \"{column}\"");
        place.write("other.toml", file.replace("changed_at = \"seq\"", &line));
        place.says(code, "plan other.toml", &[says]);
    }
    writer.execute_batch("UPDATE notes SET seq = seq - 30").unwrap();
    place.says(
        0,
        "plan p.toml",
        &["all rows of the table are read: the highest `seq` was 43, and is 13 now"],
    );
    both(&place, "numbers that begin again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_say_that_they_are_deleted_are_not_counted() {
    let place = place_of(SQLITE);
    let writer = notes(&place);
    writer.execute_batch("ALTER TABLE notes ADD COLUMN deleted BOOLEAN").unwrap();
    for file in ["p.toml", "full.toml"] {
        let text = std::fs::read_to_string(place.path(file)).unwrap();
        place.write(file, text.replace("body, lang FROM", "body, lang, deleted FROM"));
    }
    both(&place, "the first day").await;
    writer.execute_batch("UPDATE notes SET deleted = 1, seq = 50 WHERE id = 1").unwrap();
    for at in ["a deletion", "the day after"] {
        assert!(planned(&place).0.starts_with(SOME), "{at}");
        both(&place, at).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_was_purged_or_stands_twice_leaves_doubt() {
    let place = place_of(SQLITE);
    let writer = notes(&place);
    place.expect(0, "run p.toml --quiet");
    place.expect(0, "purge root --note-id i:7");
    assert_eq!(planned(&place).0, ALL, "the purged note is a row still");
    place.expect(0, "run p.toml --quiet");
    assert_eq!(planned(&place).0, ALL);
    // From the next snapshot on, of which it is no row any more.
    let sql = "DELETE FROM notes WHERE id = 7; INSERT INTO notes VALUES (102, 'new', 'en', 50)";
    writer.execute_batch(sql).unwrap();
    place.expect(0, "run p.toml --quiet");
    writer.execute_batch("INSERT INTO notes VALUES (103, 'newer', 'en', 51)").unwrap();
    assert!(planned(&place).0.starts_with(SOME));
    for file in ["p.toml", "full.toml"] {
        let text = std::fs::read_to_string(place.path(file)).unwrap();
        place.write(file, text.replace("SELECT id AS", "SELECT id % 20 AS"));
    }
    place.expect(0, "run p.toml --quiet");
    assert_eq!(planned(&place).0, ALL, "some rows are of one note");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_rejected_leaves_doubt() {
    let place = place_of(SQLITE);
    let writer = notes(&place);
    let run = "run p.toml --quiet --set corpus.max_rejected=5 --set gates.max_rejected_percent=50";
    writer.execute_batch("UPDATE notes SET body = '' WHERE id = 1").unwrap();
    place.expect(0, run);
    writer.execute_batch("INSERT INTO notes VALUES (100, 'new', 'en', 50)").unwrap();
    let plan = place.json(0, "plan p.toml --json --set corpus.max_rejected=5");
    assert_eq!(plan["tables"][0]["read"], ALL, "a row that is no note would be missed: {plan}");
    // Once it is one, changes are enough again.
    writer.execute_batch("UPDATE notes SET body = 'text', seq = 51 WHERE id = 1").unwrap();
    place.expect(0, run);
    writer.execute_batch("INSERT INTO notes VALUES (101, 'newer', 'en', 52)").unwrap();
    assert!(planned(&place).0.starts_with(SOME));
    both(&place, "after all").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_history_ends_in_the_same_notes() {
    for seed in 0..3_u64 {
        let place = place_of(SQLITE);
        let writer = notes(&place);
        let mut draw = StdRng::seed_from_u64(seed);
        let (mut seq, mut changes) = (40, 0);
        for day in 0..8 {
            both(&place, &format!("seed {seed}, day {day}")).await;
            for _ in 0..draw.random_range(1..6) {
                let id = draw.random_range(0..60);
                seq += 1;
                let lang = ["en", "zh"][draw.random_range(0..2)];
                let sql = match draw.random_range(0..8) {
                    0 => format!("DELETE FROM notes WHERE id = {id}"),
                    1 => format!("UPDATE notes SET seq = NULL, body = 'at {seq}' WHERE id = {id}"),
                    2 => format!("UPDATE notes SET lang = '{lang}', seq = {seq} WHERE id = {id}"),
                    _ => format!(
                        "INSERT OR REPLACE INTO notes VALUES ({id}, 'text {seq}', '{lang}', {seq})"
                    ),
                };
                writer.execute_batch(&sql).unwrap();
            }
            changes += usize::from(planned(&place).0.starts_with(SOME));
        }
        assert!(changes > 3, "seed {seed}: {changes} days of changes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_of_postgresql_are_taken_back_by_an_hour() {
    let Some(uri) = server("SCALINGNOTE_TEST_POSTGRES") else { return };
    let writer = postgres(&uri).await;
    let sql = "DROP TABLE IF EXISTS written; CREATE TABLE written (id bigint PRIMARY KEY, body text, lang text, at timestamptz); \
        INSERT INTO written SELECT id, 'note ' || id, 'en', '2024-10-01 12:00Z'::timestamptz + id * interval '1 minute' \
        FROM generate_series(0, 200) id";
    writer.batch_execute(sql).await.unwrap();
    let table =
        format!("uri = \"{uri}\"\nformat = \"postgres\"\ntable = \"written\"\nchanged_at = \"at\"");
    let place = place_of(&table);
    both(&place, "the first day").await;
    let (read, _) = planned(&place);
    assert!(read.starts_with("the rows whose `at` is 2024-10-01T14:20:00Z or later"), "{read}");
    // Committed late, with a time of before; and deleted.
    let late = "UPDATE written SET body = 'late', at = '2024-10-01 14:30Z' WHERE id = 3; \
        INSERT INTO written VALUES (300, 'new', 'en', '2024-10-01 16:00Z')";
    writer.batch_execute(late).await.unwrap();
    let plan = place.json(0, "plan p.toml --json");
    assert_eq!(
        (&plan["total"]["notes_changed"], &plan["total"]["notes_new"]),
        (&1.into(), &1.into()),
        "{plan}"
    );
    both(&place, "a late commit").await;
    writer.batch_execute("DELETE FROM written WHERE id = 9").await.unwrap();
    place.says(0, "plan p.toml", &["all rows of the table are read"]);
    both(&place, "a deletion").await;
    // A time that is to come hides nothing.
    let future = "UPDATE written SET at = '2999-01-01' WHERE id = 4";
    writer.batch_execute(future).await.unwrap();
    both(&place, "a time to come").await;
    writer
        .batch_execute("UPDATE written SET body = 'today', at = now() WHERE id = 5")
        .await
        .unwrap();
    both(&place, "after a time to come").await;
}
