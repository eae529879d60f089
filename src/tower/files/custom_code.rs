//! Python code that repositories bring along (`auto_map`), and whose computes what is computed here.

use serde_json::Value;

use super::fields::Fields;
use crate::error::{Error, Result};

/// Refuses code that may change what a model computes: all but what was read and found to compute the same.
///
/// # Errors
/// Unsupported, naming the code.
pub(super) fn check(fields: Fields<'_>) -> Result<()> {
    let Some(code) = fields.object("auto_map")? else { return Ok(()) };
    let class = code.get("AutoModel").and_then(Value::as_str);
    // A class may be named with the repository that it is in.
    let class = class.map(|class| class.rsplit("--").next().unwrap_or(class));
    let ours = match (fields.family(), class) {
        // Llama without a causal mask.
        ("llama_bidirec", Some(class)) => class.ends_with(".LlamaBidirectionalModel"),
        // gte-Qwen2 and its descendants. It goes by `is_causal`, which therefore has to be there.
        ("qwen2", Some("modeling_qwen.Qwen2Model")) => fields.flag("is_causal")? == Some(false),
        // A configuration and a head, which transformers took over as they were.
        ("phi3", None) => true,
        ("nomic_bert", Some("modeling_hf_nomic_bert.NomicBertModel")) => true,
        ("new", Some("modeling.NewModel")) => true,
        ("gte", Some("modeling_hf_alibaba_nlp_gte.GteModel")) => true,
        _ => false,
    };
    if ours {
        tracing::info!(class, "computed here without the Python code that the model brings along");
        return Ok(());
    }
    let code = Value::Object(code.0.clone());
    Err(Error::unsupported(format!(
        "auto_map is set: it brings Python code of its own ({code}), which may change what the model computes"
    )))
}
