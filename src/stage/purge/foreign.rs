//! What other people's files below the root hold of the notes. It is named, never touched.

use super::scan::{Holds, Scanned, look_at_foreign};
use super::target::Target;
use crate::error::{ErrorKind, Result};
use crate::store::{Root, layout};
use crate::types::Cancel;

/// Keys of files, and of folders that could not be read, each with what it is.
pub(super) async fn left(
    root: &Root,
    target: &Target,
    scanned: &mut Scanned,
    cancel: &Cancel,
) -> Result<Vec<(String, String)>> {
    let foreign = root.foreigners().await?;
    let mut left: Vec<(String, String)> = foreign
        .closed
        .into_iter()
        .map(|(key, why)| (key, format!("a folder that cannot be read: {why}")))
        .collect();
    for file in &foreign.files {
        cancel.check()?;
        let what = match look_at_foreign(root, file, target, scanned).await {
            Ok(holds) if holds <= Holds::Unlabelled => continue,
            Ok(_) => match layout::root_around(&file.key) {
                Some(other) => format!(
                    "the id, key or text of a note, in the root {other} below this one: purge the note there too"
                ),
                None => "the id, key or text of a note, in a file that is not this program's: remove it there yourself"
                    .to_owned(),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => format!("cannot be read: {error}"),
        };
        left.push((file.key.clone(), what));
    }
    Ok(left)
}
