//! Stage `encode`: the missing texts of one shard become parts.
//!
//! Three steps overlap: the next window is read and tokenised while this one is encoded and the last one is
//! written. A window is one part, so memory is bounded by two windows whatever the corpus, and a crash loses
//! at most one window's work; a cancelled run writes even the unfinished window's vectors.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::ids::Ids;
use super::located;
use super::plan::{EncodeTask, RunSpec};
use super::segments::is_damage;
use super::task::{TaskEnv, Worker, not_finished, put_receipt, read_receipt};
use crate::corpus::{PreparedReader, PreparedRow};
use crate::embedding::{self, EncodedText, PartReceipt};
use crate::error::{Error, Result};
use crate::observe::{Event, Stage};
use crate::stage::LengthHistogram;
use crate::store::{Root, layout};
use crate::tower::{Encoder, Tokenized, TowerTokenizer, pack};
use crate::types::{Cancel, Embeddings, TextHash};

/// A note that could not be encoded alone; the run goes on without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quarantined {
    /// Tagged note id.
    pub note_id: String,
    /// Hash of the text.
    pub text_hash: TextHash,
    /// Why; never text.
    pub reason: String,
}

/// What an encode task did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncodeReceipt {
    /// Task id.
    pub id: String,
    /// Parts that hold the texts, finished by this attempt or by earlier ones.
    pub parts: Vec<PartReceipt>,
    /// Texts encoded by this attempt.
    pub texts: u64,
    /// Tokens encoded by this attempt, prompt included.
    pub tokens: u64,
    /// Texts cut to fit.
    pub truncated: u64,
    /// Bytes of the parts written by this attempt.
    pub bytes: u64,
    /// Notes left out, with reasons.
    pub quarantined: Vec<Quarantined>,
    /// Wall time of this attempt in seconds.
    pub seconds: f64,
    /// Time the device spent encoding, in seconds.
    pub busy_seconds: f64,
    /// Token counts: bucket's upper end -> texts.
    pub lengths: BTreeMap<u32, u64>,
}

