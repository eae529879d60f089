//! LoRA adapters (PEFT's format), merged into the weights as they are read: W + scale * B A.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::WeightSource;
use crate::tower::files::config::read_json;
use crate::tower::files::provenance::teacher_of;
use crate::tower::files::safetensors::SafetensorsFile;
use crate::tower::files::whole::present;
use crate::types::{Digest256, EmbeddingSpace, Hasher256, hash_json};

mod config;
mod modules;

use config::{LoraConfig, from_metadata};
use modules::MERGE;

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
    /// The module by the name that PEFT knows it by.
    name: String,
    scale: f64,
}

impl Adapter {
    /// Opens a PEFT directory (`adapter_config.json`, `adapter_model.safetensors`), or a safetensors file
    /// whose configuration is beside it as `adapter_config.json` or in its own metadata, as the
    /// string `adapter_config` or as strings named by its keys, `lora_alpha` among them.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let tensors =
            if path.is_dir() { path.join("adapter_model.safetensors") } else { path.to_owned() };
        if !present(&tensors)? {
            let below = path.join("adapter").join("adapter_model.safetensors");
            let hint = match below.exists() {
                true => {
                    format!("; name the folder `adapter` in it: {}", path.join("adapter").display())
                }
                false if tensors.with_extension("bin").exists() => {
                    "; adapter_model.bin is a PyTorch pickle: save it in PEFT with safe_serialization=True".to_owned()
                }
                false => String::new(),
            };
            let missing = tensors.display();
            return Err(Error::not_found(format!("the LoRA adapter has no file {missing}{hint}")));
        }
        let file = SafetensorsFile::open(&tensors)?;
        let config = configuration(&tensors, &file)?;
        let digest = file.file().digest()?;
        let adapter = Self::build(path, file, &config, digest);
        adapter.or_error(ErrorKind::Input, || format!("LoRA adapter {}", path.display()))
    }

    fn build(
        path: &Path,
        file: SafetensorsFile,
        config: &Map<String, Value>,
        tensors: Digest256,
    ) -> Result<Self> {
        let config = LoraConfig::new(config)?;
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        let mut strange = Vec::new();
        for name in file.names() {
            let slot = name
                .strip_suffix(".weight")
                .map(|stem| stem.strip_suffix(".default").unwrap_or(stem))
                .and_then(|stem| stem.rsplit_once('.'));
            let Some((module, half @ ("lora_A" | "lora_B"))) = slot else {
                strange.push(name.to_owned());
                continue;
            };
            let pair = pairs.entry(module_of(module)).or_default();
            peft_name(module).clone_into(&mut pair.name);
            let half = if half == "lora_A" { &mut pair.a } else { &mut pair.b };
            if let Some(other) = half.replace(name.to_owned()) {
                return Err(Error::corrupt(format!("{other} and {name} are of the same module")));
            }
        }
        for (module, pair) in &mut pairs {
            match (&pair.a, &pair.b) {
                (Some(a), Some(b)) => match (file.shape(a), file.shape(b)) {
                    (Some(&[rank, _]), Some(&[_, rank_b])) if rank == rank_b && rank > 0 => {
                        pair.scale = config.scale(&pair.name, rank)?;
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
                "it holds tensors other than pairs of lora_A and lora_B: {}; {MERGE}",
                listed(&strange)
            )));
        }
        if pairs.is_empty() {
            return Err(Error::input("it holds no LoRA pair"));
        }
        let mut hasher = Hasher256::new();
        hasher.field(tensors.0).field(hash_json(&config.canonical())?.0);
        Ok(Self { file, path: path.to_owned(), pairs, digest: hasher.finish() })
    }

    /// The modules that it changes, sorted.
    pub(crate) fn modules(&self) -> impl Iterator<Item = &str> {
        self.pairs.keys().map(String::as_str)
    }

    /// A `[rank, in]`, B `[out, rank]` and scale of a module; `None` where it leaves the module alone.
    pub(crate) fn pair(&self, module: &str) -> Result<Option<(Tensor, Tensor, f64)>> {
        let Some(Pair { a: Some(a), b: Some(b), scale, .. }) = self.pairs.get(module) else {
            return Ok(None);
        };
        Ok(Some((self.file.read(a)?, self.file.read(b)?, *scale)))
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

impl Merged {
    /// Whether the adapter has something for this tensor.
    fn changes(&self, name: &str) -> bool {
        let stem = name.strip_suffix(".weight");
        stem.is_some_and(|stem| self.adapter.pairs.contains_key(&module_of(stem)))
    }
}

impl WeightSource for Merged {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.base.tensor(name, shape)?;
        let Some(stem) = name.strip_suffix(".weight") else { return Ok(tensor) };
        let Some((a, b, scale)) = self.adapter.pair(&module_of(stem))? else { return Ok(tensor) };
        b.matmul(&a)
            .and_then(|change| tensor + (change * scale)?)
            .or_error(ErrorKind::Input, || {
                format!("merging LoRA adapter {} into {name}", self.adapter.path.display())
            })
    }

    fn contains(&self, name: &str) -> bool {
        self.base.contains(name)
    }

    fn half(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        if self.changes(name) { Ok(None) } else { self.base.half(name, shape) }
    }

    fn q8_0(&self, name: &str, shape: &[usize; 2]) -> Result<Option<Vec<u8>>> {
        if self.changes(name) { Ok(None) } else { self.base.q8_0(name, shape) }
    }
}

/// PEFT writes `base_model.model.` before the wrapped model's own names; bare models lack `model.`.
fn module_of(name: &str) -> String {
    let name = peft_name(name);
    if name.starts_with("layers.") || name.starts_with("embed_tokens") {
        format!("model.{name}")
    } else {
        name.to_owned()
    }
}

/// What a module is called in the model that PEFT wrapped.
fn peft_name(name: &str) -> &str {
    name.strip_prefix("base_model.model.").unwrap_or(name)
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
        return serde_json::from_str(text).or_error(
            ErrorKind::Corrupt,
            || "adapter_config in the metadata is not a JSON object",
        );
    }
    if beside.is_file() {
        return read_json(&beside);
    }
    let config = from_metadata(&file.metadata);
    if !config.contains_key("lora_alpha") {
        return Err(Error::not_found(format!(
            "LoRA adapter {} has neither adapter_config.json beside it nor lora_alpha in its metadata",
            tensors.display()
        )));
    }
    Ok(config)
}

#[cfg(test)]
mod tests;
