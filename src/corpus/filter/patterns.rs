//! Patterns of LIKE and regular expressions. What matching costs is the product of the text and of what the pattern is
//! compiled to, which a pattern of a few bytes (`\w{1000}`) makes as large as it likes.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator};

/// Bytes that a regular expression may be compiled to.
const COMPILED: usize = 2 << 20;
/// Regular expressions of a condition: each is compiled again for every slice of rows.
const REGEXES: usize = 8;
/// `%` and `_` of a pattern.
const WILDCARDS: usize = 64;

const WRITTEN_OUT: &str = "a pattern must be written out as a text, not taken from a column or computed; use starts_with, ends_with, or contains";

/// The patterns of a condition so far.
#[derive(Default)]
pub(super) struct Patterns {
    regexes: usize,
}

impl Patterns {
    /// Why a part of a condition, if it is a match with a pattern, may not be in it.
    pub(super) fn refusal(&mut self, part: &Expr) -> Option<String> {
        use Operator as Op;
        match part {
            Expr::Like(like) => wild(&like.pattern),
            Expr::SimilarTo(like) => self.regex(&like.pattern, ""),
            Expr::BinaryExpr(binary) => match binary.op {
                Op::RegexMatch | Op::RegexNotMatch => self.regex(&binary.right, ""),
                Op::RegexIMatch | Op::RegexNotIMatch => self.regex(&binary.right, "i"),
                Op::LikeMatch | Op::ILikeMatch | Op::NotLikeMatch | Op::NotILikeMatch => {
                    wild(&binary.right)
                }
                _ => None,
            },
            Expr::ScalarFunction(call) if call.func.name() == "regexp_like" => {
                let flags = call.args.get(2).map_or(Some(Some("")), text);
                match (call.args.get(1), flags) {
                    (Some(pattern), Some(flags)) => self.regex(pattern, flags.unwrap_or_default()),
                    _ => Some(WRITTEN_OUT.to_owned()),
                }
            }
            _ => None,
        }
    }

    fn regex(&mut self, pattern: &Expr, flags: &str) -> Option<String> {
        self.regexes += 1;
        if self.regexes > REGEXES {
            return Some(format!(
                "a filter has at most {REGEXES} regular expressions; join some by |"
            ));
        }
        let Some(pattern) = text(pattern) else { return Some(WRITTEN_OUT.to_owned()) };
        let pattern = pattern?;
        let flagged = match flags {
            "" => pattern.to_owned(),
            flags => format!("(?{flags}){pattern}"),
        };
        // What else is wrong with it the library says that matches by it.
        let built = regex::RegexBuilder::new(&flagged).size_limit(COMPILED).build();
        matches!(built, Err(regex::Error::CompiledTooBig(_))).then(|| {
            format!(
                "a regular expression is too large: it may take {} MiB when compiled; repeat less, or write [a-z] for \\w",
                COMPILED >> 20
            )
        })
    }
}

fn wild(pattern: &Expr) -> Option<String> {
    let Some(pattern) = text(pattern) else { return Some(WRITTEN_OUT.to_owned()) };
    let wildcards = pattern?.bytes().filter(|byte| matches!(byte, b'%' | b'_')).count();
    (wildcards > WILDCARDS).then(|| {
        format!("a pattern of LIKE has {wildcards} of % and _; at most {WILDCARDS} are read")
    })
}

/// The text of a literal, inside `None` where it is null; outside where it is none.
fn text(literal: &Expr) -> Option<Option<&str>> {
    match literal {
        Expr::Alias(alias) => text(&alias.expr),
        Expr::Literal(
            ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text),
            _,
        ) => Some(text.as_deref()),
        Expr::Literal(ScalarValue::Null, _) => Some(None),
        _ => None,
    }
}
