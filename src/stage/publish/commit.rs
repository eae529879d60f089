//! Stage `publish`: put the shards together, judge the gates, commit one manifest.

use std::collections::{BTreeMap, HashMap};

use super::gates::{self, Measured, Override};
use crate::corpus::{Rejections, SourceTypes};
use crate::error::{Error, Result, ResultExt};
use crate::index::{Calibration, Recall};
use crate::snapshot::{
    self, CommitOutcome, Content, GateOutcome, IndexContent, Manifest, Provenance, QueryTower,
};
use crate::stage::build::BuildReceipt;
use crate::stage::calibration;
use crate::stage::evaluation::{Evaluated, EvaluationReport, EvaluationRequest, evaluate};
use crate::stage::plan::{Moved, Plan, recall_by_shard};
use crate::store::{FileRef, Root};
use crate::tower::{Tower, TowerOptions};

/// What publishing needs beside the plan.
pub struct PublishRequest<'a> {
    /// The plan whose build tasks are all done.
    pub plan: &'a Plan,
    /// The receipts of its build tasks.
    pub receipts: &'a [BuildReceipt],
    /// The document tower that the publisher has; the vectors must be its.
    pub tower: &'a Tower,
    /// The same as the pipeline names it.
    pub tower_options: &'a TowerOptions,
    /// Towers that may encode queries.
    pub query_towers: Vec<QueryTower>,
    /// Least cosine of re-encoded unchanged notes, and how many.
    pub drift: Option<(f64, usize)>,
    /// A person's decisions.
    pub overrides: &'a [Override],
    /// Where everything is stored.
    pub root: &'a Root,
    /// The queries of `[evaluation]`, where there are any.
    pub evaluation: Option<EvaluationRequest<'a>>,
    /// Gets every gate's verdict, also where one refuses.
    pub judged: &'a mut Verdicts,
}

/// What was found out before publishing.
#[derive(Debug, Clone, Default)]
pub struct Verdicts {
    /// Every gate's verdict.
    pub gates: Vec<GateOutcome>,
    /// What the queries of `[evaluation]` found.
    pub evaluation: Option<EvaluationReport>,
}

/// What publishing did.
#[derive(Debug, Clone)]
pub struct Published {
    /// The newest manifest afterwards: the new one, or the old one where nothing changed.
    pub manifest: Manifest,
    /// False where the content is the newest snapshot's already.
    pub is_new: bool,
    /// Recall pooled over all shards.
    pub recall: Option<Recall>,
}

/// Commits the snapshot of a finished plan.
///
/// # Errors
/// GateRefused where a gate failed and was not overridden; Conflict where another run published first, or the
/// content was rolled back before; Config where the plan is of another tower than the publisher's.
pub async fn publish(request: PublishRequest<'_>) -> Result<Published> {
    let (plan, root) = (request.plan, request.root);
    refuse_other_tower(plan, request.tower)?;
    let newest = snapshot::newest(root).await?;
    // What was compared at planning is taken over only from that same parent.
    if newest.as_ref().map(|manifest| manifest.number) != plan.spec.parent
        && !newest.as_ref().is_some_and(|manifest| is_of_same_day(plan, manifest))
    {
        return Err(match newest {
            // An earlier attempt of this very step got through.
            Some(winner) if winner.provenance.run == plan.spec.run => {
                return Ok(Published { manifest: winner, is_new: false, recall: None });
            }
            Some(winner) => overtaken(&winner),
            None => Error::corrupt(format!(
                "snapshot {:?}, which the plan started from, is gone",
                plan.spec.parent
            )),
        });
    }
    if newest
        .as_ref()
        .is_some_and(|newest| plan.spec.under().is_void(newest.number, &newest.purged))
    {
        return Err(snapshot::overtaken_by_purge(&format!("run {}", plan.spec.run)));
    }
    let content = assemble(&request, newest.as_ref()).await?;
    let recall = pooled_recall(&request, newest.as_ref());
    let pooled = recall.as_ref().map(|(pooled, _)| *pooled);
    let nothing_new = match &newest {
        Some(manifest) => manifest.content_hash == snapshot::content_hash(&content)?,
        None => false,
    };
    let evaluated = match nothing_new {
        true => None,
        false => ask(&request, &content, newest.as_ref()).await?,
    };
    request.judged.evaluation = evaluated.as_ref().map(|evaluated| evaluated.report.clone());
    let measured = Measured {
        content: &content,
        parent: newest.as_ref().map(|manifest| &manifest.content),
        recall: pooled,
        rows_read: plan.prepared.rows_read,
        rejections: &plan.prepared.rejections,
        quarantined: request.receipts.iter().map(|receipt| receipt.quarantined.len() as u64).sum(),
        drift: request.drift,
        moved: Moved::since(newest.as_ref(), plan, request.tower_options),
        evaluation: request.judged.evaluation.as_ref(),
    };
    let outcomes = gates::judge(&measured, &plan.gates, request.overrides)?;
    request.judged.gates.clone_from(&outcomes);
    if let Some(manifest) = newest.as_ref().filter(|_| nothing_new) {
        return Ok(Published { manifest: manifest.clone(), is_new: false, recall: pooled });
    }
    gates::refuse(&outcomes)?;
    let mut provenance = provenance(plan, &outcomes, recall.as_ref())?;
    if let Some((model, revision)) = request.tower.commit() {
        provenance.set_tower(model, revision);
    }
    provenance.set_card(&request.tower.card())?;
    if let Some(score) = evaluated.and_then(|evaluated| evaluated.score) {
        score.tell(&mut provenance)?;
    }
    match snapshot::commit(root, newest.as_ref(), content, Vec::new(), provenance).await? {
        CommitOutcome::Committed(manifest) => {
            Ok(Published { manifest: *manifest, is_new: true, recall: pooled })
        }
        CommitOutcome::LostTo(winner) => Err(overtaken(&winner)),
        CommitOutcome::Blocked { by } => Err(Error::refused(format!(
            "this content was rolled back in snapshot {by} and stays blocked until the corpus or the \
             tower differs, or a `snapshot rollback` to a snapshot that has it lifts that; the newest snapshot stays"
        ))),
    }
}

