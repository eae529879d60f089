//! The quick start's own root, as release 0.1.0 made it: by SpaceId everywhere, by file on machines of one kind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use scalingnote::config::resolve_text;
use scalingnote::snapshot::Manifest;
use scalingnote::store::hash_file;
use scalingnote::tower::Tower;
use scalingnote::types::Digest256;

use super::silent;
use crate::fixture::checkout::package;
use crate::tower::golden::smollm2;

/// What tests/fixtures/record_quickstart.py wrote.
#[derive(Deserialize)]
struct Recorded {
    space_id: String,
    query_tower: String,
    /// SHA-256 of the files beside the pipeline that decide both.
    towers: BTreeMap<PathBuf, String>,
    /// What of the processor decides a vector's bits.
    machine: String,
    /// What the parts say wrote them.
    parquet: String,
    notes: u64,
    shard_count: u32,
    files: Vec<(String, String)>,
}

fn folder() -> PathBuf {
    package().join("tests/fixtures/quickstart-0.1.0")
}

fn recorded() -> Recorded {
    serde_json::from_slice(&std::fs::read(folder().join("root.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn the_quick_starts_pipeline_still_means_the_same_spaces() {
    let Some(model) = smollm2() else { return };
    let recorded = recorded();
    let pipelines = package().join("pipelines");
    for (file, sha256) in &recorded.towers {
        let now = hash_file(&pipelines.join(file)).map(|hash| hash.to_hex());
        if now.as_ref().ok() != Some(sha256) {
            println!("skipped: {} is no longer that of 0.1.0", file.display());
            return;
        }
    }
    let text = std::fs::read_to_string(folder().join("quickstart.toml")).unwrap();
    let pipeline = resolve_text(&text, "quickstart.toml", &pipelines, [], &[]).unwrap().pipeline;
    let mut document = pipeline.tower.clone();
    document.model = model.to_str().unwrap().to_owned();
    let document = Tower::resolve(&document, &pipelines, &silent()).await.unwrap();
    let space = document.space(Digest256::of(pipeline.corpus.template.as_bytes()));
    assert_eq!(space.id().unwrap().0, recorded.space_id);

    let tokenizer = model.with_file_name("minilm").join("tokenizer-cased.json");
    if !tokenizer.is_file() {
        println!("skipped: {} is not there for the query tower", tokenizer.display());
        return;
    }
    let mut query = pipeline.query_tower();
    query.tokenizer = Some(tokenizer.to_str().unwrap().to_owned());
    let query = Tower::resolve(&query, &pipelines, &silent()).await.unwrap();
    document.admits(&query).unwrap();
    assert_eq!(query.fingerprint().unwrap().to_hex(), recorded.query_tower);
}

#[test]
fn the_quick_starts_root_has_the_same_files() {
    let recorded = recorded();
    let root = package().join(".cache/quickstart-699");
    let Ok(bytes) = std::fs::read(root.join("snapshots/00000000000000000001.json")) else {
        println!("skipped: {} holds no first snapshot; `make index` makes one", root.display());
        return;
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).unwrap();
    let content = &manifest.content;
    if content.space_id.0 != recorded.space_id {
        println!("skipped: the quick start of this release has another space");
        return;
    }
    assert_eq!((content.notes, content.shard_count), (recorded.notes, recorded.shard_count));
    if machine() != recorded.machine {
        println!("skipped: the files are those of {}, this is {}", recorded.machine, machine());
        return;
    }
    let mut files: Vec<(String, String)> =
        content.files().map(|file| (kind(&file.path).to_owned(), file.sha256.to_hex())).collect();
    files.sort();
    let same_writer = parquet_writer(&root.join(&content.parts[0].path)) == recorded.parquet;
    let compared = |files: Vec<(String, String)>| -> Vec<_> {
        files
            .into_iter()
            .filter(|(kind, _)| same_writer || ["f16", "usearch"].contains(&kind.as_str()))
            .collect()
    };
    assert_eq!(compared(files), compared(recorded.files));
}

/// The ending of a file's name: `usearch`, `f16`, `ids.parquet`, or `parquet` of a part.
fn kind(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.split_once('.').map_or("", |(_, kind)| kind)
}

fn parquet_writer(path: &Path) -> String {
    use parquet::file::reader::FileReader;
    let file = std::fs::File::open(path).unwrap();
    let reader = parquet::file::serialized_reader::SerializedFileReader::new(file).unwrap();
    reader.metadata().file_metadata().created_by().unwrap_or_default().to_owned()
}

/// The architecture and those of the processor's instructions that a kernel, or usearch, is chosen by.
fn machine() -> String {
    const CHOSEN_BY: [&str; 14] = [
        "amx_bf16",
        "amx_int8",
        "amx_tile",
        "avx2",
        "avx512_bf16",
        "avx512_fp16",
        "avx512_vnni",
        "avx512bw",
        "avx512dq",
        "avx512f",
        "avx512vl",
        "avx_vnni",
        "f16c",
        "fma",
    ];
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let has = |name: &&str| flags.split_whitespace().any(|flag| flag == *name);
    let mut words = vec![std::env::consts::ARCH];
    words.extend(CHOSEN_BY.iter().filter(|name| has(name)));
    words.join(" ")
}
