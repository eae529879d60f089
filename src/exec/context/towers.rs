//! The towers of a run, each resolved once.

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::observe::Reporter;
use crate::stage;
use crate::tower::{Fit, Tower};

/// The towers of a pipeline. Each is resolved when it is first asked for, which hashes its weight files, and then kept.
#[derive(Default)]
pub(super) struct Towers {
    document: OnceCell<Tower>,
    query: OnceCell<Tower>,
}

impl Towers {
    /// The tower that encodes notes.
    pub async fn document(
        &self,
        pipeline: &Pipeline,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<&Tower> {
        let resolve = async || {
            let tower = Tower::resolve(&pipeline.tower, &pipeline.base_dir, reporter).await;
            placed(pipeline, "tower", tower)
        };
        self.document.get_or_try_init(resolve).await
    }

    /// The tower that encodes queries, checked against the document tower.
    pub async fn query(&self, pipeline: &Pipeline, reporter: &Arc<dyn Reporter>) -> Result<&Tower> {
        let resolve = || async {
            let document = self.document(pipeline, reporter).await?;
            let mut options = stage::absolute_tower(&pipeline.query_tower(), &pipeline.base_dir);
            let of_its_own = pipeline.query.tower.is_some();
            if !of_its_own {
                // A push between the two must not part them.
                options.revision.clone_from(&document.options().revision);
            }
            let section = if of_its_own { "query.tower" } else { "tower" };
            let query = Tower::resolve(&options, &pipeline.base_dir, reporter).await;
            let query = placed(pipeline, section, query)?;
            let fit = placed(pipeline, section, document.admits(&query))?;
            if fit != Fit::Same && !of_its_own {
                return Err(Error::input(format!(
                    "the files of the tower {} changed while they were in use: notes are encoded with what they were, and queries \
                     would be with what they are; bring them back, or start again with what they are now",
                    options.model
                )));
            }
            Ok(query)
        };
        self.query.get_or_try_init(resolve).await
    }

    /// The document tower, where something asked for it before.
    pub fn known_document(&self) -> Option<Tower> {
        self.document.get().cloned()
    }
}

/// What was made of a section that describes a tower; an error says where its key, else the model's, stands.
fn placed<T>(pipeline: &Pipeline, section: &str, made: Result<T>) -> Result<T> {
    pipeline.origins.placed(made.map_err(|error| error.of_key_in(section, "model")))
}

/// The tower that encodes a pipeline's queries, checked against its document tower. No weights are loaded.
///
/// # Errors
/// As [`Tower::resolve`]; Config where it belongs to another document tower.
pub async fn check_query_tower(pipeline: &Pipeline, reporter: &Arc<dyn Reporter>) -> Result<Tower> {
    Towers::default().query(pipeline, reporter).await.cloned()
}
