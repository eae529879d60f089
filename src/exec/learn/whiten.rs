//! A head behind a tower that was trained, or was not.

use std::path::PathBuf;

use serde::Serialize;

use super::LearnContext;
use crate::dataset::SplitMix64;
use crate::error::{Error, Result};
use crate::tower::TowerOptions;
use crate::train::{TrainOptions, WhitenOptions, Whitening, crowding, open_pairs};
use crate::types::{Embeddings, computing};

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
/// Config for options that do not fit each other, or a tower that has a head; Input for too few texts; those of reading and
/// encoding.
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
    let set = open_pairs(&options.pairs, base_dir, options.seed, reporter, cancel).await?;
    let mut queries: Vec<&str> = set.pairs.iter().map(|pair| pair.query.trim()).collect();
    let mut documents: Vec<&str> = set.documents.iter().map(|text| text.trim()).collect();
    let half = whitening.texts / 2;
    let room = [
        whitening.texts.saturating_sub(documents.len()).max(half),
        whitening.texts.saturating_sub(queries.len()).max(half),
    ];
    for (texts, room) in [&mut queries, &mut documents].into_iter().zip(room) {
        texts.retain(|text| !text.is_empty());
        texts.sort_unstable();
        texts.dedup();
        SplitMix64::new(options.seed ^ 0x5748_4954).shuffle(texts);
        texts.truncate(room);
    }
    let (queries, of_queries) = context.encode(&query, &queries, "vectors").await?;
    let (documents, space) = context.encode(&document, &documents, "vectors").await?;
    if !of_queries.incomparable(&space).is_empty() {
        return Err(Error::config(
            "queries and documents are not of one tower: a head is for one space",
        ));
    }
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
