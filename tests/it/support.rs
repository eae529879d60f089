//! Small real snapshots for tests of the store, of snapshots and of search.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeBinaryArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use parquet::arrow::ArrowWriter;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use scalingnote::embedding::{EncodedText, write_part};
use scalingnote::index::{self, Calibration, IndexOptions, ShardIndex};
use scalingnote::schema::ids_schema;
use scalingnote::snapshot::{
    CommitOutcome, Content, IndexContent, Manifest, Provenance, ShardContent, commit,
};
use scalingnote::store::{FileRef, Root, layout};
use scalingnote::types::{
    Arithmetic, Cancel, Digest256, ENCODER_REVISION, EmbeddingSpace, Embeddings, NoteId, NoteKey,
    Pooling, VectorType, shard_of,
};

pub fn space(dimensions: u32) -> EmbeddingSpace {
    EmbeddingSpace {
        weights: Digest256::of(b"weights"),
        adapter: None,
        tokenizer: Digest256::of(b"tokenizer"),
        prompt_prefix: String::new(),
        prompt_suffix: String::new(),
        template: Digest256::of(b"{{ body }}"),
        pooling: Pooling::Mean,
        dimensions,
        normalize: true,
        max_tokens: 128,
        arithmetic: Arithmetic::F32,
        layers: None,
        encoder_revision: ENCODER_REVISION,
    }
}

/// Seeded vectors of unit length.
pub fn unit_vectors(count: usize, dimensions: usize, seed: u64) -> Embeddings {
    let mut random = StdRng::seed_from_u64(seed);
    let mut vectors = Embeddings::with_capacity(dimensions, count);
    for _ in 0..count {
        let row: Vec<f32> = (0..dimensions).map(|_| random.random_range(-1.0..1.0)).collect();
        vectors.push(&unit(&row));
    }
    vectors
}

pub fn unit(row: &[f32]) -> Vec<f32> {
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    row.iter().map(|x| x / length).collect()
}

pub fn build_index(folder: &Path, keys: &[u64], vectors: &Embeddings) -> (PathBuf, PathBuf) {
    let options = IndexOptions::default();
    let (index, sidecar) = (folder.join("x.usearch"), folder.join("x.f16"));
    let calibration = calibration();
    let cancel = Cancel::new();
    index::build(keys, vectors, &options, &calibration, &index, &sidecar, &cancel, &|_| {})
        .unwrap();
    (index, sidecar)
}

/// Fixed, so that contents compare equal whatever the notes are.
pub fn calibration() -> Calibration {
    Calibration { scale: 300.1, sample: 10, clipped: 0.001 }
}

/// One chunk of a note.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    pub note: NoteId,
    pub chunk: u32,
    pub text: String,
    pub vector: Vec<f32>,
}

/// One note per vector, with a text of its own wherever the vector is its own.
pub fn notes(vectors: &Embeddings) -> Vec<Chunk> {
    let note = |(at, row): (usize, &[f32])| Chunk {
        note: NoteId::Int(at as i64),
        chunk: 0,
        text: format!("text {at} of {}", row[0]),
        vector: row.to_vec(),
    };
    vectors.rows().enumerate().map(note).collect()
}

/// One empty shard whose ids file is yet to be named.
pub fn store_content_without_files() -> Content {
    let space = space(4);
    let options = IndexOptions::default();
    Content {
        space_id: space.id().unwrap(),
        space,
        notes: 0,
        vectors: 0,
        shard_count: 1,
        index: IndexContent {
            options_id: options.id().unwrap(),
            options: serde_json::to_value(&options).unwrap(),
            calibration: serde_json::to_value(calibration()).unwrap(),
        },
        shards: vec![ShardContent {
            shard: 0,
            notes: 0,
            vectors: 0,
            orphans: 0,
            source: None,
            parts: Vec::new(),
            index: None,
            sidecar: None,
            ids: FileRef { path: String::new(), size: 0, sha256: Digest256::of(b"") },
            removed: None,
            deltas: Vec::new(),
            canaries: Vec::new(),
        }],
        parts: Vec::new(),
        stored_columns: Vec::new(),
        query_towers: Vec::new(),
    }
}

