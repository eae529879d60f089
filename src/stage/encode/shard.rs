//! Stage `encode`: the missing texts of one shard become parts.
//!
//! Three steps overlap: the next window is read and tokenised while this one is encoded, by this worker and by those
//! that have nothing else to do, and the last one is written. A window is one part, so memory is bounded by a few
//! windows whatever the corpus, and a crash loses little work; a cancelled run writes even the unfinished windows'
//! vectors.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures::TryStreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::device::work;
use crate::embedding::{self, PartReceipt};
use crate::error::{Result, ResultExt};
use crate::observe::{Event, Stage};
use crate::stage::length_bucket;
use crate::stage::plan::{EncodeTask, RunSpec, tokenize};
use crate::stage::quarantine::Quarantined;
use crate::stage::windows::{Pending, Windows};
use crate::stage::worker::{TaskEnv, Worker};
use crate::store::receipt::{self, Receipt};
use crate::store::{FileRef, Root, layout};
use crate::tower::TowerTokenizer;
use crate::types::TextHash;

/// Batches of prepared notes that are tokenised before they are asked for.
const AHEAD: usize = 2;

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
    /// Time that devices had a batch of this task to compute, in seconds: on a GPU by its own clock, from the beginning of
    /// a batch to its end, without the waiting between batches.
    pub busy_seconds: f64,
    /// Tokens per second that the device would encode if it did nothing but the tower's products, at the rate that it
    /// reached in large ones when the tower was loaded; absent where that is not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<f64>,
    /// Token counts: bucket's upper end -> texts.
    pub lengths: BTreeMap<u32, u64>,
}

impl Receipt for EncodeReceipt {
    fn files(&self) -> Vec<&FileRef> {
        self.parts.iter().map(|part| &part.file).collect()
    }
}

fn key(task: &EncodeTask) -> String {
    layout::encode_receipt(&task.spec.space_id, task.shard.prepared.shard, &task.id)
}

/// The receipt of a finished encode task.
///
/// # Errors
/// Transient, where the task is not finished.
pub async fn receipt(task: &EncodeTask, root: &Root) -> Result<EncodeReceipt> {
    receipt::of_finished(root, &key(task), &task.id).await
}

/// Runs the task, or returns the receipt of the attempt that finished it.
pub(crate) async fn encode(
    task: &EncodeTask,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<EncodeReceipt> {
    let mut ours = false;
    let work = async {
        ours = true;
        encode_missing(task, worker, env).await
    };
    let receipt = receipt::once(&env.root, &key(task), work).await?;
    if !ours {
        env.adopted.add(&task.id);
    }
    // A receipt that somebody needs all the same is made again.
    env.unless_purged(&task.spec, &[&key(task)], |_| true).await?;
    Ok(receipt)
}

async fn encode_missing(
    task: &EncodeTask,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<EncodeReceipt> {
    let spec = &task.spec;
    let shard = task.shard.prepared.shard;
    let started = Instant::now();
    let mut have: HashSet<TextHash> = env.stored(&task.shard).await?.into_keys().collect();
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
    let mut loaded = worker.take_loaded(&tower)?;
    receipt.ceiling = loaded.encoder.ceiling();
    let (windows, _offered) = Windows::new(spec, &env.shared);
    let reading = async {
        let read = read_windows(task, have, planned, tower.tokenizer(), env, &windows).await;
        windows.finish_reading();
        read
    };
    let (job, job_env) = (Arc::clone(&windows), env.clone());
    let encoding = tokio::task::spawn_blocking(move || {
        work(&job, &mut loaded, &job_env, true);
        loaded
    });
    let writing = async {
        let written = write_parts(env, spec, shard, &windows, &mut receipt).await;
        if written.is_err() {
            windows.stop();
        }
        written
    };
    let (read, encoded, written) = tokio::join!(reading, encoding, writing);
    let loaded = encoded.context(|| "the encoding thread ended unexpectedly")?;
    worker.give_back(loaded);
    // A failed write stops the encoder, and that stops the reader: say the first cause.
    let outcome = written.and_then(|()| windows.failure()).and_then(|()| env.cancel.check());
    let quarantined = outcome.and(read).inspect_err(|_| {
        // What is not stored is encoded again.
        let (texts, tokens) = windows.end_count();
        let done = texts.saturating_sub(receipt.texts);
        let tokens = tokens.saturating_sub(receipt.tokens);
        env.reporter.event(Event::Lost { stage: Stage::Encode, done, tokens });
    })?;
    receipt.quarantined.extend(quarantined);
    receipt.quarantined.sort_by(|a, b| a.note_id.cmp(&b.note_id));
    receipt.seconds = started.elapsed().as_secs_f64();
    Ok(receipt)
}

/// Reads and tokenises; opens windows of at most `part_tokens` tokens. Returns what could not be tokenised.
/// With a share (its tokens, and what was stored when it was planned) it stops before the first text that no longer
/// fits.
async fn read_windows(
    task: &EncodeTask,
    have: HashSet<TextHash>,
    share: Option<(u64, HashSet<TextHash>)>,
    tokenizer: &TowerTokenizer,
    env: &TaskEnv,
    windows: &Windows,
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
    let batches = env.inputs.prepared(&env.root, &task.shard.prepared).await?;
    let tokenized = batches.map_ok(|batch| {
        let rows = batch
            .rows
            .into_iter()
            .filter(|row| !row.deleted && !row.text.is_empty() && seen.insert(row.text_hash));
        tokenize(tokenizer, rows.collect())
    });
    // All threads tokenise one batch; the next is read and begun meanwhile, also while the windows are full.
    let mut tokenized = std::pin::pin!(tokenized.try_buffered(AHEAD));
    'reading: while let Some(rows) = tokenized.try_next().await? {
        if env.cancel.is_cancelled() {
            break;
        }
        for (row, result) in rows {
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
                Err(error) => quarantined.push(Quarantined::new(&row, &error.to_string())),
            }
            if tokens >= part_tokens || window.len() >= part_texts {
                tokens = 0;
                if !windows.open(std::mem::take(&mut window)).await {
                    return Ok(quarantined);
                }
            }
        }
    }
    if !window.is_empty() {
        windows.open(window).await;
    }
    Ok(quarantined)
}

/// Writes every window as a part and keeps the books.
async fn write_parts(
    env: &TaskEnv,
    spec: &RunSpec,
    shard: u32,
    windows: &Windows,
    receipt: &mut EncodeReceipt,
) -> Result<()> {
    while let Some(window) = windows.close_next().await {
        receipt.quarantined.extend(window.quarantined);
        receipt.busy_seconds += window.busy_seconds;
        if window.texts.is_empty() {
            continue;
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
        env.unless_purged(spec, &[&part.key(), &part.file.path], |purged| {
            window.texts.iter().any(|text| purged.contains(&text.note_id))
        })
        .await?;
        env.kept.add(part.rows, part.tokens, part.file.size);
        // What is not stored does not count.
        for text in &window.texts {
            receipt.texts += 1;
            receipt.tokens += u64::from(text.token_count);
            receipt.truncated += u64::from(text.truncated);
            *receipt.lengths.entry(length_bucket(text.token_count)).or_default() += 1;
        }
        receipt.bytes += part.file.size;
        receipt.parts.push(part);
    }
    Ok(())
}
