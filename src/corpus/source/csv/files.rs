//! The first pass over all files of a table: they must agree on columns, and on whether they have quotes.

use std::sync::Arc;

use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use futures::StreamExt;

use super::super::bytes;
use super::super::file::SourceFile;
use super::super::text::Learned;
use super::dialect::Dialect;
use super::learn::{Learning, learn};
use crate::corpus::names::listed;
use crate::corpus::options::{TableOptions, TypeRule};
use crate::error::{Error, Result};

/// How many files are read at once: each takes a core.
const FILES: usize = 4;

/// The result of the first pass over all files.
enum Pass {
    /// Each file in its turn.
    Learned(Vec<Learned>),
    Misquoted(Error),
    Uneven,
}

/// Reads all files of a table once. The dialect that comes back is the one for later passes.
///
/// Files that end in `.tsv` and do not say whether they have quotes have some if every field that begins with a quote
/// is as a CSV writer writes it, and have none if that gives every line the header's number of fields.
///
/// # Errors
/// The first file that cannot be read or has other columns than the first; options that do not fit.
pub(in crate::corpus::source) async fn learn_files(
    files: &[SourceFile],
    compression: FileCompressionType,
    table: &TableOptions,
    dialect: Dialect,
    rule: TypeRule,
) -> Result<(Dialect, Vec<Learned>)> {
    let table = Arc::new(table.clone());
    let misquoted = match pass(files, compression, &table, dialect, rule, false).await? {
        Pass::Learned(learned) => return Ok((dialect, learned)),
        Pass::Misquoted(error) => error,
        Pass::Uneven => return Err(Error::internal("any number of fields should have done")),
    };
    let plain = dialect.without_quotes();
    match pass(files, compression, &table, plain, rule, true).await? {
        Pass::Learned(learned) => Ok((plain, learned)),
        Pass::Misquoted(_) | Pass::Uneven => Err(misquoted),
    }
}

async fn pass(
    files: &[SourceFile],
    compression: FileCompressionType,
    table: &Arc<TableOptions>,
    dialect: Dialect,
    rule: TypeRule,
    even: bool,
) -> Result<Pass> {
    let mut learnings = futures::stream::iter(files.iter().cloned().enumerate())
        .map(|(at, file)| {
            let table = Arc::clone(table);
            async move {
                bytes::read(&file, compression, table.encoding, move |reader| {
                    learn(reader, dialect, &table, at, rule, even)
                })
                .await
            }
        })
        .buffered(FILES);
    let mut all = Vec::<Learned>::new();
    while let Some(learning) = learnings.next().await {
        let file = &files[all.len()];
        match learning? {
            Learning::Learned(learned) => {
                if let Some(first) = all.first() {
                    check_columns(first, &files[0], &learned, file)?;
                }
                all.push(learned);
            }
            Learning::Misquoted(error) => {
                return Ok(Pass::Misquoted(error.context(format!("reading {}", file.url))));
            }
            Learning::Uneven => return Ok(Pass::Uneven),
        }
    }
    Ok(Pass::Learned(all))
}

fn names(learned: &Learned) -> impl Iterator<Item = &str> {
    learned.columns.iter().map(|(name, _)| name.as_str())
}

/// CSV is read by position.
fn check_columns(
    first: &Learned,
    first_file: &SourceFile,
    learned: &Learned,
    file: &SourceFile,
) -> Result<()> {
    if names(first).eq(names(learned)) {
        return Ok(());
    }
    Err(Error::input(format!(
        "{} has the columns {}, but {} has {}; make them two tables and UNION ALL them in corpus.sql",
        file.url,
        listed(&names(learned).collect::<Vec<_>>()),
        first_file.url,
        listed(&names(first).collect::<Vec<_>>()),
    )))
}
