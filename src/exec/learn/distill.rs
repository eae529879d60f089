//! Stage 2.

use std::collections::HashSet;

use super::LearnContext;
use crate::error::Result;
use crate::tower::Tower;
use crate::train::{self, DistillOptions, Teacher, TrainReport, check_student};

/// Distils the query tower that `options.teacher` names into a student; it is in the context's folder at the end, below
/// `student/`, beside the teacher's vectors and report.html.
///
/// # Errors
/// As [`super::train`].
pub async fn distill(options: DistillOptions, context: LearnContext) -> Result<TrainReport> {
    options.validate()?;
    let (base_dir, reporter) = (&context.base_dir, &context.reporter);
    let tower = Tower::resolve(&options.teacher, base_dir, reporter).await?;
    check_student(&options, base_dir, tower.dimensions() as usize, reporter).await?;
    let queries = queries(&options, &context).await?;
    let texts: Vec<&str> = queries.iter().map(String::as_str).collect();
    let (vectors, space) = context.encode(&options.teacher, &texts, "teacher").await?;
    train::on_large_stack(async move || {
        let teacher = Teacher { vectors: &vectors, documents: None, space: &space };
        let LearnContext { base_dir, folder, reporter, cancel, .. } = context;
        train::distill(&queries, &teacher, &options, &base_dir, &folder, &reporter, &cancel).await
    })
    .await
}

/// Every query once, in the order of the pairs.
async fn queries(options: &DistillOptions, context: &LearnContext) -> Result<Vec<String>> {
    let LearnContext { base_dir, reporter, cancel, .. } = context;
    let pairs = train::open_pairs(&options.pairs, base_dir, options.seed, reporter, cancel).await?;
    let mut seen = HashSet::new();
    let trimmed = pairs.pairs.into_iter().map(|pair| pair.query.trim().to_owned());
    Ok(trimmed.filter(|query| !query.is_empty() && seen.insert(query.clone())).collect())
}
