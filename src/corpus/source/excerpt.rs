//! Some files of a table, or parts of them, in the place of all.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::logical_expr::{
    Expr, LogicalPlan, TableProviderFilterPushDown, TableScan, TableType,
};
use datafusion::physical_plan::ExecutionPlan;

use super::groups::Extent;
use super::provider::SourceTable;

/// A table of which only some extents are read.
#[derive(Debug)]
struct Excerpt {
    table: Arc<SourceTable>,
    extents: Vec<Extent>,
}

/// The plan of a query with these extents of a table in the place of all of it.
pub(in crate::corpus) fn of(
    plan: LogicalPlan,
    table: &Arc<SourceTable>,
    extents: Vec<Extent>,
) -> Result<LogicalPlan> {
    let source = provider_as_source(Arc::new(Excerpt { table: Arc::clone(table), extents }));
    let replaced = plan.transform_up_with_subqueries(|node| {
        Ok(match node {
            LogicalPlan::TableScan(scan) if scan.table_name.table() == table.name() => {
                let source = Arc::clone(&source);
                Transformed::yes(LogicalPlan::TableScan(TableScan { source, ..scan }))
            }
            other => Transformed::no(other),
        })
    });
    replaced.map(|replaced| replaced.data)
}

#[async_trait]
impl TableProvider for Excerpt {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        self.table.table_type()
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        self.table.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.table.scan_of(state, projection, (filters, limit), Some(&self.extents)).await
    }
}