/// Asks the queries of `[evaluation]`.
///
/// # Errors
/// As [`evaluate`]; Config where the plan has gates for them and the publisher's pipeline does not name them.
async fn ask(
    request: &PublishRequest<'_>,
    content: &Content,
    parent: Option<&Manifest>,
) -> Result<Option<Evaluated>> {
    let gates = &request.plan.gates;
    let Some(evaluation) = &request.evaluation else {
        if gates.max_ndcg_drop.is_some() || gates.max_top1_change.is_some() {
            return Err(Error::config(
                "the plan has gates on the queries of [evaluation], but the pipeline that publishes names none",
            ));
        }
        return Ok(None);
    };
    let evaluated = evaluate(evaluation, request.root, content, parent, gates).await;
    evaluated.context(|| "asking what is about to be published").map(Some)
}

/// Refuses a document tower that did not make the vectors of a plan: its queries would be compared with notes of
/// another one.
///
/// # Errors
/// Config, naming both.
pub fn refuse_other_tower(plan: &Plan, tower: &Tower) -> Result<()> {
    let spec = &plan.spec;
    let found = tower.space(spec.template);
    let differing = spec.space.differing(&found);
    if differing.is_empty() {
        return Ok(());
    }
    Err(Error::config(format!(
        "run {} was planned with the tower {} (space {}), but the pipeline names {} (space {}; other {}): vectors of two \
         towers do not mix. Publish with the pipeline and the model files that it was planned with, or plan again with these",
        spec.run,
        spec.tower.model,
        spec.space_id,
        tower.options().model,
        found.id()?,
        differing.join(", ")
    )))
}

/// A back-fill takes nothing over from its parent, and the day it was planned with may be published before it.
fn is_of_same_day(plan: &Plan, newest: &Manifest) -> bool {
    let of = plan.backfill.as_ref().map(|backfill| backfill.of.as_str());
    of == Some(newest.provenance.run.as_str()) && newest.parent == plan.spec.parent
}

fn overtaken(winner: &Manifest) -> Error {
    Error::conflict(format!(
        "snapshot {} was published by run {} on {} while this run worked; nothing is lost, run again to \
         publish what still differs",
        winner.number, winner.provenance.run, winner.provenance.host
    ))
}

