//! Embedding parts: round trips, races, damage, and readers in other languages.

use std::process::Command;

use crate::fixture::python;
use crate::fixture::support::{self, unit_vectors};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use scalingnote::embedding::{
    EncodedText, PartReceipt, list_parts, read_text_hashes, read_vectors, write_part,
};
use scalingnote::error::ErrorKind;
use scalingnote::index::{Calibration, IndexOptions, build};
use scalingnote::store::{Root, layout};
use scalingnote::types::{
    Cancel, Digest256, EmbeddingSpace, Embeddings, NoteId, Pooling, VectorType,
};

fn space(dimensions: u32) -> EmbeddingSpace {
    EmbeddingSpace { pooling: Pooling::LastToken, ..support::space(dimensions) }
}

fn texts(from: usize, count: usize) -> Vec<EncodedText> {
    (from..from + count)
        .map(|at| EncodedText {
            text_hash: Digest256::of(&at.to_le_bytes()),
            note_id: if at % 2 == 0 {
                NoteId::Int(at as i64)
            } else {
                NoteId::Str(format!("笔记-{at}"))
            },
            token_count: at as u32 % 300 + 1,
            truncated: at % 7 == 0,
        })
        .collect()
}

/// Row `at` holds `at`, then a fraction that f16 holds exactly.
fn vectors(from: usize, count: usize, dimensions: usize) -> Embeddings {
    let data = (from..from + count).flat_map(|at| {
        (0..dimensions).map(move |x| if x == 0 { at as f32 } else { (x % 16) as f32 / 16.0 - 0.5 })
    });
    Embeddings::from_vec(dimensions, data.collect()).unwrap()
}

async fn write(root: &Root, from: usize, count: usize, vector_type: VectorType) -> PartReceipt {
    write_part(
        root,
        &space(48),
        3,
        vector_type,
        &texts(from, count),
        &vectors(from, count, 48),
        &serde_json::json!({"release": "test"}),
    )
    .await
    .unwrap()
}

