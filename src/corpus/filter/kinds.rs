//! Comparisons of a text with a number: they fail on a note, or on none, and the error does not say what is right.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};

use crate::corpus::names::quoted;

/// What a value is to the person who compares it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Truth,
}

impl Kind {
    pub(super) fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Self::Text),
            DataType::Boolean => Some(Self::Truth),
            other => other.is_numeric().then_some(Self::Number),
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "a number",
            Self::Truth => "true or false",
        }
    }
}

/// A condition on the first column that a person can compare with a word or a number: `; write e.g. title = 'words'`.
pub(super) fn example(schema: &Schema) -> String {
    let example = schema.fields().iter().find_map(|field| {
        let name = quoted(field.name());
        match Kind::of(field.data_type())? {
            Kind::Text => Some(format!("{name} = 'words'")),
            Kind::Number => Some(format!("{name} > 5")),
            Kind::Truth => None,
        }
    });
    example.map_or_else(String::new, |example| format!("; write e.g. {example}"))
}

/// What is right instead of the first comparison of a text with a number, or of either with a truth value.
pub(super) fn mixed(condition: &Expr, schema: &DFSchema) -> Option<String> {
    let mut found = None;
    let walked = condition.apply(|part| {
        found = pairs(part).into_iter().find_map(|pair| advice(pair, schema));
        Ok(match found {
            None => TreeNodeRecursion::Continue,
            Some(_) => TreeNodeRecursion::Stop,
        })
    });
    walked.ok().and(found)
}

/// Two values that are compared, and the operator where it stands between them.
type Pair<'a> = (&'a Expr, &'a Expr, Option<Operator>);

fn pairs(part: &Expr) -> Vec<Pair<'_>> {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    match part {
        Expr::BinaryExpr(binary) if matches!(binary.op, Eq | NotEq | Lt | LtEq | Gt | GtEq) => {
            vec![(&*binary.left, &*binary.right, Some(binary.op))]
        }
        Expr::InList(list) => list.list.iter().map(|value| (&*list.expr, value, None)).collect(),
        Expr::Between(between) => {
            vec![(&*between.expr, &*between.low, None), (&*between.expr, &*between.high, None)]
        }
        _ => Vec::new(),
    }
}

fn advice((left, right, operator): Pair<'_>, schema: &DFSchema) -> Option<String> {
    let kind = |side: &Expr| Kind::of(&side.get_type(schema).ok()?);
    let (of_left, of_right) = (kind(left)?, kind(right)?);
    // `likes > '3'` is understood.
    if of_left == of_right || is_number(left) || is_number(right) {
        return None;
    }
    for (column, of_column, value) in [(left, of_left, right), (right, of_right, left)] {
        let (Expr::Column(column), Expr::Literal(value, _)) = (column, value) else { continue };
        let name = quoted(&column.name);
        return Some(match (of_column, operator) {
            (Kind::Text, Some(operator)) => format!(
                "the stored column `{name}` is text: write `{} {operator} {}`",
                in_quotes(left),
                in_quotes(right)
            ),
            (Kind::Text, None) => {
                format!("the stored column `{name}` is text: write '{value}', in quotes")
            }
            (Kind::Number, _) => format!(
                "the stored column `{name}` is a number: compare it with one, without quotes"
            ),
            (Kind::Truth, _) => format!(
                "the stored column `{name}` is true or false: write `{name}` or `NOT {name}`"
            ),
        });
    }
    Some(format!(
        "the filter compares {} with {}; CAST(... AS VARCHAR) makes a text of the other",
        of_left.word(),
        of_right.word()
    ))
}

/// Whether it is a text that reads as a number.
fn is_number(side: &Expr) -> bool {
    let Expr::Literal(value, _) = side else { return false };
    value.try_as_str().flatten().is_some_and(|text| text.trim().parse::<f64>().is_ok())
}

fn in_quotes(side: &Expr) -> String {
    match side {
        Expr::Column(column) => quoted(&column.name),
        Expr::Literal(value, _) => format!("'{value}'"),
        other => other.to_string(),
    }
}
