//! The published contracts in `schemas/` are what the program reads and writes.
//!
//! `UPDATE_SCHEMAS=1` rewrites the generated ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scalingnote::corpus::RESERVED_COLUMNS;
use scalingnote::embedding::{EncodedText, write_part};
use scalingnote::schema::{embedding_contract, embedding_schema, ids_contract};
use scalingnote::store::{ParquetObject, Root};
use scalingnote::types::{Digest256, Embeddings, NoteId, VectorType};

use crate::fixture::support;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

#[track_caller]
fn check(name: &str, generated: &str) {
    let path = folder().join(name);
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&path, generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        committed, generated,
        "schemas/{name} has drifted from the types; run this test with UPDATE_SCHEMAS=1 and look at the difference"
    );
}

#[test]
fn generated_contracts_are_committed() {
    for (name, schema) in [
        ("manifest", scalingnote::snapshot::json_schema()),
        ("model-card", schemars::schema_for!(scalingnote::types::ModelCard).to_value()),
        ("pipeline", scalingnote::config::Pipeline::json_schema()),
        ("plan", schemars::schema_for!(scalingnote::stage::Plan).to_value()),
        ("plan-brief", schemars::schema_for!(scalingnote::report::PlanBrief).to_value()),
        ("plan-summary", schemars::schema_for!(scalingnote::report::PlanSummary).to_value()),
        ("report", schemars::schema_for!(scalingnote::report::RunReport).to_value()),
        ("shares", schemars::schema_for!(scalingnote::stage::SharesPlan).to_value()),
        ("shares-brief", schemars::schema_for!(scalingnote::report::SharesBrief).to_value()),
    ] {
        let text = serde_json::to_string_pretty(&schema).unwrap();
        check(&format!("{name}.schema.json"), &format!("{text}\n"));
    }
    check("ids.arrow.txt", &ids_contract());
    check("embeddings.arrow.txt", &embedding_contract());
}

#[tokio::test]
async fn parts_are_written_as_the_contract_says() {
    let root = Root::in_memory();
    for vector_type in [VectorType::F32, VectorType::F16] {
        let space = support::space(4);
        let texts = [EncodedText {
            text_hash: Digest256::of(&[vector_type as u8]),
            note_id: NoteId::Int(1),
            token_count: 3,
            truncated: false,
        }];
        let vectors = Embeddings::from_vec(4, vec![1.0, 0.0, 0.0, 0.0]).unwrap();
        let provenance = serde_json::json!({});
        let receipt =
            write_part(&root, &space, 0, vector_type, &texts, &vectors, &provenance).await.unwrap();
        let file = ParquetObject::new(&root, &receipt.file.path, receipt.file.size);
        let builder = parquet::arrow::ParquetRecordBatchStreamBuilder::new(file).await.unwrap();
        let found: Vec<_> = builder.schema().fields().iter().map(Arc::clone).collect();
        let expected: Vec<_> =
            embedding_schema(4, vector_type).fields().iter().map(Arc::clone).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn the_corpus_contract_names_every_reserved_column() {
    let text = std::fs::read_to_string(folder().join("notes.md")).unwrap();
    for name in RESERVED_COLUMNS {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}

/// Reads a sidecar by nothing but the table in `sidecar.md`.
#[test]
fn a_sidecar_is_laid_out_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = support::unit_vectors(9, 5, 1);
    let keys: Vec<u64> = (1..=9).map(|at| at * 1_000_003).collect();
    let (_, sidecar) = support::build_index(folder.path(), &keys, &vectors);
    let bytes = std::fs::read(sidecar).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(&bytes[..8], b"SNF16\0\0\0");
    assert_eq!((u32_at(8), u32_at(12), u64_at(16)), (1, 5, 9));
    assert!(bytes[24..64].iter().all(|byte| *byte == 0));
    let found: Vec<u64> = (0..9).map(|at| u64_at(64 + 8 * at)).collect();
    assert_eq!(found, keys);
    let start = (64 + 8 * 9usize).next_multiple_of(64);
    assert_eq!(bytes.len(), start + 9 * 5 * 2);
    for (row, vector) in vectors.rows().enumerate() {
        for (at, value) in vector.iter().enumerate() {
            let place = start + (row * 5 + at) * 2;
            let stored = half::f16::from_le_bytes([bytes[place], bytes[place + 1]]).to_f32();
            assert!((stored - value).abs() < 1e-3, "{stored} {value}");
        }
    }
}
