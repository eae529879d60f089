//! The parser behind the checks.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;

use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParser, DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, ExprWithAlias, Visit, visit_expressions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::Tokenizer;

use super::dialect::{Counted, Spent};
use super::shape::Limits;
use crate::error::deep;

/// Why a text is not parsed.
#[derive(Debug)]
pub(in crate::corpus) enum Refused {
    /// It is more than its limits allow: a predicate, "is nested too deeply".
    Shape(String),
    /// The parser says so.
    Parser(DataFusionError),
    /// No thread to parse it on.
    Thread(crate::error::Error),
}

/// Parses an expression, all of the text.
pub(in crate::corpus) fn expression(text: &str, limits: &Limits) -> Result<ExprWithAlias, Refused> {
    parse(text, limits, |parser| {
        let parsed = parser.parse_into_expr()?;
        as_meant(&parsed).map(|()| parsed)
    })
}

/// Parses statements with semicolons between them.
pub(in crate::corpus) fn statements(
    text: &str,
    limits: &Limits,
) -> Result<VecDeque<Statement>, Refused> {
    parse(text, limits, |parser| {
        let parsed = parser.parse_statements()?;
        for statement in &parsed {
            if let Statement::Statement(statement) = statement {
                as_meant(statement)?;
            }
        }
        Ok(parsed)
    })
}

fn parse<T: Send>(
    text: &str,
    limits: &Limits,
    by: impl FnOnce(&mut DFParser<'_>) -> Result<T, DataFusionError> + Send,
) -> Result<T, Refused> {
    limits.check_length(text).map_err(Refused::Shape)?;
    let work = || Ok(parse_here(text, limits, by));
    deep(work).map_err(Refused::Thread)?
}

fn parse_here<T>(
    text: &str,
    limits: &Limits,
    by: impl FnOnce(&mut DFParser<'_>) -> Result<T, DataFusionError>,
) -> Result<T, Refused> {
    let failed = |cause: ParserError| Refused::Parser(cause.into());
    let tokens = Tokenizer::new(&GenericDialect, text).tokenize_with_location();
    let tokens = tokens.map_err(|cause| failed(cause.into()))?;
    limits.check(&tokens).map_err(Refused::Shape)?;
    // Enough for a text whose every operand is tried in each of its meanings. More than that is the same again and again.
    let dialect = Counted::new(4 * tokens.len() as u64 + 256);
    let mut parser = DFParserBuilder::new(tokens)
        .with_dialect(&dialect)
        .with_recursion_limit(limits.levels())
        .build()
        .map_err(Refused::Parser)?;
    // Nothing of the parser is looked at after it was unwound.
    match std::panic::catch_unwind(AssertUnwindSafe(|| by(&mut parser))) {
        Ok(Err(cause)) if is_too_deep(&cause) => Err(Refused::Shape(limits.too_deep())),
        Ok(parsed) => parsed.map_err(Refused::Parser),
        Err(words) if words.is::<Spent>() => Err(Refused::Shape(
            "could be meant in too many ways, none of which is right: an innermost bracket is wrong, or fewer of them would do"
                .to_owned(),
        )),
        Err(words) => std::panic::resume_unwind(words),
    }
}

/// sqlparser 0.62 takes all that follows `IS DISTINCT FROM` for its right side, `AND` and `OR` too: other rows, and no error.
fn as_meant(parsed: &impl Visit) -> Result<(), DataFusionError> {
    let found = visit_expressions(parsed, |expression| match expression {
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => match &**right {
            Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. } => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        },
        _ => ControlFlow::Continue(()),
    });
    match found {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(DataFusionError::from(ParserError::ParserError(
            "put brackets around IS [NOT] DISTINCT FROM and its two sides where AND or OR follows, as in \
             `(a IS DISTINCT FROM b) AND c`"
                .to_owned(),
        ))),
    }
}

/// What the parser says of a text that is not SQL, in words; `None` for any other error.
pub(in crate::corpus) fn syntax(cause: &DataFusionError) -> Option<String> {
    let DataFusionError::SQL(cause, _) = cause else { return None };
    let (ParserError::ParserError(text) | ParserError::TokenizerError(text)) = &**cause else {
        return None;
    };
    let (text, place) = match text.rsplit_once(" at Line: ") {
        Some((text, place)) => {
            (text, format!(" (line {})", place.replacen(", Column: ", ", column ", 1)))
        }
        None => (text.as_str(), String::new()),
    };
    Some(match text.strip_prefix("Expected: ").and_then(|rest| rest.split_once(", found: ")) {
        Some((expected, "EOF")) => format!("expected {expected}, but it ends"),
        Some((expected, found)) => format!("expected {expected}, not `{found}`{place}"),
        None => format!("{text}{place}"),
    })
}

fn is_too_deep(cause: &DataFusionError) -> bool {
    matches!(cause, DataFusionError::SQL(cause, _) if **cause == ParserError::RecursionLimitExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_sql_is_told_in_words() {
        for (text, said) in [
            ("a = = 5", "expected an expression, not `=` (line 1, column 5)"),
            ("a =", "expected an expression, but it ends"),
            ("a = 'x", "Unterminated string literal (line 1, column 5)"),
        ] {
            let Err(Refused::Parser(cause)) = expression(text, &Limits::CONDITION) else {
                panic!("{text} is read");
            };
            assert_eq!(syntax(cause.find_root()).as_deref(), Some(said), "{text}");
        }
    }

    #[test]
    fn what_follows_distinct_from_is_not_taken_for_its_side() {
        let (filter, query) = (Limits::CONDITION, Limits::QUERY);
        for (text, is_clear) in [
            ("a IS DISTINCT FROM true AND NOT b", false),
            ("c OR a IS NOT DISTINCT FROM b OR d", false),
            ("(a IS DISTINCT FROM true) AND NOT b", true),
            ("NOT b AND a IS DISTINCT FROM (c AND d)", true),
            ("b AND a IS NOT DISTINCT FROM c + 1", true),
        ] {
            assert_eq!(expression(text, &filter).is_ok(), is_clear, "{text}");
            let sql = format!("SELECT 1 FROM (SELECT a FROM t WHERE {text})");
            assert_eq!(statements(&sql, &query).is_ok(), is_clear, "{sql}");
        }
    }
}
