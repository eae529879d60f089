//! LoRA adapters: their parameters, and the files that PEFT users load.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::dataset::SplitMix64;
use crate::error::{Error, Result, ResultExt};
use crate::tower::{DecoderConfig, StoredAdapter};
use crate::train::faults::Faults;
use crate::train::files::{cannot, save_tensors, write_json};
use crate::train::tensors::tensor_error;

/// A projection of every decoder layer.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are those of the weights")]
pub enum LoraTarget {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl LoraTarget {
    /// All of them, in the order of the forward pass.
    pub const ALL: [Self; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];

    /// Name inside a layer, as Hugging Face has it.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::QProj => "self_attn.q_proj",
            Self::KProj => "self_attn.k_proj",
            Self::VProj => "self_attn.v_proj",
            Self::OProj => "self_attn.o_proj",
            Self::GateProj => "mlp.gate_proj",
            Self::UpProj => "mlp.up_proj",
            Self::DownProj => "mlp.down_proj",
        }
    }

    /// (out, in).
    pub(super) fn shape(self, config: &DecoderConfig) -> (usize, usize) {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        match self {
            Self::QProj => (q, width),
            Self::KProj | Self::VProj => (kv, width),
            Self::OProj => (width, q),
            Self::GateProj | Self::UpProj => (inner, width),
            Self::DownProj => (width, inner),
        }
    }
}

/// Low-rank adaptation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraOptions {
    /// Rank of the update.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Which projections are adapted.
    pub targets: Vec<LoraTarget>,
    /// Adapt layers from this one on; those below stay as they are and cost no backward pass.
    pub first_layer: usize,
    /// One adapter for queries and one for documents instead of one for both.
    pub separate: bool,
}

impl Default for LoraOptions {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            targets: LoraTarget::ALL.to_vec(),
            first_layer: 0,
            separate: false,
        }
    }
}

impl LoraOptions {
    /// Values that cannot work, by key.
    pub(crate) fn faults(&self) -> Vec<(String, Error)> {
        let mut faults = Faults::default();
        faults.require(self.rank > 0, "rank", "must be above 0");
        faults.require(!self.targets.is_empty(), "targets", "must not be empty");
        faults.positive("alpha", self.alpha);
        faults.0
    }

    fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// The parameters of one adapter.
pub(crate) struct Adapter {
    options: LoraOptions,
    /// Layers of the tower that it was made for.
    layers: usize,
    /// A `[rank, in]` and B `[out, rank]` by layer and target.
    pairs: BTreeMap<(usize, LoraTarget), (Var, Var)>,
}

impl Adapter {
    /// A uniform in ±1/sqrt(in) as PEFT has it, B zero: the tower starts as it was.
    pub(crate) fn new(
        config: &DecoderConfig,
        options: &LoraOptions,
        rng: &mut SplitMix64,
        device: &Device,
    ) -> Result<Self> {
        if options.first_layer >= config.layers {
            return Err(Error::config(format!(
                "method.first_layer must be below the {} layers of the model",
                config.layers
            )));
        }
        if options.rank > config.hidden_size {
            return Err(Error::config(format!(
                "method.rank is {}, above the model's {} dimensions; no matrix of it has so many",
                options.rank, config.hidden_size
            )));
        }
        let mut pairs = BTreeMap::new();
        for layer in options.first_layer..config.layers {
            for &target in &options.targets {
                let (out, input) = target.shape(config);
                let bound = (input as f64).sqrt().recip();
                let a: Vec<f32> = (0..options.rank * input)
                    .map(|_| ((rng.unit() * 2.0 - 1.0) * bound) as f32)
                    .collect();
                let a = Var::from_vec(a, (options.rank, input), device).map_err(tensor_error)?;
                let b =
                    Var::zeros((out, options.rank), DType::F32, device).map_err(tensor_error)?;
                pairs.insert((layer, target), (a, b));
            }
        }
        Ok(Self { options: options.clone(), layers: config.layers, pairs })
    }

