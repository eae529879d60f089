//! Hard negatives for the next round of stage 1.

use std::path::PathBuf;

use serde::Serialize;

use super::{LearnContext, teacher};
use crate::error::{Error, Result};
use crate::tower::TowerOptions;
use crate::train::{
    self, MineOptions, MineReport, Neighbours, TrainOptions, keep_answered, open_pairs, write_pairs,
};
use crate::types::computing;

/// Whose scores rank the documents.
pub enum Ranking {
    /// Two towers of one embedding space.
    Towers {
        /// That of the queries.
        query: Box<TowerOptions>,
        /// That of the documents.
        document: Box<TowerOptions>,
    },
    /// The teacher that the recipe names.
    Teacher,
}

/// What is mined, and how.
pub struct MineRequest {
    /// The recipe whose pairs get negatives.
    pub options: TrainOptions,
    /// Which documents become negatives.
    pub mining: MineOptions,
    /// Who ranks them.
    pub ranking: Ranking,
}

/// What was mined.
#[derive(Debug, Serialize)]
pub struct Mined {
    /// Counts.
    #[serde(flatten)]
    pub report: MineReport,
    /// One file of pairs for each of the recipe's sources, in its order.
    pub files: Vec<PathBuf>,
}

/// Gives every pair of a recipe some documents that rank high for its query and do not answer it. Pairs and vectors are in
/// the context's folder.
///
/// # Errors
/// Config for options that do not fit each other or name no teacher where one is asked for; Cancelled; those of
/// reading, encoding and writing.
pub async fn mine(request: MineRequest, context: &LearnContext) -> Result<Mined> {
    let MineRequest { options, mining, ranking } = request;
    options.validate()?;
    mining.validate()?;
    let LearnContext { base_dir, folder, reporter, cancel, .. } = context;
    let mut set = open_pairs(&options.pairs, base_dir, options.seed, reporter, cancel).await?;
    keep_answered(&mut set, reporter)?;
    let documents: Vec<&str> = set.documents.iter().map(String::as_str).collect();
    let queries: Vec<&str> = set.pairs.iter().map(|pair| pair.query.as_str()).collect();
    let (queries, documents) = match ranking {
        Ranking::Teacher => {
            let teacher = options.teacher.as_ref();
            let teacher =
                teacher.ok_or_else(|| Error::config("it names no [teacher] to rank documents"))?;
            let texts = [queries.clone(), documents.clone()];
            let found = teacher::encode(teacher, texts, "vectors", context).await?;
            (found.queries.unit(queries)?, found.documents.unit(documents)?)
        }
        Ranking::Towers { query, document } => {
            let documents = context.encode(&document, &documents, "vectors").await?.0;
            (context.encode(&query, &queries, "vectors").await?.0, documents)
        }
    };
    let report = computing(|| {
        let neighbours = Neighbours::build(&documents, cancel)?;
        train::mine(&mut set, &queries, &documents, &neighbours.candidates(), &mining)
    })?;
    let mut files = Vec::new();
    for (at, source) in options.pairs.iter().enumerate() {
        let name = source.path.file_name().unwrap_or("pairs".as_ref()).to_string_lossy();
        let stem = name.split('.').next().unwrap_or("pairs");
        let path = folder.join(format!("{at}-{stem}.jsonl"));
        write_pairs(&set, &report.scores, at as u32, &path)?;
        files.push(path);
    }
    Ok(Mined { report, files })
}
