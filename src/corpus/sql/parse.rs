//! The parser behind the checks.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;

use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParser, DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::ExprWithAlias;
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
    parse(text, limits, |parser| parser.parse_into_expr())
}

/// Parses statements with semicolons between them.
pub(in crate::corpus) fn statements(
    text: &str,
    limits: &Limits,
) -> Result<VecDeque<Statement>, Refused> {
    parse(text, limits, |parser| parser.parse_statements())
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

fn is_too_deep(cause: &DataFusionError) -> bool {
    matches!(cause, DataFusionError::SQL(cause, _) if **cause == ParserError::RecursionLimitExceeded)
}
