//! The corpus contract: what the SQL's output columns must be, checked before anything is read.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type, UInt64Type};
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    cast as cast_expr,
};
use minijinja::Value;

use super::schema::RESERVED_COLUMNS;
use super::template::{NoteTemplate, RowContext};
use super::values::{list_of_strings, normal_type, note_id_type};
use crate::corpus::names::{listed, nearest};
use crate::corpus::options::CorpusOptions;
use crate::error::{Error, Result};
use crate::types::{NoteId, shard_of};

/// Places in the projected batches: the shard, the id, then what the other fields of [`Contract`] say.
pub(super) const SHARD: usize = 0;
pub(super) const NOTE_ID: usize = 1;
/// Names of the sort columns in the projected schema.
pub(super) const SORT_COLUMNS: [&str; 2] = ["sn_0", "sn_1"];

/// Where everything is in a projected batch.
#[derive(Debug)]
pub(super) struct Contract {
    /// Place of `updated_at` in its normal type.
    pub(super) updated_at: Option<usize>,
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
    /// Checks the SQL's output schema. Config errors name the column, its type, and the way out.
    pub(super) fn check(
        schema: &DFSchema,
        options: &CorpusOptions,
        template: &NoteTemplate,
        shard_count: u32,
    ) -> Result<Self> {
        let output = Output::of(schema)?;
        let (note_id, id_type) = output.required("note_id", "corpus.sql must return it")?;
        let id_type = note_id_type(id_type).ok_or_else(|| {
            output.wrong_type("note_id", "a string or an integer of at most 64 bits", "VARCHAR")
        })?;
        let shard =
            ScalarUDF::new_from_impl(ShardOfNote::new(shard_count)).call(vec![note_id.clone()]);
        let mut projection = Projection::default();
        projection.push(shard);
        projection.push(cast_expr(note_id, id_type));

        for name in ["title", "body"] {
            output.check(
                name,
                |t| normal_type(t) == Some(DataType::Utf8),
                "a string",
                "VARCHAR",
            )?;
        }
        output.check("topics", is_topics, "a string or a list of strings", "VARCHAR")?;
        output.check("deleted", |t| is_null_or(t, &DataType::Boolean), "a boolean", "BOOLEAN")?;
        let updated = "a timestamp, a date, an integer or a string";
        output.check("updated_at", is_time, updated, "TIMESTAMP")?;
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

        let mut sources = Vec::new();
        let mut has_text = false;
        for name in template.variables() {
            let found = output.find(name);
            sources.push(match name.as_str() {
                "title" | "body" => ValueSource::Text(place(name, &mut projection)),
                "topics" => ValueSource::Topics(place(name, &mut projection)),
                _ => {
                    output.required(name, "corpus.template reads it")?;
                    let at =
                        place(name, &mut projection).ok_or_else(|| output.not_a_value(name))?;
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
            )));
        }

        let mut stored = Vec::new();
        let mut stored_places = Vec::new();
        let mut seen = BTreeSet::new();
        for name in &options.stored_columns {
            if !seen.insert(name) {
                return Err(Error::config(format!("corpus.stored_columns names `{name}` twice")));
            }
            if RESERVED_COLUMNS.contains(&name.as_str()) {
                return Err(Error::config(format!(
                    "corpus.stored_columns: `{name}` is the name of a column of our own ({}); give it another name in corpus.sql: {name} AS note_{name}",
                    RESERVED_COLUMNS.join(", "),
                )));
            }
            let (_, data_type) = output.required(name, "corpus.stored_columns names it")?;
            let data_type = normal_type(data_type).ok_or_else(|| output.not_a_value(name))?;
            stored_places
                .push(place(name, &mut projection).ok_or_else(|| output.not_a_value(name))?);
            stored.push(Field::new(name, data_type, true));
        }

        let contract = Self {
            updated_at,
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
    columns: Vec<(Expr, &'a FieldRef)>,
}

impl<'a> Output<'a> {
    fn of(schema: &'a DFSchema) -> Result<Self> {
        let mut seen = BTreeSet::new();
        let mut columns = Vec::new();
        for (qualifier, field) in schema.iter() {
            if !seen.insert(field.name()) {
                return Err(Error::config(format!(
                    "corpus.sql returns two columns named `{}`; give one another name with AS",
                    field.name()
                )));
            }
            let column = Column::new(qualifier.cloned(), field.name());
            columns.push((Expr::Column(column), field));
        }
        Ok(Self { columns })
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

    fn required(&self, name: &str, why: &str) -> Result<(Expr, &'a DataType)> {
        self.find(name).ok_or_else(|| {
            let nearest = nearest(name, self.all()).map_or_else(String::new, |near| {
                format!("; nearest is `{near}`: write \"{near}\" AS {name} if it is meant")
            });
            Error::config(format!(
                "column `{name}` is missing ({why}); the query returns {}{nearest}",
                self.names()
            ))
        })
    }

    /// Checks the type of an optional column.
    fn check(
        &self,
        name: &str,
        accepts: impl Fn(&DataType) -> bool,
        accepted: &str,
        sql_type: &str,
    ) -> Result<()> {
        match self.find(name) {
            Some((_, data_type)) if !accepts(data_type) => {
                Err(self.wrong_type(name, accepted, sql_type))
            }
            _ => Ok(()),
        }
    }

    fn wrong_type(&self, name: &str, accepted: &str, sql_type: &str) -> Error {
        let found = self.find(name).map_or_else(String::new, |(_, t)| t.to_string());
        if found == DataType::Null.to_string() {
            return Error::input(format!(
                "column `{name}` of corpus.sql holds no value in any row; is a file of corpus.tables empty?"
            ));
        }
        Error::config(format!(
            "column `{name}` of corpus.sql has type {found}; accepted is {accepted}; convert it: CAST({name} AS {sql_type}) AS {name}"
        ))
    }

    fn not_a_value(&self, name: &str) -> Error {
        self.wrong_type(
            name,
            "a number, boolean, string, date, time, timestamp or list of strings",
            "VARCHAR",
        )
    }

    fn all(&self) -> Vec<&'a str> {
        self.columns.iter().map(|(_, field)| field.name().as_str()).collect()
    }

    fn names(&self) -> String {
        listed(&self.all())
    }
}

fn is_null_or(found: &DataType, accepted: &DataType) -> bool {
    found == accepted || *found == DataType::Null
}

fn is_topics(found: &DataType) -> bool {
    normal_type(found).is_some_and(|t| t == DataType::Utf8 || t == list_of_strings())
}

fn is_time(found: &DataType) -> bool {
    normal_type(found).is_some_and(|t| {
        t.is_integer()
            || matches!(
                t,
                DataType::Utf8 | DataType::Date32 | DataType::Date64 | DataType::Timestamp(..)
            )
    })
}

/// SQL function: the shard of a note id; 0 for a null, an error for an integer that is no i64.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ShardOfNote {
    signature: Signature,
    shard_count: u32,
}

impl ShardOfNote {
    fn new(shard_count: u32) -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable), shard_count }
    }

    fn shards(&self, ids: &ArrayRef) -> Result<UInt32Array> {
        let normal = note_id_type(ids.data_type())
            .ok_or_else(|| Error::internal("the shard function got an unchecked type"))?;
        let ids = match ids.data_type() {
            DataType::Dictionary(_, values) => cast(ids, values),
            _ => Ok(Arc::clone(ids)),
        }
        .map_err(|e| Error::internal("decoding note ids").with_source(e))?;
        if *ids.data_type() == DataType::UInt64 {
            let too_large = |id: &u64| i64::try_from(*id).is_err();
            if let Some(id) = ids.as_primitive::<UInt64Type>().iter().flatten().find(too_large) {
                return Err(Error::input(format!(
                    "note_id {id} does not fit a signed 64-bit integer; use CAST(note_id AS VARCHAR) AS note_id"
                )));
            }
        }
        let ids =
            cast(&ids, &normal).map_err(|e| Error::internal("casting note ids").with_source(e))?;
        let shard = |id: NoteId| shard_of(&id, self.shard_count);
        if self.shard_count == 1 {
            return Ok(UInt32Array::from(vec![0; ids.len()]));
        }
        Ok(match normal {
            DataType::Int64 => ids
                .as_primitive::<Int64Type>()
                .iter()
                .map(|id| Some(id.map_or(0, |id| shard(NoteId::Int(id)))))
                .collect(),
            _ => ids
                .as_string::<i32>()
                .iter()
                .map(|id| Some(id.map_or(0, |id| shard(NoteId::Str(id.to_owned())))))
                .collect(),
        })
    }
}

