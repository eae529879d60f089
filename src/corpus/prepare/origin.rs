//! Where ids come from: the rows of files behind those that are rejected, refused or doubted.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;

use super::dedupe::{EMPTY_ID, NULL_ID, fault};
use super::note_ids::{integer, is_refusal, is_rounded, rounded};
use crate::corpus::outcome::{Rejections, shortened};
use crate::corpus::source::file::SourceFile;
use crate::corpus::source::tables::{SourceTable, Tables};
use crate::error::Error;

/// What the ids of a query are made of, where each of its rows is one of a file.
pub(super) struct Origin<'a> {
    table: &'a SourceTable,
    ids: Arc<dyn PhysicalExpr>,
    /// Which rows the query takes.
    filters: Vec<Arc<dyn PhysicalExpr>>,
    /// Columns of the table that these read.
    places: Vec<usize>,
    /// The ids' column as messages call it.
    column: String,
}

/// Rows of a file.
struct Found<'a> {
    file: &'a SourceFile,
    /// Numbers of the first, from 1, and the id of the first of all.
    first: Vec<u64>,
    id: String,
    count: u64,
}

/// This many rows of a file are named.
const NAMED: u64 = 20;

impl<'a> Origin<'a> {
    /// `None` where the query joins, groups, or nests: its rows are not those of a file.
    pub(super) fn of(
        context: &SessionContext,
        plan: &LogicalPlan,
        tables: &'a Tables,
    ) -> Option<Self> {
        let LogicalPlan::Projection(projection) = plan else { return None };
        let fields = projection.schema.fields();
        let at = fields.iter().position(|field| field.name() == "note_id")?;
        let ids = projection.expr.get(at)?.clone().unalias_nested().data;
        let (mut below, mut filters) = (&projection.input, Vec::new());
        while let LogicalPlan::Filter(filter) = below.as_ref() {
            filters.push(filter.predicate.clone());
            below = &filter.input;
        }
        let scan = match below.as_ref() {
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            _ => below,
        };
        let LogicalPlan::TableScan(scan) = scan.as_ref() else { return None };
        let table = tables.named(scan.table_name.table())?;
        let read = filters.iter().chain([&ids]).flat_map(Expr::column_refs);
        let places = read.map(|column| below.schema().index_of_column(column).ok());
        let places: BTreeSet<usize> = places.collect::<Option<_>>()?;
        let field = |at: &usize| {
            let (table, field) = below.schema().qualified_field(*at);
            (table.cloned(), Arc::clone(field))
        };
        let fields = places.iter().map(field).collect();
        let schema = DFSchema::new_with_metadata(fields, HashMap::new()).ok()?;
        let column = match &ids {
            Expr::Column(Column { name, .. }) => name.clone(),
            _ => "note_id".to_owned(),
        };
        let physical = |expr| context.create_physical_expr(expr, &schema).ok();
        Some(Self {
            table,
            ids: physical(ids)?,
            filters: filters.into_iter().map(physical).collect::<Option<_>>()?,
            places: places.into_iter().collect(),
            column,
        })
        .filter(|origin| !origin.places.is_empty())
    }

    /// Names the row of an id that the query was stopped by.
    pub(super) async fn refused(&self, context: &SessionContext, error: Error) -> Error {
        let is_such = |id: Option<&str>| id.is_some_and(|id| integer(id).is_none());
        // A file that cannot be read again says nothing new.
        let found = match is_refusal(&error) {
            true => self.rows(context, 1, &is_such).await.unwrap_or_default(),
            false => Vec::new(),
        };
        match self.told(&found, error.message()).pop() {
            Some(told) => Error::input(told),
            None => error,
        }
    }

    /// Names the first rows without an id.
    pub(super) async fn rejected(&self, context: &SessionContext, rejections: &mut Rejections) {
        for reason in [NULL_ID, EMPTY_ID] {
            if rejections.by_reason.contains_key(reason) {
                let is_such = |id: Option<&str>| fault(id) == Some(reason);
                let found = self.rows(context, NAMED, &is_such).await.unwrap_or_default();
                rejections.name(reason, self.told(&found, reason));
            }
        }
    }

    /// What to say of ids that a spreadsheet rounded, a file each.
    pub(super) async fn rounded(&self, context: &SessionContext) -> Vec<String> {
        let is_such = |id: Option<&str>| id.is_some_and(is_rounded);
        let found = self.rows(context, u64::MAX, &is_such).await.unwrap_or_default();
        let warning = |Found { file, first, id, count }: &Found<'_>| {
            let row = first.first().copied().unwrap_or_default();
            let (url, column) = (&file.url, &self.column);
            format!(
                "{url}: column `{column}`: {}",
                rounded(*count, &format!("`{}` in row {row}", shortened(id)))
            )
        };
        found.iter().map(warning).collect()
    }

    fn told(&self, found: &[Found<'_>], what: &str) -> Vec<String> {
        let rows = found.iter().flat_map(|found| found.first.iter().map(|row| (found.file, row)));
        rows.map(|(file, row)| format!("{} row {row}: column `{}`: {what}", file.url, self.column))
            .collect()
    }

    /// Rows of the query with such ids, by file, until there are `most` of them.
    async fn rows(
        &self,
        context: &SessionContext,
        most: u64,
        is_such: &(dyn Fn(Option<&str>) -> bool + Sync),
    ) -> Result<Vec<Found<'a>>> {
        let (mut all, mut left) = (Vec::new(), most);
        for (at, file) in self.table.files().iter().enumerate() {
            let mut found = Found { file, first: Vec::new(), id: String::new(), count: 0 };
            let mut batches = self.table.read_file(context, at, &self.places).await?;
            let mut before = 0;
            while let Some(batch) = batches.try_next().await? {
                for (row, id) in self.ids_of(&batch)? {
                    if left > 0 && is_such(id.as_deref()) {
                        if found.count < NAMED {
                            found.first.push(self.table.row_number(at, before + row as u64));
                        }
                        if found.count == 0 {
                            found.id = id.unwrap_or_default();
                        }
                        (found.count, left) = (found.count + 1, left - 1);
                    }
                }
                before += batch.num_rows() as u64;
                if left == 0 {
                    break;
                }
            }
            if found.count > 0 {
                all.push(found);
            }
            if left == 0 {
                break;
            }
        }
        Ok(all)
    }

    /// Rows that the query takes, with their ids.
    fn ids_of(&self, batch: &RecordBatch) -> Result<Vec<(usize, Option<String>)>> {
        let value = |expr: &Arc<dyn PhysicalExpr>| -> Result<ArrayRef> {
            expr.evaluate(batch)?.into_array(batch.num_rows())
        };
        let masks = self.filters.iter().map(value).collect::<Result<Vec<_>>>()?;
        let ids = cast(&value(&self.ids)?, &DataType::Utf8)?;
        let ids = ids.as_string::<i32>();
        let is_taken = |row: &usize| {
            masks.iter().all(|mask| mask.is_valid(*row) && mask.as_boolean().value(*row))
        };
        let id = |row| (row, ids.is_valid(row).then(|| ids.value(row).to_owned()));
        Ok((0..batch.num_rows()).filter(is_taken).map(id).collect())
    }
}
