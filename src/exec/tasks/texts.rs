//! Texts that are not a corpus of notes (queries to distil from, documents to mine in), encoded by the same stage.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::local;
use super::receipts::Receipts;
use crate::config::Pipeline;
use crate::error::{Error, ErrorKind, Result, ResultExt, not_written};
use crate::exec::context::{RunContext, Session, new_run_id};
use crate::observe::Reporter;
use crate::stage::{self, EncodeOptions};
use crate::store::Root;
use crate::store::named::{Existing, write_whole};
use crate::tower::TowerOptions;
use crate::types::{Cancel, Digest256, EmbeddingSpace, Embeddings, TextHash};

/// Encodes texts with `tower` and gives their vectors in order, `[texts, dimensions]`, with the space that they are of
/// (with the empty template).
///
/// `folder` becomes a root of its own: the vectors are in it as embedding Parquet, and a text that an earlier call
/// encoded in the same space is not encoded again. Texts are trimmed, as a note's rendered text is.
///
/// # Errors
/// As [`crate::exec::run`]; Input for a text that is empty or cannot be encoded.
pub async fn encode_texts(
    tower: &TowerOptions,
    base_dir: &Path,
    texts: &[&str],
    encode: &EncodeOptions,
    folder: &Path,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<(Embeddings, EmbeddingSpace)> {
    let folder = std::path::absolute(folder).map_err(|cause| not_written(folder, cause))?;
    std::fs::create_dir_all(&folder).map_err(|cause| not_written(&folder, cause))?;
    let table = write_table(texts, &folder)?;
    let pipeline = pipeline(tower, base_dir, encode, &folder, &table)?;
    let ctx = RunContext {
        root: Root::open(&pipeline.publish.root)?,
        pipeline,
        reporter: Arc::clone(reporter),
        cancel: cancel.clone(),
    };
    ctx.admit_root().await?;
    let session = Session::new(&ctx);
    let run = new_run_id();
    let mut plan = session.plan(&run).await?.plan;
    // Vectors are all that is wanted.
    (plan.calibrate, plan.adapt) = (None, None);
    plan.build.clear();
    let tower = session.document().await?;
    let attempts = session.options.attempts;
    local::Workers::new(&ctx.pipeline, Some(tower.clone()))?
        .run(&plan, &ctx.pipeline, attempts, &session.env(), &mut Receipts::default())
        .await?;
    let hashes: Vec<TextHash> =
        texts.iter().map(|text| Digest256::of(text.trim().as_bytes())).collect();
    let dimensions = tower.dimensions() as usize;
    let vectors = stage::vectors_of(&ctx.root, &plan.spec.space_id, dimensions, &hashes).await?;
    ctx.discard_prepared(&run).await?;
    Ok((vectors, tower.space(Digest256::of(b""))))
}

/// The texts as a table, named by its own content.
fn write_table(texts: &[&str], folder: &Path) -> Result<String> {
    if let Some(at) = texts.iter().position(|text| text.trim().is_empty()) {
        return Err(Error::input(format!("text {} of {} is empty", at + 1, texts.len())));
    }
    let distinct: BTreeSet<&str> = texts.iter().map(|text| text.trim()).collect();
    let mut lines = Vec::new();
    for (id, body) in distinct.iter().enumerate() {
        let line = json!({ "note_id": id, "body": body });
        writeln!(lines, "{line}").map_err(|cause| not_written(folder, cause))?;
    }
    let table = folder.join(format!("texts-{}.jsonl", Digest256::of(&lines).short()));
    write_whole(&table, lines, Existing::Replace).map_err(|cause| not_written(&table, cause))?;
    utf8(&table)
}

fn pipeline(
    tower: &TowerOptions,
    base_dir: &Path,
    encode: &EncodeOptions,
    folder: &Path,
    table: &str,
) -> Result<Pipeline> {
    // As a pipeline file would say it: all else has its default.
    let json = json!({
        "version": 1,
        "corpus": {
            "tables": [{ "name": "texts", "uri": table, "format": "jsonl" }],
            "sql": "SELECT note_id, body FROM texts",
            "template": "{{ body }}",
        },
        "tower": tower,
        "encode": encode,
        "publish": { "root": utf8(folder)? },
    });
    let pipeline: Pipeline = serde_json::from_value(json)
        .or_error(ErrorKind::Internal, || "writing the pipeline that encodes texts")?;
    Ok(Pipeline { base_dir: base_dir.to_owned(), ..pipeline })
}

fn utf8(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::usage(format!("{} is not Unicode; choose another folder", path.display()))
    })
}
