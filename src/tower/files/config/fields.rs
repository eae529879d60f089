//! Fields of a `config.json`, checked for what they are.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Refuses any value but `wanted`; a field that is not there, or null, is that.
pub(super) fn refuse_unless(fields: &Map<String, Value>, key: &str, wanted: &Value) -> Result<()> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(()),
        Some(found) if found == wanted => Ok(()),
        Some(found) => {
            Err(Error::unsupported(format!("{key} = {found} is not supported (only {wanted} is)")))
        }
    }
}

/// A positive whole number.
pub(super) fn count(fields: &Map<String, Value>, key: &str) -> Result<usize> {
    optional_count(fields, key)?.ok_or_else(|| Error::corrupt(format!("it has no {key}")))
}

/// A positive whole number; `None` where the field is not there, or null.
pub(super) fn optional_count(fields: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|value| usize::try_from(value).ok()) {
            Some(value) if value > 0 => Ok(Some(value)),
            _ => Err(Error::corrupt(format!("{key} is not a positive whole number"))),
        },
    }
}

/// A number; `None` where the field is not there, or null.
pub(super) fn number(fields: &Map<String, Value>, key: &str) -> Result<Option<f64>> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            value.as_f64().map(Some).ok_or_else(|| Error::corrupt(format!("{key} is no number")))
        }
    }
}

/// True or false; `None` where the field is not there, or null.
pub(super) fn flag(fields: &Map<String, Value>, key: &str) -> Result<Option<bool>> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(Error::corrupt(format!("{key} is neither true nor false"))),
    }
}

/// An object; `None` where the field is not there, or null.
pub(super) fn object<'a>(
    fields: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(Error::corrupt(format!("{key} is no object"))),
    }
}