/// Writes parts, indexes and ids files of a corpus as the stages do, and returns the content that names them.
pub async fn store_content(root: &Root, corpus: &[Chunk], shard_count: u32) -> Content {
    store_content_with(root, corpus, shard_count, &titles).await
}

/// Stored columns of some rows.
pub type Stored<'a> = &'a (dyn Fn(&[&Chunk]) -> RecordBatch + Sync);

/// [`store_content`] with stored columns of one's own.
pub async fn store_content_with(
    root: &Root,
    corpus: &[Chunk],
    shard_count: u32,
    stored_columns: Stored<'_>,
) -> Content {
    let dimensions = corpus.first().map_or(4, |chunk| chunk.vector.len());
    let space = space(dimensions as u32);
    let space_id = space.id().unwrap();
    let options = IndexOptions::default();
    let options_id = options.id().unwrap();
    let calibrated = serde_json::to_value(calibration()).unwrap();
    let key = layout::calibration(&options_id, &space_id);
    root.put_if_absent(&key, calibrated.to_string().into()).await.unwrap();
    let (mut shards, mut parts) = (Vec::new(), Vec::new());
    for shard in 0..shard_count {
        let mut rows: Vec<&Chunk> =
            corpus.iter().filter(|chunk| shard_of(&chunk.note, shard_count) == shard).collect();
        rows.sort_by_key(|row| NoteKey::derive(&row.note, row.chunk, 0));
        let stored = store_shard(root, &space, &options_id, shard, &rows, stored_columns).await;
        parts.extend(stored.1);
        shards.push(stored.0);
    }
    parts.sort_by(|a: &FileRef, b| a.path.cmp(&b.path));
    Content {
        space_id,
        space,
        notes: shards.iter().map(|shard: &ShardContent| shard.notes).sum(),
        vectors: shards.iter().map(|shard| shard.vectors).sum(),
        shard_count,
        index: IndexContent {
            options_id,
            options: serde_json::to_value(&options).unwrap(),
            calibration: calibrated,
        },
        shards,
        parts,
        stored_columns: stored_columns(&[])
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect(),
        query_towers: Vec::new(),
    }
}

async fn store_shard(
    root: &Root,
    space: &EmbeddingSpace,
    options_id: &str,
    shard: u32,
    rows: &[&Chunk],
    stored_columns: Stored<'_>,
) -> (ShardContent, Option<FileRef>) {
    let mut content = ShardContent {
        shard,
        notes: rows.iter().filter(|row| row.chunk == 0).count() as u64,
        vectors: rows.len() as u64,
        orphans: 0,
        source: None,
        parts: Vec::new(),
        index: None,
        sidecar: None,
        ids: FileRef { path: String::new(), size: 0, sha256: Digest256::of(b"") },
        removed: None,
        deltas: Vec::new(),
        canaries: Vec::new(),
    };
    let mut part = None;
    if !rows.is_empty() {
        let mut vectors = Embeddings::with_capacity(space.dimensions as usize, rows.len());
        rows.iter().for_each(|row| vectors.push(&row.vector));
        let texts: Vec<EncodedText> = rows
            .iter()
            .map(|row| EncodedText {
                text_hash: Digest256::of(row.text.as_bytes()),
                note_id: row.note.clone(),
                token_count: 2,
                truncated: false,
            })
            .collect();
        let no = serde_json::json!({});
        let receipt =
            write_part(root, space, shard, VectorType::F32, &texts, &vectors, &no).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let keys: Vec<u64> =
            rows.iter().map(|row| NoteKey::derive(&row.note, row.chunk, 0).0).collect();
        let (index, sidecar) = build_index(folder.path(), &keys, &vectors);
        let opened =
            ShardIndex::open(&index, &sidecar, &IndexOptions::default(), &calibration()).unwrap();
        content.canaries = index::record_canaries(&opened).unwrap();
        let hash = scalingnote::store::hash_file(&sidecar).unwrap().short();
        let (index_key, sidecar_key) = (
            layout::index(options_id, shard, &hash, &hash),
            layout::sidecar(options_id, shard, &hash, &hash),
        );
        content.index = Some(root.upload(&index_key, &index).await.unwrap());
        content.sidecar = Some(root.upload(&sidecar_key, &sidecar).await.unwrap());
        let named = serde_json::json!({"index": content.index, "sidecar": content.sidecar});
        let receipt_key = layout::index_receipt(options_id, shard, &hash);
        root.put_if_absent(&receipt_key, named.to_string().into()).await.unwrap();
        content.parts = vec![receipt.file.path.clone()];
        part = Some(receipt.file);
    }
    let bytes = ids_file(rows, part.as_ref().map_or("", |part| &part.path), stored_columns(rows));
    let name = Digest256::of(&bytes).short();
    let key = layout::ids_file(options_id, shard, &name);
    content.ids = root.put(&key, bytes.into()).await.unwrap();
    (content, part)
}

