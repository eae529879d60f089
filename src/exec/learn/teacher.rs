//! The teacher of a training recipe: vectors that are in files, or a tower that encodes what the run will show.

use std::sync::Arc;

use super::LearnContext;
use crate::error::{Error, Result};
use crate::tower::TowerOptions;
use crate::train::{TeacherOptions, TeacherVectors, TextVectors, TrainData, TrainOptions};
use crate::types::Embeddings;

/// The vectors of all that the planned steps show, if the recipe names a teacher. What a tower encodes is in the run's
/// folder below `teacher/`, and is used again by a run that goes on.
pub(super) async fn open(
    options: &TrainOptions,
    data: &TrainData,
    context: &LearnContext,
) -> Result<Option<TeacherVectors>> {
    let Some(teacher) = &options.teacher else { return Ok(None) };
    encode(teacher, data.taught(options)?, "teacher", context).await.map(Some)
}

/// A teacher's vectors of queries and documents, kept under `name`.
pub(super) async fn encode(
    teacher: &TeacherOptions,
    [queries, documents]: [Vec<&str>; 2],
    name: &str,
    context: &LearnContext,
) -> Result<TeacherVectors> {
    if let Some(vectors) = teacher.read(&context.base_dir)? {
        return Ok(vectors);
    }
    let vectors = async |tower: &TowerOptions, texts: &[&str]| -> Result<Arc<TextVectors>> {
        let found = match texts.is_empty() {
            true => Embeddings::with_capacity(1, 0),
            false => context.encode(tower, texts, name).await?.0,
        };
        Ok(Arc::new(TextVectors::of(texts, found)))
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
