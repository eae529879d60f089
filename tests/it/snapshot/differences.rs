//! What `diff` says of snapshots in which the same notes are found: whatever else they record is told, too.

use std::collections::BTreeSet;

use serde_json::json;

use scalingnote::snapshot::{self, Manifest, QueryTower};
use scalingnote::store::Root;
use scalingnote::types::Digest256;

use crate::fixture::support::{notes, provenance, store_content, unit_vectors};

/// A snapshot of two shards, made from a whole corpus, with a query tower.
async fn manifest() -> Manifest {
    let root = Root::in_memory();
    let mut content = store_content(&root, &notes(&unit_vectors(20, 8, 4)), 2).await;
    for shard in &mut content.shards {
        shard.source = Some(Digest256::of(b"the corpus"));
    }
    content.stored_columns = vec!["title".to_owned(), "likes".to_owned()];
    content.query_towers.push(QueryTower {
        fingerprint: Digest256::of(b"tower"),
        kind: QueryTower::DISTILLED.to_owned(),
        options: json!({"model": "org/student", "revision": "a"}),
        teacher: None,
        adapted: None,
    });
    let mut manifest = snapshot::proposed(None, &content).unwrap();
    manifest.provenance = provenance("run 1");
    manifest.provenance.sql = Some(Digest256::of(b"select"));
    manifest
}

/// The names of what a comparison says otherwise than that of a snapshot with itself.
fn told(from: &Manifest, to: &Manifest) -> BTreeSet<String> {
    let said = |to: &Manifest| serde_json::to_value(snapshot::diff(from, to)).unwrap();
    let (same, other) = (said(from), said(to));
    let names = other.as_object().unwrap().keys();
    names.filter(|name| same[name.as_str()] != other[name.as_str()]).cloned().collect()
}

#[tokio::test]
async fn what_is_recorded_beside_the_notes_is_told() {
    let first = manifest().await;
    assert!(told(&first, &first).is_empty());
    type Change = (fn(&mut Manifest), &'static [&'static str]);
    let changes: [Change; 8] = [
        (|it| it.content.shards[1].source = None, &["read_in_full", "sources_changed"]),
        (|it| it.content.shards[1].source = Some(Digest256::of(b"another")), &["sources_changed"]),
        (
            |it| it.content.shards[0].sidecar.as_mut().unwrap().sha256 = Digest256::of(b"x"),
            &["indexes_changed"],
        ),
        (|it| it.content.shards[0].canaries.clear(), &["canaries_changed"]),
        (|it| it.content.stored_columns.reverse(), &["columns_reordered"]),
        (|it| it.content.query_towers[0].options["revision"] = json!("b"), &["towers_changed"]),
        (|it| it.provenance.sql = Some(Digest256::of(b"select all")), &["sql_changed"]),
        (
            |it| drop(it.provenance.measured.insert("types".to_owned(), json!({"tables": {}}))),
            &["types_changed"],
        ),
    ];
    for (change, names) in changes {
        let mut second = first.clone();
        change(&mut second);
        let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(told(&first, &second), names);
        assert_eq!(told(&second, &first), names);
    }
    // What a command did records no SQL, which says nothing of the SQL.
    let mut command = first.clone();
    command.provenance.sql = None;
    assert!(told(&first, &command).is_empty());
}