/// The stored column `title`, null for every third note.
fn titles(rows: &[&Chunk]) -> RecordBatch {
    let title = |row: &&Chunk| match row.note {
        NoteId::Int(id) if id % 3 == 0 => None,
        _ => Some(format!("title of {}", row.note)),
    };
    let column: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(title)));
    RecordBatch::try_from_iter_with_nullable([("title", column, true)]).unwrap()
}

fn ids_file(rows: &[&Chunk], part: &str, stored: RecordBatch) -> Vec<u8> {
    let schema = ids_schema(stored.schema().fields());
    let hashes: Vec<Digest256> =
        rows.iter().map(|row| Digest256::of(row.text.as_bytes())).collect();
    let hashes = FixedSizeBinaryArray::try_from_sparse_iter_with_size(
        hashes.iter().map(|hash| Some(hash.0.as_slice())),
        32,
    );
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(
            rows.iter().map(|row| NoteKey::derive(&row.note, row.chunk, 0).0),
        )),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.note.to_string()))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.chunk))),
        Arc::new(hashes.unwrap()),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|_| part))),
        Arc::new(UInt32Array::from_iter_values(0..rows.len() as u32)),
    ];
    columns.extend(stored.columns().iter().cloned());
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

pub fn provenance(run: &str) -> Provenance {
    Provenance { run: run.to_owned(), ..Provenance::default() }
}

/// Commits on top of `parent` and expects to win.
pub async fn publish(
    root: &Root,
    parent: Option<&Manifest>,
    content: Content,
    run: &str,
) -> Manifest {
    match commit(root, parent, content, Vec::new(), provenance(run)).await.unwrap() {
        CommitOutcome::Committed(manifest) => *manifest,
        other => panic!("{other:?}"),
    }
}

/// The roots beside memory and local disk to test on: `SCALINGNOTE_TEST_ROOTS`, comma-separated URIs with credentials
/// in the environment (`make test-stores` sets it).
pub fn roots_of_the_environment() -> Vec<String> {
    let Ok(uris) = std::env::var("SCALINGNOTE_TEST_ROOTS") else {
        println!("skipped: SCALINGNOTE_TEST_ROOTS names no further roots");
        return Vec::new();
    };
    let uris = uris.split(',').map(|uri| uri.trim().trim_end_matches('/'));
    let uris: Vec<String> = uris.filter(|uri| !uri.is_empty()).map(str::to_owned).collect();
    assert!(!uris.is_empty(), "SCALINGNOTE_TEST_ROOTS is set and names no root");
    uris
}
