//! Measures what it costs to check every piece of a part by its hash, whenever it is read.
//!
//! usage: pieces [--rows N] [--dimensions N]
//!
//! Standard output gets one JSON object per step: {"step", "seconds", "hashing", "ratio"}: processor seconds of the step
//! as the program does it, those of them that go into the hashes of pieces, and the step divided by the step without
//! them. Reading is measured both ways, in turns, by the same code: a part's reader with and without its pieces. A rewrite
//! reads a part, writes it, and hashes the pieces of what it wrote; a build reads the vectors and inserts them: of these the
//! hashing is what reading and cutting alone take. The best of `TURNS` counts.

use std::sync::Arc;

use futures::TryStreamExt;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use rand::{Rng, SeedableRng, rngs::StdRng};
use scalingnote::embedding::{
    EncodedText, Fate, PartReceipt, read_text_hashes, read_vectors, rewrite_part, write_part,
};
use scalingnote::index::{IndexOptions, build, calibrate};
use scalingnote::store::{Cutter, ParquetObject, Pieces, Root};
use scalingnote::types::{
    Arithmetic, Cancel, Digest256, ENCODER_REVISION, EmbeddingSpace, Embeddings, NoteId, Pooling,
    VectorType,
};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

const TURNS: usize = 7;
/// What the cutter is asked for: pieces as a part's receipt has them.
const PIECE: u64 = 1 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let (mut rows, mut dimensions) = (16_384, 384);
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut number = || given.next().ok_or("a number is missing");
        match argument.as_str() {
            "--rows" => rows = number()?.parse()?,
            "--dimensions" => dimensions = number()?.parse()?,
            // What cargo itself adds.
            "--bench" => {}
            other => return Err(format!("{other} is not known").into()),
        }
    }
    let folder = tempfile::tempdir()?;
    let root = Root::open(folder.path().to_str().ok_or("TMPDIR is no text")?)?;
    let part = written(&root, rows, dimensions).await?;
    let pieces: Arc<Pieces> = Arc::new(part.pieces.clone().ok_or("a part without pieces")?);
    println!("{}", json!({ "rows": rows, "dimensions": dimensions, "bytes": part.file.size }));

    let plain = PartReceipt { pieces: None, ..part.clone() };
    let (mut with, mut without) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..TURNS {
        with = with.min(seconds(async || read_text_hashes(&root, &part).await.map(drop)).await?);
        let plain = async || read_text_hashes(&root, &plain).await.map(drop);
        without = without.min(seconds(plain).await?);
    }
    tell("read the text hashes", with, with - without);

    let (mut with, mut without) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..TURNS {
        let object = || ParquetObject::new(&root, &part.file.path, part.file.size);
        let checked = async || decode(object().with_pieces(Arc::clone(&pieces))).await;
        with = with.min(seconds(checked).await?);
        without = without.min(seconds(async || decode(object()).await).await?);
    }
    tell("read all of a part", with, with - without);
    let reading = with - without;

    let bytes = root.get(&part.file.path).await?;
    let (mut cutting, mut rewriting) = (f64::INFINITY, f64::INFINITY);
    for turn in 0..TURNS {
        let cut = async || {
            let mut cutter = Cutter::new((PIECE..).step_by(PIECE as usize));
            cutter.add(&bytes);
            std::hint::black_box(cutter.finish());
            Ok::<_, Failure>(())
        };
        cutting = cutting.min(seconds(cut).await?);
        // Another note each time: what was rewritten already is only found.
        let gone = NoteId::Int(turn as i64).to_string();
        let fate = move |note: &str, _: &Digest256| match note == gone {
            true => Fate::Drop,
            false => Fate::Keep,
        };
        let rewrite = async || rewrite_part(&root, &part, &fate).await.map(drop);
        rewriting = rewriting.min(seconds(rewrite).await?);
    }
    tell("rewrite a part", rewriting, reading + cutting);

    let all: Vec<u32> = (0..u32::try_from(rows)?).collect();
    let options = IndexOptions::default();
    let build_index = async || {
        let vectors = read_vectors(&root, &part.file.path, &all).await?;
        let calibration = calibrate(&vectors, &options)?;
        let keys: Vec<u64> = all.iter().map(|row| u64::from(*row)).collect();
        let paths = ["a.usearch", "a.f16"].map(|name| folder.path().join(name));
        let cancel = Cancel::new();
        build(&keys, &vectors, &options, &calibration, &paths[0], &paths[1], &cancel, &|_| {})
            .map(drop)
    };
    // Once: it takes a thousand times what is looked for.
    tell("read and build an index", seconds(build_index).await?, reading);
    Ok(())
}

fn tell(step: &str, seconds: f64, hashing: f64) {
    let ratio = seconds / (seconds - hashing);
    println!("{}", json!({ "step": step, "seconds": seconds, "hashing": hashing, "ratio": ratio }));
}

async fn written(root: &Root, rows: usize, dimensions: usize) -> Result<PartReceipt, Failure> {
    let mut random = StdRng::seed_from_u64(1);
    let mut data = Vec::with_capacity(rows * dimensions);
    for _ in 0..rows {
        let row: Vec<f32> = (0..dimensions).map(|_| random.random_range(-1.0..1.0)).collect();
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        data.extend(row.iter().map(|x| x / length));
    }
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
        normalize: true,
        max_tokens: 512,
        arithmetic: Arithmetic::F32,
        modules: Vec::new(),
        prompt_joined: false,
        layers: None,
        encoder_revision: ENCODER_REVISION,
    };
    Ok(write_part(root, &space, 0, VectorType::F32, &texts, &vectors, &json!({})).await?)
}

async fn decode(object: ParquetObject) -> Result<(), Failure> {
    let builder = ParquetRecordBatchStreamBuilder::new(object).await?;
    let mut batches = builder.with_batch_size(1024).build()?;
    while let Some(batch) = batches.try_next().await? {
        std::hint::black_box(batch.num_rows());
    }
    Ok(())
}

/// Processor seconds of all threads of this process.
async fn seconds<E>(work: impl AsyncFnOnce() -> Result<(), E>) -> Result<f64, E> {
    let before = processor();
    work().await?;
    Ok(processor() - before)
}

fn processor() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that the call may write to.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the processor clock exists on every system that this bench runs on");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
