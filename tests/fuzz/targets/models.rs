//! Model files: weights, configuration, tokenizer, adapter, each damaged in a model that is whole otherwise.

use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use serde_json::{Value, json};

use scalingnote::error::Result;
use scalingnote::observe::{Reporter, Silent};
use scalingnote::tower::{DeviceSpec, Tower, TowerOptions};
use scalingnote::types::Pooling;

use super::llama::{self, Named, safetensors};
use super::{Target, block_on};

/// A tiny Llama in a folder of its own, one file of which is damaged.
pub struct Model {
    file: &'static str,
    folder: tempfile::TempDir,
    options: TowerOptions,
}

impl Model {
    pub fn new(kind: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        write_model(folder.path(), None);
        write("adapter/adapter_config.json", adapter_config().to_string().as_bytes());
        write("adapter/adapter_model.safetensors", &safetensors(&adapter_tensors(), None));
        let (file, model) = match kind {
            "gguf" => ("model.gguf", "model.gguf"),
            "safetensors" => ("model.safetensors", "."),
            "model-config" => ("config.json", "."),
            "tokenizer" => ("tokenizer.json", "."),
            "adapter" => ("adapter/adapter_model.safetensors", "."),
            _ => ("adapter/adapter_config.json", "."),
        };
        let mut options = TowerOptions::new(model, Pooling::Mean);
        options.max_tokens = Some(32);
        options.adapter = file.starts_with("adapter").then(|| "adapter".to_owned());
        Self { file, folder, options }
    }

    fn valid(&self) -> Vec<u8> {
        match self.file {
            "model.gguf" => gguf(GgmlDType::F32),
            file => std::fs::read(self.folder.path().join(file)).unwrap(),
        }
    }
}

impl Target for Model {
    fn seeds(&self) -> Vec<Vec<u8>> {
        match self.file {
            "model.gguf" => [GgmlDType::F32, GgmlDType::Q8_0, GgmlDType::Q4_1].map(gguf).into(),
            _ => vec![self.valid()],
        }
    }

    fn read(&mut self, data: &[u8]) -> Result<()> {
        std::fs::write(self.folder.path().join(self.file), data).unwrap();
        let reporter: Arc<dyn Reporter> = Arc::new(Silent);
        let tower = block_on(Tower::resolve(&self.options, self.folder.path(), &reporter))?;
        let tokens = tower.tokenizer().tokenize("one short note, and no more")?;
        let mut encoder = tower.load(&DeviceSpec::Cpu { threads: 1 })?;
        encoder.encode(&[&tokens.ids]).map(drop)
    }

    fn names(&self) -> Vec<String> {
        let name = Path::new(self.file).file_name().unwrap().to_string_lossy().into_owned();
        // Weights that are whole and do not fit the configuration are named by the model's folder.
        vec![name, self.folder.path().to_string_lossy().into_owned()]
    }
}

/// Writes a tiny Llama; every text with the character `broken` gets a vector that is not a number.
pub fn write_model(folder: &Path, broken: Option<char>) {
    let mut tensors = tensors();
    if let Some(row) = broken.map(|character| character as usize + 1) {
        tensors[0].2[row * 32..(row + 1) * 32].fill(f32::NAN);
    }
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    write("config.json", llama::config(320, 64, 128).to_string().as_bytes());
    write("tokenizer.json", tokenizer().to_string().as_bytes());
    write("model.safetensors", &safetensors(&tensors, None));
}

/// Byte-level BPE: `<eos>` is 0, a byte is itself plus 1, one merge.
fn tokenizer() -> Value {
    let mut tokenizer = llama::byte_level_with_end();
    tokenizer["normalizer"] = json!({"type": "NFC"});
    tokenizer["model"]["vocab"]["on"] = 257.into();
    tokenizer["model"]["merges"] = json!(["o n"]);
    tokenizer
}

fn tensors() -> Vec<Named> {
    llama::seeded(llama::shapes(320, 64), 42, 0.1, |_, _| 0.0)
}

fn adapter_tensors() -> Vec<Named> {
    let name = |end: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.{end}.weight");
    vec![
        (name("lora_A"), vec![4, 32], vec![0.01; 4 * 32]),
        (name("lora_B"), vec![32, 4], vec![0.02; 4 * 32]),
    ]
}

fn adapter_config() -> Value {
    json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": false, "bias": "none",
        "target_modules": ["q_proj"], "rank_pattern": {}, "alpha_pattern": {}})
}

/// The same model as llama.cpp's converter would store it, tokenizer included.
fn gguf(dtype: GgmlDType) -> Vec<u8> {
    llama::gguf(&tensors(), &tokenizer(), dtype, &[])
}
