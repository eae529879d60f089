//! Search over real snapshots: against brute force, across stores, under gc, with damaged files.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{TimeDelta, Utc};

use scalingnote::error::ErrorKind;
use scalingnote::observe::{Reporter, Silent};
use scalingnote::search::{Found, QueryEncoder, Snapshot};
use scalingnote::snapshot::{Manifest, Protected, QueryTower, Retention, gc};
use scalingnote::store::{FileRef, Root};
use scalingnote::tower::{DeviceSpec, Tower, TowerOptions};
use scalingnote::types::{Digest256, NoteId, Pooling};

use crate::fixture::support::{
    self, Chunk, local, notes, publish, store_content, unit, unit_vectors,
};

/// Best chunk of every note by the definition, in f32.
fn brute_force(corpus: &[Chunk], query: &[f32], k: usize) -> Vec<(NoteId, f32)> {
    let mut best: BTreeMap<NoteId, f32> = BTreeMap::new();
    for chunk in corpus {
        let score: f32 = chunk.vector.iter().zip(query).map(|(a, b)| a * b).sum();
        let entry = best.entry(chunk.note.clone()).or_insert(f32::MIN);
        *entry = entry.max(score);
    }
    let mut all: Vec<_> = best.into_iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(k);
    all
}

fn ids(found: &[Found]) -> Vec<NoteId> {
    found.iter().map(|found| found.note_id.clone()).collect()
}

async fn open(root: &Root, corpus: &[Chunk], shards: u32) -> (Snapshot, tempfile::TempDir) {
    publish(root, None, store_content(root, corpus, shards).await, "run").await;
    let cache = tempfile::tempdir().unwrap();
    (Snapshot::open(root, None, cache.path()).await.unwrap(), cache)
}

#[tokio::test]
async fn exact_search_is_brute_force_and_the_graph_is_close() {
    let (_folder, root) = local();
    let corpus = notes(&unit_vectors(900, 24, 7));
    let (snapshot, _cache) = open(&root, &corpus, 5).await;
    let (mut hits, mut wanted) = (0, 0);
    for query in unit_vectors(40, 24, 8).rows() {
        let expected = brute_force(&corpus, query, 10);
        let exact = snapshot.search_vector(query, 10, true).unwrap();
        for (found, (_, score)) in exact.iter().zip(&expected) {
            assert!((found.score - score).abs() < 2e-3, "{} {score}", found.score);
        }
        let same = ids(&exact).iter().filter(|id| expected.iter().any(|e| e.0 == **id)).count();
        assert!(same >= 9, "f16 may swap a neighbour at the border, no more");
        let found = snapshot.search_vector(query, 10, false).unwrap();
        assert!(found.is_sorted_by(|a, b| a.score >= b.score));
        let exact_ids = ids(&exact);
        hits += ids(&found).iter().filter(|id| exact_ids.contains(id)).count();
        wanted += 10;
    }
    let recall = hits as f64 / f64::from(wanted);
    assert!(recall > 0.97, "recall@10 {recall}");
    // The length of the query decides nothing.
    let query = corpus[5].vector.clone();
    let longer: Vec<f32> = query.iter().map(|x| x * 40.0).collect();
    let a = snapshot.search_vector(&query, 5, true).unwrap();
    assert_eq!(ids(&a), ids(&snapshot.search_vector(&longer, 5, true).unwrap()));
    assert_eq!(a[0].note_id, corpus[5].note);
}

#[tokio::test]
async fn stored_columns_come_with_their_notes() {
    let (_folder, root) = local();
    let mut corpus = notes(&unit_vectors(50, 8, 9));
    corpus[11].note = NoteId::Str("notes/été 11".to_owned());
    let (snapshot, _cache) = open(&root, &corpus, 3).await;
    let all = snapshot.search_vector(&corpus[0].vector, 1_000, false).unwrap();
    assert_eq!(all.len(), 50, "k is cut to the notes there are");
    for found in all {
        let expected = match found.note_id {
            NoteId::Int(id) if id % 3 == 0 => serde_json::Value::Null,
            _ => format!("title of {}", found.note_id).into(),
        };
        assert_eq!(found.stored["title"], expected);
        assert_eq!(found.stored.len(), 1, "only stored columns");
    }
    assert!(snapshot.search_vector(&corpus[0].vector, 0, false).unwrap().is_empty());
}

