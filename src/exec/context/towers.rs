//! The towers of a run, each resolved once.

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::config::Pipeline;
use crate::error::Result;
use crate::observe::Reporter;
use crate::stage;
use crate::tower::Tower;

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
        let resolve = || Tower::resolve(&pipeline.tower, &pipeline.base_dir, reporter);
        self.document.get_or_try_init(resolve).await
    }

    /// The tower that encodes queries, checked against the document tower.
    pub async fn query(&self, pipeline: &Pipeline, reporter: &Arc<dyn Reporter>) -> Result<&Tower> {
        let resolve = || async {
            let options = stage::absolute_tower(&pipeline.query_tower(), &pipeline.base_dir);
            let query = Tower::resolve(&options, &pipeline.base_dir, reporter).await?;
            if query.teacher().is_some() {
                self.document(pipeline, reporter).await?.admits(&query)?;
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

/// The tower that encodes a pipeline's queries, checked against its document tower. No weights are loaded.
///
/// # Errors
/// As [`Tower::resolve`]; Config where it belongs to another document tower.
pub async fn check_query_tower(pipeline: &Pipeline, reporter: &Arc<dyn Reporter>) -> Result<Tower> {
    Towers::default().query(pipeline, reporter).await.cloned()
}
