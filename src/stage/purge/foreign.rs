//! What other people's files below the root hold of the notes. It is named, never touched.

use super::Left;
use super::scan::{Holds, Scanned, look_at_foreign};
use super::target::Target;
use crate::error::{ErrorKind, Result};
use crate::store::{Root, layout};
use crate::types::Cancel;

/// Files, and folders that could not be looked into.
pub(super) async fn left(
    root: &Root,
    target: &Target,
    scanned: &mut Scanned,
    cancel: &Cancel,
) -> Result<Vec<Left>> {
    let foreign = root.foreigners().await?;
    let mut left: Vec<Left> = foreign
        .closed
        .into_iter()
        .map(|(key, why)| Left { key, what: format!("a folder that cannot be looked into: {why}") })
        .collect();
    for file in &foreign.files {
        cancel.check()?;
        let what = match look_at_foreign(root, file, target, scanned).await {
            Ok(holds) if holds <= Holds::Unlabelled => continue,
            Ok(_) => match layout::root_around(&file.key) {
                Some(other) => format!(
                    "the id, key or text of a note, in the root {other} below this one: purge the note there too"
                ),
                None => "the id, key or text of a note, in a file that is not this program's: see to it yourself"
                    .to_owned(),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => format!("cannot be looked into: {error}"),
        };
        left.push(Left { key: file.key.clone(), what });
    }
    Ok(left)
}
