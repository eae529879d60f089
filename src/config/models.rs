//! What the models of a pipeline's towers say.

use crate::types::ModelCard;

/// A tower of a pipeline and what its model's files say.
#[derive(Debug, Clone)]
pub struct ModelSaid {
    /// The section that names the model: `tower`, `query.tower`, ...
    pub section: &'static str,
    /// As the pipeline names it.
    pub model: String,
    /// What was understood of it, or why nothing was.
    pub card: Result<ModelCard, String>,
}
