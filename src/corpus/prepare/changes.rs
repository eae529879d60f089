//! A query over the rows that changed in a table, where its result over all rows changes by these rows alone.
//!
//! A change feed has a row as it was before an edit, which deletes its note, and as it is afterwards, which brings the note back:
//! so a note that a filter no longer takes is gone, and one that it takes now is there. The order is that of the table's
//! versions, whatever `updated_at` the query gives.
//!
//! Of a table whose rows say when they were written there is only what they are afterwards. A row that a filter does not take
//! deletes its note. Rows that were deleted say nothing: the rows that the query has now are counted.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::{Case, Expr, ExprSchemable, LogicalPlan, Projection, cast, lit};
use datafusion::prelude::{DataFrame, SessionContext, ident};

use super::per_row::{ACROSS, UNSTEADY, is_of_the_row, scan_of};
use crate::corpus::options::{CorpusMode, CorpusOptions};
use crate::corpus::outcome::{Feed, Position, SourceTypes};
use crate::corpus::session::{error, query};
use crate::corpus::source::tables::Tables;
use crate::error::Result;
use crate::observe::Reporter;
use crate::types::Digest256;

/// Columns of a table's change feed.
const TYPE: &str = "_change_type";
const VERSION: &str = "_commit_version";
/// All of them.
const OWN: [&str; 3] = [TYPE, VERSION, "_commit_timestamp"];

/// From where the changes of a table are read.
#[derive(Debug, Clone)]
pub struct FeedRequest {
    /// Names how notes are made of rows.
    pub reading: Digest256,
    /// What the newest snapshot was made of; `None` reads all rows.
    pub since: Option<Feed>,
}

impl FeedRequest {
    /// What a later run may read on from, where the table was read there.
    pub(super) fn now(&self, at: Option<Position>) -> Option<Feed> {
        at.map(|at| Feed { reading: self.reading, at })
    }
}

/// What is read of a corpus.
pub(super) struct Narrowed {
    pub(super) tables: Tables,
    pub(super) query: DataFrame,
    /// What absence of a note means.
    pub(super) mode: CorpusMode,
    /// The query over all rows, where what was deleted shows in their number alone.
    pub(super) all: Option<DataFrame>,
}

/// The tables and the query of what changed. Where that is in doubt they are those of all rows still, and a note that these
/// lack is deleted.
pub(super) async fn narrowed(
    context: &SessionContext,
    options: &CorpusOptions,
    (all, rows): (Tables, DataFrame),
    reporter: &dyn Reporter,
) -> Result<Narrowed> {
    let full = |tables, query| Narrowed { tables, query, mode: CorpusMode::Full, all: None };
    let is_marked = all.position().is_some_and(|position| position.mark.is_some());
    let doubt = match all.changed(context) {
        // The first run.
        None => return Ok(full(all, rows)),
        Some(Err(doubt)) => doubt,
        Some(Ok(changed)) => match query(context, &options.sql).await {
            Ok(changes) => {
                let plan = match is_marked {
                    true => over_written(changes.logical_plan()),
                    false => over_changes(changes.logical_plan()),
                };
                match plan {
                    Ok(plan) => {
                        let query = DataFrame::new(context.state(), plan);
                        let all = is_marked.then(|| not_deleted(rows)).transpose()?;
                        return Ok(Narrowed {
                            tables: changed,
                            query,
                            mode: CorpusMode::Delta,
                            all,
                        });
                    }
                    Err(doubt) => doubt.to_owned(),
                }
            }
            // Two columns may have one name now.
            Err(_) => "corpus.sql cannot be asked of changes".to_owned(),
        },
    };
    reporter.info(format!("all rows of the table are read: {doubt}"));
    all.register(context)?;
    Ok(full(all, rows))
}

/// The types of the table's own columns.
pub(super) fn without(mut types: SourceTypes) -> SourceTypes {
    for columns in types.tables.values_mut() {
        columns.retain(|name, _| !OWN.contains(&name.as_str()));
    }
    types
}