#[tokio::test]
async fn a_part_reads_back_in_any_order() {
    for vector_type in [VectorType::F32, VectorType::F16] {
        let root = Root::in_memory();
        let receipt = write(&root, 0, 2_000, vector_type).await;
        assert_eq!((receipt.rows, receipt.shard, receipt.dimensions), (2_000, 3, 48));
        let tokens: u64 = texts(0, 2_000).iter().map(|text| u64::from(text.token_count)).sum();
        assert_eq!(receipt.tokens, tokens);
        // Hashed on the way: the same as reading it back.
        assert_eq!(root.seal(&receipt.file.path).await.unwrap(), receipt.file);
        // Same input, same bytes, same name: attempts that agree share the object.
        let elsewhere = write(&Root::in_memory(), 0, 2_000, vector_type).await.file;
        assert_eq!(elsewhere, receipt.file);
        let hashes = read_text_hashes(&root, &receipt).await.unwrap();
        let expected: Vec<_> = texts(0, 2_000).iter().map(|text| text.text_hash).collect();
        assert_eq!(hashes, expected);
        let rows = [1_999, 0, 7, 7, 1_024, 8, 0];
        let found = read_vectors(&root, &receipt.file.path, &rows).await.unwrap();
        let all = vectors(0, 2_000, 48);
        for (row, found) in rows.iter().zip(found.rows()) {
            assert_eq!(found, all.row(*row as usize));
        }
        let none = read_vectors(&root, &receipt.file.path, &[]).await.unwrap();
        assert_eq!((none.len(), none.dimensions()), (0, 48));
        let error = read_vectors(&root, &receipt.file.path, &[2_000]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn many_row_groups_read_back() {
    let root = Root::in_memory();
    // 3,000 rows of 12 KiB: three row groups.
    let (count, dimensions) = (3_000, 3_072);
    let all = vectors(0, count, dimensions);
    let receipt = write_part(
        &root,
        &space(dimensions as u32),
        0,
        VectorType::F32,
        &texts(0, count),
        &all,
        &serde_json::Value::Null,
    )
    .await
    .unwrap();
    let rows: Vec<u32> = (0..count as u32).rev().step_by(3).collect();
    let found = read_vectors(&root, &receipt.file.path, &rows).await.unwrap();
    assert!(rows.iter().zip(found.rows()).all(|(row, found)| found == all.row(*row as usize)));
    assert_eq!(read_text_hashes(&root, &receipt).await.unwrap().len(), count);
}

/// Bits of a part flipped one at a time: the rows of whole pieces are read as before, what is in the damaged one is
/// refused; without hashes of pieces, as earlier releases wrote receipts, all of it is.
#[tokio::test]
async fn a_flipped_bit_is_refused_where_it_is_read() {
    let root = Root::in_memory();
    let (count, dimensions) = (700, 3_072);
    let all = unit_vectors(count, dimensions, 11);
    let (space, no) = (space(dimensions as u32), serde_json::Value::Null);
    let hashes = texts(0, count);
    let receipt = write_part(&root, &space, 0, VectorType::F32, &hashes, &all, &no);
    let receipt = receipt.await.unwrap();
    let key = &receipt.file.path;
    let good = root.get(key).await.unwrap();
    let receipt_key = layout::part_receipt(&receipt.space, 0, &receipt.part);
    let mut old = serde_json::to_value(&receipt).unwrap();
    let pieces = old.as_object_mut().unwrap().remove("pieces").unwrap();
    assert!(pieces["ends"].as_array().unwrap().len() >= 4, "{pieces}");
    let old: PartReceipt = serde_json::from_value(old).unwrap();
    let mut random = StdRng::seed_from_u64(3);
    let (mut answered, mut refused) = (0, 0);
    for at in 0..24 {
        let damaged = Root::in_memory();
        let mut bytes = good.to_vec();
        // The last ones aim at the footer.
        let from = if at < 18 { 0 } else { bytes.len() - 600 };
        let place = random.random_range(from..bytes.len());
        bytes[place] ^= 1 << random.random_range(0..8);
        damaged.put(key, bytes.into()).await.unwrap();
        for receipt in [&receipt, &old] {
            let json = serde_json::to_string(receipt).unwrap();
            damaged.put(&receipt_key, json.into()).await.unwrap_or_else(|_| panic!("no receipt"));
            for row in [3, 350, 699] {
                match read_vectors(&damaged, key, &[row]).await {
                    Ok(found) => {
                        assert!(receipt.pieces.is_some(), "byte {place} was passed over");
                        assert_eq!(found.row(0), all.row(row as usize), "byte {place}");
                        answered += 1;
                    }
                    Err(error) => {
                        let said = error.to_string();
                        assert!(said.contains(key.as_str()) && said.contains("repair"), "{said}");
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{said}");
                        refused += 1;
                    }
                }
            }
            damaged.delete(&receipt_key).await.unwrap();
        }
        // Without a receipt the name tells.
        assert!(read_vectors(&damaged, key, &[3]).await.is_err(), "byte {place}");
    }
    println!("{answered} rows answered, {refused} refused");
    assert!(answered > 20 && refused > 80, "{answered} {refused}");
}

#[tokio::test]
async fn the_first_receipt_wins_and_orphans_are_passed_over() {
    let root = Root::in_memory();
    let racing = (0..8).map(|_| {
        let root = root.clone();
        tokio::spawn(async move { write(&root, 0, 10, VectorType::F32).await })
    });
    let receipts = futures::future::join_all(racing).await;
    let first = receipts[0].as_ref().unwrap();
    assert!(receipts.iter().all(|other| other.as_ref().unwrap() == first));
    // Also after the race, and for another vector type: the part is there.
    assert_eq!(&write(&root, 0, 10, VectorType::F16).await, first);
    root.put(&layout::part(&first.space, 3, "feedfeedfeedfeed", "deaddeaddeaddead"), "torn".into())
        .await
        .unwrap();
    let other = write(&root, 10, 5, VectorType::F32).await;
    let listed = list_parts(&root, &first.space, Some(3)).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.contains(first) && listed.contains(&other));
    assert!(listed.is_sorted_by(|a, b| a.part < b.part));
    assert_eq!(list_parts(&root, &first.space, None).await.unwrap(), listed);
    assert!(list_parts(&root, &first.space, Some(4)).await.unwrap().is_empty());
    assert!(list_parts(&root, &space(7).id().unwrap(), None).await.unwrap().is_empty());
}

#[tokio::test]
async fn receipts_that_lie_are_corrupt() {
    let root = Root::in_memory();
    let receipt = write(&root, 0, 10, VectorType::F32).await;
    let forge = |part: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = serde_json::to_value(&receipt).unwrap();
        json["part"] = part.into();
        change(&mut json);
        let key = layout::part_receipt(&receipt.space, 3, part);
        let (root, space) = (root.clone(), receipt.space.clone());
        async move {
            root.put(&key, json.to_string().into()).await.unwrap();
            let error = list_parts(&root, &space, None).await.unwrap_err();
            root.delete(&key).await.unwrap();
            assert!(error.to_string().contains(&key), "{error}");
            error.kind()
        }
    };
    let version = forge("aaaaaaaaaaaaaaaa", &|json| json["version"] = 9.into()).await;
    assert_eq!(version, ErrorKind::Unsupported);
    // Only a newer release writes a field that this one does not know.
    let field = forge("aaaaaaaaaaaaaaaa", &|json| json["unknown"] = 1.into()).await;
    assert_eq!(field, ErrorKind::Unsupported);
    let changes: [fn(&mut serde_json::Value); 6] = [
        |json| json["shard"] = 4.into(),
        |json| json["space"] = "0000000000000000".into(),
        |json| json["file"]["path"] = "../../etc/passwd".into(),
        |json| {
            json["file"]["path"] =
                json["file"]["path"].as_str().unwrap().replace("/00003/", "/00003/../").into()
        },
        |json| json["version"] = serde_json::Value::Null,
        |json| *json = "no object".into(),
    ];
    for change in changes {
        assert_eq!(forge("aaaaaaaaaaaaaaaa", &change).await, ErrorKind::Corrupt);
    }
    // A receipt whose file is gone says nothing any more: the part is written again.
    root.delete(&receipt.file.path).await.unwrap();
    let error = read_vectors(&root, &receipt.file.path, &[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(write(&root, 0, 10, VectorType::F32).await, receipt);
    read_vectors(&root, &receipt.file.path, &[0]).await.unwrap();
}

#[tokio::test]
async fn what_f16_cannot_hold_is_refused() {
    let root = Root::in_memory();
    let mut wide = Embeddings::with_capacity(48, 1);
    wide.push(&[70_000.0; 48]);
    let error = write_part(
        &root,
        &space(48),
        0,
        VectorType::F16,
        &texts(0, 1),
        &wide,
        &serde_json::Value::Null,
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(list_parts(&root, &space(48).id().unwrap(), None).await.unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_part_is_an_error_or_gives_rows(
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 0..4),
        truncate in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let root = Root::in_memory();
            let receipt = write(&root, 0, 200, VectorType::F32).await;
            let mut bytes = root.get(&receipt.file.path).await.unwrap().to_vec();
            if truncate {
                bytes.truncate(cut.index(bytes.len()));
            }
            for (at, bit) in flips {
                if !bytes.is_empty() {
                    // The last two KiB: footer and page index.
                    let window = bytes.len().min(2_048);
                    let at = bytes.len() - window + at.index(window);
                    bytes[at] ^= 1 << bit;
                }
            }
            // Under the name that its bytes make, and without hashes of pieces: the decoder gets to see it.
            let hash = Digest256::of(&bytes).short();
            let key = layout::part(&receipt.space, 3, &receipt.part, &hash);
            let mut receipt = receipt;
            receipt.file = root.put(&key, bytes.into()).await.unwrap();
            receipt.pieces = None;
            let _ = read_text_hashes(&root, &receipt).await;
            let found = read_vectors(&root, &key, &[0, 199, 5]).await;
            assert!(found.map_or(true, |found| found.len() == 3));
        });
    }
}

/// Reads the files with pyarrow, DuckDB and Python's usearch: see `tests/python/read_part.py`.
#[tokio::test]
async fn python_reads_parts_and_indexes() {
    let Some(python) = python::with("duckdb, numpy, pyarrow, usearch") else { return };
    let folder = tempfile::tempdir().unwrap();
    let root = Root::open(&folder.path().join("root").display().to_string()).unwrap();
    let mut arguments = Vec::new();
    for vector_type in [VectorType::F32, VectorType::F16] {
        let from = if vector_type == VectorType::F32 { 0 } else { 1_000 };
        let receipt = write(&root, from, 500, vector_type).await;
        arguments.push(root.local_path(&receipt.file.path).unwrap());
    }
    let (index, sidecar) = (folder.path().join("a.usearch"), folder.path().join("a.f16"));
    let keys: Vec<u64> = (0..500u64).map(|key| key * 36_893_488_147_419_103 + 5).collect();
    let mut rows = Embeddings::with_capacity(48, 500);
    for at in 0..500u64 {
        let mut row = vec![0.1; 48];
        row[at as usize % 48] = 1.0;
        row[(at as usize * 7 + 3) % 48] += at as f32 / 500.0;
        rows.push(&row);
    }
    let calibration = Calibration { scale: 127.0, sample: 500, clipped: 0.0, signs: None };
    build(
        &keys,
        &rows,
        &IndexOptions::default(),
        &calibration,
        &index,
        &sidecar,
        &Cancel::new(),
        &|_| {},
    )
    .unwrap();
    let query = folder.path().join("query.json");
    let json = serde_json::json!({"key": keys[77], "vector": rows.row(77), "scale": 127.0});
    std::fs::write(&query, json.to_string()).unwrap();
    arguments.extend([index, sidecar, query]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/read_part.py");
    let output = Command::new(&python).arg(script).args(&arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    println!("{said}");
}
