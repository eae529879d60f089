//! LoRA adapters (PEFT's format), merged into the weights as they are read: W + scale * B A.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::WeightSource;
use crate::tower::files::config::read_json;
use crate::tower::files::disk::digest;
use crate::tower::files::provenance::teacher_of;
use crate::tower::files::safetensors::SafetensorsFile;
use crate::types::{Digest256, EmbeddingSpace, Hasher256, hash_json};

/// An opened adapter: its pairs by the module they change.
pub(crate) struct Adapter {
    file: SafetensorsFile,
    path: PathBuf,
    pairs: BTreeMap<String, Pair>,
    digest: Digest256,
}

#[derive(Debug, Default)]
struct Pair {
    a: Option<String>,
    b: Option<String>,
    scale: f64,
}

impl Adapter {
    /// Opens a PEFT directory (`adapter_config.json`, `adapter_model.safetensors`), or a safetensors file
    /// whose configuration lies beside it as `adapter_config.json` or in its own metadata, as the
    /// string `adapter_config` or the strings `lora_alpha` and `use_rslora`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let tensors =
            if path.is_dir() { path.join("adapter_model.safetensors") } else { path.to_owned() };
        if !tensors.exists() {
            let below = path.join("adapter").join("adapter_model.safetensors");
            let hint = match below.exists() {
                true => {
                    format!("; name the folder `adapter` in it: {}", path.join("adapter").display())
                }
                false => String::new(),
            };
            let missing = tensors.display();
            return Err(Error::not_found(format!("the LoRA adapter has no file {missing}{hint}")));
        }
        let file = SafetensorsFile::open(&tensors)?;
        let config = configuration(&tensors, &file)?;
        let adapter = Self::build(path, file, &config, digest(&tensors)?);
        adapter.or_error(ErrorKind::Input, || format!("LoRA adapter {}", path.display()))
    }

    fn build(
        path: &Path,
        file: SafetensorsFile,
        config: &Map<String, Value>,
        tensors: Digest256,
    ) -> Result<Self> {
        let scaling = Scaling::of(config)?;
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        let mut strange = Vec::new();
        for name in file.names() {
            let slot = name
                .strip_suffix(".weight")
                .map(|stem| stem.strip_suffix(".default").unwrap_or(stem))
                .and_then(|stem| stem.rsplit_once('.'));
            match slot {
                Some((module, "lora_A")) => {
                    pairs.entry(module_of(module)).or_default().a = Some(name.to_owned());
                }
                Some((module, "lora_B")) => {
                    pairs.entry(module_of(module)).or_default().b = Some(name.to_owned());
                }
                _ => strange.push(name.to_owned()),
            }
        }
        for (module, pair) in &mut pairs {
            match (&pair.a, &pair.b) {
                (Some(a), Some(b)) => match (file.shape(a), file.shape(b)) {
                    (Some(&[rank, _]), Some(&[_, rank_b])) if rank == rank_b && rank > 0 => {
                        pair.scale = scaling.scale(module, rank)?;
                    }
                    _ => {
                        return Err(Error::corrupt(format!(
                            "lora_A and lora_B of {module} do not fit"
                        )));
                    }
                },
                _ => strange.push(format!("{module} (lora_A without lora_B or the reverse)")),
            }
        }
        if !strange.is_empty() {
            return Err(Error::unsupported(format!(
                "it holds what is no LoRA pair and cannot be merged: {}",
                listed(&strange)
            )));
        }
        if pairs.is_empty() {
            return Err(Error::input("it holds no LoRA pair"));
        }
        let mut hasher = Hasher256::new();
        hasher.field(tensors.0).field(hash_json(&scaling.canonical())?.0);
        Ok(Self { file, path: path.to_owned(), pairs, digest: hasher.finish() })
    }

    /// SHA-256 over the adapter's file and what decides its scale.
    pub(crate) fn digest(&self) -> Digest256 {
        self.digest
    }

    /// Space of the document tower that it was trained with as a query tower of its own.
    pub(crate) fn teacher(&self) -> Result<Option<EmbeddingSpace>> {
        let Some(text) = self.file.metadata.get("scalingnote") else { return Ok(None) };
        let named = || format!("metadata `scalingnote` of LoRA adapter {}", self.path.display());
        let ours: Value = serde_json::from_str(text).or_error(ErrorKind::Input, named)?;
        teacher_of(&ours).context(named)
    }

    /// Puts the adapter over `base`.
    ///
    /// # Errors
    /// Input, naming the modules, if it changes any that the base does not have.
    pub(crate) fn over(self, base: Box<dyn WeightSource>) -> Result<Merged> {
        let unmatched: Vec<_> = self
            .pairs
            .keys()
            .filter(|module| !base.contains(&format!("{module}.weight")))
            .cloned()
            .collect();
        if !unmatched.is_empty() {
            return Err(Error::input(format!(
                "LoRA adapter {} was made for another model: the tower has no {}",
                self.path.display(),
                listed(&unmatched)
            )));
        }
        Ok(Merged { base, adapter: self })
    }
}

/// Weights with an adapter merged.
pub(crate) struct Merged {
    base: Box<dyn WeightSource>,
    adapter: Adapter,
}

