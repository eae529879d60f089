//! Hugging Face `config.json` of an encoder to [`EncoderConfig`]: a file for each family, which says what of it is not
//! BERT. What cannot be computed is refused by name.

mod bert;
mod distilbert;
mod gte;
mod modernbert;
mod mpnet;
mod nomic;
mod roberta;
mod rotary;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::tower::files::custom_code;
use crate::tower::files::fields::Fields;
use crate::tower::model::encoder_config::{EncoderConfig, MOST_LAYERS};

/// Name of the matrix `[dimensions, hidden]` that a distilled student ends in.
const PROJECTION: &str = "projection.weight";

/// Reads the fields of one family.
type Reader = fn(Fields<'_>) -> Result<EncoderConfig>;

/// Families by `model_type`.
const FAMILIES: [(&str, Reader); 10] = [
    ("bert", bert::read),
    ("roberta", roberta::read),
    ("xlm-roberta", roberta::read),
    ("camembert", roberta::read),
    ("distilbert", distilbert::read),
    ("mpnet", mpnet::read),
    ("modernbert", modernbert::read),
    ("nomic_bert", nomic::read),
    ("new", gte::read),
    ("gte", gte::read),
];

/// The families that are encoders.
pub(crate) fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.into_iter().map(|(family, _)| family)
}

/// The encoder that a `config.json` describes; `None` where its family is not an encoder's. `shape` is that of a tensor
/// by its name.
///
/// # Errors
/// Unsupported for what is not computed here; Corrupt for a missing or impossible number; Input where the weights
/// contradict it.
pub(crate) fn read<'a>(
    fields: &Map<String, Value>,
    shape: impl Fn(&str) -> Option<&'a [usize]>,
) -> Result<Option<EncoderConfig>> {
    let fields = Fields(fields);
    let Some((_, reader)) = FAMILIES.into_iter().find(|(known, _)| *known == fields.family())
    else {
        return Ok(None);
    };
    fields.refuse_quantised()?;
    custom_code::check(fields)?;
    fields.refuse_unless("is_decoder", false)?;
    fields.refuse_unless("add_cross_attention", false)?;
    let mut config = reader(fields)?;
    check(&config)?;
    config.projected = match shape(PROJECTION) {
        None => None,
        Some(&[rows, width]) if rows > 0 && width == config.hidden => Some(rows),
        Some(shape) => {
            return Err(Error::input(format!(
                "{PROJECTION} has shape {shape:?}, but hidden_size is {}",
                config.hidden
            )));
        }
    };
    Ok(Some(config))
}

/// Refuses numbers that no encoder can have, so that later arithmetic can trust them.
///
/// # Errors
/// Corrupt, naming the number.
pub(crate) fn check(config: &EncoderConfig) -> Result<()> {
    let wrong = |message: String| Err(Error::corrupt(message));
    for (what, size, most) in [
        ("vocabulary size", config.vocab_size, 1 << 22),
        ("hidden size", config.hidden, 1 << 17),
        ("intermediate size", config.inner, 1 << 20),
        ("number of layers", config.layers, MOST_LAYERS),
        ("number of heads", config.heads, 1 << 12),
        ("longest sequence", config.max_positions, 1 << 24),
    ] {
        if size == 0 || size > most {
            return wrong(format!("a {what} of {size} is impossible"));
        }
    }
    if !config.hidden.is_multiple_of(config.heads) {
        return wrong(format!(
            "{} heads do not divide a hidden size of {}",
            config.heads, config.hidden
        ));
    }
    if config.rotary.is_some() && !config.head_dim().is_multiple_of(2) {
        return wrong(format!("a head width of {} is odd", config.head_dim()));
    }
    if !(config.epsilon > 0. && config.epsilon < 1.) {
        return wrong(format!("a norm's epsilon of {} is impossible", config.epsilon));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
