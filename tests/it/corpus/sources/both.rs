//! Two pipelines over one table, one of which reads what changed: their snapshots must be of the same notes.

use scalingnote::search::Snapshot;
use scalingnote::store::Root;

use crate::fixture::days::found;
use crate::fixture::place::Place;

/// A pipeline of the changes (`p.toml`, to `root`), and one that reads everything (`full.toml`, to `full`).
pub(super) fn place_of(table: &str) -> Place {
    let place = Place::new();
    for (name, mode, root) in [("p.toml", "delta", "root"), ("full.toml", "full", "full")] {
        let file = format!(
            r#"version = 2
[corpus]
mode = "{mode}"
sql = "SELECT id AS note_id, body, lang FROM notes WHERE lang = 'en'"
template = "{{{{ body }}}}"
stored_columns = ["body", "lang"]
[[corpus.tables]]
name = "notes"
{table}
[tower]
model = "fake:16"
pooling = "mean"
[index]
shards = 2
[gates]
max_count_drop_percent = 100
[publish]
root = "{root}"
"#
        );
        place.write(name, file);
    }
    place
}

/// What a run says that it read, the bytes of it, and how many tasks there are.
pub(super) fn planned(place: &Place) -> (String, u64) {
    let plan = place.json(0, "plan p.toml --json");
    let table = &plan["tables"][0];
    (table["read"].as_str().unwrap().to_owned(), table["size"].as_u64().unwrap())
}

/// Runs both pipelines; their snapshots must be of the same notes.
pub(super) async fn both(place: &Place, at: &str) {
    for line in ["run p.toml --quiet", "run full.toml --quiet"] {
        place.expect(0, line);
    }
    let cache = place.path("cache");
    let [changes, all] = ["root", "full"].map(|name| {
        let root = Root::open(place.path(name).to_str().unwrap()).unwrap();
        let cache = cache.join(name);
        async move { found(&Snapshot::open(&root, None, &cache).await.unwrap()) }
    });
    let (changes, all) = (changes.await, all.await);
    let missed: Vec<_> = all.iter().filter(|(id, note)| changes.get(*id) != Some(note)).collect();
    assert!(missed.is_empty(), "{at}: {missed:?}");
    assert_eq!(changes.len(), all.len(), "{at}");
}
