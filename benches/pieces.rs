//! What it costs to check every piece of a part by its hash, whenever it is read and when it is written.
//!
//! Prints one JSON object per step: {"step", "with", "without", "ratio"}: seconds of processor time with the hashes of pieces
//! and without them, the best of `TURNS` in turns. A file's own SHA-256 is in both.

use std::sync::Arc;

use futures::TryStreamExt;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use rand::{Rng, SeedableRng, rngs::StdRng};
use scalingnote::embedding::{EncodedText, write_part};
use scalingnote::store::{Cutter, ParquetObject, Root};
use scalingnote::types::{
    Arithmetic, Digest256, ENCODER_REVISION, EmbeddingSpace, Embeddings, NoteId, Pooling,
    VectorType,
};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

const TURNS: usize = 9;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let (rows, dimensions) = (16_384_usize, 384_usize);
    let root = Root::in_memory();
    let mut random = StdRng::seed_from_u64(1);
    let data = (0..rows * dimensions).map(|_| random.random_range(-1.0..1.0)).collect();
    let vectors = Embeddings::from_vec(dimensions, data)?;
    let text = |at: usize| EncodedText {
        text_hash: Digest256::of(&at.to_le_bytes()),
        note_id: NoteId::Int(at as i64),
        token_count: 100,
        truncated: false,
    };
    let texts: Vec<EncodedText> = (0..rows).map(text).collect();
    let space = EmbeddingSpace {
        weights: Digest256::of(b"weights"),
        adapter: None,
        tokenizer: Digest256::of(b"tokenizer"),
        prompt_prefix: String::new(),
        prompt_suffix: String::new(),
        template: Digest256::of(b"{{ text }}"),
        pooling: Pooling::Mean,
        dimensions: u32::try_from(dimensions)?,
        normalize: false,
        max_tokens: 512,
        arithmetic: Arithmetic::F32,
        modules: Vec::new(),
        head: None,
        prompt_joined: false,
        layers: None,
        encoder_revision: ENCODER_REVISION,
    };
    let part = write_part(&root, &space, 0, VectorType::F32, &texts, &vectors, &json!({})).await?;
    let (key, size) = (part.file.path.as_str(), part.file.size);
    println!("{}", json!({ "rows": rows, "dimensions": dimensions, "bytes": size }));
    let pieces = Arc::new(part.pieces.clone().ok_or("a part without pieces")?);
    let bytes = root.get(key).await?;
    let (mut read, mut written) = ([f64::INFINITY; 2], [f64::INFINITY; 2]);
    for _ in 0..TURNS {
        let object = ParquetObject::new(&root, key, size);
        let checked = object.clone().with_pieces(Arc::clone(&pieces));
        for (best, object) in read.iter_mut().zip([checked, object]) {
            let before = processor();
            let mut batches = ParquetRecordBatchStreamBuilder::new(object).await?.build()?;
            while let Some(batch) = batches.try_next().await? {
                std::hint::black_box(batch.num_rows());
            }
            *best = best.min(processor() - before);
        }
        let before = processor();
        std::hint::black_box(Digest256::of(&bytes));
        written[1] = written[1].min(processor() - before);
        let before = processor();
        std::hint::black_box(Digest256::of(&bytes));
        let mut cutter = Cutter::new((1 << 20..).step_by(1 << 20));
        cutter.add(&bytes);
        std::hint::black_box(cutter.finish());
        written[0] = written[0].min(processor() - before);
    }
    for (step, [with, without]) in [("decode a part", read), ("hash a part", written)] {
        let ratio = with / without;
        println!("{}", json!({ "step": step, "with": with, "without": without, "ratio": ratio }));
    }
    Ok(())
}

/// Processor seconds of all threads of this process.
fn processor() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that the call may write to.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the processor clock exists on every system that this bench runs on");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
