//! A worker's device: batches in, vectors out, the next batch handed over while this one is computed.

use std::sync::Arc;
use std::time::Instant;

use super::encode::quarantine;
use super::task::{TaskEnv, Worker};
use super::windows::{Batch, Encoded, Pending, Windows};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::{Event, Reporter, Stage};
use crate::tower::{Encoder, Running, Started};

/// A loaded tower and what its device has shown to hold.
pub(crate) struct Loaded {
    pub encoder: Box<dyn Encoder>,
    /// Tokens of one batch at most; set once the device ran out of memory.
    pub limit: Option<u64>,
}

/// Encodes batches of another worker's task until none is waiting.
///
/// # Errors
/// Where the tower cannot be loaded; what goes wrong with a batch is the task's failure.
pub async fn help(windows: &Arc<Windows>, worker: &mut Worker, env: &TaskEnv) -> Result<()> {
    let tower = worker.tower(windows.spec(), env).await?;
    let mut loaded = worker.take_loaded(&tower)?;
    let (windows, env) = (Arc::clone(windows), env.clone());
    let loaded = tokio::task::spawn_blocking(move || {
        work(&windows, &mut loaded, &env, false);
        loaded
    })
    .await
    .map_err(|cause| Error::internal("a helping thread ended unexpectedly").with_source(cause))?;
    worker.give_back(loaded);
    Ok(())
}

/// Takes batches until the task has none (`wait`: and will have none).
pub(super) fn work(windows: &Arc<Windows>, loaded: &mut Loaded, env: &TaskEnv, wait: bool) {
    let mut running: Option<(Batch, Box<dyn Running>)> = None;
    let mut since = Instant::now();
    loop {
        if env.cancel.is_cancelled() {
            windows.stop();
        }
        let idle = running.is_none();
        let next = windows.take(wait && idle);
        if idle {
            since = Instant::now();
        }
        let Some(batch) = next else {
            let Some((batch, vectors)) = running.take() else { return };
            finish(batch, vectors, loaded, env, &mut since);
            continue;
        };
        let started = match loaded.limit {
            Some(limit) if batch.tokens() > limit => Err(None),
            _ => loaded.encoder.start(&sequences(&batch)).map_err(Some),
        };
        match started {
            Ok(Started::Done(vectors)) => {
                let rows = vectors.rows().map(<[f32]>::to_vec).collect();
                deliver(batch, rows, loaded, env, &mut since);
            }
            Ok(Started::Running(vectors)) => {
                if let Some((before, vectors)) = running.replace((batch, vectors)) {
                    finish(before, vectors, loaded, env, &mut since);
                }
            }
            Err(error) => {
                // The batch before it takes memory until it is done.
                if let Some((before, vectors)) = running.take() {
                    finish(before, vectors, loaded, env, &mut since);
                }
                in_pieces(batch, error, loaded, env, &mut since);
            }
        }
    }
}

fn sequences(batch: &Batch) -> Vec<&[u32]> {
    batch.texts().map(|text| text.tokens.ids.as_slice()).collect()
}

fn finish(
    batch: Batch,
    running: Box<dyn Running>,
    loaded: &mut Loaded,
    env: &TaskEnv,
    since: &mut Instant,
) {
    match running.finish() {
        Ok(vectors) => {
            let rows = vectors.rows().map(<[f32]>::to_vec).collect();
            deliver(batch, rows, loaded, env, since);
        }
        Err(error) => in_pieces(batch, Some(error), loaded, env, since),
    }
}

/// Encodes a batch that the device does not hold at once. `error` is how it said so; none where it was not asked.
fn in_pieces(
    batch: Batch,
    error: Option<Error>,
    loaded: &mut Loaded,
    env: &TaskEnv,
    since: &mut Instant,
) {
    match pieces(&batch, error, loaded, &*env.reporter) {
        Ok(rows) => deliver(batch, rows, loaded, env, since),
        Err(error) => batch.fail(error),
    }
}

fn pieces(
    batch: &Batch,
    error: Option<Error>,
    loaded: &mut Loaded,
    reporter: &dyn Reporter,
) -> Result<Vec<Vec<f32>>> {
    let sequences = sequences(batch);
    if let Some(error) = error {
        halve(loaded, &sequences, error, reporter)?;
    }
    let mut rows = Vec::with_capacity(sequences.len());
    while rows.len() < sequences.len() {
        let rest = &sequences[rows.len()..];
        let limit = loaded.limit.unwrap_or(u64::MAX);
        let mut tokens = 0;
        let fitting = rest.iter().take_while(|sequence| {
            tokens += sequence.len() as u64;
            tokens <= limit
        });
        // A longer text is tried all the same.
        let piece = &rest[..fitting.count().max(1)];
        match loaded.encoder.encode(piece) {
            Ok(vectors) => rows.extend(vectors.rows().map(<[f32]>::to_vec)),
            Err(error) => halve(loaded, piece, error, reporter)?,
        }
    }
    Ok(rows)
}

/// After a batch that did not fit: at most half of it from now on. Returns every other error, and this one where a
/// text alone did not fit.
fn halve(
    loaded: &mut Loaded,
    sequences: &[&[u32]],
    error: Error,
    reporter: &dyn Reporter,
) -> Result<()> {
    if error.kind() != ErrorKind::Resource || sequences.len() < 2 {
        return Err(error);
    }
    let tokens: u64 = sequences.iter().map(|sequence| sequence.len() as u64).sum();
    let limit = loaded.limit.unwrap_or(u64::MAX).min(tokens.div_ceil(2));
    loaded.limit = Some(limit);
    reporter.event(Event::Warning {
        message: format!(
            "the device ran out of memory on a batch of {tokens} tokens; going on with {limit} at a time. \
             A smaller encode.token_budget avoids this"
        ),
    });
    Ok(())
}

/// Checks the vectors, tries bad ones again alone, and gives the batch back.
fn deliver(
    batch: Batch,
    rows: Vec<Vec<f32>>,
    loaded: &mut Loaded,
    env: &TaskEnv,
    since: &mut Instant,
) {
    let mut encoded = Vec::with_capacity(rows.len());
    for (text, row) in batch.texts().zip(rows) {
        encoded.push(if is_usable(&row) { Ok(row) } else { alone(text, &mut *loaded.encoder) });
    }
    let (done, tokens) = (encoded.len() as u64, batch.tokens());
    let seconds = since.elapsed().as_secs_f64();
    *since = Instant::now();
    batch.deliver(encoded, seconds);
    env.reporter.event(Event::Progress { stage: Stage::Encode, done, tokens });
}

/// A second try without neighbours, before a note is given up.
fn alone(text: &Pending, encoder: &mut dyn Encoder) -> Encoded {
    match encoder.encode(&[&text.tokens.ids]) {
        Ok(vectors) if is_usable(vectors.row(0)) => Ok(vectors.row(0).to_vec()),
        Ok(_) => Err(quarantine(&text.row, "non-finite or zero vector")),
        Err(error) => Err(quarantine(&text.row, &error.to_string())),
    }
}

/// A vector that an index can hold: finite and not zero.
fn is_usable(vector: &[f32]) -> bool {
    vector.iter().all(|x| x.is_finite()) && vector.iter().any(|&x| x != 0.0)
}
