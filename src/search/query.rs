//! From query text to query vector, by a tower that the snapshot admits.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, ErrorKind, Result, ResultExt, unreadable};
use crate::observe::Reporter;
use crate::snapshot::{Laid, Manifest, QueryTower};
use crate::store::Root;
use crate::tower::{DeviceSpec, Encoder, Tower, TowerOptions, TowerTokenizer};

/// The way out where a tower's files moved, for commands that have this flag: a hint, which the others do not show.
pub(crate) const NAME_MODEL: &str = "name the tower's files with --model where they are elsewhere (those of a commit are \
    in the hub's cache)";

/// A loaded query tower. Share it by reference; it encodes one query at a time.
pub struct QueryEncoder {
    tower: QueryTower,
    tokenizer: TowerTokenizer,
    encoder: Mutex<Box<dyn Encoder>>,
    dimensions: usize,
}

impl std::fmt::Debug for QueryEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryEncoder").field("tower", &self.tower).finish_non_exhaustive()
    }
}

impl QueryEncoder {
    /// Loads the query tower of a snapshot of `root` (its first; `distilled` before `document-tower` where it names
    /// both). One that was adapted to the corpus is in the root. `model` overrides where the weights are found, not
    /// what they may be. Relative paths start from `base_dir`.
    ///
    /// # Errors
    /// Input where the files found are not the tower that the snapshot names; whatever [`Tower::resolve`] says.
    pub async fn load(
        root: &Root,
        manifest: &Manifest,
        model: Option<&str>,
        base_dir: &Path,
        device: &DeviceSpec,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<Self> {
        let named = choose(manifest)?;
        let (mut options, _laid) = match model {
            None => located(root, manifest, named).await?,
            Some(model) => {
                let (model, revision) = (model.to_owned(), None);
                (TowerOptions { model, revision, ..options_of(manifest, named)? }, None)
            }
        };
        options = options.for_queries();
        // One that was adapted is in the root, and does not move.
        let may_move = model.is_none() && named.adapted.is_none();
        let tower = Tower::resolve(&options, base_dir, reporter).await.map_err(|error| {
            let moved = may_move
                && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Input)
                && error.key().is_none_or(|key| key == "model")
                && error.hint().is_none();
            let error =
                error.context(format!("loading the query tower of snapshot {}", manifest.number));
            if moved { error.with_hint(NAME_MODEL) } else { error }
        })?;
        Self::of(manifest, named, &tower, device).await
    }

