//! What a run reads here beside models: the files of the tables, and the queries of `[evaluation]`.

use super::check::Check;
use super::store::file_instead;
use crate::config::Pipeline;
use crate::corpus::look_for_files;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::stage::Questions;
use crate::types::Cancel;

/// One thing to be read, by what it is called, and what is wrong with it.
type Input = (String, Option<Error>);

pub(super) async fn checks(pipeline: &Pipeline) -> Vec<Check> {
    let check = |(name, wrong): Input| match wrong {
        None => Check::fine(name, "there"),
        Some(error) => Check::failed(name, &error),
    };
    look(pipeline).await.into_iter().map(check).collect()
}

/// What a run of this pipeline would not find, or could not use, if it ran here; of models nothing is said.
pub async fn unusable_here(pipeline: &Pipeline) -> Vec<Error> {
    let root = file_instead(&pipeline.publish.root);
    let root = root.map(|found| Error::input(format!("publish.root: {found}")));
    let inputs = look(pipeline).await.into_iter().filter_map(|(_, wrong)| wrong);
    root.into_iter().chain(inputs).collect()
}

async fn look(pipeline: &Pipeline) -> Vec<Input> {
    let cancel = Cancel::new();
    let mut inputs = Vec::new();
    for (at, table) in pipeline.corpus.tables.iter().enumerate() {
        let looked = look_for_files(table, &pipeline.base_dir, &cancel).await;
        let wrong = |error: Error| error.of_key_in(&format!("corpus.tables.{at}"), "uri");
        match pipeline.origins.placed(looked.map_err(wrong)) {
            // A bucket or a server: the run asks it.
            Ok(false) => {}
            looked => inputs.push((format!("table {}", table.name), looked.err())),
        }
    }
    if pipeline.evaluation.is_some() {
        inputs.push(("evaluation".to_owned(), questions(pipeline).await.err()));
    }
    inputs
}

async fn questions(pipeline: &Pipeline) -> Result<()> {
    let Some(options) = pipeline.evaluation.clone() else { return Ok(()) };
    let base_dir = pipeline.base_dir.clone();
    let reading = move || Questions::read(&options, &base_dir).map(drop);
    tokio::task::spawn_blocking(reading)
        .await
        .or_error(ErrorKind::Internal, || "reading [evaluation]")?
}
