//! A head behind a tower that was trained, or was not.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use super::LearnContext;
use crate::dataset::SplitMix64;
use crate::error::{Error, Result};
use crate::tower::{Tower, TowerOptions};
use crate::train::{TrainOptions, WhitenOptions, Whitening, crowding, open_pairs};
use crate::types::{Digest256, Embeddings, computing};

/// Behind which towers, and fitted to what.
pub struct WhitenRequest {
    /// The recipe whose queries and documents are read.
    pub options: TrainOptions,
    /// How the head is fitted.
    pub whitening: WhitenOptions,
    /// The tower of the queries, and that of the documents: of one embedding space.
    pub query: TowerOptions,
    /// See `query`.
    pub document: TowerOptions,
}

/// What was fitted.
#[derive(Debug, Serialize)]
pub struct Whitened {
    /// Texts that it was fitted to.
    pub texts: usize,
    /// Mean cosine of two of their vectors before.
    pub crowding_before: f64,
    /// And behind the head.
    pub crowding_after: f64,
    /// The folder that `tower.head` names.
    pub head: PathBuf,
}

/// Fits a head to queries and documents of a recipe; it is in `head` below the context's folder.
///
/// # Errors
/// Config for options that do not fit each other, or towers that the head could not stand behind; Input for too few texts; those of
/// reading and encoding.
pub async fn whiten(request: WhitenRequest, context: &LearnContext) -> Result<Whitened> {
    let WhitenRequest { options, whitening, query, document } = request;
    options.validate()?;
    whitening.validate()?;
    if query.head.is_some() || document.head.is_some() {
        return Err(Error::config(
            "the tower has a head already; take tower.head away to fit another",
        ));
    }
    let LearnContext { base_dir, folder, reporter, cancel, .. } = context;
    let towers = [
        Tower::resolve(&query, base_dir, reporter).await?,
        Tower::resolve(&document, base_dir, reporter).await?,
    ];
    check(&towers)?;
    let set = open_pairs(&options.pairs, base_dir, options.seed, reporter, cancel).await?;
    let queries = drawn(set.pairs.iter().map(|pair| pair.query.as_str()), options.seed);
    let documents = drawn(set.documents.iter().map(String::as_str), options.seed);
    // Half of each, and where one has fewer the other fills up.
    let half = whitening.texts / 2;
    let room = |other: usize| whitening.texts.saturating_sub(other).max(half);
    let queries_kept = &queries[..queries.len().min(room(documents.len()))];
    let documents_kept = &documents[..documents.len().min(room(queries.len()))];
    Whitening::check(queries_kept.len() + documents_kept.len(), towers[1].dimensions() as usize)?;
    let (queries, _) = context.encode(&query, queries_kept, "vectors").await?;
    let (documents, _) = context.encode(&document, documents_kept, "vectors").await?;
    let head = folder.join("head");
    computing(|| {
        let values = [queries.as_slice(), documents.as_slice()].concat();
        let vectors = Embeddings::from_vec(documents.dimensions(), values)?;
        let found = Whitening::fit(&vectors, whitening.power)?;
        found.write(&head)?;
        Ok(Whitened {
            texts: vectors.len(),
            crowding_before: crowding(&vectors),
            crowding_after: crowding(&found.apply(&vectors)),
            head: head.clone(),
        })
    })
}

/// Refuses, before the work, towers that the head could not stand behind.
fn check([query, document]: &[Tower; 2]) -> Result<()> {
    let [of_queries, space] = [query, document].map(|tower| tower.space(Digest256::of(b"")));
    let refused = if !of_queries.incomparable(&space).is_empty() {
        "queries and documents are not of one tower: a head is for one space"
    } else if !space.modules.is_empty() {
        "the model has modules of its own behind the pooling, in whose place a head would stand; set tower.defaults = \"none\" to \
         leave them out"
    } else if !space.normalize {
        "a head is fitted to unit vectors; take normalize = false away"
    } else if document.options().dimensions.is_some() {
        "a head is fitted to whole vectors; take tower.dimensions away, it may stand in the pipeline file beside tower.head"
    } else {
        return Ok(());
    };
    Err(Error::config(refused))
}

/// Each text once, those that are empty left out, in an order drawn by `seed`.
fn drawn<'a>(texts: impl Iterator<Item = &'a str>, seed: u64) -> Vec<&'a str> {
    let texts: BTreeSet<&str> = texts.map(str::trim).filter(|text| !text.is_empty()).collect();
    let mut texts = Vec::from_iter(texts);
    SplitMix64::new(seed ^ 0x5748_4954).shuffle(&mut texts);
    texts
}