#[tokio::test]
async fn a_note_of_many_chunks_is_found_once_by_its_best() {
    let (_folder, root) = local();
    // One note with 40 chunks close to the query would fill any list of vectors.
    let base = unit_vectors(31, 16, 10);
    let query = base.row(30).to_vec();
    let mut corpus = notes(&base);
    corpus.pop();
    for chunk in 1..40u32 {
        let near: Vec<f32> = query
            .iter()
            .zip(base.row(chunk as usize % 30))
            .map(|(q, other)| q + other * 0.01 * chunk as f32)
            .collect();
        let (note, text) = (corpus[4].note.clone(), format!("chunk {chunk}"));
        corpus.push(Chunk { note, chunk, text, vector: unit(&near) });
    }
    let (snapshot, _cache) = open(&root, &corpus, 2).await;
    for exact in [true, false] {
        let found = snapshot.search_vector(&query, 10, exact).unwrap();
        assert_eq!(found.len(), 10);
        assert_eq!((&found[0].note_id, found[0].chunk), (&corpus[4].note, 1));
        let expected: Vec<NoteId> =
            brute_force(&corpus, &query, 10).into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids(&found), expected);
    }
}

#[tokio::test]
async fn equal_scores_are_ordered_by_note_id() {
    let (_folder, root) = local();
    let vector = unit(&[1.0, 2.0, 3.0, 4.0]);
    let corpus: Vec<Chunk> = [9, 3, 7, 1, 5]
        .map(|id| Chunk {
            note: NoteId::Int(id),
            chunk: 0,
            text: format!("same {id}"),
            vector: vector.clone(),
        })
        .to_vec();
    let (snapshot, _cache) = open(&root, &corpus, 3).await;
    let found = snapshot.search_vector(&vector, 5, true).unwrap();
    assert_eq!(ids(&found), [1, 3, 5, 7, 9].map(NoteId::Int));
}

#[tokio::test]
async fn another_store_is_downloaded_once_and_checked() {
    let root = Root::in_memory();
    let corpus = notes(&unit_vectors(80, 8, 11));
    let (snapshot, cache) = open(&root, &corpus, 2).await;
    let query = &corpus[17].vector;
    let first = snapshot.search_vector(query, 5, false).unwrap();
    assert_eq!(first[0].note_id, corpus[17].note);
    let files = || std::fs::read_dir(cache.path()).unwrap().map(|e| e.unwrap().path());
    assert_eq!(files().count(), 6, "index, sidecar and ids of two shards");
    // Damage in the cache is found out and made good.
    drop(snapshot);
    let damaged = files().next().unwrap();
    let mut bytes = std::fs::read(&damaged).unwrap();
    let end = bytes.len() - 1;
    bytes[end] ^= 0xff;
    std::fs::write(&damaged, bytes).unwrap();
    let again = Snapshot::open(&root, Some(1), cache.path()).await.unwrap();
    assert_eq!(again.search_vector(query, 5, false).unwrap(), first);
}