/// Runs the task, or returns the receipt of the attempt that finished it.
pub(crate) async fn execute(
    task: &EncodeTask,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<EncodeReceipt> {
    let spec = &task.spec;
    let shard = task.shard.prepared.shard;
    let key = layout::encode_receipt(&spec.space_id, shard, &task.id);
    if let Some(receipt) = read_receipt::<EncodeReceipt>(&env.root, &key).await? {
        if all_present(&env.root, &receipt.parts).await? {
            return Ok(receipt);
        }
        // Its parts were collected as garbage since: the receipt no longer says anything.
        env.root.delete(&key).await?;
    }
    let started = Instant::now();
    let located = located::read(&env.root, task.shard.located.as_ref()).await?;
    let mut have: HashSet<TextHash> = located.into_keys().collect();
    if let Some(parent) = &task.shard.parent {
        match Ids::of_shard(&env.root, &parent.shard).await {
            Ok(ids) => have.extend(ids.rows.iter().map(|row| row.text_hash)),
            // The parts below know the texts too; the build says what is wrong with the parent.
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(error),
        }
    }
    // A share counts from what was stored when it was planned, so that a second attempt ends at the same text.
    let planned = task.token_limit.map(|limit| (limit, have.clone()));
    let mut receipt = EncodeReceipt { id: task.id.clone(), ..EncodeReceipt::default() };
    for part in embedding::list_parts(&env.root, &spec.space_id, Some(shard)).await? {
        let before = have.len();
        have.extend(embedding::read_text_hashes(&env.root, &part).await?);
        if have.len() > before {
            receipt.parts.push(part);
        }
    }
    let tower = worker.tower(spec, env).await?;
    let encoder = worker.take_encoder(&tower)?;
    let (windows_in, windows_out) = mpsc::channel(1);
    let (done_in, done_out) = mpsc::channel(1);
    let reading =
        read_windows(task, have, planned, tower.tokenizer().clone(), env.clone(), windows_in);
    let budget = spec.encode.token_budget;
    let job =
        EncodeJob { encoder, budget, dimensions: spec.space.dimensions as usize, env: env.clone() };
    let encoding = tokio::task::spawn_blocking(move || job.run(windows_out, done_in));
    let writing = write_parts(env, spec, shard, done_out, &mut receipt);
    let (read, encoded, written) = tokio::join!(reading, encoding, writing);
    let (encoder, finished) = encoded.map_err(|cause| {
        Error::internal("the encoding thread ended unexpectedly").with_source(cause)
    })?;
    worker.give_back(encoder);
    // A failed write stops the encoder by closing its channel, and that stops the reader: say the first cause.
    written?;
    finished?;
    receipt.quarantined.extend(read?);
    receipt.quarantined.sort_by(|a, b| a.note_id.cmp(&b.note_id));
    receipt.seconds = started.elapsed().as_secs_f64();
    put_receipt(&env.root, &key, receipt).await
}

/// The receipt of a finished encode task.
///
/// # Errors
/// Transient, where the task is not finished.
pub async fn receipt(task: &EncodeTask, root: &Root) -> Result<EncodeReceipt> {
    let shard = task.shard.prepared.shard;
    let key = layout::encode_receipt(&task.spec.space_id, shard, &task.id);
    read_receipt(root, &key).await?.ok_or_else(|| not_finished(&task.id))
}

async fn all_present(root: &Root, parts: &[PartReceipt]) -> Result<bool> {
    for part in parts {
        if root.size(&part.file.path).await? != Some(part.file.size) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A text waiting to be encoded.
struct Pending {
    row: PreparedRow,
    tokens: Tokenized,
}

/// One window, encoded: row i of `vectors` belongs to `texts[i]`.
struct EncodedWindow {
    texts: Vec<EncodedText>,
    vectors: Embeddings,
    quarantined: Vec<Quarantined>,
    busy_seconds: f64,
}

/// Reads and tokenises; sends windows of at most `part_tokens` tokens. Returns what could not be tokenised.
/// With a share (its tokens, and what was stored when it was planned) it stops before the first text that no longer
/// fits.
async fn read_windows(
    task: &EncodeTask,
    have: HashSet<TextHash>,
    share: Option<(u64, HashSet<TextHash>)>,
    tokenizer: TowerTokenizer,
    env: TaskEnv,
    windows: mpsc::Sender<Vec<Pending>>,
) -> Result<Vec<Quarantined>> {
    let part_tokens = task.spec.encode.resolved_part_tokens();
    let part_texts = task.spec.encode.part_texts as usize;
    let mut quarantined = Vec::new();
    let mut window = Vec::new();
    let mut tokens = 0;
    // Texts of the share that an earlier attempt stored count, but are not encoded again.
    let (mut left, mut seen, stored) = match share {
        Some((limit, planned)) => (limit, planned, have),
        None => (u64::MAX, have, HashSet::new()),
    };
    let mut reader = PreparedReader::open(&env.root, &task.shard.prepared).await?;
    'reading: while let Some(batch) = reader.next().await? {
        if env.cancel.is_cancelled() {
            break;
        }
        let rows: Vec<PreparedRow> = batch
            .rows
            .into_iter()
            .filter(|row| !row.deleted && !row.text.is_empty() && seen.insert(row.text_hash))
            .collect();
        let tokenizer = tokenizer.clone();
        let tokenized: Vec<(PreparedRow, Result<Tokenized>)> =
            tokio::task::spawn_blocking(move || {
                rows.into_par_iter()
                    .map(|row| {
                        let tokens = tokenizer.tokenize(&row.text);
                        (row, tokens)
                    })
                    .collect()
            })
            .await
            .map_err(|cause| Error::internal("the tokenising thread ended").with_source(cause))?;
        for (row, result) in tokenized {
            match result {
                Ok(encoding) => {
                    let length = encoding.ids.len() as u64;
                    if length > left {
                        break 'reading;
                    }
                    left -= length;
                    if stored.contains(&row.text_hash) {
                        continue;
                    }
                    tokens += length;
                    window.push(Pending { row, tokens: encoding });
                }
                Err(error) => quarantined.push(quarantine(&row, &error.to_string())),
            }
            if tokens >= part_tokens || window.len() >= part_texts {
                tokens = 0;
                if windows.send(std::mem::take(&mut window)).await.is_err() {
                    return Ok(quarantined);
                }
            }
        }
    }
    if !window.is_empty() {
        let _closed = windows.send(window).await;
    }
    Ok(quarantined)
}

fn quarantine(row: &PreparedRow, reason: &str) -> Quarantined {
    Quarantined {
        note_id: row.note_id.to_string(),
        text_hash: row.text_hash,
        reason: reason.to_owned(),
    }
}

/// The device's side of the pipeline.
struct EncodeJob {
    encoder: Box<dyn Encoder>,
    budget: u32,
    dimensions: usize,
    env: TaskEnv,
}

impl EncodeJob {
    /// Encodes windows until the reader is done, the writer is gone, or it is time to stop. Gives the encoder back.
    fn run(
        mut self,
        mut windows: mpsc::Receiver<Vec<Pending>>,
        done: mpsc::Sender<EncodedWindow>,
    ) -> (Box<dyn Encoder>, Result<()>) {
        let cancel = self.env.cancel.clone();
        while let Some(window) = windows.blocking_recv() {
            let (encoded, outcome) = self.window(window, &cancel);
            let writer_gone = encoded.is_some_and(|encoded| done.blocking_send(encoded).is_err());
            if let Err(error) = outcome {
                return (self.encoder, Err(error));
            }
            if writer_gone {
                break;
            }
        }
        (self.encoder, cancel.check())
    }

    /// One window, length-sorted and packed. Stopped midway, it returns what is encoded so far.
    fn window(
        &mut self,
        window: Vec<Pending>,
        cancel: &Cancel,
    ) -> (Option<EncodedWindow>, Result<()>) {
        let started = Instant::now();
        let lengths: Vec<u32> = window.iter().map(|text| text.tokens.ids.len() as u32).collect();
        let mut vectors: Vec<Option<Vec<f32>>> = vec![None; window.len()];
        let mut quarantined = Vec::new();
        let mut outcome = Ok(());
        for batch in pack(&lengths, self.budget) {
            outcome = cancel.check();
            if outcome.is_err() {
                break;
            }
            let sequences: Vec<&[u32]> =
                batch.iter().map(|&at| window[at].tokens.ids.as_slice()).collect();
            let encoded = match self.encoder.encode(&sequences) {
                Ok(encoded) => encoded,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            for (row, &at) in encoded.rows().zip(&batch) {
                if is_usable(row) {
                    vectors[at] = Some(row.to_vec());
                    continue;
                }
                match self.alone(&window[at]) {
                    Ok(row) => vectors[at] = Some(row),
                    Err(reason) => quarantined.push(quarantine(&window[at].row, &reason)),
                }
            }
            let tokens: u64 = batch.iter().map(|&at| u64::from(lengths[at])).sum();
            self.env.reporter.event(Event::Progress {
                stage: Stage::Encode,
                done: batch.len() as u64,
                tokens,
            });
        }
        let mut texts = Vec::with_capacity(window.len());
        let mut matrix = Embeddings::with_capacity(self.dimensions, window.len());
        for (text, vector) in window.into_iter().zip(vectors) {
            let Some(vector) = vector else { continue };
            matrix.push(&vector);
            texts.push(EncodedText {
                text_hash: text.row.text_hash,
                note_id: text.row.note_id,
                token_count: text.tokens.ids.len() as u32,
                truncated: text.tokens.truncated,
            });
        }
        let busy_seconds = started.elapsed().as_secs_f64();
        let encoded = (!texts.is_empty() || !quarantined.is_empty()).then_some(EncodedWindow {
            texts,
            vectors: matrix,
            quarantined,
            busy_seconds,
        });
        (encoded, outcome)
    }

    /// A second try without neighbours, before a note is given up.
    fn alone(&mut self, text: &Pending) -> Result<Vec<f32>, String> {
        let encoded =
            self.encoder.encode(&[&text.tokens.ids]).map_err(|error| error.to_string())?;
        let row = encoded.row(0);
        if is_usable(row) { Ok(row.to_vec()) } else { Err("non-finite or zero vector".to_owned()) }
    }
}

/// A vector that an index can hold: finite and not zero.
fn is_usable(vector: &[f32]) -> bool {
    vector.iter().all(|x| x.is_finite()) && vector.iter().any(|&x| x != 0.0)
}

/// Writes every window as a part and keeps the books.
async fn write_parts(
    env: &TaskEnv,
    spec: &RunSpec,
    shard: u32,
    mut windows: mpsc::Receiver<EncodedWindow>,
    receipt: &mut EncodeReceipt,
) -> Result<()> {
    while let Some(window) = windows.recv().await {
        receipt.quarantined.extend(window.quarantined);
        receipt.busy_seconds += window.busy_seconds;
        if window.texts.is_empty() {
            continue;
        }
        for text in &window.texts {
            receipt.texts += 1;
            receipt.tokens += u64::from(text.token_count);
            receipt.truncated += u64::from(text.truncated);
            *receipt.lengths.entry(LengthHistogram::up_to(text.token_count)).or_default() += 1;
        }
        let part = embedding::write_part(
            &env.root,
            &spec.space,
            shard,
            spec.encode.vector_type,
            &window.texts,
            &window.vectors,
            &serde_json::json!({ "model": spec.tower.model }),
        )
        .await?;
        env.kept.add(part.rows, part.tokens, part.file.size);
        receipt.bytes += part.file.size;
        receipt.parts.push(part);
    }
    Ok(())
}
