//! The corpus contract: what the SQL's output columns must be, checked before anything is read.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF, cast as cast_expr};
use minijinja::Value;

use super::hints::{Conversion, Wanted, conversion};
use super::note_ids::WantedIds;
use super::schema::RESERVED_COLUMNS;
use super::shard::ShardOfNote;
use super::source::Source;
use super::template::{NoteTemplate, RowContext};
use super::values::{normal_type, note_id_type};
use crate::corpus::names::{listed, nearest, quoted};
use crate::corpus::options::CorpusOptions;
use crate::error::{Error, Result};

/// Places in the projected batches: the shard, the id, then what the other fields of [`Contract`] say.
pub(super) const SHARD: usize = 0;
pub(super) const NOTE_ID: usize = 1;
/// Names of the sort columns in the projected schema.
pub(super) const SORT_COLUMNS: [&str; 2] = ["sn_0", "sn_1"];

const STORED: &str = "corpus.stored_columns";

/// Where everything is in a projected batch.
#[derive(Debug)]
pub(super) struct Contract {
    /// Place of `updated_at` in its normal type.
    pub(super) updated_at: Option<usize>,
    /// What `updated_at` is made of.
    pub(super) updated_source: Source,
    /// Place of `deleted`.
    pub(super) deleted: Option<usize>,
    /// The columns that texts and stored columns are made of: name and place.
    pub(super) columns: Vec<(String, usize)>,
    /// Fields of the stored columns, and their places.
    pub(super) stored: Fields,
    pub(super) stored_places: Vec<usize>,
    /// What the template reads.
    pub(super) names: Arc<[String]>,
    pub(super) sources: Vec<ValueSource>,
    /// The projection of the SQL's output, in place order.
    pub(super) projection: Vec<Expr>,
}

/// Where a template variable comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueSource {
    /// `title` or `body`: a null is an empty string.
    Text(Option<usize>),
    /// `topics`: always a list.
    Topics(Option<usize>),
    /// Any other column: a null is `none`.
    Extra(usize),
}

impl Contract {
    /// Checks the output of the user's SQL. Config errors name the column, its type, and the way out.
    pub(super) fn check(
        query: &LogicalPlan,
        options: &CorpusOptions,
        template: &NoteTemplate,
        shard_count: u32,
        ids: WantedIds,
    ) -> Result<Self> {
        let output = Output::of(query)?;
        let (note_id, found) = output
            .required("note_id", "corpus.sql", "must return it")
            .map_err(|error| error.of_key("corpus.sql"))?;
        let wrong_id = || output.wrong_type("note_id", Wanted::Id);
        let id_type = note_id_type(found).ok_or_else(wrong_id)?;
        let (note_id, id_type) = ids.bring(note_id, id_type);
        let as_text = format!("CAST({} AS VARCHAR)", output.source("note_id").sql);
        let too_large = output.convert("note_id", &as_text);
        let shard = ScalarUDF::new_from_impl(ShardOfNote::new(shard_count, too_large))
            .call(vec![note_id.clone()]);
        let mut projection = Projection::default();
        projection.push(shard);
        projection.push(cast_expr(note_id, id_type));

        for (name, wanted) in [
            ("title", Wanted::Text),
            ("body", Wanted::Text),
            ("topics", Wanted::Topics),
            ("deleted", Wanted::Flag),
            ("updated_at", Wanted::Time),
        ] {
            match output.find(name) {
                Some((_, found)) if !wanted.accepts(found) => {
                    return Err(output.wrong_type(name, wanted));
                }
                _ => {}
            }
        }
        let updated_at = output.normal("updated_at").map(|expr| projection.push(expr));
        let deleted = output
            .find("deleted")
            .map(|(expr, _)| projection.push(cast_expr(expr, DataType::Boolean)));

        let mut columns: Vec<(String, usize)> = Vec::new();
        let mut place = |name: &str, projection: &mut Projection| -> Option<usize> {
            if let Some((_, place)) = columns.iter().find(|(column, _)| column == name) {
                return Some(*place);
            }
            let place = projection.push(output.normal(name)?);
            columns.push((name.to_owned(), place));
            Some(place)
        };

        let wrong_value = |name: &str| output.wrong_type(name, Wanted::Value);
        let mut sources = Vec::new();
        let mut has_text = false;
        for name in template.variables() {
            let found = output.find(name);
            sources.push(match name.as_str() {
                "title" | "body" => ValueSource::Text(place(name, &mut projection)),
                "topics" => ValueSource::Topics(place(name, &mut projection)),
                _ => {
                    output
                        .required(name, "corpus.template", "reads it")
                        .map_err(|error| error.of_key("corpus.template"))?;
                    let at = place(name, &mut projection).ok_or_else(|| wrong_value(name))?;
                    ValueSource::Extra(at)
                }
            });
            has_text |= found.is_some_and(|(_, data_type)| {
                name != "note_id"
                    && matches!(normal_type(data_type), Some(DataType::Utf8 | DataType::List(_)))
            });
        }
        if !has_text {
            let used: Vec<_> = template.variables().iter().map(String::as_str).collect();
            return Err(Error::config(format!(
                "corpus.template needs at least one text column that corpus.sql returns; it reads [{}], the query returns {}",
                used.join(", "),
                output.names(),
            ))
            .of_key("corpus.template"));
        }

        let mut stored = Vec::new();
        let mut stored_places = Vec::new();
        let mut seen = BTreeSet::new();
        for (at, name) in options.stored_columns.iter().enumerate() {
            let key = || format!("{STORED}.{at}");
            if !seen.insert(name) {
                return Err(Error::config(format!("{STORED} names `{name}` twice")).of_key(key()));
            }
            if RESERVED_COLUMNS.contains(&name.as_str()) {
                return Err(Error::config(format!(
                    "{STORED}: `{name}` is the name of a column of our own ({}); let corpus.sql return it under another name, which is the one to store: {} AS note_{name}",
                    RESERVED_COLUMNS.join(", "),
                    output.source(name).sql,
                ))
                .of_key(key()));
            }
            let column = output.required(name, STORED, "names it");
            let (_, data_type) = column.map_err(|error| error.of_key(key()))?;
            let data_type = normal_type(data_type).ok_or_else(|| wrong_value(name))?;
            stored_places.push(place(name, &mut projection).ok_or_else(|| wrong_value(name))?);
            stored.push(Field::new(name, data_type, true));
        }

        let contract = Self {
            updated_at,
            updated_source: output.source("updated_at"),
            deleted,
            columns,
            stored: stored.into(),
            stored_places,
            names: template.variables().iter().cloned().collect(),
            sources,
            projection: projection.0,
        };
        for filled in [false, true] {
            template.try_out(contract.made_up(&output, filled))?;
        }
        Ok(contract)
    }

