//! Opens a corpus: its tables are found and learnt, and its query is planned over them.

use std::path::Path;
use std::sync::Arc;

use datafusion::prelude::{DataFrame, SessionContext};

use super::changes::{self, FeedRequest, Narrowed};
use super::template::NoteTemplate;
use crate::corpus::names;
use crate::corpus::options::{CorpusMode, CorpusOptions, TableOptions, TypeRule};
use crate::corpus::outcome::{Position, Rejections, SourceTypes};
use crate::corpus::session::{Depth, Room, query, session, sql_error};
use crate::corpus::source::find::{Finder, Output};
use crate::corpus::source::pinned::Pinned;
use crate::corpus::source::tables::{self, Tables};
use crate::error::{Error, ErrorKind, Result, shielded_async};
use crate::observe::Reporter;
use crate::observe::format::counted;
use crate::store::{Root, StorageOptions};
use crate::types::{Cancel, NoteId};

/// What a run continues with.
#[derive(Debug, Clone, Default)]
pub struct Earlier {
    /// The types that columns were read by.
    pub types: Option<SourceTypes>,
    /// Some note's id, for its type.
    pub note: Option<NoteId>,
}

/// A corpus, and what it is read with.
#[derive(Clone, Copy)]
pub struct CorpusInput<'a> {
    /// The corpus.
    pub options: &'a CorpusOptions,
    /// Folder that relative table paths start from.
    pub base_dir: &'a Path,
    /// How object stores are reached, unless the options say otherwise.
    pub storage: &'a StorageOptions,
    /// Progress.
    pub reporter: &'a Arc<dyn Reporter>,
    /// Cancellation.
    pub cancel: &'a Cancel,
}

impl CorpusInput<'_> {
    /// Names its files where a fault does not say which one it is of.
    pub(super) fn a_file(&self) -> String {
        let uris: Vec<_> = self.options.tables.iter().map(TableOptions::shown_uri).collect();
        format!("a file of the corpus ({})", uris.join(", "))
    }

    /// Some note's id of the newest snapshot, whose type is that of all.
    pub(super) fn known_id<'e>(&self, earlier: Option<&'e Earlier>) -> Option<&'e NoteId> {
        earlier.filter(|_| self.options.types == TypeRule::Exact)?.note.as_ref()
    }
}

/// What a corpus is opened with.
pub(super) struct Opening<'a> {
    pub(super) input: CorpusInput<'a>,
    /// The root that is published to, whose files are not notes.
    pub(super) root: Option<&'a Root>,
    pub(super) earlier: Option<&'a Earlier>,
    pub(super) feed: Option<&'a FeedRequest>,
    /// What another process has found and learnt, where it has.
    pub(super) pinned: Option<&'a Pinned<'a>>,
    pub(super) depth: Depth,
}

/// A corpus whose tables are registered and whose query is planned.
pub(super) struct Opened {
    pub(super) context: SessionContext,
    pub(super) tables: Tables,
    pub(super) query: DataFrame,
    pub(super) template: NoteTemplate,
    /// What absence of a note means.
    pub(super) mode: CorpusMode,
    /// As [`Narrowed::all`].
    pub(super) all: Option<DataFrame>,
    /// Where the history of the table is, if it is one that changes can be told of.
    pub(super) position: Option<Position>,
}

/// Finds the files, learns their columns and plans the query.
pub(super) async fn open(opening: Opening<'_>) -> Result<Opened> {
    let CorpusInput { options, reporter, .. } = opening.input;
    let feed = opening.feed;
    let (context, mut tables, template) = registered(opening).await?;
    let query = planned(&context, options, &template, &mut tables).await?;
    let position = feed.and_then(|_| tables.position().cloned());
    let Narrowed { tables, query, mode, all } = match position {
        None => Narrowed { tables, query, mode: options.mode, all: None },
        Some(_) => changes::narrowed(&context, options, (tables, query), reporter.as_ref()).await?,
    };
    Ok(Opened { context, tables, query, template, mode, all, position })
}

/// Finds the files and learns their columns.
pub(super) async fn registered(
    opening: Opening<'_>,
) -> Result<(SessionContext, Tables, NoteTemplate)> {
    let CorpusInput { options, base_dir, storage, reporter, cancel } = opening.input;
    let template = NoteTemplate::compile(&options.template, options.types == TypeRule::Exact)?;
    let context = session(options.memory_limit_mib)?;
    let finder = Finder::new(
        base_dir,
        options.storage.as_ref().unwrap_or(storage),
        opening.root.map(|root| Output { root, storage }),
        cancel,
        reporter.as_ref(),
    );
    let earlier = opening.earlier.filter(|_| options.types == TypeRule::Exact);
    let since = opening.feed.and_then(|feed| feed.since.as_ref());
    let typing = tables::Typing {
        rule: options.types,
        before: earlier.and_then(|earlier| earlier.types.as_ref()),
        reporter,
        room: Room::of(options.memory_limit_mib),
        depth: opening.depth,
        since: since.map(|feed| &feed.at),
        pinned: opening.pinned,
    };
    let tables = tables::register(&context, &options.tables, finder, &typing);
    let tables = cancel.unless_stopped(tables);
    let tables = shielded_async(ErrorKind::Input, || opening.input.a_file(), tables).await?;
    if tables.rejections.total() > options.max_rejected {
        return Err(too_many(&tables.rejections, options.max_rejected));
    }
    Ok((context, tables, template))
}

/// The query over the tables. One without rows may have whatever columns the query names.
pub(super) async fn planned(
    context: &SessionContext,
    options: &CorpusOptions,
    template: &NoteTemplate,
    tables: &mut Tables,
) -> Result<DataFrame> {
    loop {
        let found = query(context, &options.sql).await;
        let wanted: Vec<String> = match &found {
            Ok(query) if query.schema().has_column_with_unqualified_name("note_id") => Vec::new(),
            // As `SELECT *` returns them.
            Ok(_) => {
                let named = template.variables().iter().chain(&options.stored_columns).cloned();
                named.chain(["note_id".to_owned()]).collect()
            }
            Err(error) => names::absent(error.find_root()).map(str::to_owned).into_iter().collect(),
        };
        if tables.grow(context, &wanted)? {
            continue;
        }
        return match (found, tables.hint().filter(|_| !wanted.is_empty())) {
            (Ok(query), None) => Ok(query),
            (Ok(_), Some(hint)) => {
                let said = format!("corpus.sql returns no column `note_id`; {hint}");
                Err(Error::config(said).of_key("corpus.sql"))
            }
            (Err(cause), None) => Err(sql_error(cause, &options.tables)),
            (Err(cause), Some(hint)) => {
                let error = sql_error(cause, &options.tables);
                let said = format!("{}; {hint}", error.message());
                Err(Error::new(error.kind(), said).of_key("corpus.sql"))
            }
        };
    }
}

/// The refusal of more rejected rows than may be.
pub(super) fn too_many(rejections: &Rejections, allowed: u64) -> Error {
    let reasons: Vec<_> =
        rejections.by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let were = if rejections.total() == 1 { "was" } else { "were" };
    Error::input(format!(
        "{} {were} rejected, corpus.max_rejected allows {allowed}: {}; e.g. {}; correct them, leave them out in corpus.sql where a query can, or raise corpus.max_rejected",
        counted(rejections.total(), "row"),
        reasons.join(", "),
        rejections.samples.join("; "),
    ))
}
