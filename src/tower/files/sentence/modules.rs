//! `modules.json`: the steps from token states to a vector.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Card, Said, named, read};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tower::WeightSource;
use crate::tower::files::disk::{ReadAt, read_small};
use crate::tower::files::foreign::sentence_command;
use crate::tower::files::safetensors::SafetensorsWeights;
use crate::tower::files::whole::{absent, present};
use crate::types::{Activation, HeadModule, Pooling};

/// Lists the steps.
pub(crate) const MODULES: &str = "modules.json";
const MAX_MODULES: u64 = 1 << 20;

/// A module behind the pooling, with its weights.
pub(crate) struct ModuleFile {
    pub(crate) module: HeadModule,
    pub(crate) weights: Option<Box<dyn WeightSource>>,
    /// Files of its own, to be hashed.
    pub(crate) files: Vec<ReadAt>,
}

/// An entry of `modules.json`.
#[derive(serde::Deserialize)]
struct Entry {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    idx: Option<u64>,
}

impl Entry {
    /// The package moved its classes more than once; their names stayed.
    fn class(&self) -> &str {
        self.kind.rsplit('.').next().unwrap_or_default()
    }
}

fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let path = folder.join(MODULES);
    serde_json::from_slice(&read_small(&path, MAX_MODULES)?)
        .or_error(ErrorKind::Corrupt, || format!("{} is not a list of modules", path.display()))
}

impl Card {
    pub(super) fn read_modules(&mut self, folder: &Path, width: u32) -> Result<()> {
        match present(&folder.join(MODULES))? {
            true => {
                self.follow(folder, &entries(folder)?, width, 0).context(named(folder, MODULES))
            }
            false => Ok(()),
        }
    }

    /// The modules of a folder that may begin behind the pooling.
    pub(super) fn read_head(&mut self, folder: &Path, width: u32) -> Result<()> {
        let entries = entries(folder)?;
        let whole = entries.first().is_some_and(|first| first.class() == "Transformer");
        let left_out = if whole { 0 } else { 2 };
        self.follow(folder, &entries, width, left_out).context(named(folder, MODULES))
    }

    /// `left_out` modules are not in the list, which begins behind them.
    fn follow(
        &mut self,
        folder: &Path,
        entries: &[Entry],
        width: u32,
        left_out: usize,
    ) -> Result<()> {
        let (mut normalized, mut width) = (false, width);
        for (at, entry) in entries.iter().enumerate() {
            if entry.idx.is_some_and(|idx| idx != at as u64) {
                return Err(Error::input(format!(
                    "module {at} says that it is number {}: the order of the modules is not clear",
                    entry.idx.unwrap_or_default()
                )));
            }
            let class = entry.class();
            let ours = entry.kind.starts_with("sentence_transformers.");
            match (at + left_out, class) {
                _ if !ours => {
                    return Err(Error::unsupported(format!(
                        "module {at} is {}, Python code of the model's own",
                        entry.kind
                    )));
                }
                (0, "Transformer") if entry.path.is_empty() => {}
                (0, "Transformer") => {
                    return Err(Error::unsupported(format!(
                        "the transformer is in the folder {}; name that folder in `model`, and its pooling",
                        entry.path
                    )));
                }
                (1, "Pooling") => {
                    let name = format!("{}/config.json", entry.path);
                    let fields = needed(folder, &name)?;
                    let pooling = pooling(&fields).context(named(folder, &name))?;
                    for key in ["embedding_dimension", "word_embedding_dimension"] {
                        let said = fields.get(key).and_then(Value::as_u64);
                        fits(said.unwrap_or(width.into()), width)
                            .context(|| format!("{key} of {}", folder.join(&name).display()))?;
                    }
                    self.pooling = Some(Said { value: pooling, by: name });
                }
                (2.., "Dense" | "LayerNorm") => {
                    normalized = false;
                    let name = format!("{}/config.json", entry.path);
                    let fields = needed(folder, &name)?;
                    let module = match class {
                        "Dense" => dense(&fields),
                        _ => count(&fields, "dimension")
                            .map(|inputs| HeadModule::LayerNorm { inputs }),
                    };
                    let module = module.context(named(folder, &name))?;
                    width = match module {
                        HeadModule::Dense { inputs, outputs, .. } => {
                            fits(inputs.into(), width).map(|()| outputs)
                        }
                        HeadModule::LayerNorm { inputs } => {
                            fits(inputs.into(), width).map(|()| inputs)
                        }
                        HeadModule::Normalize => Ok(width),
                    }
                    .context(named(folder, &name))?;
                    let weights = weights(&folder.join(&entry.path))?;
                    let files = weights.files();
                    self.modules.push(ModuleFile {
                        module,
                        weights: Some(Box::new(weights)),
                        files,
                    });
                }
                (2.., "Normalize") => {
                    normalized = true;
                    let module = HeadModule::Normalize;
                    self.modules.push(ModuleFile { module, weights: None, files: Vec::new() });
                }
                _ => {
                    return Err(Error::unsupported(format!(
                        "module {at} is {class}, which is not supported there (Transformer, Pooling, then Dense, LayerNorm and \
                         Normalize are)"
                    )));
                }
            }
        }
        // Said once more as an option, which comes after any cut of the vector.
        if normalized
            && self.modules.last().is_some_and(|last| last.module == HeadModule::Normalize)
        {
            self.modules.pop();
        }
        self.normalize = Some(Said { value: normalized, by: MODULES.to_owned() });
        Ok(())
    }
}

