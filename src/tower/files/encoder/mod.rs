//! Hugging Face `config.json` of an encoder to [`EncoderConfig`]: a file for each family, which says what of it is not BERT. What
//! cannot be computed is refused by name.

mod bert;
mod distilbert;
mod fields;
mod gte;
mod modernbert;
mod mpnet;
mod nomic;
mod roberta;
mod rotary;

use serde_json::{Map, Value};

use self::fields::Fields;
use crate::error::{Error, Result};
use crate::tower::model::encoder_config::EncoderConfig;

/// Name of the matrix `[dimensions, hidden]` that a distilled student ends in.
const PROJECTION: &str = "projection.weight";

/// Reads the fields of one family.
type Reader = fn(&Fields<'_>) -> Result<EncoderConfig>;

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

/// Python code that repositories bring along, by family and class, which was read: what is computed here is the same.
const OWN_CODE: [(&str, &str); 3] = [
    ("nomic_bert", "modeling_hf_nomic_bert.NomicBertModel"),
    ("new", "modeling.NewModel"),
    ("gte", "modeling_hf_alibaba_nlp_gte.GteModel"),
];

/// The families that are encoders.
pub(crate) fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.into_iter().map(|(family, _)| family)
}

/// The encoder that a `config.json` describes; `None` where its family is no encoder's. `shape` is that of a tensor by its name.
///
/// # Errors
/// Unsupported for what is not computed here; Corrupt for a missing or impossible number; Input where the weights contradict it.
pub(crate) fn read<'a>(
    fields: &Map<String, Value>,
    shape: impl Fn(&str) -> Option<&'a [usize]>,
) -> Result<Option<EncoderConfig>> {
    let family = fields.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let Some((family, reader)) = FAMILIES.into_iter().find(|(known, _)| *known == family) else {
        return Ok(None);
    };
    let fields = Fields { family, fields };
    if let Some(found) = fields.get("quantization_config") {
        return Err(Error::unsupported(format!(
            "quantization_config is {found}: its weights are quantised in a way that cannot be read here"
        )));
    }
    refuse_code(&fields)?;
    fields.refuse_unless("is_decoder", &[Value::Bool(false)])?;
    fields.refuse_unless("add_cross_attention", &[Value::Bool(false)])?;
    let mut config = reader(&fields)?;
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

/// Refuses Python code that may compute something else.
fn refuse_code(fields: &Fields<'_>) -> Result<()> {
    let Some(code) = fields.get("auto_map") else { return Ok(()) };
    let class = code.get("AutoModel").and_then(Value::as_str).unwrap_or_default();
    // Code of another repository stands behind its name.
    let bare = class.rsplit("--").next().unwrap_or_default();
    if OWN_CODE.contains(&(fields.family, bare)) {
        tracing::info!(class, "computed here without the Python code that the model brings along");
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "auto_map is set: it brings Python code of its own ({code}), which may change what the model computes"
    )))
}

/// Refuses numbers that no encoder can have, so that later arithmetic can trust them.
fn check(config: &EncoderConfig) -> Result<()> {
    let wrong = |message: String| Err(Error::corrupt(message));
    for (what, size, most) in [
        ("vocabulary size", config.vocab_size, 1 << 22),
        ("hidden size", config.hidden, 1 << 17),
        ("intermediate size", config.inner, 1 << 20),
        ("number of layers", config.layers, 1 << 12),
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
