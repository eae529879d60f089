//! A tower of a hub that no commit pins: a push to its repository makes it another one, which nobody here decided.

use std::fmt;

use super::envelope::Plan;
use crate::error::{Error, Result};
use crate::observe::format::counted;
use crate::snapshot::{Manifest, QueryTower};
use crate::stage::options::OVERRIDE_DRIFT;
use crate::tower::TowerOptions;

/// What a push made of the tower since the newest snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    model: String,
    from: String,
    to: String,
    snapshot: u64,
}

impl Moved {
    /// Compares the tower of a plan with that of the newest snapshot. `None` where the files make the same vectors,
    /// where a commit pins the tower (`configured`, as the pipeline says it) or another model is named: then a person
    /// decided.
    pub fn since(
        newest: Option<&Manifest>,
        plan: &Plan,
        configured: &TowerOptions,
    ) -> Option<Self> {
        let (newest, spec) = (newest?, &plan.spec);
        let before = &newest.content.space;
        let same_files =
            before.weights == spec.space.weights && before.tokenizer == spec.space.tokenizer;
        // A back-fill goes to another tower, which is what it is for.
        if same_files || configured.is_pinned() || plan.backfill.is_some() {
            return None;
        }
        let (model, from) = of(newest)?;
        let (now, to) = named(&spec.tower)?;
        let moved = Self { model, from, to, snapshot: newest.number };
        (moved.model == now && moved.from != moved.to).then_some(moved)
    }

    /// Refuses to encode everything again for it, unless a person decided so.
    ///
    /// # Errors
    /// GateRefused, saying how to stay and how to continue.
    pub fn refuse(&self, plan: &Plan, overridden: bool) -> Result<()> {
        if overridden {
            return Ok(());
        }
        let (texts, tokens) = plan.encode.iter().fold((0, 0), |(texts, tokens), task| {
            (texts + task.shard.texts_to_encode, tokens + task.shard.tokens_to_encode)
        });
        let refused = Error::refused(format!(
            "drift: {self}, and {} ({}) would be encoded for it; nothing was encoded. {}",
            counted(texts, "text"),
            counted(tokens, "token"),
            self.advice()
        ));
        Err(refused.with_hint(OVERRIDE_DRIFT))
    }

    /// What a person can write into the pipeline file.
    pub fn advice(&self) -> String {
        format!(
            "To stay, write revision = \"{}\" into [tower]; to change, put the model with revision = \"{}\" under \
             [next.tower]",
            self.from, self.to
        )
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the tower {} was pushed to since snapshot {}: it was commit {} and is {} now, which is another embedding space",
            self.model, self.snapshot, self.from, self.to
        )
    }
}

/// Repository and commit of a snapshot's document tower, where they are known.
fn of(manifest: &Manifest) -> Option<(String, String)> {
    if let Some(told) = manifest.provenance.tower() {
        return Some(told);
    }
    // It may be written down where queries are encoded by it.
    let mut towers = manifest.content.query_towers.iter();
    let own = towers.find(|tower| tower.kind == QueryTower::DOCUMENT)?;
    named(&serde_json::from_value(own.options.clone()).ok()?)
}

fn named(tower: &TowerOptions) -> Option<(String, String)> {
    let model = tower.model.strip_prefix("hf:").unwrap_or(&tower.model);
    tower.is_pinned().then(|| (model.to_owned(), tower.revision.clone().unwrap_or_default()))
}
