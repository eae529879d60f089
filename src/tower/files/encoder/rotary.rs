//! The base of a rotation, wherever a configuration says it. A scaling of positions is refused by name.

use crate::error::{Error, Result};
use crate::tower::files::fields::Fields;

/// The base: `rope_parameters.rope_theta` (or that of one `kind` of layers), else the field `key`, else `default`.
pub(super) fn base(fields: Fields<'_>, kind: Option<&str>, key: &str, default: f64) -> Result<f64> {
    if let Some(scaling) = fields.object("rope_scaling")? {
        refuse_scaling(scaling)?;
    }
    let own = match (fields.object("rope_parameters")?, kind) {
        (Some(all), Some(kind)) => all.object(kind)?,
        (all, _) => all,
    };
    if let Some(own) = own {
        refuse_scaling(own)?;
        if let Some(theta) = own.number("rope_theta")? {
            return checked(theta);
        }
    }
    checked(fields.number(key)?.unwrap_or(default))
}

fn refuse_scaling(parameters: Fields<'_>) -> Result<()> {
    let kind = ["rope_type", "type"].into_iter().find_map(|key| parameters.get(key)?.as_str());
    match kind {
        None | Some("default") => {}
        Some(kind) => {
            return Err(Error::unsupported(format!(
                "RoPE scaling of type {kind:?} is not supported in this family"
            )));
        }
    }
    match parameters.number("partial_rotary_factor")? {
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
