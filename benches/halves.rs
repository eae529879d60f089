//! Two shards that are halves of a set, built one after the other and on two threads: seconds by the clock.

use std::time::Instant;

use scalingnote::index::{Calibration, IndexOptions, build};
use scalingnote::types::{Cancel, Embeddings};
use serde_json::{Value, json};

use crate::vectors::{Data, Failure};

/// What a second core brings.
pub fn two_shards(
    data: &Data,
    options: &IndexOptions,
    calibration: &Calibration,
) -> Result<Value, Failure> {
    let folder = tempfile::tempdir()?;
    let (rows, width) = (data.base.len(), data.base.dimensions());
    let half = |name: &str, rows: std::ops::Range<usize>| -> Result<(), Failure> {
        let values = data.base.as_slice()[rows.start * width..rows.end * width].to_vec();
        let vectors = Embeddings::from_vec(width, values)?;
        let (index, sidecar) =
            (folder.path().join(name), folder.path().join(format!("{name}.f16")));
        let (keys, cancel) = (&data.keys[rows], Cancel::new());
        let report =
            build(keys, &vectors, options, calibration, &index, &sidecar, &cancel, &|_| {})?;
        assert_eq!(report.orphans, 0);
        Ok(())
    };
    let halves = [("a", 0..rows / 2), ("b", rows / 2..rows)];
    let begun = Instant::now();
    halves.clone().into_iter().try_for_each(|(name, rows)| half(name, rows))?;
    let one = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let half = &half;
        let threads = halves
            .map(|(name, rows)| scope.spawn(move || half(name, rows).map_err(|e| e.to_string())));
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a builder panicked".to_owned())?)
    })?;
    let two = begun.elapsed().as_secs_f64();
    Ok(json!({"shards": 2, "one_thread_s": one, "two_threads_s": two, "speedup": one / two}))
}
