//! DataFusion's dialect of SQL, with a count of what the parser tries.

use std::any::TypeId;
use std::cell::Cell;

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

/// What the parser is unwound with once it has tried too often.
pub(super) struct Spent;

/// The generic dialect. The parser asks it whenever it begins an operand or a query, also when it does so once more.
#[derive(Debug)]
pub(super) struct Counted {
    left: Cell<u64>,
}

impl Counted {
    pub(super) fn new(tries: u64) -> Self {
        Self { left: Cell::new(tries) }
    }

    /// Unwinds, since an error would only be the reason for one more try. Nothing is printed.
    fn count(&self) {
        match self.left.get() {
            0 => std::panic::resume_unwind(Box::new(Spent)),
            left => self.left.set(left - 1),
        }
    }
}

/// What the generic dialect answers.
macro_rules! same {
    ($($name:ident)*) => { $(fn $name(&self) -> bool { GenericDialect.$name() })* };
}

impl Dialect for Counted {
    /// The parser takes it for the generic one.
    fn dialect(&self) -> TypeId {
        GenericDialect.dialect()
    }

    fn parse_prefix(&self, _: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        self.count();
        None
    }

    fn supports_from_first_select(&self) -> bool {
        self.count();
        GenericDialect.supports_from_first_select()
    }

    fn is_delimited_identifier_start(&self, character: char) -> bool {
        GenericDialect.is_delimited_identifier_start(character)
    }

    fn is_identifier_start(&self, character: char) -> bool {
        GenericDialect.is_identifier_start(character)
    }

    fn is_identifier_part(&self, character: char) -> bool {
        GenericDialect.is_identifier_part(character)
    }

    // All that `GenericDialect` of sqlparser 0.62 says otherwise than the trait; a test parses by both.
    same! {
        allow_extract_custom allow_extract_single_quotes support_map_literal_syntax
        supports_array_join_syntax supports_array_typedef_with_brackets
        supports_asc_desc_in_column_definition supports_bitwise_shift_operators
        supports_comma_separated_set_assignments supports_comma_separated_trim
        supports_comment_on supports_comment_optimizer_hint supports_connect_by
        supports_constraint_keyword_without_name supports_create_index_with_clause
        supports_create_view_comment_syntax supports_cte_without_as
        supports_data_type_signed_suffix supports_detach supports_dictionary_syntax
        supports_empty_projections supports_explain_with_utility_options
        supports_extract_comma_syntax supports_filter_during_aggregation
        supports_group_by_expr supports_group_by_with_modifier supports_install
        supports_interpolate supports_interval_options supports_key_column_option
        supports_left_associative_joins_without_parens supports_limit_by
        supports_limit_comma supports_load_extension supports_match_against
        supports_match_recognize supports_multiline_comment_hints
        supports_named_fn_args_with_assignment_operator supports_nested_comments
        supports_optimize_table supports_parens_around_table_factor
        supports_parenthesized_set_variables supports_partition_by_after_order_by
        supports_pipe_operator supports_prewhere supports_projection_trailing_commas
        supports_quote_delimited_string supports_select_format
        supports_select_item_multi_column_alias supports_select_wildcard_except
        supports_select_wildcard_exclude supports_select_wildcard_ilike
        supports_select_wildcard_rename supports_select_wildcard_replace
        supports_set_names supports_settings supports_start_transaction_modifier
        supports_string_escape_constant supports_struct_literal supports_try_convert
        supports_unicode_string_literal supports_update_order_by
        supports_user_host_grantee supports_values_as_table_factor
        supports_window_clause_named_window_reference
        supports_window_function_null_treatment_arg supports_with_fill
        supports_xml_expressions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_sees_no_other_dialect() {
        for sql in [
            "SELECT * EXCLUDE (a) FROM t",
            "SELECT * EXCEPT (a) REPLACE (b AS c) RENAME (d AS e) FROM t",
            "FROM t SELECT a, b,",
            "FROM t",
            "SELECT FROM t LIMIT 1, 2",
            "SELECT {'a': 1}, MAP {'b': 2}, STRUCT(1 AS x), [1, 2], U&'\\0041', E'a\\n'",
            "SELECT TRIM(a, 'x'), EXTRACT('year' FROM b), EXTRACT(year, b), a << 2, TRY_CONVERT(INT, a)",
            "SELECT count(a) FILTER (WHERE b), sum(a) OVER w FROM t WINDOW w AS (PARTITION BY c), x AS w",
            "SELECT first_value(a IGNORE NULLS) OVER (ORDER BY b) FROM t GROUP BY ALL WITH ROLLUP",
            "SELECT a, b FROM t /* one /* two */ */ ARRAY JOIN c |> WHERE d > 1 |> LIMIT 2",
            "SELECT f(a => 1, b := 2), CAST(l AS INT[]), x::INT UNSIGNED FROM (VALUES (1)) AS v, (t)",
            "WITH a (SELECT 1) SELECT * FROM a LEFT JOIN b JOIN c ON 1 = 1 ON 2 = 2 FORMAT JSON SETTINGS x = 1",
            "SELECT MATCH (a) AGAINST ('b'), XMLCONCAT(a), INTERVAL '1' DAY, q'[it's]', `c d` FROM t PREWHERE e",
            "SELECT * FROM t ORDER BY a WITH FILL INTERPOLATE (b) LIMIT 1 BY c",
            "EXPLAIN (FORMAT TREE) SELECT 1",
            "SELECT date, interval, \"Title\" AS (a, b) FROM t AS x MATCH_RECOGNIZE (PATTERN (A) DEFINE A AS true)",
        ] {
            let counted = Counted::new(1_000);
            let ours = Parser::parse_sql(&counted, sql);
            assert_eq!(ours, Parser::parse_sql(&GenericDialect, sql), "{sql}");
            assert!(counted.left.get() < 1_000 || sql.contains("FORMAT TREE"), "{sql}");
        }
    }
}