/// The query with `deleted` and `updated_at` as the change feed has them.
///
/// # Errors
/// Why a change of a row may change more than the note of that row, for people.
fn over_changes(plan: &LogicalPlan) -> std::result::Result<LogicalPlan, &'static str> {
    let LogicalPlan::Projection(projection) = plan else { return Err(ACROSS) };
    let mut below = &projection.input;
    let mut expressions: Vec<&Expr> = projection.expr.iter().collect();
    loop {
        match below.as_ref() {
            LogicalPlan::Filter(filter) => {
                expressions.push(&filter.predicate);
                below = &filter.input;
            }
            LogicalPlan::SubqueryAlias(alias) => below = &alias.input,
            LogicalPlan::TableScan(_) => break,
            _ => return Err(ACROSS),
        }
    }
    if !expressions.iter().all(|expression| is_of_the_row(expression)) {
        return Err(UNSTEADY);
    }
    let input = projection.input.schema();
    let column = |name: &str| {
        let found = input.qualified_field_with_unqualified_name(name);
        found.map(|found| Expr::Column(found.into())).map_err(|_| ACROSS)
    };
    let (change, version) = (column(TYPE)?, column(VERSION)?);
    let gone = change.in_list(vec![lit("delete"), lit("update_preimage")], false);
    let fields = projection.schema.fields();
    let deleted = deleted_or(projection, gone.clone())?;
    let after =
        Case::new(None, vec![(Box::new(gone), Box::new(lit(0_i64)))], Some(Box::new(lit(1_i64))));
    // Versions are unsigned, and a product of both kinds would be a decimal.
    let order = cast(version, DataType::Int64) * lit(2_i64) + Expr::Case(after);
    let kept = projection.expr.iter().zip(fields).filter(|(_, field)| {
        !["deleted", "updated_at"].iter().chain(&OWN).any(|own| field.name() == own)
    });
    let mut wanted: Vec<Expr> = kept.map(|(expression, _)| expression.clone()).collect();
    wanted.extend([deleted.alias("deleted"), order.alias("updated_at")]);
    let projection = Projection::try_new(wanted, Arc::clone(&projection.input));
    projection.map(LogicalPlan::Projection).map_err(|_| ACROSS)
}

/// The query with `deleted` for rows that it does not take.
///
/// # Errors
/// As [`over_changes`].
fn over_written(plan: &LogicalPlan) -> std::result::Result<LogicalPlan, &'static str> {
    scan_of(plan)?;
    let LogicalPlan::Projection(projection) = plan else { return Err(ACROSS) };
    let mut below = &projection.input;
    let mut taken = lit(true);
    while let LogicalPlan::Filter(filter) = below.as_ref() {
        taken = taken.and(filter.predicate.clone());
        below = &filter.input;
    }
    let mut under = below;
    while let LogicalPlan::SubqueryAlias(alias) = under.as_ref() {
        under = &alias.input;
    }
    if !matches!(under.as_ref(), LogicalPlan::TableScan(_)) {
        return Err("corpus.sql filters the table below another query");
    }
    let gone = Expr::Not(Box::new(coalesce(vec![taken, lit(false)])));
    let deleted = deleted_or(projection, gone)?;
    let kept = projection.expr.iter().zip(projection.schema.fields());
    let kept = kept.filter(|(_, field)| field.name() != "deleted");
    let mut wanted: Vec<Expr> = kept.map(|(expression, _)| expression.clone()).collect();
    wanted.push(deleted.alias("deleted"));
    let projection = Projection::try_new(wanted, Arc::clone(below));
    projection.map(LogicalPlan::Projection).map_err(|_| ACROSS)
}

/// The rows of a query, without those that its own `deleted` deletes.
fn not_deleted(rows: DataFrame) -> Result<DataFrame> {
    if !rows.schema().has_column_with_unqualified_name("deleted") {
        return Ok(rows);
    }
    let deleted = coalesce(vec![ident("deleted"), lit(false)]);
    rows.filter(Expr::Not(Box::new(deleted))).map_err(|e| error(e, "counting the notes"))
}

/// Whether a row deletes its note: where the query's own `deleted` says so, or it is `gone`.
fn deleted_or(projection: &Projection, gone: Expr) -> std::result::Result<Expr, &'static str> {
    let mut fields = projection.schema.fields().iter();
    let Some(at) = fields.position(|field| field.name() == "deleted") else { return Ok(gone) };
    let own = projection.expr[at].clone().unalias_nested().data;
    if own.get_type(projection.input.schema().as_ref()).ok() != Some(DataType::Boolean) {
        return Err("column `deleted` of corpus.sql is not a boolean");
    }
    Ok(coalesce(vec![own, lit(false)]).or(gone))
}
