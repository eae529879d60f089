//! The store: whether it can be read and written, decides who was first, and what its clock says.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::Utc;
use tempfile::TempDir;

use super::check::{Check, blocking};
use super::resources::local;
use crate::config::Pipeline;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::exec::machine::existing;
use crate::snapshot::{self, Manifest};
use crate::store::layout::{self, LeaseKind};
use crate::store::{Keys, PutOutcome, Root, file_in_the_way};

/// Clouds refuse requests that are signed by a clock that is further off.
const REFUSED_SECONDS: i64 = 15 * 60;
/// Below this nobody minds.
const NOTICED_SECONDS: i64 = 60;

/// The newest snapshot, where there is one.
pub(super) type Newest = Option<Manifest>;

/// The checks, and the newest snapshot; nothing of it where the root does not say which it is.
pub(super) async fn checks(pipeline: &Pipeline) -> (Vec<Check>, Option<Newest>) {
    let looked = pipeline.clone();
    let root = match blocking(move || Place::of(&looked)).await {
        Ok(Place::File(found)) => {
            let way_out = "name another folder in publish.root";
            return (vec![Check::wrong("root", found, way_out, ErrorKind::Input)], None);
        }
        Ok(Place::Missing(folder, scratch)) => {
            let checks = match scratch {
                Err(error) => vec![Check::failed("root", &error)],
                Ok(scratch) => not_yet(&folder, scratch).await,
            };
            return (checks, Some(None));
        }
        Ok(Place::There(opened)) => opened,
        Err(error) => Err(error),
    };
    // What follows writes, and the folder of the notes must not become a root.
    let root = match root {
        Ok(root) => pipeline.refuse_tables_in(&root).await.map(|()| root),
        Err(error) => Err(error),
    };
    let root = match root {
        Ok(root) => root,
        Err(error) => return (vec![Check::failed("root", &error)], None),
    };
    let newest = snapshot::newest(&root).await;
    let mut checks = vec![match &newest {
        Ok(Some(newest)) => Check::fine(
            "root",
            format!("{} holds snapshot {}, the newest", root.uri(), newest.number),
        ),
        Ok(None) => {
            Check::fine("root", format!("{} can be read and holds no snapshot yet", root.uri()))
        }
        Err(error) => Check::failed("root", error),
    }];
    checks.extend(signing(&root).await);
    checks.extend(written(&root).await);
    (checks, newest.ok())
}

/// What is where the root is to be.
enum Place {
    /// A file, and what to say of it.
    File(String),
    /// No folder yet, and a root that can be tried in its place, in a folder that goes with it.
    Missing(PathBuf, Result<(Root, TempDir)>),
    /// The root, or why it does not open.
    There(Result<Root>),
}

impl Place {
    /// Blocks while it looks.
    fn of(pipeline: &Pipeline) -> Self {
        if let Some(found) = file_instead(&pipeline.publish.root) {
            return Self::File(found);
        }
        // A root that is not there yet is made by its first run, and not by a look at it.
        match local(&pipeline.publish.root).filter(|folder| !folder.is_dir()) {
            Some(folder) => {
                let scratch = scratch_for(&folder, pipeline);
                Self::Missing(folder, scratch)
            }
            None => Self::There(pipeline.open_root()),
        }
    }
}

/// A root beside where `folder` would be.
fn scratch_for(folder: &Path, pipeline: &Pipeline) -> Result<(Root, TempDir)> {
    let parent = existing(folder);
    let scratch = tempfile::Builder::new().prefix(".scalingnote-").tempdir_in(&parent);
    let scratch = scratch.or_error(ErrorKind::Input, || {
        format!(
            "{} is not there, and nothing can be made in {}",
            folder.display(),
            parent.display()
        )
    })?;
    let keys = Keys::load(&pipeline.publish.public_keys)?;
    let root = Root::open(&scratch.path().to_string_lossy())?;
    Ok((root.with_keys(keys), scratch))
}

/// The checks of a root that is not there yet.
async fn not_yet(folder: &Path, (root, scratch): (Root, TempDir)) -> Vec<Check> {
    let found = format!("{} is not there yet; the first run makes it", folder.display());
    let mut checks = vec![Check::fine("root", found)];
    checks.extend(signing(&root).await);
    checks.extend(written(&root).await);
    let _ = blocking(move || drop(scratch)).await;
    checks
}

/// Whether what a run publishes would be trusted, where it has to be signed.
async fn signing(root: &Root) -> Option<Check> {
    if root.keys().trusted.is_empty() {
        return None;
    }
    Some(match snapshot::signer(root).await {
        Ok(_) => Check::fine("signing key", "there, and one of publish.public_keys"),
        Err(error) => Check::failed("signing key", &error),
    })
}

/// What is wrong where a file stands in the place of the root's folder, or of one above it.
pub(super) fn file_instead(root: &str) -> Option<String> {
    local(root).and_then(|folder| file_in_the_way(&folder))
}

async fn written(root: &Root) -> Vec<Check> {
    let put = match creates_conditionally(root).await {
        Ok(()) => {
            Check::fine("conditional put", "the second of two writers of one name is refused")
        }
        Err(error) => return vec![Check::failed("conditional put", &error)],
    };
    let clock = match clock(root).await {
        Ok(check) => check,
        Err(error) => Check::failed("clock", &error),
    };
    vec![put, clock]
}

/// Puts one name twice, with different bytes, and takes it away again.
async fn creates_conditionally(root: &Root) -> Result<()> {
    let key = layout::lease(LeaseKind::Probe, &format!("{:016x}", rand::random::<u64>()));
    let put = |bytes: &'static [u8]| root.put_if_absent(&key, Bytes::from_static(bytes));
    let outcomes = async { Ok::<_, Error>([put(b"first").await?, put(b"second").await?]) };
    let outcomes = outcomes.await;
    let cleaned = root.delete(&key).await;
    match outcomes? {
        [PutOutcome::Created, PutOutcome::AlreadyExists] => {}
        [_, PutOutcome::Created] => {
            return Err(Error::unsupported(format!(
                "{} lets a second writer overwrite what a first one wrote, so two runs could overwrite each other's snapshots; \
                 update the server, or take another store",
                root.uri()
            )));
        }
        [PutOutcome::AlreadyExists, _] => {
            return Err(Error::unsupported(format!(
                "{} reports a name that was never written as existing; take another store",
                root.uri()
            )));
        }
    }
    cleaned
        .context(|| "what is written can be created, but not deleted: gc and purge need that, too")
}

/// This machine's clock beside the store's.
async fn clock(root: &Root) -> Result<Check> {
    let before = Utc::now();
    let theirs = root.now().await?;
    let ours = before + (Utc::now() - before) / 2;
    let off = (ours - theirs).num_seconds();
    let found = match off {
        -2..=2 => "as the store's".to_owned(),
        ahead @ 1.. => format!("{ahead} seconds ahead of the store's"),
        behind => format!("{} seconds behind the store's", -behind),
    };
    let way_out = "set this machine's clock by NTP (`timedatectl set-ntp true`)";
    Ok(match off.abs() {
        off if off >= REFUSED_SECONDS && root.local_folder().is_none() => {
            Check::wrong("clock", found, way_out, ErrorKind::Resource)
        }
        NOTICED_SECONDS.. => Check::warning("clock", found, way_out),
        _ => Check::fine("clock", found),
    })
}
