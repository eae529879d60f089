//! The teacher of a training recipe: vectors that are in files, or a tower that encodes what the run will show.

use std::path::Path;
use std::sync::Arc;

use crate::cli::app::App;
use crate::error::{Error, Result};
use crate::exec;
use crate::stage::EncodeOptions;
use crate::tower::{DeviceSpec, TowerOptions};
use crate::train::{TeacherOptions, TeacherVectors, TextVectors, TrainData, TrainOptions};
use crate::types::Embeddings;

/// The vectors of all that the planned steps show, if the recipe names a teacher. What a tower encodes is in `output`
/// below `teacher/`, and is used again by a run that goes on.
pub(super) async fn open(
    options: &TrainOptions,
    base_dir: &Path,
    data: &TrainData,
    output: &Path,
    devices: &[DeviceSpec],
    app: &App,
) -> Result<Option<TeacherVectors>> {
    let Some(teacher) = &options.teacher else { return Ok(None) };
    let texts = data.taught(options)?;
    encode(teacher, base_dir, texts, &output.join("teacher"), devices, app).await.map(Some)
}

/// A teacher's vectors of queries and documents.
pub(super) async fn encode(
    teacher: &TeacherOptions,
    base_dir: &Path,
    [queries, documents]: [Vec<&str>; 2],
    folder: &Path,
    devices: &[DeviceSpec],
    app: &App,
) -> Result<TeacherVectors> {
    if let Some(vectors) = teacher.read(base_dir)? {
        return Ok(vectors);
    }
    let devices = devices.iter().map(ToString::to_string).collect();
    let encode = EncodeOptions { devices, ..EncodeOptions::default() };
    let vectors = async |tower: &TowerOptions, texts: &[&str]| -> Result<Arc<TextVectors>> {
        if texts.is_empty() {
            return Ok(Arc::new(TextVectors::of(texts, Embeddings::with_capacity(1, 0))));
        }
        let found =
            exec::encode_texts(tower, base_dir, texts, &encode, folder, &app.reporter, &app.cancel);
        Ok(Arc::new(TextVectors::of(texts, found.await?.0)))
    };
    match (&teacher.tower, &teacher.query_tower) {
        (Some(tower), Some(query)) => {
            let queries = vectors(&query.clone().for_queries(), &queries).await?;
            Ok(TeacherVectors { queries, documents: vectors(tower, &documents).await? })
        }
        (Some(tower), None) => {
            let both = vectors(tower, &[queries, documents].concat()).await?;
            Ok(TeacherVectors { queries: Arc::clone(&both), documents: both })
        }
        (None, _) => Err(Error::internal("a teacher is a tower or a file")),
    }
}