    /// [`QueryEncoder::load`] for who has resolved a tower already: it is loaded if it is the one that the snapshot
    /// names.
    ///
    /// # Errors
    /// As there.
    pub async fn load_known(
        root: &Root,
        manifest: &Manifest,
        known: &Tower,
        base_dir: &Path,
        device: &DeviceSpec,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<Self> {
        let named = choose(manifest)?;
        if known.fingerprint()? == named.fingerprint {
            return Self::of(manifest, named, known, device).await;
        }
        Self::load(root, manifest, None, base_dir, device, reporter).await
    }

    async fn of(
        manifest: &Manifest,
        named: &QueryTower,
        tower: &Tower,
        device: &DeviceSpec,
    ) -> Result<Self> {
        check(manifest, named, tower)?;
        let dimensions = tower.dimensions() as usize;
        let tokenizer = tower.tokenizer().clone();
        let (tower, device) = (tower.clone(), device.clone());
        let encoder = tokio::task::spawn_blocking(move || tower.load(&device))
            .await
            .or_error(ErrorKind::Internal, || "loading the query tower")??;
        Ok(Self { tower: named.clone(), tokenizer, encoder: Mutex::new(encoder), dimensions })
    }

    /// Whether a manifest asks for this very tower, so that it need not be loaded again.
    pub fn serves(&self, manifest: &Manifest) -> bool {
        choose(manifest).is_ok_and(|named| named.fingerprint == self.tower.fingerprint)
            && manifest.content.space.dimensions as usize == self.dimensions
    }

    /// The tower as the manifest names it.
    pub fn tower(&self) -> &QueryTower {
        &self.tower
    }

    /// The vector of a query. Blocks while the tower computes.
    ///
    /// # Errors
    /// Input for a text without a single token, or one whose vector is not finite.
    pub fn encode(&self, text: &str) -> Result<Vec<f32>> {
        if text.trim().is_empty() {
            return Err(Error::input("the query is empty"));
        }
        let tokens = self.tokenizer.tokenize(text)?;
        let mut encoder = self.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        let vectors = encoder.encode(&[&tokens.ids])?;
        if vectors.len() != 1 || vectors.dimensions() != self.dimensions {
            return Err(Error::internal("the query tower gave no vector of its dimensions"));
        }
        let vector = vectors.row(0).to_vec();
        if !vector.iter().all(|value| value.is_finite()) {
            return Err(Error::input("the query's vector is not finite"));
        }
        Ok(vector)
    }
}

fn choose(manifest: &Manifest) -> Result<&QueryTower> {
    let towers = &manifest.content.query_towers;
    let distilled = towers.iter().find(|tower| tower.kind == QueryTower::DISTILLED);
    distilled.or_else(|| towers.first()).ok_or_else(|| {
        Error::input(format!(
            "snapshot {} admits no query tower: it can be searched by vector only",
            manifest.number
        ))
    })
}

/// How the tower is loaded, as the snapshot says it.
fn options_of(manifest: &Manifest, named: &QueryTower) -> Result<TowerOptions> {
    let options = serde_json::from_value(named.options.clone());
    options.map_err(|cause| {
        let what = format!("the query tower of snapshot {}", manifest.number);
        unreadable(cause, &what, format!("{what} cannot be read"))
    })
}

/// How the tower is loaded from here, and what was copied from the root for that.
pub(super) async fn located(
    root: &Root,
    manifest: &Manifest,
    named: &QueryTower,
) -> Result<(TowerOptions, Option<Laid>)> {
    let mut options = options_of(manifest, named)?;
    let Some(adapted) = &named.adapted else { return Ok((options, None)) };
    let laid = adapted.lay(root).await?;
    options.model = laid.folder().to_string_lossy().into_owned();
    Ok((options, Some(laid)))
}

/// The files found must be the tower that was admitted: other weights would give vectors that mean nothing here.
pub(super) fn check(manifest: &Manifest, named: &QueryTower, tower: &Tower) -> Result<()> {
    let found = tower.fingerprint()?;
    let dimensions = manifest.content.space.dimensions;
    if found == named.fingerprint {
        if tower.dimensions() == dimensions {
            return Ok(());
        }
        return Err(Error::corrupt(format!(
            "the query tower has {} dimensions, snapshot {} {dimensions}",
            tower.dimensions(),
            manifest.number
        )));
    }
    let space = tower.space(manifest.content.space.template);
    let differing = match named.kind == QueryTower::DOCUMENT {
        true => space.differing(&manifest.content.space),
        false => Vec::new(),
    };
    let mut detail = match differing.is_empty() {
        true => String::new(),
        false => format!(" (against the document tower differ: {})", differing.join(", ")),
    };
    // A release before this one wrote no commit down.
    let mut hint = None;
    if let (Some((_, commit)), Ok(options)) = (tower.commit(), options_of(manifest, named))
        && !options.is_pinned()
    {
        detail += &format!(
            "; the snapshot names no commit of it, and its repository is at {commit} now: a run with that earlier commit as \
             `revision` publishes one that does"
        );
        hint = Some(NAME_MODEL);
    }
    let error = Error::input(format!(
        "{} is another tower than snapshot {} admits: its fingerprint is {} (weights {}), the snapshot names {}{detail}; \
         queries encoded with it would find nothing sensible",
        tower.options().model,
        manifest.number,
        found.short(),
        space.weights.short(),
        named.fingerprint.short(),
    ));
    Err(match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    })
}
