//! Publish gates: what must hold before readers may see a snapshot.

use crate::corpus::Rejections;
use crate::error::{Error, Result};
use crate::index::Recall;
use crate::observe::format::{count, counted};
use crate::snapshot::{Content, GateOutcome};
use crate::stage::GateOptions;
use crate::stage::evaluation::{Against, EvaluationReport};
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
    /// What the queries of `[evaluation]` found; `None` without them, and where nothing new is to be published.
    pub evaluation: Option<&'a EvaluationReport>,
}

/// A person's decision to publish in spite of a gate: gate name and reason.
pub type Override = (String, String);

/// Judges every gate that is on. In the order of [`GateOptions::NAMES`].
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
        Some(recall(measured, options)),
        Some(orphans(measured)),
        Some(count_change(measured, options)),
        Some(rejected(measured, options)),
        Some(quarantined(measured, options)),
        Some(drift(measured, options)),
        ndcg_drop(measured.evaluation, options),
        top1_change(measured.evaluation, options),
    ];
    Ok(GateOptions::NAMES
        .into_iter()
        .zip(outcomes)
        .filter_map(|(gate, verdict)| Some((gate, verdict?)))
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
                "recall@{} {:.3} [{:.3}, {:.3}] over {}, at least {:.3} required",
                recall.k,
                recall.mean,
                recall.low,
                recall.high,
                counted(recall.queries.into(), "query"),
                options.recall_min
            ),
        ),
    }
}

fn orphans(measured: &Measured<'_>) -> Verdict {
    let orphans: u64 = measured.content.shards.iter().map(|shard| shard.orphans).sum();
    (orphans == 0, format!("{}, 0 required", counted(orphans, "unreachable vector")))
}

fn count_change(measured: &Measured<'_>, options: &GateOptions) -> Verdict {
    let after = measured.content.notes;
    let few = after < options.min_notes;
    let Some(parent) = measured.parent else {
        return (
            !few,
            format!(
                "{} in the first snapshot, at least {} required",
                counted(after, "note"),
                options.min_notes
            ),
        );
    };
    let before = parent.notes;
    let drop = percent(before.saturating_sub(after), before);
    let growth = percent(after.saturating_sub(before), before);
    let mut detail = format!(
        "{} -> {}, at least {} required, a drop of at most {}% allowed",
        count(before),
        counted(after, "note"),
        options.min_notes,
        options.max_count_drop_percent
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
            "{} of {} rejected ({share:.2}%), at most {}% allowed",
            count(rejected),
            counted(measured.rows_read, "row"),
            options.max_rejected_percent
        ),
    )
}

fn quarantined(measured: &Measured<'_>, options: &GateOptions) -> Verdict {
    let share = percent(measured.quarantined, measured.content.vectors + measured.quarantined);
    (
        share <= options.max_quarantined_percent,
        format!(
            "{} could not be encoded ({share:.2}%), at most {}% allowed",
            counted(measured.quarantined, "note"),
            options.max_quarantined_percent
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
                "least cosine {cosine:.6} over {}, at least {} required",
                counted(compared as u64, "unchanged note"),
                1.0 - options.max_drift
            ),
        ),
    }
}

/// Fewer judged queries than this say nothing for sure: resampling one query, say, has an interval without width.
const FEW: u64 = 10;

fn ndcg_drop(found: Option<&EvaluationReport>, options: &GateOptions) -> Option<Verdict> {
    let (found, most) = found.zip(options.max_ndcg_drop)?;
    let EvaluationReport { queries, relevant, missing, .. } = *found;
    let set = found.set.as_deref().unwrap_or_default();
    let now = found.ndcg_10.unwrap_or_default();
    let asked = counted(queries, "query");
    let mut lacks = String::new();
    if missing > 0 {
        lacks = format!(
            "; {missing} of the {relevant} notes judged as relevant are not in the snapshot and count as not found"
        );
    }
    Some(match (&found.against, &found.not_compared) {
        (Some(against), _) => {
            let Against { snapshot, ndcg_10, difference, low, high } = *against;
            let mut detail = format!(
                "nDCG@10 of {set} {ndcg_10:.4} (snapshot {snapshot}) -> {now:.4} over {asked}, by {difference:+.4} \
                 with a 95% interval of [{low:+.4}, {high:+.4}], a loss of at most {most} allowed{lacks}"
            );
            let few = queries < FEW;
            if few {
                detail.push_str(&format!("; fewer than {FEW} queries refuse nothing"));
            }
            // The upper end: refused only where the loss is larger for sure.
            (few || high >= -most, detail)
        }
        (None, None) => (true, format!("nDCG@10 of {set} {now:.4} over {asked}{lacks}")),
        (None, Some(why)) => {
            (false, format!("nDCG@10 of {set} {now:.4} over {asked}{lacks}, but {why}"))
        }
    })
}

fn top1_change(found: Option<&EvaluationReport>, options: &GateOptions) -> Option<Verdict> {
    let (found, most) = found.zip(options.max_top1_change)?;
    Some(match (&found.first_hits, &found.not_compared) {
        (Some(hits), _) => (
            hits.share() <= most,
            format!(
                "{} of {} ({:.1}%) have another first hit than in snapshot {}, at most {}% allowed",
                hits.changed,
                counted(hits.queries, "query"),
                100.0 * hits.share(),
                hits.snapshot,
                100.0 * most
            ),
        ),
        (None, None) => (true, "no other tower than that of the newest snapshot".to_owned()),
        (None, Some(why)) => (false, format!("the first hits are not known: {why}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::evaluation::FirstHits;

    fn verdict(found: &EvaluationReport, options: &GateOptions) -> [Option<Verdict>; 2] {
        [ndcg_drop(Some(found), options), top1_change(Some(found), options)]
    }

    #[test]
    fn only_a_sure_loss_is_refused() {
        let options = GateOptions { max_ndcg_drop: Some(0.01), ..GateOptions::default() };
        let against = |low, high| Against { snapshot: 4, ndcg_10: 0.7, difference: low, low, high };
        let found = |against, queries| EvaluationReport {
            set: Some("judged".to_owned()),
            queries,
            ndcg_10: Some(0.65),
            against,
            ..EvaluationReport::default()
        };
        for (against, queries, passes) in [
            (None, 300, true),
            (Some(against(-0.09, 0.0)), 300, true),
            (Some(against(-0.09, -0.01)), 300, true),
            (Some(against(-0.09, -0.0101)), 300, false),
            (Some(against(-0.09, -0.08)), 9, true),
        ] {
            let [ndcg, top1] = verdict(&found(against, queries), &options);
            let (passed, detail) = ndcg.unwrap();
            assert_eq!((passed, top1), (passes, None), "{detail}");
        }
        assert_eq!(verdict(&found(None, 300), &GateOptions::default()), [None, None], "it is off");
        let blind = EvaluationReport { not_compared: Some("gone".into()), ..found(None, 300) };
        assert!(!verdict(&blind, &options)[0].as_ref().unwrap().0, "nobody knows");
    }

    #[test]
    fn first_hits_may_change_up_to_the_limit() {
        let options = GateOptions { max_top1_change: Some(0.25), ..GateOptions::default() };
        let found = |changed| EvaluationReport {
            first_hits: Some(FirstHits { snapshot: 4, queries: 20, changed }),
            ..EvaluationReport::default()
        };
        let verdict = |found| verdict(&found, &options)[1].clone().unwrap();
        assert!(verdict(found(5)).0 && !verdict(found(6)).0);
        assert!(verdict(found(6)).1.contains("30.0%"));
        assert!(verdict(EvaluationReport::default()).0, "no tower changed");
    }
}