    /// A row of the right types, all empty or all filled.
    fn made_up(&self, output: &Output<'_>, filled: bool) -> Value {
        let text = if filled { "a" } else { "" };
        let value = |(source, name): (&ValueSource, &String)| match source {
            ValueSource::Text(_) => Value::from(text),
            ValueSource::Topics(_) => Value::from(vec![text; usize::from(filled)]),
            ValueSource::Extra(_) if !filled => Value::from(()),
            ValueSource::Extra(_) => match output.find(name).map(|(_, t)| normal_type(t)) {
                Some(Some(DataType::List(_))) => Value::from(vec![text]),
                Some(Some(t)) if t.is_integer() => Value::from(1),
                Some(Some(t)) if t.is_floating() => Value::from(1.5),
                Some(Some(DataType::Boolean)) => Value::from(true),
                _ => Value::from(text),
            },
        };
        let values = self.sources.iter().zip(self.names.iter()).map(value).collect();
        Value::from_object(RowContext { names: Arc::clone(&self.names), values })
    }
}

/// A growing list of projected columns, named so that they cannot meet the user's names.
#[derive(Default)]
struct Projection(Vec<Expr>);

impl Projection {
    fn push(&mut self, expr: Expr) -> usize {
        let place = self.0.len();
        self.0.push(expr.alias(format!("sn_{place}")));
        place
    }
}

/// The SQL's output columns.
struct Output<'a> {
    query: &'a LogicalPlan,
    columns: Vec<(Expr, &'a FieldRef)>,
}

impl<'a> Output<'a> {
    fn of(query: &'a LogicalPlan) -> Result<Self> {
        let mut seen = BTreeSet::new();
        let mut columns = Vec::new();
        for (qualifier, field) in query.schema().iter() {
            if !seen.insert(field.name()) {
                return Err(Error::config(format!(
                    "corpus.sql returns two columns named `{}`; give one another name with AS",
                    field.name()
                ))
                .of_key("corpus.sql"));
            }
            let column = Column::new(qualifier.cloned(), field.name());
            columns.push((Expr::Column(column), field));
        }
        Ok(Self { query, columns })
    }

    /// What a column is made of.
    fn source(&self, name: &str) -> Source {
        Source::of(self.query, name)
    }

    fn find(&self, name: &str) -> Option<(Expr, &'a DataType)> {
        let (expr, field) = self.columns.iter().find(|(_, field)| field.name() == name)?;
        Some((expr.clone(), field.data_type()))
    }

    /// The column cast to its normal type; `None` where it is missing or has none.
    fn normal(&self, name: &str) -> Option<Expr> {
        let (expr, data_type) = self.find(name)?;
        let normal = normal_type(data_type)?;
        Some(if normal == *data_type { expr } else { cast_expr(expr, normal) })
    }

    /// A column that a key of the pipeline file `does` something with.
    fn required(&self, name: &str, key: &str, does: &str) -> Result<(Expr, &'a DataType)> {
        self.find(name).ok_or_else(|| {
            let nearest = nearest(name, self.all()).map_or_else(String::new, |near| {
                let sql = self.source(near).sql;
                format!("; nearest is `{near}`: write {sql} AS {} if it is meant", quoted(name))
            });
            Error::config(format!(
                "column `{name}` is missing ({key} {does}); the query returns {}{nearest}",
                self.names()
            ))
        })
    }

