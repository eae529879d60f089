//! What a query becomes once every named part of it is written out where it is used: a chain of parts that each use the
//! one before twice doubles with every line, and planning writes all of it out.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{ObjectName, Query, Visit, Visitor};

/// How many queries and tables a statement has, its named queries counted wherever they are used.
pub(in crate::corpus) fn expanded(statement: &Statement) -> u64 {
    let Statement::Statement(statement) = statement else { return 0 };
    let mut counting = Counting::default();
    let _ = statement.visit(&mut counting);
    counting.count
}

#[derive(Default)]
struct Counting {
    /// Queries around the place that is visited.
    open: Vec<Open>,
    count: u64,
}

#[derive(Default)]
struct Open {
    /// Its named queries: where each is, and its name.
    named: HashMap<*const Query, String>,
    /// What those come to that are visited already.
    known: HashMap<String, u64>,
    count: u64,
}

impl Visitor for Counting {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        let named = named.map(|named| {
            (std::ptr::from_ref(&*named.query), named.alias.name.value.to_lowercase())
        });
        self.open.push(Open { named: named.collect(), known: HashMap::new(), count: 1 });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let Some(Open { count, .. }) = self.open.pop() else { return ControlFlow::Continue(()) };
        match self.open.last_mut() {
            None => self.count = self.count.saturating_add(count),
            Some(around) => match around.named.get(&std::ptr::from_ref(query)) {
                Some(name) => drop(around.known.insert(name.clone(), count)),
                None => around.count = around.count.saturating_add(count),
            },
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = relation.to_string().replace(['"', '`'], "").to_lowercase();
        let known = self.open.iter().rev().find_map(|open| open.known.get(&name).copied());
        if let Some(open) = self.open.last_mut() {
            open.count = open.count.saturating_add(known.unwrap_or(1));
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::sql::{Limits, statements};

    #[test]
    fn named_queries_count_where_they_are_used() {
        for (sql, count) in [
            ("SELECT * FROM t", 2),
            ("SELECT * FROM t, u WHERE a IN (SELECT a FROM v)", 5),
            ("WITH a AS (SELECT * FROM t) SELECT 1", 1),
            ("WITH a AS (SELECT * FROM t) SELECT * FROM a x, A y", 5),
            ("WITH a AS (SELECT * FROM t), b AS (SELECT * FROM a, a) SELECT * FROM b, \"b\"", 11),
            ("WITH a AS (WITH a AS (SELECT * FROM t, u) SELECT * FROM a) SELECT * FROM a", 5),
        ] {
            let parsed = statements(sql, &Limits::QUERY).unwrap();
            assert_eq!(expanded(&parsed[0]), count, "{sql}");
        }
    }
}
