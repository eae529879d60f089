//! `adapter_config.json`, key by key: computed here, without effect on the merged weights, or refused by name.
//!
//! PEFT learns new ways to change weights in every release. So this lists what is understood, and refuses whatever it
//! does not list.

use std::collections::BTreeMap;

use fancy_regex::Regex;
use serde_json::{Map, Value};

use super::modules::{Layers, MERGE, Modules, expression, fits};
use crate::error::{Error, Result};

/// What [`LoraConfig`] computes.
const COMPUTED: [&str; 9] = [
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
];

/// Merged weights are the same whatever these say.
const NO_EFFECT: [&str; 16] = [
    // Where it comes from and what it is for.
    "auto_mapping",
    "base_model_name_or_path",
    "peft_version",
    "revision",
    "task_type",
    // How PEFT runs it.
    "inference_mode",
    "lora_dropout",
    "merge_weights",
    "runtime_config",
    // Details of what another key switches on.
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "qalora_group_size",
    // Ties adapters of embeddings, whose tensors are refused.
    "ensure_weight_tying",
];

/// Plain LoRA only where these are off (null, false or empty), and why.
const OFF: [(&str, &str); 16] = [
    ("alora_invocation_tokens", ""),
    ("arrow_config", "it chooses between several adapters for every token"),
    ("enable_lora", "it adapts parts of a fused matrix"),
    ("fan_in_fan_out", "its matrices are transposed"),
    ("kasa_config", "it also cuts the model's own matrices"),
    ("layer_replication", "it repeats layers of the model"),
    ("lora_bias", "it also changes biases"),
    ("megatron_config", "it is made for Megatron's parallel layers"),
    ("modules_to_save", "it replaces whole modules"),
    ("monteclora_config", "it draws its weights at random"),
    ("target_parameters", "it changes parameters other than the matrices of linear layers"),
    ("trainable_token_indices", "it replaces rows of the token embedding"),
    ("use_bdlora", "its matrices are stored by blocks"),
    ("use_dora", "it also scales the rows of the merged matrices"),
    ("use_qalora", "its matrices read pooled inputs"),
    ("velora_config", "it stores buffers beside its matrices"),
];

/// Values of `init_lora_weights`, beside true and false, that leave the model's own weights as they were. Others
/// (pissa, olora, corda, loftq, lora_ga) take the first A and B out of them, and what is stored adds to what was left.
const INITIALISED: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Refuses a value that would not be merged as it is meant.
fn check(key: &str, value: &Value) -> Result<()> {
    let off = match value {
        Value::Null => return Ok(()),
        Value::Bool(on) => !on,
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::Number(_) => false,
    };
    let why = match key {
        _ if COMPUTED.contains(&key) || NO_EFFECT.contains(&key) => return Ok(()),
        "peft_type" if value == "LORA" => return Ok(()),
        "peft_type" => "only LORA is read here",
        "bias" if value == "none" => return Ok(()),
        "bias" => "it also changes biases",
        "init_lora_weights" => {
            let text = value.as_str().map(str::to_ascii_lowercase);
            if value.is_boolean() || text.is_some_and(|text| INITIALISED.contains(&&*text)) {
                return Ok(());
            }
            return Err(Error::unsupported(format!(
                "init_lora_weights is {}: the model's own weights were changed with it (they were not where it is true, \
                 false or one of {}); save it in PEFT with path_initial_model_for_weight_conversion, or {MERGE}",
                shown(value),
                INITIALISED.join(", ")
            )));
        }
        _ => match OFF.iter().find(|(name, _)| *name == key) {
            Some(_) if off => return Ok(()),
            Some(("alora_invocation_tokens", _)) => {
                return Err(Error::unsupported(format!(
                    "alora_invocation_tokens is {}: it acts from some token on, which merged weights cannot do; train a \
                     LoRA adapter without it",
                    shown(value)
                )));
            }
            Some((_, why)) => *why,
            None => "this version does not know what that does to the weights",
        },
    };
    Err(Error::unsupported(format!("{key} is {}: {why}; {MERGE}", shown(value))))
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The keys of a file's own metadata that say what that file would.
pub(super) fn from_metadata(metadata: &BTreeMap<String, String>) -> Map<String, Value> {
    let known = |key: &str| {
        let special = ["peft_type", "bias", "init_lora_weights"];
        let mut rest = COMPUTED.iter().chain(&special).chain(OFF.iter().map(|(key, _)| key));
        rest.any(|name| *name == key)
    };
    let value = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| text.clone().into());
    let fields = metadata.iter().filter(|(key, _)| known(key));
    fields.map(|(key, text)| (key.clone(), value(text))).collect()
}

/// Which matrices a plain LoRA adapter changes, and how strongly.
pub(super) struct LoraConfig {
    rank: Option<f64>,
    alpha: f64,
    /// The change is scaled by alpha / sqrt(rank) instead of alpha / rank.
    stabilised: bool,
    ranks: Vec<(Pattern, f64)>,
    alphas: Vec<(Pattern, f64)>,
    /// `None` where PEFT's own list for the architecture says what was trained. That is what is stored.
    targets: Option<Modules>,
    excluded: Option<Modules>,
    layers: Layers,
}

