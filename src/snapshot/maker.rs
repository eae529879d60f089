//! Which run made what a snapshot serves: a rollback or a purge commits it again under a name that is not a run's.

use super::manifest::{MADE_BY, Manifest, Provenance, numbers, read};
use crate::error::{ErrorKind, Result, unless};
use crate::store::Root;

/// The run that made the content of a snapshot, and whose plan and prepared notes go with it; `None` where no retained
/// manifest tells.
///
/// # Errors
/// What the store says.
pub async fn made_by(root: &Root, manifest: &Manifest) -> Result<Option<String>> {
    if let Some(run) = manifest.provenance.made_by() {
        return Ok(Some(run.to_owned()));
    }
    // Release 0.1.0 did not write it down, but the snapshot with the same content may still be there.
    let listed = unless(numbers(root).await, |error| error.kind() == ErrorKind::Unsupported)?;
    for number in listed.into_iter().flatten().rev() {
        // What cannot be read tells nothing; it is not what is asked for.
        let other = unless(read(root, number).await, |error| !error.is_retryable())?;
        let same = other.filter(|other| other.content_hash == manifest.content_hash);
        if let Some(run) = same.as_ref().and_then(|other| other.provenance.made_by()) {
            return Ok(Some(run.to_owned()));
        }
    }
    Ok(None)
}

/// Writes into what a command says of itself which run made the content of `of`, which it commits again.
pub(super) async fn tell(root: &Root, of: &Manifest, provenance: &mut Provenance) -> Result<()> {
    if let Some(run) = made_by(root, of).await? {
        provenance.measured.insert(MADE_BY.to_owned(), run.into());
    }
    Ok(())
}
