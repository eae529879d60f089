//! What a killed process leaves in a local root: staged files that nothing lists, and empty folders.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, Utc};

use super::blocking::blocking;
use super::walk::there;
use crate::store::layout;

/// What [`crate::store::Root::sweep_staged`] removed, or would remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Staged files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// See [`crate::store::Root::sweep_staged`].
pub async fn sweep(root: PathBuf, before: DateTime<Utc>, dry_run: bool) -> io::Result<Swept> {
    blocking(move || {
        let mut sweep = Sweep { before: before.into(), dry_run, swept: Swept::default() };
        for top in layout::TOPS {
            // Behind a link lies nothing of this root.
            if there(root.join(top).symlink_metadata())?.is_some_and(|meta| meta.is_dir()) {
                sweep.folder(&root.join(top), top)?;
            }
        }
        Ok(sweep.swept)
    })
    .await
}

struct Sweep {
    before: SystemTime,
    dry_run: bool,
    swept: Swept,
}

impl Sweep {
    /// `key` is the folder's path below the root.
    fn folder(&mut self, folder: &Path, key: &str) -> io::Result<()> {
        let Some(entries) = there(std::fs::read_dir(folder))? else { return Ok(()) };
        for entry in entries {
            let entry = entry?;
            // What this program writes has a plain name.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (path, key) = (entry.path(), format!("{key}/{name}"));
            // Of a link, the link's own: it is neither a folder nor a file here.
            let Some(meta) = there(entry.metadata())? else { continue };
            let is_old = meta.modified()? < self.before;
            if meta.is_dir() && layout::makes(&key) {
                self.folder(&path, &key)?;
                // Fails where it is not empty, as it should; a writer that needs it makes it again.
                if !self.dry_run && is_old {
                    let _ = std::fs::remove_dir(path);
                }
            } else if meta.is_file() && is_old && layout::staged_for(&key).is_some() {
                self.swept.files += 1;
                self.swept.bytes += meta.len();
                if !self.dry_run {
                    there(std::fs::remove_file(path))?;
                }
            }
        }
        Ok(())
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
        let (run, old) = ("runs/20260101T000000Z-0badcafe", "prepared/20260101T000000Z-0badcafe");
        let plan = format!("{run}/plan.json");
        root.put(&plan, "x".into()).await.unwrap();
        let at = |key: &str| folder.path().join(key);
        let torn = at(&format!("{run}/report.json#12"));
        std::fs::write(&torn, b"torn").unwrap();
        std::fs::create_dir_all(at(old)).unwrap();
        // Somebody else's, with names that are nearly ours.
        let foreign = ["report#2024", "runs/report#2024", "sub/report.json#12"];
        std::fs::create_dir_all(at("sub/empty")).unwrap();
        std::fs::create_dir_all(at("prepared/old")).unwrap();
        let others = [format!("{run}/report#2024"), format!("sub/{run}/report.json#12")];
        std::fs::create_dir_all(at(&format!("sub/{run}"))).unwrap();
        let foreign: Vec<String> = foreign.into_iter().map(str::to_owned).chain(others).collect();
        foreign.iter().for_each(|key| std::fs::write(at(key), b"mine").unwrap());

        let early = root.sweep_staged(Utc::now() - chrono::TimeDelta::hours(1), false).await;
        assert_eq!(early.unwrap(), Swept::default());
        let later = Utc::now() + chrono::TimeDelta::hours(1);
        let expected = Swept { files: 1, bytes: 4 };
        assert_eq!(root.sweep_staged(later, true).await.unwrap(), expected);
        assert!(torn.exists() && at(old).exists());
        assert_eq!(root.sweep_staged(later, false).await.unwrap(), expected);
        assert!(!torn.exists() && !at(old).exists());
        assert!(foreign.iter().all(|key| at(key).exists()));
        assert!(at("sub/empty").exists() && at("prepared/old").exists());
        assert_eq!(root.get(&plan).await.unwrap(), "x");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn no_link_is_followed() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = Root::open(inside.path().to_str().unwrap()).unwrap();
        let run = "20260101T000000Z-0badcafe";
        std::fs::create_dir_all(inside.path().join("runs")).unwrap();
        std::fs::create_dir_all(outside.path().join("empty")).unwrap();
        let secret = outside.path().join("plan.json#12");
        std::fs::write(&secret, b"mine").unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join(format!("runs/{run}")))
            .unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("prepared")).unwrap();
        let later = Utc::now() + chrono::TimeDelta::hours(1);
        assert_eq!(root.sweep_staged(later, false).await.unwrap(), Swept::default());
        assert!(secret.exists() && outside.path().join("empty").exists());
    }
}
