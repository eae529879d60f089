//! What a teacher has to know.

use std::collections::HashSet;

use super::batch::Batches;
use super::data::TrainData;
use super::options::TrainOptions;
use crate::error::Result;

impl TrainData {
    /// The texts that the planned steps show a teacher: as queries, and as documents. Those of earlier steps are among
    /// them, so a run that goes on asks for what it asked for, and more.
    ///
    /// # Errors
    /// Config where the sources fill no batch.
    pub fn taught(&self, options: &TrainOptions) -> Result<[Vec<&str>; 2]> {
        let mut batches = Batches::new(self, options)?;
        let planned = options.steps.unwrap_or(batches.steps_per_epoch());
        let mut seen = [HashSet::new(), HashSet::new()];
        let mut texts = [Vec::new(), Vec::new()];
        for step in 0..planned {
            let shown = batches.batch(step).shown(self, options);
            for ((shown, seen), texts) in shown.into_iter().zip(&mut seen).zip(&mut texts) {
                texts.extend(
                    shown.into_iter().filter_map(|(_, text)| seen.insert(text).then_some(text)),
                );
            }
        }
        Ok(texts)
    }
}