    /// Config error: the type that was found, those accepted, and how SQL makes one of the other.
    fn wrong_type(&self, name: &str, wanted: Wanted) -> Error {
        let found = self.find(name).map_or(&DataType::Null, |(_, found)| found);
        let source = self.source(name);
        // Digits that a 64-bit number has no room for are gone before SQL sees the column.
        let declared = match wanted == Wanted::Id && found.is_floating() && source.is_known() {
            true => format!(
                "in CSV files and JSON lines declare what the ids are: schema = {{ {} = \"string\" }} for the table; \
                 elsewhere ",
                source.key()
            ),
            false => String::new(),
        };
        let way_out = match conversion(wanted, &source.sql, found) {
            Some(Conversion { sql, remark }) => {
                format!("{declared}{}{remark}", self.convert(name, &sql))
            }
            None => "no expression of corpus.sql makes that of it: convert it before".to_owned(),
        };
        Error::config(format!(
            "column `{name}` of corpus.sql has type {}; accepted is {}; {way_out}",
            brief(found),
            wanted.accepted()
        ))
        .of_key("corpus.sql")
    }

    /// Advice to return `sql` as the column.
    fn convert(&self, name: &str, sql: &str) -> String {
        let column = format!("{sql} AS {}", quoted(name));
        match self.source(name).is_known() {
            true => format!("convert it: {column}"),
            false => format!("convert it around the query: SELECT * REPLACE ({column}) FROM (…)"),
        }
    }

    fn all(&self) -> Vec<&'a str> {
        self.columns.iter().map(|(_, field)| field.name().as_str()).collect()
    }

    fn names(&self) -> String {
        listed(&self.all())
    }
}

/// A type in a message: a struct may have a thousand fields.
fn brief(found: &DataType) -> String {
    const LIMIT: usize = 200;
    let text = found.to_string();
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::options::{CorpusMode, TypeRule};
    use crate::error::ErrorKind;
    use arrow::datatypes::Schema;
    use datafusion::common::DFSchema;
    use datafusion::logical_expr::EmptyRelation;

    fn check(fields: &[(&str, DataType)], template: &str, stored: &[&str]) -> Result<Contract> {
        let fields: Fields = fields.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect();
        let schema = Arc::new(DFSchema::try_from(Schema::new(fields)).unwrap());
        let query = LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema });
        let options = CorpusOptions {
            tables: vec![],
            sql: String::new(),
            types: TypeRule::Guessed,
            mode: CorpusMode::Full,
            template: template.to_owned(),
            stored_columns: stored.iter().map(|s| (*s).to_owned()).collect(),
            max_rejected: 0,
            memory_limit_mib: 64,
            share_mib: 128,
            storage: None,
        };
        let template = NoteTemplate::compile(template, true)?;
        Contract::check(&query, &options, &template, 4, WantedIds::Any)
    }

    #[track_caller]
    fn refused(fields: &[(&str, DataType)], template: &str, stored: &[&str], words: &[&str]) {
        let error = check(fields, template, stored).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{word} is not in: {error}");
        }
    }

    #[test]
    fn minimal_and_full_contracts_pass() {
        let id = ("note_id", DataType::Utf8View);
        check(&[id.clone(), ("title", DataType::LargeUtf8)], "{{ title }}", &[]).unwrap();
        let contract = check(
            &[
                ("note_id", DataType::UInt8),
                ("body", DataType::Null),
                ("topics", DataType::new_list(DataType::Utf8View, true)),
                ("deleted", DataType::Null),
                ("updated_at", DataType::Date32),
                ("likes", DataType::Int16),
            ],
            "{{ title }}{{ topics | join(', ') }}{{ likes }}",
            &["likes", "topics"],
        )
        .unwrap();
        assert_eq!(contract.projection.len(), 6, "likes and topics are projected once");
        assert_eq!(
            contract.sources[2],
            ValueSource::Topics(contract.stored_places.get(1).copied())
        );
        assert_eq!(contract.names.as_ref(), ["likes", "title", "topics"]);
    }

    #[test]
    fn mistakes_name_the_column_and_the_way_out() {
        let id = ("note_id", DataType::Int64);
        let title = ("title", DataType::Utf8);
        let t = "{{ title }}";
        refused(&[("NoteId", DataType::Utf8), title.clone()], t, &[], &["nearest is `NoteId`"]);
        let deleted = ("deleted", DataType::Int8);
        refused(&[id.clone(), title.clone(), deleted], t, &[], &["`deleted`", "boolean"]);
        let updated = ("updated_at", DataType::Float64);
        refused(&[id.clone(), title.clone(), updated], t, &[], &["`updated_at`", "timestamp"]);
        refused(&[id.clone(), title.clone()], "{{ note_id }}", &[], &["at least one text column"]);
        refused(&[id.clone(), title.clone()], t, &["note_id"], &["note_id"]);
        refused(
            &[id.clone(), title.clone(), ("blob", DataType::Binary)],
            t,
            &["blob"],
            &["`blob`", "Binary"],
        );
        refused(&[id, title], "{{ title | nope }}", &[], &["nope"]);
    }
}
