//! Values of files that describe themselves, brought to the types of the table; and where the first one is that does not
//! fit.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast as cast_values;
use arrow::datatypes::{DataType, FieldRef, Schema};
use arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::expressions::{Column, cast, lit};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use super::declared::convert;
use crate::corpus::options::ColumnType;

/// What the columns of a table are declared to be.
pub(super) type Declared = BTreeMap<String, ColumnType>;

/// The column at a place of `from` as the field of the table; null where `from` has none.
pub(super) fn column(
    from: &Schema,
    at: Option<usize>,
    field: &FieldRef,
    declared: Option<&ColumnType>,
) -> Result<Arc<dyn PhysicalExpr>> {
    let Some(at) = at else { return Ok(lit(ScalarValue::try_from(field.data_type())?)) };
    let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(from.field(at).name(), at));
    match declared {
        Some(declared) if is_text(from.field(at).data_type()) => {
            let text = ScalarUDF::new_from_impl(Text::new(declared.clone()));
            let options = Arc::new(ConfigOptions::default());
            let (text, column) = (Arc::new(text), vec![column]);
            Ok(Arc::new(ScalarFunctionExpr::try_new(text, column, from, options)?))
        }
        _ => cast(column, from, field.data_type().clone()),
    }
}

/// Whether values are texts, from a dictionary or not.
pub(super) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        other => matches!(other, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
    }
}

/// The first row of a batch with a value that cannot be brought to its column's type, and which of `columns` it is in.
pub(super) fn misfit(
    batch: &RecordBatch,
    columns: &[Arc<dyn PhysicalExpr>],
) -> Option<(usize, usize)> {
    let fails = |row: &RecordBatch| columns.iter().position(|column| column.evaluate(row).is_err());
    fails(batch)?;
    (0..batch.num_rows()).find_map(|row| Some((row, fails(&batch.slice(row, 1))?)))
}

/// Function: a text as a value of a declared type, as in text files.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Text {
    declared: ColumnType,
    signature: Signature,
}

impl Text {
    fn new(declared: ColumnType) -> Self {
        Self { declared, signature: Signature::any(1, Volatility::Immutable) }
    }

    fn values(&self, texts: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let texts = cast_values(texts, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>();
        // Without the value, which may be a text of a note.
        let wrong = || ArrowError::CastError(format!("a text is not {}", self.declared.value()));
        if texts.iter().flatten().any(|text| !self.declared.holds(text)) {
            return Err(wrong());
        }
        let data_type = self.declared.data_type();
        convert(texts.clone(), Some(&self.declared), &data_type).map_err(|_| wrong())
    }
}

impl ScalarUDFImpl for Text {
    fn name(&self) -> &str {
        "sn_declared"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.declared.data_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let texts = args.args[0].to_array(args.number_rows)?;
        let values =
            self.values(&texts).map_err(|e| DataFusionError::ArrowError(Box::new(e), None))?;
        Ok(ColumnarValue::Array(values))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int64Array, StringArray};
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    fn first(values: ArrayRef, declared: Option<ColumnType>, to: DataType) -> Option<usize> {
        let batch = RecordBatch::try_from_iter_with_nullable([("v", values, true)]).unwrap();
        let field: FieldRef = Arc::new(Field::new("v", to, true));
        let column = column(batch.schema_ref(), Some(0), &field, declared.as_ref()).unwrap();
        misfit(&batch, &[column]).map(|(row, _)| row)
    }

    #[test]
    fn the_first_value_that_does_not_fit_is_found() {
        let texts =
            |texts: [Option<&str>; 3]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
        for (declared, values, found) in [
            (ColumnType::Integer, [Some("7"), None, Some("007")], None),
            (ColumnType::Integer, [Some("7"), None, Some("2.5")], Some(2)),
            (ColumnType::Integer, [Some("7"), Some(""), Some("x")], Some(1)),
            // What arrow would take: infinity, a yes, a day with a time that is lost.
            (ColumnType::Float, [Some("1.5"), Some("1e999"), None], Some(1)),
            (ColumnType::Boolean, [Some("TRUE"), Some("0"), Some("yes")], Some(2)),
            (ColumnType::Date, [Some("2024-10-01"), Some("2024-10-01T12:00:00"), None], Some(1)),
        ] {
            let to = declared.data_type();
            assert_eq!(first(texts(values), Some(declared.clone()), to), found, "{declared:?}");
        }
        let dictionary: DictionaryArray<Int32Type> = ["1", "x"].into_iter().collect();
        let integer = ColumnType::Integer;
        assert_eq!(first(Arc::new(dictionary), Some(integer), DataType::Int64), Some(1));
        let great: ArrayRef = Arc::new(Int64Array::from(vec![1, i64::MAX]));
        assert_eq!(first(great, None, DataType::Int32), Some(1));
    }
}