impl LoraConfig {
    /// # Errors
    /// Unsupported, naming the key, for whatever is not plain LoRA; Corrupt for a value of a wrong type.
    pub(super) fn new(fields: &Map<String, Value>) -> Result<Self> {
        fields.iter().try_for_each(|(key, value)| check(key, value))?;
        let given = |key: &str| fields.get(key).filter(|value| !value.is_null());
        let alpha = given("lora_alpha").ok_or_else(|| Error::corrupt("it has no lora_alpha"))?;
        let stabilised = match given("use_rslora") {
            None => false,
            Some(value) => value
                .as_bool()
                .ok_or_else(|| Error::corrupt("use_rslora is neither true nor false"))?,
        };
        let modules = |key: &str| given(key).map(|value| Modules::new(value, key)).transpose();
        let layers = match given("layers_to_transform") {
            Some(Value::Array(all)) => {
                all.iter().map(|layer| number(layer, "layers_to_transform")).collect()
            }
            Some(one) => number(one, "layers_to_transform").map(|layer| vec![layer]),
            None => Ok(Vec::new()),
        };
        Ok(Self {
            rank: given("r").map(|value| number(value, "r")).transpose()?,
            alpha: number(alpha, "lora_alpha")?,
            stabilised,
            ranks: patterns(given("rank_pattern"), "rank_pattern")?,
            alphas: patterns(given("alpha_pattern"), "alpha_pattern")?,
            targets: modules("target_modules")?,
            excluded: modules("exclude_modules")?,
            layers: Layers::new(layers?, given("layers_pattern"))?,
        })
    }

    /// How strongly the pair of `module` (by PEFT's name) acts.
    ///
    /// # Errors
    /// Input where PEFT would not load the pair: it has another rank, or is not among the targets.
    pub(super) fn scale(&self, module: &str, rank: usize) -> Result<f64> {
        if !self.targeted(module) {
            return Err(Error::input(format!(
                "it holds {module}, which its configuration (target_modules, exclude_modules, layers_to_transform) leaves \
                 out; correct the configuration, or take the tensors out"
            )));
        }
        let rank = rank as f64;
        let expected = first(&self.ranks, module).or(self.rank);
        if let Some(expected) = expected
            && expected != rank
        {
            return Err(Error::input(format!(
                "lora_A of {module} has rank {rank}, and the configuration (r, rank_pattern) says {expected}"
            )));
        }
        let alpha = first(&self.alphas, module).unwrap_or(self.alpha);
        Ok(if self.stabilised { alpha / rank.sqrt() } else { alpha / rank })
    }

    fn targeted(&self, module: &str) -> bool {
        if self.excluded.as_ref().is_some_and(|excluded| excluded.hold(module)) {
            return false;
        }
        // Layers count for ends of names alone.
        self.targets.as_ref().is_none_or(|targets| match targets {
            Modules::Fitting(_) => targets.hold(module),
            _ => targets.name(module) || targets.hold(module) && self.layers.hold(module),
        })
    }

    /// What decides the scales; a part of the adapter's digest.
    pub(super) fn canonical(&self) -> Value {
        let keys: Vec<&str> = self.alphas.iter().map(|(pattern, _)| pattern.key.as_str()).collect();
        let alphas: BTreeMap<_, _> =
            self.alphas.iter().map(|(pattern, alpha)| (&pattern.key, alpha.to_bits())).collect();
        let mut canonical = serde_json::json!({
            "alpha": self.alpha.to_bits(),
            "stabilised": self.stabilised,
            "alphas": alphas,
        });
        // The first key that fits decides. PEFT sorts them as it saves them.
        if !keys.is_sorted() {
            canonical["order"] = keys.into();
        }
        canonical
    }
}

fn number(value: &Value, key: &str) -> Result<f64> {
    let number = value.as_f64().filter(|number| number.is_finite());
    number.ok_or_else(|| Error::corrupt(format!("{key} is not a number")))
}

fn patterns(value: Option<&Value>, name: &str) -> Result<Vec<(Pattern, f64)>> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let fields =
        value.as_object().ok_or_else(|| Error::corrupt(format!("{name} is not a JSON object")))?;
    let pattern = |(key, value): (&String, &Value)| {
        let fitting = expression(key, name, |key| format!(r"(?:.*\.)?(?:{key})"))?;
        Ok((Pattern { key: key.clone(), fitting }, number(value, name)?))
    };
    fields.iter().map(pattern).collect()
}

fn first(patterns: &[(Pattern, f64)], module: &str) -> Option<f64> {
    patterns.iter().find(|(pattern, _)| fits(&pattern.fitting, module)).map(|(_, value)| *value)
}

/// A key of `rank_pattern` or `alpha_pattern`: PEFT takes it as the regular expression `(.*\.)?(key)$`.
struct Pattern {
    key: String,
    fitting: Regex,
}

#[cfg(test)]
mod tests;
