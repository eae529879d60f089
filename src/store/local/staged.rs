//! What a killed process leaves in a local root: staged files that nothing lists, and empty folders.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, Utc};

use super::blocking::blocking;
use crate::store::layout::staged_for;

/// What [`crate::store::Root::sweep_staged`] removed, or would remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Staged files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// See [`crate::store::Root::sweep_staged`].
pub async fn sweep(folder: PathBuf, before: DateTime<Utc>, dry_run: bool) -> io::Result<Swept> {
    blocking(move || {
        let mut swept = Swept::default();
        sweep_folder(&folder, before.into(), dry_run, &mut swept).map(|()| swept)
    })
    .await
}

fn sweep_folder(
    folder: &Path,
    before: SystemTime,
    dry_run: bool,
    swept: &mut Swept,
) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let Some(meta) = still_there(entry.metadata())? else { continue };
        if meta.is_dir() {
            sweep_folder(&entry.path(), before, dry_run, swept)?;
            // Fails where it is not empty, as it should; a writer that needs it makes it anew.
            if !dry_run && still_there(meta.modified())?.is_some_and(|time| time < before) {
                let _ = std::fs::remove_dir(entry.path());
            }
        } else if staged_for(&entry.file_name().to_string_lossy()).is_some()
            && meta.modified()? < before
        {
            swept.files += 1;
            swept.bytes += meta.len();
            if !dry_run {
                still_there(std::fs::remove_file(entry.path()))?;
            }
        }
    }
    Ok(())
}

/// Another process may remove it at the same time.
fn still_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Root;

    #[tokio::test]
    async fn only_old_staged_files_go() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        root.put("runs/a/plan.json", "x".into()).await.unwrap();
        let torn = folder.path().join("runs/a/report.json#12");
        std::fs::write(&torn, b"torn").unwrap();
        std::fs::create_dir_all(folder.path().join("prepared/old")).unwrap();
        let early = root.sweep_staged(Utc::now() - chrono::TimeDelta::hours(1), false).await;
        assert_eq!(early.unwrap(), Swept::default());
        let later = Utc::now() + chrono::TimeDelta::hours(1);
        let expected = Swept { files: 1, bytes: 4 };
        assert_eq!(root.sweep_staged(later, true).await.unwrap(), expected);
        assert!(torn.exists());
        assert_eq!(root.sweep_staged(later, false).await.unwrap(), expected);
        assert!(!torn.exists() && !folder.path().join("prepared/old").exists());
        assert_eq!(root.get("runs/a/plan.json").await.unwrap(), "x");
    }
}
