//! Tokenising, and exact token counts of what a plan will encode.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::TryStreamExt;
use rayon::prelude::*;

use super::compare::Compared;
use super::envelope::ShardPlan;
use super::on_cores::on_cores;
use crate::corpus::PreparedRow;
use crate::error::{Result, ResultExt};
use crate::stage::inputs::Inputs;
use crate::stage::length_bucket;
use crate::store::Root;
use crate::tower::{Tokenized, Tower, TowerTokenizer};
use crate::types::Cancel;

/// Neighbours in one padded batch of the ordinary way, to which `padding_avoided` compares.
const ORDINARY_BATCH: usize = 32;

/// Texts that a device may be tried with.
const SAMPLE: usize = 32;

/// The texts of a plan that will be encoded.
#[derive(Default)]
pub(super) struct Counted {
    pub shards: Vec<ShardPlan>,
    /// Token counts: bucket's upper end -> texts.
    pub lengths: BTreeMap<u32, u64>,
    /// Token ids of the first of them.
    pub sample: Vec<Vec<u32>>,
}

/// Tokenises what will be encoded: exact counts, the length histogram, the padding that packing avoids, and the ids of
/// the first texts.
pub(super) async fn count_tokens(
    root: &Root,
    inputs: &Arc<Inputs>,
    shards: Vec<Compared>,
    tower: &Tower,
    cancel: &Cancel,
) -> Result<Counted> {
    let (root, inputs) = (root.clone(), Arc::clone(inputs));
    let (tokenizer, cancel) = (tower.tokenizer().clone(), cancel.clone());
    let counted = on_cores(shards, move |shard| {
        let (root, inputs) = (root.clone(), Arc::clone(&inputs));
        let (tokenizer, cancel) = (tokenizer.clone(), cancel.clone());
        async move {
            cancel.check()?;
            count_one(&root, &inputs, shard, &tokenizer).await
        }
    });
    let mut all = Counted::default();
    for one in counted.await? {
        all.shards.extend(one.shards);
        one.lengths
            .into_iter()
            .for_each(|(to, texts)| *all.lengths.entry(to).or_default() += texts);
        all.sample.extend(one.sample);
        all.sample.truncate(SAMPLE);
    }
    Ok(all)
}

async fn count_one(
    root: &Root,
    inputs: &Inputs,
    Compared { mut plan, missing }: Compared,
    tokenizer: &TowerTokenizer,
) -> Result<Counted> {
    let (mut lengths, mut sample) = (BTreeMap::new(), Vec::new());
    if missing.is_empty() {
        return Ok(Counted { shards: vec![plan], lengths, sample });
    }
    let mut batches = inputs.prepared(root, &plan.prepared).await?;
    let mut counted = HashSet::new();
    let mut neighbours: Vec<u32> = Vec::with_capacity(ORDINARY_BATCH);
    let mut padding = 0;
    let mut flush = |neighbours: &mut Vec<u32>| {
        let longest = u64::from(neighbours.iter().copied().max().unwrap_or(0));
        let real: u64 = neighbours.iter().map(|&n| u64::from(n)).sum();
        padding += longest * neighbours.len() as u64 - real;
        neighbours.clear();
    };
    while let Some(batch) = batches.try_next().await? {
        let texts = batch
            .rows
            .into_iter()
            .filter(|row| !row.deleted && missing.contains(&row.text_hash))
            .filter(|row| counted.insert(row.text_hash));
        for (_, tokens) in tokenize(tokenizer, texts.collect()).await? {
            // A text that cannot be tokenised is counted as 0 here and quarantined by `encode`.
            let (tokens, truncated) = tokens.map_or((0, false), |tokens| {
                let counted = (tokens.ids.len() as u32, tokens.truncated);
                if sample.len() < SAMPLE {
                    sample.push(tokens.ids);
                }
                counted
            });
            plan.tokens_to_encode += u64::from(tokens);
            plan.texts_truncated += u64::from(truncated);
            *lengths.entry(length_bucket(tokens)).or_default() += 1;
            neighbours.push(tokens);
            if neighbours.len() == ORDINARY_BATCH {
                flush(&mut neighbours);
            }
        }
    }
    flush(&mut neighbours);
    plan.padding_avoided = padding;
    Ok(Counted { shards: vec![plan], lengths, sample })
}

/// Tokenises on all threads; the rows stay in order.
pub(crate) async fn tokenize(
    tokenizer: &TowerTokenizer,
    rows: Vec<PreparedRow>,
) -> Result<Vec<(PreparedRow, Result<Tokenized>)>> {
    let tokenizer = tokenizer.clone();
    let tokenizing = tokio::task::spawn_blocking(move || {
        let tokenized = rows.into_par_iter().map(|row| {
            let tokens = tokenizer.tokenize(&row.text);
            (row, tokens)
        });
        tokenized.collect()
    });
    tokenizing.await.context(|| "the tokenising thread ended")
}