async fn assemble(request: &PublishRequest<'_>, parent: Option<&Manifest>) -> Result<Content> {
    let plan = request.plan;
    let spec = &plan.spec;
    let mut built: HashMap<u32, &BuildReceipt> =
        request.receipts.iter().map(|receipt| (receipt.shard.shard, receipt)).collect();
    let mut shards = Vec::with_capacity(plan.shards.len());
    let mut parts: BTreeMap<String, FileRef> = BTreeMap::new();
    let old_parts: HashMap<&str, &FileRef> = parent
        .iter()
        .flat_map(|manifest| &manifest.content.parts)
        .map(|part| (part.path.as_str(), part))
        .collect();
    for shard in &plan.shards {
        let number = shard.prepared.shard;
        if let Some(receipt) = built.remove(&number) {
            parts.extend(receipt.parts.iter().map(|part| (part.path.clone(), part.clone())));
            shards.push(receipt.shard.clone());
            continue;
        }
        let old = parent
            .filter(|_| shard.unchanged)
            .and_then(|manifest| manifest.content.shards.get(number as usize));
        let Some(old) = old else {
            return Err(Error::transient(format!(
                "shard {number} is not built yet; run its build task first"
            )));
        };
        for path in &old.parts {
            let part = old_parts.get(path.as_str()).ok_or_else(|| {
                Error::corrupt(format!(
                    "the newest manifest names no part {path} of shard {number}"
                ))
            })?;
            parts.insert(path.clone(), (*part).clone());
        }
        shards.push(old.clone());
    }
    let calibration = match shards.iter().any(|shard| shard.vectors > 0) {
        true => calibration::frozen(request.root, &spec.index, &spec.space_id).await?,
        false => Calibration::without_sample(&spec.index, spec.space.dimensions as usize),
    };
    let json = |what: &str, value: serde_json::Result<serde_json::Value>| {
        value.context(|| format!("writing {what} into the manifest"))
    };
    Ok(Content {
        space_id: spec.space_id.clone(),
        space: spec.space.clone(),
        notes: shards.iter().map(|shard| shard.notes).sum(),
        vectors: shards.iter().map(|shard| shard.vectors).sum(),
        shard_count: spec.shard_count,
        index: IndexContent {
            options_id: spec.index.id()?,
            options: json("index options", serde_json::to_value(&spec.index))?,
            calibration: json("the calibration", serde_json::to_value(&calibration))?,
        },
        shards,
        parts: parts.into_values().collect(),
        stored_columns: spec.stored_columns.clone(),
        query_towers: request.query_towers.clone(),
    })
}

/// Recall pooled with every query counting the same, and that of every shard.
type Pooled = (Recall, BTreeMap<u32, Recall>);

fn pooled_recall(request: &PublishRequest<'_>, parent: Option<&Manifest>) -> Option<Pooled> {
    let mut by_shard = parent.map(recall_by_shard).unwrap_or_default();
    let plan = request.plan;
    by_shard
        .retain(|&number, _| plan.shards.get(number as usize).is_some_and(|shard| shard.unchanged));
    for receipt in request.receipts {
        if let Some(report) = &receipt.report {
            by_shard.insert(receipt.shard.shard, report.recall);
        }
    }
    let queries: u32 = by_shard.values().map(|recall| recall.queries).sum();
    if queries == 0 {
        return None;
    }
    let weighted = |value: fn(&Recall) -> f64| {
        by_shard.values().map(|r| value(r) * f64::from(r.queries)).sum::<f64>() / f64::from(queries)
    };
    let mean = weighted(|recall| recall.mean);
    // Shards are sampled independently: half-widths add up in squares, each with its share of the queries.
    let half = |side: fn(&Recall) -> f64| {
        by_shard
            .values()
            .map(|r| (side(r) * f64::from(r.queries) / f64::from(queries)).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let pooled = Recall {
        k: by_shard.values().map(|recall| recall.k).max().unwrap_or(10),
        queries,
        mean,
        low: mean - half(|recall| recall.mean - recall.low),
        high: (mean + half(|recall| recall.high - recall.mean)).min(1.0),
    };
    Some((pooled, by_shard))
}

fn provenance(plan: &Plan, gates: &[GateOutcome], recall: Option<&Pooled>) -> Result<Provenance> {
    let value = |value: serde_json::Result<serde_json::Value>| {
        value.context(|| "writing provenance into the manifest")
    };
    let mut measured = BTreeMap::new();
    if let Some((pooled, by_shard)) = recall {
        measured.insert("recall".to_owned(), value(serde_json::to_value(pooled))?);
        measured.insert("recall_by_shard".to_owned(), value(serde_json::to_value(by_shard))?);
    }
    let rejections: &Rejections = &plan.prepared.rejections;
    measured.insert("rejected".to_owned(), value(serde_json::to_value(&rejections.by_reason))?);
    measured.insert("duplicates".to_owned(), plan.prepared.duplicates.into());
    if plan.prepared.types != SourceTypes::default() {
        let types = value(serde_json::to_value(&plan.prepared.types))?;
        measured.insert(snapshot::SOURCE_TYPES.to_owned(), types);
    }
    if let Some(feed) = &plan.prepared.feed {
        measured.insert(snapshot::FEED.to_owned(), value(serde_json::to_value(feed))?);
    }
    Ok(Provenance {
        created_at: chrono::Utc::now().to_rfc3339(),
        host: snapshot::host_name(),
        program: format!("scalingnote {}", env!("CARGO_PKG_VERSION")),
        run: plan.spec.run.clone(),
        sql: Some(plan.sql),
        inputs: plan
            .prepared
            .inputs
            .iter()
            .map(|input| value(serde_json::to_value(input)))
            .collect::<Result<_>>()?,
        gates: gates.to_vec(),
        measured,
    })
}
