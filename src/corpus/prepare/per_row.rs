//! Whether what a query makes of a row depends on that row alone.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan, Volatility};

/// Why a query is more than rows of one table, one by one.
pub(super) const ACROSS: &str = "corpus.sql does more than to choose rows and columns of one table";
/// Why the same row may be another one the next time.
pub(super) const UNSTEADY: &str = "corpus.sql asks for the time, for chance, or for other rows";

/// The scan of the one table, each row of which gives a row of the query, always the same, or none.
///
/// # Errors
/// Why it does not, for people.
pub(super) fn scan_of(plan: &LogicalPlan) -> Result<&TableScan, &'static str> {
    let mut below = plan;
    loop {
        let (steady, input) = match below {
            LogicalPlan::Projection(made) => (made.expr.iter().all(is_of_the_row), &made.input),
            LogicalPlan::Filter(filter) => (is_of_the_row(&filter.predicate), &filter.input),
            LogicalPlan::SubqueryAlias(alias) => (true, &alias.input),
            LogicalPlan::TableScan(scan) => return Ok(scan),
            _ => return Err(ACROSS),
        };
        if !steady {
            return Err(UNSTEADY);
        }
        below = input;
    }
}

/// Whether an expression gives the same for the same row, today and tomorrow.
pub(super) fn is_of_the_row(expression: &Expr) -> bool {
    let mut steady = true;
    let visited = expression.apply(|part| {
        steady &= match part {
            Expr::ScalarFunction(call) => call.func.signature().volatility == Volatility::Immutable,
            Expr::AggregateFunction(_)
            | Expr::WindowFunction(_)
            | Expr::Exists(_)
            | Expr::InSubquery(_)
            | Expr::ScalarSubquery(_)
            | Expr::OuterReferenceColumn(..)
            | Expr::Unnest(_) => false,
            _ => true,
        };
        Ok(if steady { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    steady && visited.is_ok()
}
