//! Values that the planner writes out twice.
//!
//! `x BETWEEN a AND b` becomes `x >= a AND x <= b`, and what is in `x` is planned, and computed, twice. Each level of
//! such constructs in each other doubles it.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Functions that become a CASE with their values in its conditions and in its results.
const DOUBLING: &[&str] = &["coalesce", "ifnull", "nullif", "nvl", "nvl2"];
/// A list of this many values, or fewer, becomes a chain of comparisons.
const FEW: usize = 3;

/// How many parts an expression has once all is written out, at most.
pub(in crate::corpus) fn parts(expression: &Expr) -> Result<u64, DataFusionError> {
    let times = match expression {
        Expr::Between(_) => 2,
        Expr::InList(list) if list.list.len() <= FEW => FEW as u64,
        Expr::ScalarFunction(call) if DOUBLING.contains(&call.func.name()) => 2,
        _ => 1,
    };
    let mut all = 1_u64;
    expression.apply_children(|part| {
        all = all.saturating_add(parts(part)?.saturating_mul(times));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(all)
}

/// [`parts`] of all expressions of a plan.
pub(in crate::corpus) fn parts_of_plan(plan: &LogicalPlan) -> Result<u64, DataFusionError> {
    let mut all = 0_u64;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            all = all.saturating_add(parts(expression)?);
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(all)
}
