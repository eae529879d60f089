//! Whether the towers that a snapshot admits for queries fit its vectors: for `snapshot verify`.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::query::{check, located};
use crate::error::{Error, Result};
use crate::observe::Reporter;
use crate::snapshot::{Manifest, QueryTower};
use crate::store::Root;
use crate::tower::{Fit, Tower};
use crate::types::Digest256;

/// A tower that a snapshot admits, looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedTower {
    /// As the snapshot names it.
    pub fingerprint: Digest256,
    /// `document-tower` or `distilled`.
    pub kind: String,
    /// As the snapshot names it.
    pub model: String,
    /// What was found.
    #[serde(flatten)]
    pub found: FoundTower,
}

/// What there is to say of an admitted tower.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum FoundTower {
    /// It is the document tower, or was made for it.
    Fits,
    /// Its files are not here, or do not say what it was made for.
    NotChecked {
        /// For people.
        why: String,
    },
    /// It is another tower, or was made for another one.
    Wrong {
        /// For people.
        why: String,
    },
}

/// Resolves every tower that the snapshot of `root` admits and compares it with the snapshot's vectors; no weights are loaded.
/// Relative paths start from `base_dir`.
pub async fn check_towers(
    root: &Root,
    manifest: &Manifest,
    base_dir: &Path,
    reporter: &Arc<dyn Reporter>,
) -> Vec<CheckedTower> {
    let mut checked = Vec::new();
    for named in &manifest.content.query_towers {
        let model = named.options.get("model").and_then(|model| model.as_str()).unwrap_or_default();
        checked.push(CheckedTower {
            fingerprint: named.fingerprint,
            kind: named.kind.clone(),
            model: model.to_owned(),
            found: look(root, manifest, named, base_dir, reporter).await,
        });
    }
    checked
}

async fn look(
    root: &Root,
    manifest: &Manifest,
    named: &QueryTower,
    base_dir: &Path,
    reporter: &Arc<dyn Reporter>,
) -> FoundTower {
    let unchecked = |why: String| FoundTower::NotChecked { why };
    let (options, _laid) = match located(root, manifest, named).await {
        Ok(located) => located,
        Err(error) => return unchecked(error.to_string()),
    };
    let tower = match Tower::resolve(&options, base_dir, reporter).await {
        Ok(tower) => tower,
        Err(error) => return unchecked(error.to_string()),
    };
    match judge(manifest, named, &tower) {
        Ok(true) => FoundTower::Fits,
        Ok(false) => unchecked("its files name no tower that it was made for".to_owned()),
        // Which commit was meant is not known: what its repository holds now says nothing of the snapshot.
        Err(error) if tower.commit().is_some() && !options.is_pinned() => {
            unchecked(error.to_string())
        }
        Err(error) => FoundTower::Wrong { why: error.to_string() },
    }
}

/// Whether it is known to fit.
fn judge(manifest: &Manifest, named: &QueryTower, tower: &Tower) -> Result<bool> {
    check(manifest, named, tower)?;
    let space = &manifest.content.space;
    let fit = tower.fits(space)?;
    if named.kind == QueryTower::DOCUMENT && fit != Fit::Same {
        return Err(Error::input(format!(
            "it is said to be the document tower, but the vectors are of another one (other {})",
            space.incomparable(&tower.space(space.template)).join(", ")
        )));
    }
    Ok(fit != Fit::Unrecorded || named.teacher.is_some())
}
