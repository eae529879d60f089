use std::sync::Arc;

use super::*;
use crate::stage::ids::{IdRow, Place, no_columns};
use crate::types::NoteId;

fn row(key: u64, text: u64) -> IdRow {
    IdRow {
        key,
        note_id: NoteId::Int(key as i64),
        chunk: 0,
        text_hash: Digest256::of(&text.to_le_bytes()),
        place: Place { part: Arc::from("p"), row: 0 },
    }
}

fn ids(rows: impl IntoIterator<Item = (u64, u64)>) -> Ids {
    let rows: Vec<IdRow> = rows.into_iter().map(|(key, text)| row(key, text)).collect();
    Ids { stored: no_columns(rows.len()).unwrap(), rows }
}

fn held(rows: Vec<(u64, u64)>, removed: &[u64]) -> Held {
    let file = FileRef { path: "f".into(), size: 1, sha256: Digest256::of(b"f") };
    let segment = Segment {
        vectors: rows.len() as u64,
        index: file.clone(),
        sidecar: file.clone(),
        ids: file,
        removed: None,
        canaries: Vec::new(),
    };
    Held { segment, ids: ids(rows), removed: removed.to_vec() }
}

fn same(keys: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    keys.map(|key| (key, key)).collect()
}

#[test]
fn unchanged_rows_stay_where_they_are_and_changed_ones_are_fresh() {
    let target = ids((0..100).map(|key| (key, if key == 7 { 700 } else { key })).chain([(100, 1)]));
    let base = [held(same(0..100), &[])];
    let follow = follow(&base, &target, 20.0).unwrap();
    assert_eq!(follow.fresh, [7, 100]);
    assert_eq!(follow.kept.len(), 1);
    let gone: Vec<usize> = (0..100).filter(|row| follow.kept[0].rows[*row].is_none()).collect();
    assert_eq!(gone, [7]);
}

#[test]
fn a_text_that_comes_back_is_not_revived_from_a_removed_row() {
    let base = held(same(0..100), &[7]);
    let delta = held(vec![(7, 700)], &[]);
    let both = [base, delta];
    let follow = follow(&both, &ids(same(0..100)), 20.0).unwrap();
    // The delta has no live row left and goes; the base's row stays removed.
    assert_eq!((follow.kept.len(), &follow.fresh[..]), (1, &[7][..]));
    assert_eq!(follow.kept[0].rows[7], None);
}

#[test]
fn a_delta_swallows_those_before_it_that_are_no_larger() {
    let held = {
        let base = held(same(0..100), &[1, 2, 3, 4, 5, 6]);
        vec![
            base,
            held(vec![(1, 101), (2, 102), (3, 103)], &[]),
            held(vec![(4, 104)], &[]),
            held(vec![(5, 105)], &[]),
        ]
    };
    let texts = |changed: &[u64]| {
        ids((0..100).filter(|key| *key != 6).map(|key| match key {
            key if changed.contains(&key) => (key, 900 + key),
            1..=5 => (key, 100 + key),
            key => (key, key),
        }))
    };
    // One new row takes 5, both then take 4 (1 row is no larger than 2), the three take the first delta.
    let all = follow(&held, &texts(&[50]), 20.0).unwrap();
    assert_eq!((all.kept.len(), all.fresh.len()), (1, 6));
    // Nothing new: everything stays.
    let none = follow(&held, &texts(&[]), 20.0).unwrap();
    assert_eq!((none.kept.len(), none.fresh.len()), (4, 0));
}

#[test]
fn churn_beyond_the_limit_asks_for_a_rebuild() {
    let target = |changed: u64| {
        ids((0..100).map(move |key| (key, if key < changed { 900 + key } else { key })))
    };
    assert!(follow(&[held(same(0..100), &[])], &target(20), 20.0).is_ok());
    let base = [held(same(0..100), &[])];
    let refused = follow(&base, &target(21), 20.0);
    assert!(refused.is_err_and(|reason| reason.contains("21 vectors")));
    assert!(follow(&[held(same(0..100), &[])], &target(0), 0.0).is_ok());
    assert!(follow(&[held(same(0..100), &[])], &target(1), 0.0).is_err());
    assert!(follow(&[], &target(1), 20.0).is_err());
}
