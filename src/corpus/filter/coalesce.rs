//! `coalesce`, which the planner leaves to a pass that would also compute constants; this is what that pass makes of
//! it.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Case, Expr};

use crate::error::{Error, Result};

/// The condition with each `coalesce(a, b)` as `CASE WHEN a IS NOT NULL THEN a ELSE b END`.
///
/// # Errors
/// Internal alone: how often values are in it then, is bounded before.
pub(super) fn written_out(condition: Expr) -> Result<Expr> {
    let written = condition.transform_up(|part| match part {
        Expr::ScalarFunction(mut call)
            if call.func.name() == "coalesce" && !call.args.is_empty() =>
        {
            let last = call.args.pop().map(Box::new);
            let given = call
                .args
                .into_iter()
                .map(|value| (Box::new(value.clone().is_not_null()), Box::new(value)));
            Ok(Transformed::yes(match (last, given.collect::<Vec<_>>()) {
                (Some(only), given) if given.is_empty() => *only,
                (last, given) => Expr::Case(Case::new(None, given, last)),
            }))
        }
        other => Ok(Transformed::no(other)),
    });
    Ok(written.map_err(|cause| Error::internal("rewriting the filter").with_source(cause))?.data)
}