/// Refuses a file that does not fit what is before it.
fn fits(said: u64, width: u32) -> Result<()> {
    match said == u64::from(width) {
        true => Ok(()),
        false => Err(Error::input(format!(
            "it takes {said} elements, but what is before it gives {width}: these files are not of one model"
        ))),
    }
}

fn needed(folder: &Path, name: &str) -> Result<Map<String, Value>> {
    read(folder, name)?.ok_or_else(|| absent(&folder.join(name)))
}

/// How states are pooled. The package adds up what several modes give one after the other; that is refused.
fn pooling(fields: &Map<String, Value>) -> Result<Pooling> {
    const MODES: [(&str, &str, Pooling); 6] = [
        ("pooling_mode_cls_token", "cls", Pooling::Cls),
        ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
        ("pooling_mode_max_tokens", "max", Pooling::Max),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
        ("pooling_mode_weightedmean_tokens", "weightedmean", Pooling::WeightedMean),
        ("pooling_mode_lasttoken", "lasttoken", Pooling::LastToken),
    ];
    if fields.get("include_prompt") == Some(&Value::Bool(false)) {
        return Err(Error::unsupported(
            "include_prompt = false (the prompt's states left out) is not supported",
        ));
    }
    let flags = || {
        let set = |key: &&(&str, &str, Pooling)| fields.get(key.0) == Some(&Value::Bool(true));
        MODES.iter().filter(set).map(|(_, name, _)| *name).collect::<Vec<_>>()
    };
    let mut names: Vec<&str> = match fields.get("pooling_mode") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        Some(_) => return Err(Error::corrupt("pooling_mode is not a text")),
    };
    if names.is_empty() {
        names = flags();
    } else if !flags().is_empty() && flags() != names {
        return Err(Error::input(format!(
            "pooling_mode says {}, but its older flags {}: it contradicts itself; set `pooling`",
            names.join(", "),
            flags().join(", ")
        )));
    }
    match names[..] {
        [one] => MODES.iter().find(|(_, name, _)| *name == one).map(|(.., mode)| *mode).ok_or_else(
            || Error::unsupported(format!("the pooling mode {one:?} is not supported")),
        ),
        [] => Err(Error::corrupt("it names no pooling mode")),
        _ => Err(Error::unsupported(format!(
            "several pooling modes one after the other ({}) are not supported",
            names.join(", ")
        ))),
    }
}

fn dense(fields: &Map<String, Value>) -> Result<HeadModule> {
    let function = fields.get("activation_function").and_then(Value::as_str);
    let name = function.and_then(|path| path.rsplit('.').next()).unwrap_or("Tanh");
    let activation = match name {
        "Identity" => Activation::Identity,
        "Tanh" => Activation::Tanh,
        "Sigmoid" => Activation::Sigmoid,
        "SiLU" => Activation::Silu,
        "GELU" => Activation::Gelu,
        "ReLU" => Activation::Relu,
        other => {
            return Err(Error::unsupported(format!(
                "activation_function {other} is not supported (Identity, Tanh, Sigmoid, SiLU, GELU and ReLU are)"
            )));
        }
    };
    // They work on something else than the sentence's vector.
    for key in ["module_input_name", "module_output_name"] {
        if fields.get(key).is_some_and(|name| !name.is_null() && name != "sentence_embedding") {
            return Err(Error::unsupported(format!(
                "{key} other than sentence_embedding is not supported"
            )));
        }
    }
    Ok(HeadModule::Dense {
        inputs: count(fields, "in_features")?,
        outputs: count(fields, "out_features")?,
        bias: fields.get("bias").and_then(Value::as_bool).unwrap_or(true),
        activation,
    })
}

fn count(fields: &Map<String, Value>, key: &str) -> Result<u32> {
    let found = fields.get(key).and_then(Value::as_u64).and_then(|count| u32::try_from(count).ok());
    found
        .filter(|count| (1..=1 << 17).contains(count))
        .ok_or_else(|| Error::corrupt(format!("{key} is not a number between 1 and 131072")))
}

fn weights(folder: &Path) -> Result<SafetensorsWeights> {
    let path = folder.join("model.safetensors");
    if present(&path)? {
        return SafetensorsWeights::open(&[path]);
    }
    let pickle = folder.join("pytorch_model.bin");
    if !pickle.is_file() {
        return Err(absent(&path));
    }
    let whole = folder.parent().unwrap_or(folder).display().to_string();
    Err(Error::unsupported(format!(
        "{} is a PyTorch pickle, which may run code when it is read; if you trust it, convert the model once with {} and name \
         {whole}-safetensors in `model`",
        pickle.display(),
        sentence_command(&whole, &format!("{whole}-safetensors"))
    )))
}
