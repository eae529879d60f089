//! What we write beside the weights of a tower that we trained: the tower it belongs to, and its tokenizer.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::files::disk::open;
use crate::tower::files::foreign::tokenizer_command;
use crate::tower::files::whole::present;
use crate::types::EmbeddingSpace;

/// The space in what our own key of a `config.json` or of an adapter's metadata holds.
pub(crate) fn teacher_of(ours: &Value) -> Result<Option<EmbeddingSpace>> {
    match ours.get("teacher") {
        None | Some(Value::Null) => Ok(None),
        Some(space) => serde_json::from_value(space.clone())
            .map(Some)
            .or_error(ErrorKind::Input, || "scalingnote.teacher is not an embedding space"),
    }
}

/// Checks that the tokenizer is there and, where the weights name it by its hash (they were published without it), that
/// it is that one.
///
/// # Errors
/// NotFound or Input, saying which tokenizer it is and where it comes from.
pub(crate) fn check_tokenizer(ours: Option<&Value>, path: &Path) -> Result<()> {
    let named = ours.and_then(|ours| ours.get("tokenizer"));
    let text = |key: &str| named.and_then(|named| named.get(key)).and_then(Value::as_str);
    let from = text("from").map(|from| format!(" (it is that of {from})")).unwrap_or_default();
    if !present(path)? {
        let command = path.parent().and_then(tokenizer_command);
        let command = command.map(|command| format!("; {command}")).unwrap_or_default();
        return Err(Error::not_found(format!(
            "there is no tokenizer {}; name a tokenizer.json in `tokenizer`{from}{command}",
            path.display()
        )));
    }
    let Some(expected) = text("sha256") else { return Ok(()) };
    let found = open(path)?.digest()?.to_hex();
    if found == expected {
        return Ok(());
    }
    Err(Error::input(format!(
        "{} is not the tokenizer that these weights were trained with{from}: its SHA-256 is {found}, not {expected}",
        path.display()
    )))
}
