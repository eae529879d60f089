//! Brings the ids of a corpus to the type that they had in the newest snapshot: `7` in a file that holds nothing but
//! numbers today is the note `7` of yesterday, when one id was `A7`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    cast as cast_expr,
};

use crate::corpus::outcome::shortened;
use crate::error::{Error, Result};
use crate::types::NoteId;

/// The type that ids must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WantedIds {
    /// As the query returns them.
    Any,
    Integers,
    Strings,
}

impl WantedIds {
    /// As that of a note of the newest snapshot.
    pub(super) fn of(note: Option<&NoteId>) -> Self {
        match note {
            None => Self::Any,
            Some(NoteId::Int(_)) => Self::Integers,
            Some(NoteId::Str(_)) => Self::Strings,
        }
    }

    /// The id, of the stored type `found` or of the wanted one, and its type.
    pub(super) fn bring(self, id: Expr, found: DataType) -> (Expr, DataType) {
        match (self, found) {
            (Self::Strings, DataType::Int64) => (cast_expr(id, DataType::Utf8), DataType::Utf8),
            (Self::Integers, DataType::Utf8) => {
                (ScalarUDF::new_from_impl(IntegerId::new()).call(vec![id]), DataType::Int64)
            }
            (_, found) => (id, found),
        }
    }
}

const REFUSAL: &str = "note_id is an integer in the newest snapshot";

/// Whether an error is about a text that writes no integer where ids are integers.
pub(super) fn is_refusal(error: &Error) -> bool {
    error.message().starts_with(REFUSAL)
}

/// The number that a text id writes: `007` and `7` are two notes.
pub(super) fn integer(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number: &i64| number.to_string() == text)
}

/// Whether an id is written as a spreadsheet shows a long number (`1.23457E+12`): digits of it are lost.
pub(super) fn is_rounded(id: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = id.split_once("E+").filter(|(_, exponent)| digits(exponent));
    parts.is_some_and(|(mantissa, _)| match mantissa.split_once(['.', ',']) {
        Some((whole, fraction)) => whole.len() == 1 && digits(whole) && digits(fraction),
        None => mantissa.len() == 1 && digits(mantissa),
    })
}

/// What to say of so many of them.
pub(super) fn rounded(count: u64, first: &str) -> String {
    let ids = if count == 1 { "id looks like a number" } else { "ids look like numbers" };
    format!(
        "{count} note {ids} that a spreadsheet rounded, e.g. {first}: ids that differed may have become one note; format the \
         column as text in the spreadsheet and export it again"
    )
}

/// SQL function: a text id as the number that it writes; an error where it is none.
#[derive(Debug, PartialEq, Eq, Hash)]
struct IntegerId {
    signature: Signature,
}

impl IntegerId {
    fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }

    fn integers(ids: &ArrayRef) -> Result<Int64Array> {
        let texts = cast(ids, &DataType::Utf8)
            .map_err(|e| Error::internal("decoding note ids").with_source(e))?;
        let number = |text: Option<&str>| {
            let Some(text) = text else { return Ok(None) };
            integer(text).map(Some).ok_or_else(|| {
                Error::input(format!(
                    "{REFUSAL}, and `{}` is none; correct it, or give ids that are strings from now on a publish.root of their own",
                    shortened(&NoteId::Str(text.to_owned()).to_string())
                ))
            })
        };
        texts.as_string::<i32>().iter().map(number).collect()
    }
}

impl ScalarUDFImpl for IntegerId {
    fn name(&self) -> &str {
        "sn_integer_id"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion::error::Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(
        &self,
        args: ScalarFunctionArgs,
    ) -> datafusion::error::Result<ColumnarValue> {
        let ids = args.args[0].to_array(args.number_rows)?;
        let integers = Self::integers(&ids).map_err(|e| DataFusionError::External(Box::new(e)))?;
        Ok(ColumnarValue::Array(Arc::new(integers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringArray;

    #[test]
    fn only_the_number_as_it_is_written_is_one() {
        let ids = |texts: Vec<Option<&str>>| {
            IntegerId::integers(&(Arc::new(StringArray::from(texts)) as ArrayRef))
        };
        let numbers = ids(vec![Some("7"), None, Some("-12")]).unwrap();
        assert_eq!(numbers, Int64Array::from(vec![Some(7), None, Some(-12)]));
        for other in ["007", "+7", " 7", "7.0", "A7", "", "9223372036854775808"] {
            let error = ids(vec![Some("7"), Some(other)]).unwrap_err();
            assert!(error.to_string().contains(&format!("`s:{other}`")), "{error}");
        }
    }
}