    /// Takes over the values of an adapter in PEFT's format, to train it further; those of layers that this tower was
    /// cut off from are passed over (`cut`). It may be smaller: ranks, layers and targets that it lacks are as drawn, so
    /// that the tower starts as that adapter leaves it, whatever its scale.
    ///
    /// # Errors
    /// Input where it has a higher rank, or other layers, targets or another model than the options; Unsupported where it is
    /// not plain LoRA.
    pub(crate) fn start_from(&self, folder: &Path, cut: bool) -> Result<()> {
        let stored = StoredAdapter::open(folder)?;
        let wrong = |what: String| {
            Error::input(format!(
                "LoRA adapter {} {what}; train with the options it was made with, or larger ones",
                folder.display()
            ))
        };
        for ((layer, target), (a, b)) in &self.pairs {
            let module = module(*layer, *target);
            let Some((stored_a, stored_b, scale)) = stored.pair(&module)? else { continue };
            let (out, rank) = stored_b.dims2().map_err(tensor_error)?;
            if rank > self.options.rank {
                let asked = self.options.rank;
                return Err(wrong(format!("has rank {rank}, above the {asked} of method.rank")));
            }
            if (stored_a.dim(1).ok(), out) != (a.dim(1).ok(), b.dims()[0]) {
                return Err(wrong(format!("has matrices of another shape for {module}")));
            }
            let scaled = |b: Tensor| b.affine(scale / self.options.scale(), 0.);
            for (var, tensor, ranks) in [(a, Ok(stored_a), 0), (b, scaled(stored_b), 1)] {
                let whole = |tensor: Tensor| {
                    let tensor = tensor.to_device(var.device())?;
                    if rank == self.options.rank {
                        return Ok(tensor);
                    }
                    let drawn = var.narrow(ranks, rank, self.options.rank - rank)?;
                    Tensor::cat(&[tensor, drawn], ranks)
                };
                tensor
                    .and_then(whole)
                    .and_then(|tensor| var.set(&tensor))
                    .map_err(tensor_error)
                    .context(|| folder.display().to_string())?;
            }
        }
        let known =
            |name: &str| self.pairs.keys().any(|(layer, target)| module(*layer, *target) == name);
        let beyond = |name: &str| layer_of(name).is_some_and(|layer| layer >= self.layers);
        match stored.modules().find(|name| !(known(name) || cut && beyond(name))) {
            None => Ok(()),
            Some(name) => Err(wrong(format!("also changes {name}"))),
        }
    }

    /// Parameters under PEFT's names, in a fixed order.
    pub(crate) fn named(&self) -> Vec<(String, Var)> {
        let mut named = Vec::with_capacity(self.pairs.len() * 2);
        for ((layer, target), (a, b)) in &self.pairs {
            let base = module(*layer, *target);
            named.push((format!("base_model.model.{base}.lora_A.weight"), a.clone()));
            named.push((format!("base_model.model.{base}.lora_B.weight"), b.clone()));
        }
        named
    }

    /// What a forward pass uses: the parameters themselves, which gradients reach.
    pub(crate) fn view(&self) -> AdapterView {
        let tensors = |(at, (a, b)): (&(usize, LoraTarget), &(Var, Var))| {
            (*at, (a.as_tensor().clone(), b.as_tensor().clone()))
        };
        AdapterView { scale: self.options.scale(), pairs: self.pairs.iter().map(tensors).collect() }
    }