impl WeightSource for Merged {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.base.tensor(name, shape)?;
        let pair =
            name.strip_suffix(".weight").and_then(|stem| self.adapter.pairs.get(&module_of(stem)));
        let Some(Pair { a: Some(a), b: Some(b), scale }) = pair else { return Ok(tensor) };
        let (a, b) = (self.adapter.file.read(a)?, self.adapter.file.read(b)?);
        b.matmul(&a)
            .and_then(|change| tensor + (change * *scale)?)
            .or_error(ErrorKind::Input, || {
                format!("merging LoRA adapter {} into {name}", self.adapter.path.display())
            })
    }

    fn contains(&self, name: &str) -> bool {
        self.base.contains(name)
    }

    fn q8_0(&self, name: &str, shape: &[usize; 2]) -> Result<Option<Vec<u8>>> {
        let stem = name.strip_suffix(".weight");
        if stem.is_some_and(|stem| self.adapter.pairs.contains_key(&module_of(stem))) {
            return Ok(None);
        }
        self.base.q8_0(name, shape)
    }
}

/// PEFT writes `base_model.model.` before the wrapped model's own names; bare models lack `model.`.
fn module_of(name: &str) -> String {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    if name.starts_with("layers.") || name.starts_with("embed_tokens") {
        format!("model.{name}")
    } else {
        name.to_owned()
    }
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(5) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn configuration(tensors: &Path, file: &SafetensorsFile) -> Result<Map<String, Value>> {
    let beside = tensors.with_file_name("adapter_config.json");
    if let Some(text) = file.metadata.get("adapter_config") {
        return serde_json::from_str(text)
            .or_error(ErrorKind::Corrupt, || "adapter_config in the metadata is no JSON object");
    }
    if beside.is_file() {
        return read_json(&beside);
    }
    let mut config = Map::new();
    for key in ["lora_alpha", "use_rslora"] {
        if let Some(text) = file.metadata.get(key) {
            let value = serde_json::from_str(text)
                .or_error(ErrorKind::Corrupt, || format!("{key} in the metadata is no number"))?;
            config.insert(key.into(), value);
        }
    }
    if config.is_empty() {
        return Err(Error::not_found(format!(
            "LoRA adapter {} has neither adapter_config.json beside it nor lora_alpha in its metadata",
            tensors.display()
        )));
    }
    Ok(config)
}

/// How strongly a pair acts: alpha / rank, or alpha / sqrt(rank) for rank-stabilised adapters.
struct Scaling {
    alpha: f64,
    stabilised: bool,
    /// PEFT's `alpha_pattern`: another alpha for modules whose name is or ends in `.key`.
    alphas: BTreeMap<String, f64>,
}

impl Scaling {
    fn of(config: &Map<String, Value>) -> Result<Self> {
        let given = |key: &str| config.get(key).filter(|value| !value.is_null());
        if let Some(kind) = given("peft_type").and_then(Value::as_str)
            && kind != "LORA"
        {
            return Err(Error::unsupported(format!(
                "peft_type {kind:?} is not supported (LORA is)"
            )));
        }
        if let Some(bias) = given("bias").and_then(Value::as_str)
            && bias != "none"
        {
            return Err(Error::unsupported(format!(
                "bias {bias:?} is not supported (\"none\" is)"
            )));
        }
        for key in ["use_dora", "fan_in_fan_out", "lora_bias", "layer_replication", "use_qalora"] {
            if given(key).is_some_and(|value| *value != Value::Bool(false)) {
                return Err(Error::unsupported(format!("{key} is not supported")));
            }
        }
        let number = |value: &Value, key: &str| {
            value
                .as_f64()
                .filter(|alpha| alpha.is_finite())
                .ok_or_else(|| Error::corrupt(format!("{key} is no number")))
        };
        let alpha = given("lora_alpha").ok_or_else(|| Error::corrupt("it has no lora_alpha"))?;
        let mut alphas = BTreeMap::new();
        if let Some(pattern) = given("alpha_pattern") {
            let pattern =
                pattern.as_object().ok_or_else(|| Error::corrupt("alpha_pattern is no object"))?;
            for (key, value) in pattern {
                if !key.chars().all(|c| c.is_ascii_alphanumeric() || "._".contains(c)) {
                    return Err(Error::unsupported(format!(
                        "alpha_pattern {key:?} is a regular expression; plain names are supported"
                    )));
                }
                alphas.insert(key.clone(), number(value, "alpha_pattern")?);
            }
        }
        Ok(Self {
            alpha: number(alpha, "lora_alpha")?,
            stabilised: given("use_rslora") == Some(&Value::Bool(true)),
            alphas,
        })
    }

    fn scale(&self, module: &str, rank: usize) -> Result<f64> {
        let own = self.alphas.iter().find(|(key, _)| {
            module
                .strip_suffix(key.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = rank as f64;
        Ok(if self.stabilised { alpha / rank.sqrt() } else { alpha / rank })
    }

    fn canonical(&self) -> Value {
        let alphas: BTreeMap<_, _> = self.alphas.iter().map(|(k, v)| (k, v.to_bits())).collect();
        serde_json::json!({
            "alpha": self.alpha.to_bits(),
            "stabilised": self.stabilised,
            "alphas": alphas,
        })
    }
}

#[cfg(test)]
mod tests;