/// A plain web server over a root: files by GET, nothing else.
pub async fn serve(folder: std::path::PathBuf) -> String {
    let answer = move |uri: axum::http::Uri| {
        let path = folder.join(uri.path().trim_start_matches('/'));
        async move { std::fs::read(path).map_err(|_| axum::http::StatusCode::NOT_FOUND) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(axum::routing::get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

#[tokio::test]
async fn a_web_server_is_a_root_that_can_be_read() {
    let (folder, disk) = local();
    let corpus = notes(&unit_vectors(30, 8, 16));
    publish(&disk, None, store_content(&disk, &corpus, 2).await, "run").await;
    let root = Root::open(&serve(folder.path().to_owned()).await).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let snapshot = Snapshot::open(&root, Some(1), cache.path()).await.unwrap();
    let found = snapshot.search_vector(&corpus[9].vector, 3, false).unwrap();
    assert_eq!(found[0].note_id, corpus[9].note);
    let unlisted = Snapshot::open(&root, None, cache.path()).await.unwrap_err();
    assert_eq!(unlisted.kind(), ErrorKind::Unsupported);
    assert!(format!("{unlisted:?}").contains("number"), "{unlisted:?}");
    let missing = Snapshot::open(&root, Some(2), cache.path()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing:?}");
    let written = root.put("snapshots/x", "x".into()).await.unwrap_err();
    assert_eq!(written.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn an_open_snapshot_outlives_its_files() {
    let (_folder, root) = local();
    let corpus = notes(&unit_vectors(60, 8, 12));
    let (old, _cache) = open(&root, &corpus, 2).await;
    let other = notes(&unit_vectors(60, 8, 13));
    let content = store_content(&root, &other, 2).await;
    publish(&root, Some(old.manifest()), content, "next").await;
    let retention = Retention { snapshots: 1, grace_hours: 0, runs_days: 0 };
    let now = Utc::now() + TimeDelta::minutes(30);
    let report = gc(&root, &retention, now, false, &Protected::default()).await.unwrap();
    assert_eq!(report.deleted_snapshots, [1]);
    // Nothing of it was read before: neither note ids nor stored columns.
    let found = old.search_vector(&corpus[3].vector, 3, false).unwrap();
    assert_eq!(found[0].note_id, corpus[3].note);
    assert!(found[1].stored.contains_key("title"));
    let gone = Snapshot::open(&root, Some(1), std::path::Path::new("/nonexistent")).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn damaged_files_are_errors_that_name_them() {
    let (folder, root) = local();
    let corpus = notes(&unit_vectors(40, 8, 14));
    let manifest = publish(&root, None, store_content(&root, &corpus, 1).await, "run").await;
    let shard = &manifest.content.shards[0];
    let [index, sidecar] = [&shard.index, &shard.sidecar].map(|file| file.as_ref().unwrap());
    let cache = tempfile::tempdir().unwrap();
    for file in [index, sidecar, &shard.ids] {
        let path = folder.path().join(&file.path);
        let good = std::fs::read(&path).unwrap();
        // Cut short, emptied, and of the right size but full of something else.
        let mut wrong = good.clone();
        wrong.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(7));
        for bytes in [good[..good.len() / 2].to_vec(), Vec::new(), wrong] {
            std::fs::write(&path, bytes).unwrap();
            let error = open_and_search(&root, cache.path(), &corpus).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        }
        std::fs::write(&path, good).unwrap();
    }
    open_and_search(&root, cache.path(), &corpus).await.unwrap();
    // The ids file of another shard fits in size and format, not in keys.
    let twin = notes(&unit_vectors(40, 8, 14));
    let shifted: Vec<Chunk> = twin
        .into_iter()
        .map(|mut chunk| {
            chunk.note = match chunk.note {
                NoteId::Int(id) => NoteId::Int(id + 50),
                other => other,
            };
            chunk
        })
        .collect();
    let mut content = manifest.content.clone();
    content.shards[0].ids = store_content(&root, &shifted, 1).await.shards[0].ids.clone();
    publish(&root, Some(&manifest), content, "mixed").await;
    let error = open_and_search(&root, cache.path(), &corpus).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

async fn open_and_search(
    root: &Root,
    cache: &std::path::Path,
    corpus: &[Chunk],
) -> scalingnote::error::Result<Vec<Found>> {
    Snapshot::open(root, None, cache).await?.search_vector(&corpus[0].vector, 10, false)
}

#[tokio::test]
async fn wrong_queries_and_empty_roots_are_told() {
    let (_folder, root) = local();
    let cache = tempfile::tempdir().unwrap();
    let none = Snapshot::open(&root, None, cache.path()).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
    let corpus = notes(&unit_vectors(5, 8, 15));
    let (snapshot, _cache) = open(&root, &corpus, 2).await;
    for query in [vec![1.0; 7], vec![0.0; 8], vec![f32::NAN; 8], Vec::new()] {
        for exact in [true, false] {
            let error = snapshot.search_vector(&query, 3, exact).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input);
        }
    }
    let empty = Root::in_memory();
    let (snapshot, _cache) = open(&empty, &[], 2).await;
    assert!(snapshot.search_vector(&[1.0, 0.0, 0.0, 0.0], 3, false).unwrap().is_empty());
}

/// A manifest whose query tower is `model`.
async fn admitting(model: &str) -> Manifest {
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let options = TowerOptions::new(model, Pooling::Mean);
    let base = std::path::Path::new(".");
    let tower = Tower::resolve(&options, base, &reporter).await.unwrap();
    let root = Root::in_memory();
    let mut content = support::store_content_without_files();
    content.space = tower.space(Digest256::of(b"{{ body }}"));
    content.space_id = content.space.id().unwrap();
    content.query_towers = vec![QueryTower {
        fingerprint: tower.fingerprint().unwrap(),
        kind: "document-tower".to_owned(),
        options: serde_json::to_value(&options).unwrap(),
        teacher: None,
        adapted: None,
    }];
    let ids: FileRef = root.put("indexes/o/00000/x.ids.parquet", "x".into()).await.unwrap();
    content.shards[0].ids = ids;
    publish(&root, None, content, "run").await
}

#[tokio::test]
async fn only_the_admitted_tower_encodes_queries() {
    let manifest = admitting("fake:32").await;
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let base = std::path::Path::new(".");
    let cpu = DeviceSpec::Cpu { threads: 1 };
    let root = Root::in_memory();
    let load = |model: Option<&'static str>| {
        QueryEncoder::load(&root, &manifest, model, base, &cpu, &reporter)
    };
    let encoder = load(None).await.unwrap();
    let vector = encoder.encode("how to bake bread").unwrap();
    assert_eq!(vector.len(), 32);
    assert_eq!(encoder.encode("how to bake bread").unwrap(), vector);
    assert_ne!(encoder.encode("tax return").unwrap(), vector);
    assert_eq!(encoder.encode("  ").unwrap_err().kind(), ErrorKind::Input);
    assert!(load(Some("fake:32")).await.is_ok(), "the same tower from elsewhere is fine");

    let other = load(Some("fake:16")).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Input);
    let text = other.to_string();
    let named = &manifest.content.query_towers[0].fingerprint;
    assert!(text.contains("fake:16") && text.contains(&named.short()), "{text}");
    assert!(text.contains("weights"), "{text}");

    let mut none = manifest.clone();
    none.content.query_towers.clear();
    let error = QueryEncoder::load(&root, &none, None, base, &cpu, &reporter).await.unwrap_err();
    assert!(error.to_string().contains("no query tower"), "{error}");
    let mut broken = manifest.clone();
    // Not every command has a flag for the place of a tower that moved: it is named in a hint, not in the message.
    broken.content.query_towers[0].options["model"] = "./absent".into();
    let moved = QueryEncoder::load(&root, &broken, None, base, &cpu, &reporter).await.unwrap_err();
    let hint = moved.hint().unwrap_or_default();
    assert!(moved.to_string().contains("absent") && hint.contains("--model"), "{moved}; {hint}");
    assert!(!moved.to_string().contains("--"), "{moved}");
    for (options, kind) in [
        (serde_json::json!({"model": 1}), ErrorKind::Corrupt),
        // Only a newer release writes what this one does not know.
        (serde_json::json!({"modle": 1}), ErrorKind::Unsupported),
    ] {
        broken.content.query_towers[0].options = options;
        let loading = QueryEncoder::load(&root, &broken, None, base, &cpu, &reporter).await;
        assert_eq!(loading.unwrap_err().kind(), kind);
    }
}