impl ScalarUDFImpl for ShardOfNote {
    fn name(&self) -> &str {
        "sn_shard_of"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::error::Result<DataType> {
        Ok(DataType::UInt32)
    }

    fn invoke_with_args(
        &self,
        args: ScalarFunctionArgs,
    ) -> datafusion::error::Result<ColumnarValue> {
        let ids = args.args[0].to_array(args.number_rows)?;
        let shards = self.shards(&ids).map_err(|e| DataFusionError::External(Box::new(e)))?;
        Ok(ColumnarValue::Array(Arc::new(shards)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::options::CorpusMode;
    use crate::error::ErrorKind;
    use arrow::array::{DictionaryArray, UInt64Array};
    use arrow::datatypes::{Int8Type, Schema};

    fn check(fields: &[(&str, DataType)], template: &str, stored: &[&str]) -> Result<Contract> {
        let fields: Fields = fields.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect();
        let schema = DFSchema::try_from(Schema::new(fields)).unwrap();
        let options = CorpusOptions {
            tables: vec![],
            sql: String::new(),
            mode: CorpusMode::Full,
            template: template.to_owned(),
            stored_columns: stored.iter().map(|s| (*s).to_owned()).collect(),
            max_rejected: 0,
            memory_limit_mib: 64,
            storage: None,
        };
        Contract::check(&schema, &options, &NoteTemplate::compile(template)?, 4)
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
        refused(std::slice::from_ref(&title), t, &[], &["`note_id` is missing", "`title`"]);
        refused(&[("NoteId", DataType::Utf8), title.clone()], t, &[], &["nearest is `NoteId`"]);
        refused(
            &[("note_id", DataType::Float64), title.clone()],
            t,
            &[],
            &["`note_id`", "Float64", "string or an integer", "CAST(note_id AS VARCHAR)"],
        );
        refused(&[id.clone(), ("title", DataType::Int64)], t, &[], &["`title`", "Int64", "CAST"]);
        let deleted = ("deleted", DataType::Int8);
        refused(&[id.clone(), title.clone(), deleted], t, &[], &["`deleted`", "boolean"]);
        let updated = ("updated_at", DataType::Float64);
        refused(&[id.clone(), title.clone(), updated], t, &[], &["`updated_at`", "timestamp"]);
        refused(
            &[id.clone(), title.clone()],
            "{{ titel }}",
            &[],
            &["`titel`", "nearest is `title`"],
        );
        refused(&[id.clone(), title.clone()], "{{ note_id }}", &[], &["at least one text column"]);
        refused(&[id.clone(), title.clone()], t, &["lkes"], &["`lkes`", "`note_id`, `title`"]);
        refused(&[id.clone(), title.clone()], t, &["note_id"], &["note_id"]);
        refused(
            &[id.clone(), title.clone(), ("blob", DataType::Binary)],
            t,
            &["blob"],
            &["`blob`", "Binary"],
        );
        refused(&[id, title], "{{ title | nope }}", &[], &["nope"]);
    }

    #[test]
    fn shards_follow_the_pinned_function() {
        let udf = ShardOfNote::new(7);
        let dictionary: DictionaryArray<Int8Type> =
            vec![Some("a"), None, Some("b")].into_iter().collect();
        let shards = udf.shards(&(Arc::new(dictionary) as ArrayRef)).unwrap();
        let expected =
            [shard_of(&NoteId::Str("a".into()), 7), 0, shard_of(&NoteId::Str("b".into()), 7)];
        assert_eq!(shards.values().as_ref(), expected);
        let ints = Arc::new(UInt64Array::from(vec![5, u64::MAX])) as ArrayRef;
        let error = udf.shards(&ints).unwrap_err();
        assert!(error.to_string().contains("18446744073709551615"), "{error}");
    }
}
