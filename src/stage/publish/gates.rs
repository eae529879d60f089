//! Publish gates: what must hold before readers may see a snapshot.

use crate::corpus::Rejections;
use crate::error::{Error, Result};
use crate::index::Recall;
use crate::snapshot::{Content, GateOutcome};
use crate::stage::GateOptions;
use crate::stage::plan::Moved;

/// What the gates look at.
pub(crate) struct Measured<'a> {
    pub content: &'a Content,
    pub parent: Option<&'a Content>,
    /// Pooled over all shards; `None` in an empty corpus.
    pub recall: Option<Recall>,
    pub rows_read: u64,
    pub rejections: &'a Rejections,
    pub quarantined: u64,
    /// Least cosine between stored and fresh vectors of unchanged notes, and how many were compared.
    pub drift: Option<(f64, usize)>,
    /// A push that made the tower another one.
    pub moved: Option<Moved>,
}

/// A person's decision to publish in spite of a gate: gate name and reason.
pub type Override = (String, String);

/// Judges every gate. In the order of [`GateOptions::NAMES`].
pub(crate) fn judge(
    measured: &Measured<'_>,
    options: &GateOptions,
    overrides: &[Override],
) -> Result<Vec<GateOutcome>> {
    for (gate, reason) in overrides {
        if !GateOptions::NAMES.contains(&gate.as_str()) {
            return Err(Error::usage(format!(
                "there is no gate `{gate}`; gates are {}",
                GateOptions::NAMES.join(", ")
            )));
        }
        if reason.trim().is_empty() {
            return Err(Error::usage(format!(
                "overriding gate `{gate}` needs a reason: it is kept in the manifest"
            )));
        }
    }
    let outcomes = [
        recall(measured, options),
        orphans(measured),
        count_change(measured, options),
        rejected(measured, options),
        quarantined(measured, options),
        drift(measured, options),
    ];
    Ok(GateOptions::NAMES
        .into_iter()
        .zip(outcomes)
        .map(|(gate, (passed, detail))| {
            let reason = overrides.iter().find(|(name, _)| name == gate && !passed);
            let overridden = reason.map(|(_, why)| why.clone());
            GateOutcome { gate: gate.to_owned(), passed, detail, overridden }
        })
        .collect())
}

/// Refuses unless every gate passed or was overridden.
pub(crate) fn refuse(outcomes: &[GateOutcome]) -> Result<()> {
    let failed: Vec<_> = outcomes
        .iter()
        .filter(|gate| !gate.passed && gate.overridden.is_none())
        .map(|gate| format!("{} ({})", gate.gate, gate.detail))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "not published, the newest snapshot stays: {}; fix the cause, or publish anyway with \
         --override GATE --reason TEXT",
        failed.join("; ")
    )))
}

type Verdict = (bool, String);

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn recall(measured: &Measured<'_>, options: &GateOptions) -> Verdict {
    match measured.recall {
        None => (true, "no vectors to measure".to_owned()),
        Some(recall) => (
            // The upper end: a small sample must not refuse by chance what may well be good enough.
            recall.high >= options.recall_min,
            format!(
                "recall@{} {:.3} [{:.3}, {:.3}] over {} queries, at least {:.3} required",
                recall.k, recall.mean, recall.low, recall.high, recall.queries, options.recall_min
            ),
        ),
    }
}

fn orphans(measured: &Measured<'_>) -> Verdict {
    let orphans: u64 = measured.content.shards.iter().map(|shard| shard.orphans).sum();
    (orphans == 0, format!("{orphans} unreachable vectors, 0 required"))
}

fn count_change(measured: &Measured<'_>, options: &GateOptions) -> Verdict {
    let after = measured.content.notes;
    let few = after < options.min_notes;
    let Some(parent) = measured.parent else {
        return (
            !few,
            format!("{after} notes in the first snapshot, at least {} required", options.min_notes),
        );
    };
    let before = parent.notes;
    let drop = percent(before.saturating_sub(after), before);
    let growth = percent(after.saturating_sub(before), before);
    let mut detail = format!(
        "{before} -> {after} notes, at least {} required, a drop of at most {}% allowed",
        options.min_notes, options.max_count_drop_percent
    );
    let mut passed = !few && drop <= options.max_count_drop_percent;
    if let Some(limit) = options.max_count_growth_percent {
        passed &= before == 0 || growth <= limit;
        detail.push_str(&format!(", a growth of at most {limit}%"));
    }
    (passed, detail)
}

fn rejected(measured: &Measured<'_>, options: &GateOptions) -> Verdict {
    let rejected = measured.rejections.total();
    let share = percent(rejected, measured.rows_read);
    (
        share <= options.max_rejected_percent,
        format!(
            "{rejected} of {} rows rejected ({share:.2}%), at most {}% allowed",
            measured.rows_read, options.max_rejected_percent
        ),
    )
}

fn quarantined(measured: &Measured<'_>, options: &GateOptions) -> Verdict {
    let share = percent(measured.quarantined, measured.content.vectors + measured.quarantined);
    (
        share <= options.max_quarantined_percent,
        format!(
            "{} notes could not be encoded ({share:.2}%), at most {}% allowed",
            measured.quarantined, options.max_quarantined_percent
        ),
    )
}

fn drift(measured: &Measured<'_>, options: &GateOptions) -> Verdict {
    if let Some(moved) = &measured.moved {
        return (false, format!("{moved}. {}", moved.advice()));
    }
    match measured.drift {
        None => (true, "no unchanged notes to re-encode".to_owned()),
        Some((cosine, compared)) => (
            cosine >= 1.0 - options.max_drift,
            format!(
                "least cosine {cosine:.6} over {compared} unchanged notes, at least {} required",
                1.0 - options.max_drift
            ),
        ),
    }
}
