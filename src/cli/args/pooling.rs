//! Poolings on the command line: `mean`, `last-token`.

use crate::types::Pooling;

/// Parses a pooling by the name that files have for it.
pub(crate) fn parse(text: &str) -> Result<Pooling, String> {
    serde_json::from_value(text.into()).map_err(|_| {
        "is not one of mean, cls, last-token, eos, max, mean-sqrt-len, weighted-mean".to_owned()
    })
}
