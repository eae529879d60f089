//! What is wrong with a condition, in terms of what was written.

use arrow::datatypes::Schema;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

use super::kinds;
use crate::corpus::names::quoted;
use crate::corpus::sql;
use crate::error::Error;

/// Why it cannot be compiled, in terms of what was written.
pub(super) fn refusal(cause: &DataFusionError, schema: &Schema) -> Error {
    let root = cause.find_root();
    if let DataFusionError::SchemaError(error, _) = root
        && let SchemaError::FieldNotFound { field, .. } = error.as_ref()
    {
        return unknown_column(&field.name, schema);
    }
    let text = plain(root);
    // Without tables every subquery fails at its FROM.
    if text.contains("No table named") || (text.contains("table '") && text.contains("not found")) {
        return Error::input("a filter has no subqueries: it looks at the columns of one note");
    }
    match sql::syntax(root) {
        Some(syntax) => {
            Error::input(format!("the filter cannot be read: {syntax}{}", kinds::example(schema)))
        }
        None => Error::input(format!("the filter cannot be read: {text}")),
    }
}

fn unknown_column(name: &str, schema: &Schema) -> Error {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let nearest = names
        .iter()
        .map(|other| (strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase()), *other))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match nearest {
        Some((_, other)) if other.to_lowercase() == other => format!("; did you mean `{other}`?"),
        Some((_, other)) => format!("; did you mean `\"{other}\"`, in double quotes?"),
        None => format!("; if a text is meant, write '{name}' in single quotes"),
    };
    let there = match names.is_empty() {
        true => "the snapshot stores none (corpus.stored_columns)".to_owned(),
        false => {
            let names: Vec<String> = names.into_iter().map(quoted).collect();
            format!("there are {}", names.join(", "))
        }
    };
    Error::input(format!("there is no stored column `{name}`{hint} ({there})"))
}

/// What DataFusion says, in one line, without its advice to file a bug.
pub(super) fn plain(cause: &DataFusionError) -> String {
    let text = cause.strip_backtrace();
    let text = text.split("\nThis issue was likely").next().unwrap_or(&text);
    let text = text.lines().next().unwrap_or_default();
    text.trim_start_matches("Error during planning: ").trim().to_owned()
}