    /// Writes `adapter_model.safetensors` (f32, or f16 at half the size) and `adapter_config.json` into `directory`.
    /// `cut` says that the tower has fewer layers than the model. `ours` goes into the file's metadata, which PEFT
    /// passes over.
    pub(crate) fn export(
        &self,
        directory: &Path,
        base_model: &str,
        half: bool,
        cut: bool,
        ours: Option<HashMap<String, String>>,
    ) -> Result<()> {
        std::fs::create_dir_all(directory).map_err(cannot("write", directory))?;
        let tensors: Vec<(String, Tensor)> =
            self.named().into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect();
        save_tensors(&directory.join("adapter_model.safetensors"), &tensors, half, ours)?;
        let modules: Vec<&str> = self
            .options
            .targets
            .iter()
            .filter_map(|target| target.path().rsplit('.').next())
            .collect();
        let mut layers: Vec<usize> = self.pairs.keys().map(|(layer, _)| *layer).collect();
        layers.dedup();
        let config = json!({
            "peft_type": "LORA",
            "task_type": "FEATURE_EXTRACTION",
            "base_model_name_or_path": base_model,
            "r": self.options.rank,
            "lora_alpha": self.options.alpha,
            "lora_dropout": 0.0,
            "target_modules": modules,
            "layers_to_transform": if cut || self.options.first_layer > 0 { json!(layers) } else { json!(null) },
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "use_rslora": false,
            "use_dora": false,
        });
        write_json(directory, "adapter_config.json", &config)
    }
}

/// The name of a projection in the model.
fn module(layer: usize, target: LoraTarget) -> String {
    format!("model.layers.{layer}.{}", target.path())
}

/// The layer whose module has this name.
fn layer_of(name: &str) -> Option<usize> {
    name.split_once(".layers.")?.1.split('.').next()?.parse().ok()
}

/// Tensors of an adapter for one forward pass.
#[derive(Clone)]
pub(crate) struct AdapterView {
    pub(super) scale: f64,
    pub(super) pairs: BTreeMap<(usize, LoraTarget), (Tensor, Tensor)>,
}

impl AdapterView {
    /// The same, cut off from the graph.
    pub(super) fn detached(&self) -> Self {
        let cut = |(at, (a, b)): (&(usize, LoraTarget), &(Tensor, Tensor))| {
            (*at, (a.detach(), b.detach()))
        };
        Self { scale: self.scale, pairs: self.pairs.iter().map(cut).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests_support::tiny_config;

    fn adapter(rank: usize, alpha: f64, first_layer: usize, seed: u64) -> Adapter {
        let options = LoraOptions { rank, alpha, first_layer, ..LoraOptions::default() };
        let (config, mut rng) = (tiny_config("llama"), SplitMix64::new(seed));
        Adapter::new(&config, &options, &mut rng, &Device::Cpu).unwrap()
    }

    /// What the adapter adds to a projection.
    fn added(adapter: &Adapter, layer: usize, target: LoraTarget) -> Vec<f32> {
        let (a, b) = &adapter.pairs[&(layer, target)];
        let product = b.matmul(a).unwrap().affine(adapter.options.scale(), 0.).unwrap();
        product.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_smaller_adapter_goes_on_in_a_larger_one() {
        let folder = tempfile::tempdir().unwrap();
        let small = adapter(2, 8., 1, 1);
        for (_, b) in small.pairs.values() {
            b.set(&Tensor::randn(0f32, 1., b.dims(), &Device::Cpu).unwrap()).unwrap();
        }
        small.export(folder.path(), "base", false, false, None).unwrap();
        let large = adapter(5, 5., 0, 2);
        large.start_from(folder.path(), false).unwrap();
        for target in LoraTarget::ALL {
            for (large, small) in added(&large, 1, target).iter().zip(added(&small, 1, target)) {
                assert!((large - small).abs() < 1e-5, "{target:?}: {large}, {small}");
            }
            assert!(added(&large, 0, target).iter().all(|value| *value == 0.));
        }
        // What is new can be learnt: the gradient of B goes through rows of A that are not zero.
        let (a, _) = &large.pairs[&(1, LoraTarget::QProj)];
        let rows: Vec<Vec<f32>> = a.to_vec2().unwrap();
        assert!(rows.iter().all(|row| row.iter().any(|value| *value != 0.)));

        // An equal one takes it over as it is.
        let equal = adapter(2, 8., 1, 3);
        equal.start_from(folder.path(), false).unwrap();
        for (layer, target) in small.pairs.keys() {
            assert_eq!(added(&equal, *layer, *target), added(&small, *layer, *target));
        }
        for (lacking, said) in [
            (adapter(1, 8., 1, 4), "has rank 2, above the 1 of method.rank"),
            (Adapter { pairs: BTreeMap::new(), ..adapter(2, 8., 1, 5) }, "also changes"),
        ] {
            let error = lacking.start_from(folder.path(), false).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
