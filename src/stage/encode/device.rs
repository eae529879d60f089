//! A worker's device: batches in, vectors out, the next batch handed over while this one is computed.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::observe::{Event, Stage};
use crate::stage::quarantine::Quarantined;
use crate::stage::windows::{Batch, Encoded, Pending, Windows};
use crate::stage::worker::{Loaded, TaskEnv, Worker};
use crate::tower::{Encoder, Running, Started, TowerTokenizer};
use crate::types::Embeddings;

/// Encodes batches of another worker's task until none is waiting.
///
/// # Errors
/// Where the tower cannot be loaded; what goes wrong with a batch is the task's failure.
pub async fn help(windows: &Arc<Windows>, worker: &mut Worker, env: &TaskEnv) -> Result<()> {
    let (theirs, own_env) = (Arc::clone(windows), env.clone());
    let job = move |loaded: &mut Loaded, _: &TowerTokenizer| work(&theirs, loaded, &own_env, false);
    worker.compute(windows.spec(), env, "a helping thread", job).await
}

/// Takes batches until the task has none (`wait`: and will have none).
pub(super) fn work(windows: &Arc<Windows>, loaded: &mut Loaded, env: &TaskEnv, wait: bool) {
    let mut device = Device { loaded, env };
    let mut running: Option<InFlight> = None;
    loop {
        if env.cancel.is_cancelled() {
            windows.stop();
        }
        let limit = device.loaded.limit.unwrap_or(u64::MAX);
        let Some(batch) = windows.take(wait && running.is_none(), limit) else {
            let Some(last) = running.take() else { return };
            device.finish(last);
            continue;
        };
        let begun = Instant::now();
        let started = device.loaded.encoder.start(&sequences(&batch));
        match started {
            Ok(Started::Done(vectors)) => {
                device.deliver(batch, rows_of(&vectors), begun.elapsed().as_secs_f64());
            }
            Ok(Started::Running(vectors)) => {
                if let Some(before) = running.replace((batch, vectors)) {
                    device.finish(before);
                }
            }
            Err(error) => {
                // The batch before it takes memory until it is done.
                if let Some(before) = running.take() {
                    device.finish(before);
                }
                device.in_pieces(batch, error);
            }
        }
    }
}

/// A batch that the device computes.
type InFlight = (Batch, Box<dyn Running>);

/// A device at work.
struct Device<'a> {
    loaded: &'a mut Loaded,
    env: &'a TaskEnv,
}

impl Device<'_> {
    fn finish(&mut self, (batch, running): InFlight) {
        match running.finish() {
            Ok(computed) => self.deliver(batch, rows_of(&computed.vectors), computed.seconds),
            Err(error) => self.in_pieces(batch, error),
        }
    }

    /// Encodes a batch that the device did not hold at once.
    fn in_pieces(&mut self, batch: Batch, error: Error) {
        let begun = Instant::now();
        match self.pieces(&batch, error) {
            Ok(rows) => self.deliver(batch, rows, begun.elapsed().as_secs_f64()),
            Err(error) => batch.fail(error),
        }
    }

    fn pieces(&mut self, batch: &Batch, error: Error) -> Result<Vec<Vec<f32>>> {
        let sequences = sequences(batch);
        self.halve(&sequences, error)?;
        let mut rows = Vec::with_capacity(sequences.len());
        while rows.len() < sequences.len() {
            let rest = &sequences[rows.len()..];
            let limit = self.loaded.limit.unwrap_or(u64::MAX);
            let mut tokens = 0;
            let fitting = rest.iter().take_while(|sequence| {
                tokens += sequence.len() as u64;
                tokens <= limit
            });
            // A longer text is tried all the same.
            let piece = &rest[..fitting.count().max(1)];
            match self.loaded.encoder.encode(piece) {
                Ok(vectors) => rows.extend(rows_of(&vectors)),
                Err(error) => self.halve(piece, error)?,
            }
        }
        Ok(rows)
    }

    /// After a batch that did not fit: at most half of it from now on. Returns every other error, and this one where a
    /// text alone did not fit.
    fn halve(&mut self, sequences: &[&[u32]], error: Error) -> Result<()> {
        if error.kind() != ErrorKind::Resource || sequences.len() < 2 {
            return Err(error);
        }
        let tokens: u64 = sequences.iter().map(|sequence| sequence.len() as u64).sum();
        let limit = self.loaded.limit.unwrap_or(u64::MAX).min(tokens.div_ceil(2));
        self.loaded.limit = Some(limit);
        self.env.reporter.warn(format!(
            "the device ran out of memory on a batch of {tokens} tokens; continuing with {limit} at a time. \
             A smaller encode.token_budget avoids this"
        ));
        Ok(())
    }

    /// Checks the vectors, tries bad ones again alone, and gives the batch back.
    fn deliver(&mut self, batch: Batch, rows: Vec<Vec<f32>>, seconds: f64) {
        let mut encoded = Vec::with_capacity(rows.len());
        for (text, row) in batch.texts().zip(rows) {
            encoded.push(if is_usable(&row) {
                Ok(row)
            } else {
                alone(text, &mut *self.loaded.encoder)
            });
        }
        let (done, tokens) = (encoded.len() as u64, batch.tokens());
        if batch.deliver(encoded, seconds) {
            self.env.reporter.event(Event::Progress { stage: Stage::Encode, done, tokens });
        }
    }
}

fn sequences(batch: &Batch) -> Vec<&[u32]> {
    batch.texts().map(|text| text.tokens.ids.as_slice()).collect()
}

fn rows_of(vectors: &Embeddings) -> Vec<Vec<f32>> {
    vectors.rows().map(<[f32]>::to_vec).collect()
}

/// A second try without neighbours, before a note is given up.
fn alone(text: &Pending, encoder: &mut dyn Encoder) -> Encoded {
    match encoder.encode(&[&text.tokens.ids]) {
        Ok(vectors) if is_usable(vectors.row(0)) => Ok(vectors.row(0).to_vec()),
        Ok(_) => Err(Quarantined::new(&text.row, "non-finite or zero vector")),
        Err(error) => Err(Quarantined::new(&text.row, &error.to_string())),
    }
}

/// A vector that an index can hold: finite and not zero.
fn is_usable(vector: &[f32]) -> bool {
    vector.iter().all(|x| x.is_finite()) && vector.iter().any(|&x| x != 0.0)
}
