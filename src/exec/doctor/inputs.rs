//! What a run reads here beside models: the tables, with what the pipeline makes of them, and the queries of
//! `[evaluation]`.

use std::sync::Arc;

use super::check::{Check, blocking};
use super::resources::local;
use super::store::{Newest, file_instead};
use crate::config::Pipeline;
use crate::corpus::look_for_files;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::observe::{Reporter, Silent};
use crate::snapshot::{self, Manifest};
use crate::stage::{Questions, check_corpus};
use crate::store::{Keys, Root};
use crate::types::Cancel;

/// What a pipeline file is told where the start of its files stands against it, and the rest may not.
const MAY_BE: &str =
    "rows that come later, or the types that columns had in the newest snapshot, decide";

/// A table by its name, and whether its files are there; false for one of a bucket or a server.
type Table = (String, Result<bool>);

/// The tables, the query over them and the evaluation, as a run on top of the newest snapshot would find them; of a root
/// that does not say which it is, nothing is known.
pub(super) async fn checks(pipeline: &Pipeline, newest: Option<&Newest>) -> Vec<Check> {
    let tables = look(pipeline).await;
    let name = |table: &str| format!("table {table}");
    let mut checks = Vec::new();
    let mut missing = false;
    for (table, there) in &tables {
        match there {
            Ok(true) => checks.push(Check::fine(name(table), "there")),
            Ok(false) => {}
            Err(error) => {
                missing = true;
                checks.push(Check::failed(name(table), error));
            }
        }
    }
    if !missing {
        let parent = newest.and_then(Option::as_ref);
        match corpus(pipeline, parent, newest.is_some()).await {
            Ok(None) => checks.push(Check::fine(
                "corpus",
                "the tables open, and the query, the template and the stored columns fit them",
            )),
            Ok(Some(doubt)) => {
                let doubt = pipeline.origins.place(doubt);
                checks.push(Check::warning("corpus", doubt.to_string(), MAY_BE));
            }
            Err(error) => {
                let of_table = error.key().and_then(table_of_key).and_then(|at| tables.get(at));
                let named = of_table.map_or("corpus".to_owned(), |(table, _)| name(table));
                checks.retain(|check| check.name != named);
                checks.push(Check::failed(named, &pipeline.origins.place(error)));
            }
        }
    }
    checks.extend(evaluation(pipeline).await.map(|asked| match asked {
        Ok(()) => Check::fine("evaluation", "there"),
        Err(error) => Check::failed("evaluation", &error),
    }));
    checks
}

/// The table whose key it is: `corpus.tables.2.uri` is of the third.
fn table_of_key(key: &str) -> Option<usize> {
    key.strip_prefix("corpus.tables.")?.split('.').next()?.parse().ok()
}

/// What a run of this pipeline would not find, or could not use, if it ran here, in sentences: a pipeline file need not
/// be checked where it runs. What is here must fit together. Of models nothing is said.
///
/// # Errors
/// Where the tables are here, what would stop a run before it reads their rows; Input for a root among the notes.
pub async fn unusable_here(pipeline: &Pipeline) -> Result<Vec<String>> {
    let fails = |error: &Error| format!("{error}; a run on this machine would fail");
    let looked = pipeline.clone();
    let RootHere { wrong, root, is_new } = blocking(move || RootHere::of(&looked)).await?;
    let mut said: Vec<String> = wrong.iter().map(fails).collect();
    let tables = look(pipeline).await;
    said.extend(tables.iter().filter_map(|(_, there)| there.as_ref().err()).map(fails));
    if let Some(Err(error)) = evaluation(pipeline).await {
        said.push(fails(&error));
    }
    if let Some(root) = &root {
        pipeline.refuse_tables_in(root).await?;
    }
    if !tables.iter().all(|(_, there)| matches!(there, Ok(true))) {
        return Ok(said);
    }
    // A root elsewhere is not asked for the types that columns had in its newest snapshot.
    let (parent, is_sure) = match &root {
        Some(root) => match snapshot::newest(root).await {
            Ok(newest) => (newest, true),
            Err(_) => (None, false),
        },
        None => (None, is_new),
    };
    match corpus(pipeline, parent.as_ref(), is_sure).await {
        Ok(None) => {}
        Ok(Some(doubt)) => said.push(format!("{}; {MAY_BE}", pipeline.origins.place(doubt))),
        Err(error) => {
            let error = pipeline.origins.place(error);
            match error.kind() {
                // The machine's, or this build's.
                ErrorKind::Unsupported
                | ErrorKind::Resource
                | ErrorKind::Transient
                | ErrorKind::Internal => said.push(fails(&error)),
                _ => return Err(error),
            }
        }
    }
    Ok(said)
}

/// The root as far as this machine knows of it.
struct RootHere {
    /// What is wrong with its place and its keys.
    wrong: Vec<Error>,
    /// Where it is a folder that is there: a look makes none.
    root: Option<Root>,
    /// It is a folder that is not there.
    is_new: bool,
}

impl RootHere {
    /// Blocks while it looks.
    fn of(pipeline: &Pipeline) -> Self {
        let publish = &pipeline.publish;
        let instead = file_instead(&publish.root);
        let instead = instead.map(|found| Error::input(format!("publish.root: {found}")));
        let wrong = instead.into_iter().chain(Keys::load(&publish.public_keys).err()).collect();
        let is_there = local(&publish.root).map(|folder| folder.is_dir());
        let root = is_there.filter(|is_there| *is_there).and_then(|_| pipeline.open_root().ok());
        Self { wrong, root, is_new: is_there == Some(false) }
    }
}

async fn look(pipeline: &Pipeline) -> Vec<Table> {
    let cancel = Cancel::new();
    let mut tables = Vec::new();
    for (at, table) in pipeline.corpus.tables.iter().enumerate() {
        let looked = look_for_files(table, &pipeline.base_dir, &cancel).await;
        let wrong = |error: Error| error.of_key_in(&format!("corpus.tables.{at}"), "uri");
        tables.push((table.name.clone(), pipeline.origins.placed(looked.map_err(wrong))));
    }
    tables
}

/// As [`check_corpus`]; nothing is said beside.
async fn corpus(
    pipeline: &Pipeline,
    parent: Option<&Manifest>,
    is_sure: bool,
) -> Result<Option<Error>> {
    let (reporter, cancel): (Arc<dyn Reporter>, _) = (Arc::new(Silent), Cancel::new());
    check_corpus(pipeline.corpus_input(&reporter, &cancel), parent, is_sure).await
}

async fn evaluation(pipeline: &Pipeline) -> Option<Result<()>> {
    let options = pipeline.evaluation.clone()?;
    let base_dir = pipeline.base_dir.clone();
    let reading = move || Questions::read(&options, &base_dir).map(drop);
    let read = tokio::task::spawn_blocking(reading)
        .await
        .or_error(ErrorKind::Internal, || "reading [evaluation]");
    Some(read.and_then(|read| read))
}
