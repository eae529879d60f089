//! Purges of notes that the corpus lost before.

use serde_json::json;

use super::{Place, outcome};
use crate::fixture::program::json_of;

/// The tower went on without the note before it was purged: its weights had read it.
#[test]
fn a_purge_takes_the_tower_that_goes_on_from_one_that_read_the_note() {
    let mut place = Place::new();
    place.run();
    place.change(0..40);
    place.notes.remove(&7);
    place.write();
    let report = place.run();
    assert_eq!(outcome(&report), "adapted", "{report}");
    let adapted = place.tower();
    let purged = json_of(place.path(), "purge root --note-id i:7 --json");
    assert_eq!(purged["left"], json!([]), "{purged}");
    assert!(place.towers().is_empty(), "{:?}", place.towers());
    assert_eq!(place.tower(), adapted["adapted"]["base"]);
}

/// Two notes with the same text are one text to learn from, and either may be purged.
#[test]
fn a_purge_takes_the_tower_that_read_a_text_which_the_note_shares() {
    let mut place = Place::new();
    let text = place.notes[&7].clone();
    place.notes.insert(1007, text);
    place.write();
    assert_eq!(outcome(&place.run()), "adapted");
    let purged = json_of(place.path(), "purge root --note-id i:1007 --json");
    assert_eq!(purged["left"], json!([]), "{purged}");
    assert!(place.towers().is_empty(), "{:?}", place.towers());
}
