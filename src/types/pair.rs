//! A training pair as a table gives it.

/// A query and the document that answers it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PairRecord {
    /// The query.
    pub query: String,
    /// Title of the document; may be empty.
    pub title: String,
    /// Text of the document.
    pub text: String,
    /// Texts that look alike and do not answer it.
    pub negatives: Vec<String>,
    /// Weight in the loss.
    pub weight: Option<f32>,
}
