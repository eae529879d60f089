//! The base of a rotation, wherever a configuration says it. A scaling of positions is refused by name.

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::error::{Error, Result};

/// The base: `rope_parameters.rope_theta` (or that of one `kind` of layers), else the field `key`, else `default`.
pub(super) fn base(
    fields: &Fields<'_>,
    kind: Option<&str>,
    key: &str,
    default: f64,
) -> Result<f64> {
    let object = |name: &str| fields.get(name).and_then(Value::as_object);
    if let Some(scaling) = object("rope_scaling") {
        refuse_scaling(scaling)?;
    }
    let own = object("rope_parameters").and_then(|all| match kind {
        None => Some(all),
        Some(kind) => all.get(kind)?.as_object(),
    });
    if let Some(own) = own {
        refuse_scaling(own)?;
        if let Some(theta) = own.get("rope_theta") {
            return checked(theta.as_f64().unwrap_or(f64::NAN));
        }
    }
    checked(fields.number(key, default)?)
}

fn refuse_scaling(parameters: &Map<String, Value>) -> Result<()> {
    let kind = ["rope_type", "type"].into_iter().find_map(|key| parameters.get(key)?.as_str());
    match kind {
        None | Some("default") => {}
        Some(kind) => {
            return Err(Error::unsupported(format!(
                "RoPE scaling of type {kind:?} is not supported in this family"
            )));
        }
    }
    match parameters.get("partial_rotary_factor").and_then(Value::as_f64) {
        None | Some(1.) => Ok(()),
        Some(part) => {
            Err(Error::unsupported(format!("partial_rotary_factor = {part} is not supported")))
        }
    }
}

/// A base that is possible.
pub(super) fn checked(theta: f64) -> Result<f64> {
    match theta.is_finite() && theta > 1. {
        true => Ok(theta),
        false => Err(Error::corrupt(format!("a RoPE base of {theta} is impossible"))),
    }
}
