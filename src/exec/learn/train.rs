//! Stage 1.

use std::path::Path;

use super::{LearnContext, teacher};
use crate::error::Result;
use crate::train::{self, TrainData, TrainOptions, TrainReport};

/// Trains the towers by contrast; the adapter or the model is in the context's folder at the end, and report.html with it.
///
/// # Errors
/// Config for options that do not fit each other, the model or the pairs; Conflict where the folder holds another run;
/// Cancelled; those of reading, encoding and computing.
pub async fn train(options: TrainOptions, context: LearnContext) -> Result<TrainReport> {
    let data = open(&options, &context).await?;
    let teacher = teacher::open(&options, &data, &context).await?;
    train::on_large_stack(async move || {
        let LearnContext { base_dir, folder, devices, reporter, cancel } = context;
        let teacher = teacher.as_ref();
        train::train(&options, &base_dir, &data, teacher, &folder, devices, &reporter, &cancel)
            .await
    })
    .await
}

/// Trains nothing: writes what the run in the context's folder has learned into `target`, as f32 or (`half`) as f16. Of a
/// finished run it is what that exported, else what the best look so far has, or the checkpoint where nothing has been
/// validated yet. Gives the steps taken.
///
/// # Errors
/// As [`train()`]; NotFound where the folder holds no checkpoint.
pub async fn export(
    options: TrainOptions,
    context: LearnContext,
    target: &Path,
    half: bool,
) -> Result<u64> {
    let data = open(&options, &context).await?;
    let target = target.to_owned();
    train::on_large_stack(async move || {
        let LearnContext { base_dir, folder, devices, reporter, .. } = context;
        train::export(&options, &base_dir, &data, &folder, &target, half, devices, &reporter).await
    })
    .await
}

async fn open(options: &TrainOptions, context: &LearnContext) -> Result<TrainData> {
    options.validate()?;
    TrainData::open(options, &context.base_dir, &context.reporter, &context.cancel).await
}
