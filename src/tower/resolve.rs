//! A tower from its options: files found and hashed, tokenizer open, weights not yet loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result, ResultExt, shielded};
use crate::observe::Reporter;
use crate::tower::bert::{BertConfig, BertEncoder};
use crate::tower::decoder::{Decoder, decoder_encoder};
use crate::tower::fake::{FakeEncoder, FakeTower};
use crate::tower::files::config::{canonical, from_json, read_json};
use crate::tower::files::disk::{ReadAt, digests};
use crate::tower::files::gguf::Gguf;
use crate::tower::files::gguf_config;
use crate::tower::files::hub::Hub;
use crate::tower::files::lora::Adapter;
use crate::tower::files::provenance::{check_tokenizer, teacher_of};
use crate::tower::files::safetensors::SafetensorsWeights;
use crate::tower::files::source::{ModelFiles, ModelSource, absolute, files, parse};
use crate::tower::files::weights::GgufWeights;
use crate::tower::tokenize::gguf as gguf_tokenizer;
use crate::tower::tokenize::tokenizer::{Definition, TowerTokenizer};
use crate::tower::{DecoderConfig, DeviceSpec, Encoder, TowerOptions, WeightSource};
use crate::types::{
    Arithmetic, Digest256, ENCODER_REVISION, EmbeddingSpace, Hasher256, Pooling, hash_json,
};

/// Begins the digest of a decoder's safetensors.
pub(super) const DECODER: &str = "scalingnote safetensors 1";

/// A tower whose files are found, hashed and checked, and whose weights are not yet loaded. Cheap to
/// clone.
#[derive(Clone)]
pub struct Tower {
    inner: Arc<Inner>,
}

struct Inner {
    options: TowerOptions,
    model: Model,
    tokenizer: TowerTokenizer,
    weights: Digest256,
    adapter: Option<Digest256>,
    dimensions: u32,
    teacher: Option<EmbeddingSpace>,
}

enum Model {
    Fake(FakeTower),
    Decoder { config: DecoderConfig, weights: Box<dyn WeightSource> },
    Bert { config: BertConfig, weights: SafetensorsWeights },
}

impl Model {
    fn max_positions(&self) -> usize {
        match self {
            Self::Fake(_) => usize::MAX,
            Self::Decoder { config, .. } => config.max_positions,
            Self::Bert { config, .. } => config.max_positions(),
        }
    }

    fn vocab_size(&self) -> usize {
        match self {
            Self::Fake(_) => usize::MAX,
            Self::Decoder { config, .. } => config.vocab_size,
            Self::Bert { config, .. } => config.vocab_size(),
        }
    }

    /// Dimensions of its vectors before any cut.
    fn width(&self) -> u32 {
        match self {
            Self::Fake(fake) => fake.dimensions,
            Self::Decoder { config, .. } => config.hidden_size as u32,
            Self::Bert { config, .. } => config.dimensions() as u32,
        }
    }

    /// Cuts a decoder to its first layers.
    fn keep_layers(&mut self, wanted: Option<u32>) -> Result<()> {
        let (Self::Decoder { config, .. }, Some(wanted)) = (self, wanted) else { return Ok(()) };
        if !(1..=config.layers).contains(&(wanted as usize)) {
            return Err(Error::config(format!(
                "layers is {wanted}, but the model has {}",
                config.layers
            )));
        }
        config.layers = wanted as usize;
        Ok(())
    }

    /// Refuses options that mean something to decoders only.
    fn check(&self, options: &TowerOptions) -> Result<()> {
        let Self::Bert { .. } = self else { return Ok(()) };
        let wrong = if options.pooling != Pooling::Mean {
            "needs pooling = \"mean\""
        } else if options.adapter.is_some() {
            "takes no adapter"
        } else if options.arithmetic == Arithmetic::F16 {
            "computes in f32, bf16 or int8"
        } else if options.layers.is_some() {
            "is not cut; leave `layers` out"
        } else {
            return Ok(());
        };
        Err(Error::config(format!("{} is a BERT encoder, which {wrong}", options.model)))
    }
}

impl Tower {
    /// Finds (downloads, if a repo id) and hashes the files, opens the tokenizer, reads the model's
    /// configuration. Relative paths start from `base_dir`.
    ///
    /// # Errors
    /// NotFound, Input, Corrupt or Unsupported about the model's files; Config about the options;
    /// Transient where a hub cannot be reached.
    pub async fn resolve(
        options: &TowerOptions,
        base_dir: &Path,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<Self> {
        tracing::debug!(model = %options.model, "resolving the tower");
        Self::resolve_with(options, base_dir, reporter, Hub::from_env).await
    }

    async fn resolve_with(
        options: &TowerOptions,
        base_dir: &Path,
        reporter: &Arc<dyn Reporter>,
        hub: impl FnOnce() -> Result<Hub>,
    ) -> Result<Self> {
        let mut options = options.clone();
        let path = match parse(&options.model, base_dir)? {
            ModelSource::Fake(fake) => return Self::fake(options, fake),
            ModelSource::Local(path) => {
                options.model = utf8(&path)?;
                path
            }
            ModelSource::Hub { repo, file } => {
                let revision = options.revision.as_deref();
                let fetched = hub()?.fetch(&repo, revision, file.as_deref(), reporter).await?;
                // Whoever reads these options later gets these very files.
                options.revision = Some(fetched.commit);
                options.model = match &file {
                    Some(file) => format!("hf:{repo}/{file}"),
                    None => format!("hf:{repo}"),
                };
                match file {
                    Some(file) => fetched.folder.join(file),
                    None => fetched.folder,
                }
            }
        };
        for place in [&mut options.tokenizer, &mut options.adapter].into_iter().flatten() {
            *place = utf8(&absolute(place, base_dir)?)?;
        }
        // Hashing gigabytes blocks.
        tokio::task::spawn_blocking(move || Self::open(options, &path))
            .await
            .or_error(ErrorKind::Internal, || "opening the tower")?
    }

    fn fake(options: TowerOptions, fake: FakeTower) -> Result<Self> {
        if options.adapter.is_some() || options.tokenizer.is_some() {
            return Err(Error::config("a fake tower takes neither adapter nor tokenizer"));
        }
        let weights =
            Digest256::of(format!("scalingnote fake tower 1: {}", fake.dimensions).as_bytes());
        let dimensions = cut(options.dimensions, fake.dimensions)?;
        let tokenizer = TowerTokenizer::fake(&options)?;
        let model = Model::Fake(fake);
        let (adapter, teacher) = (None, None);
        let inner = Inner { options, model, tokenizer, weights, adapter, dimensions, teacher };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn open(options: TowerOptions, path: &Path) -> Result<Self> {
        let opened = match files(path)? {
            ModelFiles::Gguf(path) => open_gguf(&path, &options)?,
            ModelFiles::Safetensors { weights, folder } => {
                open_safetensors(&weights, &folder, &options)?
            }
        };
        let Opened { mut model, digest, definition, mut teacher } = opened;
        model.check(&options)?;
        model.keep_layers(options.layers)?;
        let limit = model.max_positions();
        if options.max_tokens as usize > limit {
            return Err(Error::config(format!(
                "max_tokens is {}, but {} attends over {limit} positions at most",
                options.max_tokens, options.model
            )));
        }
        let mut adapter = None;
        if let Some(path) = &options.adapter {
            let opened = Adapter::open(Path::new(path))?;
            adapter = Some(opened.digest());
            teacher = opened.teacher()?.or(teacher);
            model = match model {
                Model::Decoder { config, weights } => {
                    Model::Decoder { config, weights: Box::new(opened.over(weights)?) }
                }
                other => other,
            };
        }
        let dimensions = cut(options.dimensions, model.width())?;
        let named = || match (&options.tokenizer, path.is_dir()) {
            (Some(tokenizer), _) => tokenizer.clone(),
            (None, true) => path.join("tokenizer.json").display().to_string(),
            (None, false) => format!("the tokenizer of {}", path.display()),
        };
        let reading = || TowerTokenizer::new(definition, &options, model.vocab_size());
        let tokenizer = shielded(ErrorKind::Input, named, reading).context(named)?;
        let weights = digest;
        let inner = Inner { options, model, tokenizer, weights, adapter, dimensions, teacher };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The options, with absolute paths and, for a repo, its commit: they lead to the same tower from
    /// any directory.
    pub fn options(&self) -> &TowerOptions {
        &self.inner.options
    }

    /// The embedding space of this tower with a template (by the hash of its source).
    pub fn space(&self, template: Digest256) -> EmbeddingSpace {
        let options = &self.inner.options;
        EmbeddingSpace {
            weights: self.inner.weights,
            adapter: self.inner.adapter,
            tokenizer: self.inner.tokenizer.digest(),
            prompt_prefix: options.prompt_prefix.clone(),
            prompt_suffix: options.prompt_suffix.clone(),
            template,
            pooling: options.pooling,
            dimensions: self.inner.dimensions,
            normalize: options.normalize,
            max_tokens: options.max_tokens,
            arithmetic: options.arithmetic,
            layers: options.layers,
            encoder_revision: ENCODER_REVISION,
        }
    }

    /// SHA-256 of the weights. Of a GGUF file: its bytes (`sha256sum` prints the same). Of safetensors: the
    /// digests of the files in order of their names, and what their `config.json` means to the decoder.
    pub fn weights_digest(&self) -> Digest256 {
        self.inner.weights
    }

    /// Dimensions of its vectors.
    pub fn dimensions(&self) -> u32 {
        self.inner.dimensions
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TowerTokenizer {
        &self.inner.tokenizer
    }

    /// What names this tower as a query tower: SHA-256 over its embedding space with the empty template (a query is
    /// encoded as it is). Equal fingerprints, equal vectors.
    pub fn fingerprint(&self) -> Result<Digest256> {
        hash_json(&self.space(Digest256::of(b"")))
    }

    /// Space of the query tower that this one was distilled from, or of the document tower that it was trained
    /// with; `None` where neither is so.
    pub fn teacher(&self) -> Option<&EmbeddingSpace> {
        self.inner.teacher.as_ref()
    }

    /// The decoder's architecture; `None` for an encoder and for a fake tower.
    pub fn config(&self) -> Option<&DecoderConfig> {
        match &self.inner.model {
            Model::Decoder { config, .. } => Some(config),
            Model::Bert { .. } | Model::Fake(_) => None,
        }
    }

    /// The decoder's weights, adapter merged; `None` for an encoder and for a fake tower.
    pub fn weights(&self) -> Option<&dyn WeightSource> {
        match &self.inner.model {
            Model::Decoder { weights, .. } => Some(weights.as_ref()),
            Model::Bert { .. } | Model::Fake(_) => None,
        }
    }

    /// Estimated bytes of one loaded encoder, activations of `token_budget` tokens included.
    pub fn memory(&self, token_budget: usize) -> u64 {
        let config = match &self.inner.model {
            Model::Fake(fake) => return u64::from(fake.dimensions) * 16,
            Model::Bert { config, .. } => return config.memory(token_budget),
            Model::Decoder { config, .. } => config,
        };
        let count = |n: usize| n as u64;
        let (hidden, middle) = (count(config.hidden_size), count(config.intermediate_size));
        let heads = count(config.heads * config.head_dim);
        let kv_heads = count(config.kv_heads * config.head_dim);
        let layer = 2 * hidden * heads + 2 * hidden * kv_heads + 3 * hidden * middle;
        // Halves of a byte: int8 carries a scale every block.
        let width = match self.inner.options.arithmetic {
            Arithmetic::F32 => 8,
            Arithmetic::Bf16 | Arithmetic::F16 => 4,
            Arithmetic::Int8 => 3,
        };
        let products = count(config.layers) * layer * width / 2;
        let embedding = count(config.vocab_size) * hidden * if width == 8 { 4 } else { 2 };
        // Residual, normalised and output states; q, k, v and context; gate, up and their product.
        let activations = 4 * (4 * hidden + 2 * heads + 2 * kv_heads + 3 * middle);
        products + embedding + count(token_budget) * activations
    }

    /// Loads the weights onto a device: those that were hashed, or none. The encoder keeps nothing of the files, so what
    /// becomes of them afterwards does not matter to it.
    ///
    /// # Errors
    /// Input where a file was written into since it was hashed; Transient where one is being written.
    pub fn load(&self, device: &DeviceSpec) -> Result<Box<dyn Encoder>> {
        let options = &self.inner.options;
        match &self.inner.model {
            Model::Fake(fake) => {
                let encoder = FakeEncoder::new(*fake, self.inner.dimensions, options.normalize);
                Ok(Box::new(encoder))
            }
            Model::Bert { config, weights } => {
                let DeviceSpec::Cpu { threads } = device else {
                    return Err(Error::unsupported(format!(
                        "{} is a BERT encoder, which runs on the processor",
                        options.model
                    )));
                };
                let encoder = BertEncoder::load(
                    config,
                    weights,
                    self.inner.dimensions as usize,
                    options.normalize,
                    *threads,
                    options.arithmetic,
                )
                .context(|| format!("loading the tower {}", options.model))?;
                Ok(Box::new(encoder))
            }
            Model::Decoder { config, weights } => {
                let decoder = Decoder::load(
                    config,
                    weights.as_ref(),
                    device,
                    options.arithmetic,
                    options.max_tokens as usize,
                )
                .context(|| format!("loading the tower {}", options.model))?;
                Ok(decoder_encoder(decoder, options.pooling, options.dimensions, options.normalize))
            }
        }
    }
}

struct Opened {
    model: Model,
    digest: Digest256,
    definition: Definition,
    teacher: Option<EmbeddingSpace>,
}

fn open_gguf(path: &Path, options: &TowerOptions) -> Result<Opened> {
    let gguf = Gguf::open(path)?;
    let config = gguf_config::from_gguf(&gguf)?;
    let definition = match &options.tokenizer {
        None => gguf_tokenizer::from_gguf(&gguf)?,
        Some(tokenizer) => {
            // The file still knows which token ends a sequence.
            let eos = gguf.integer("tokenizer.ggml.eos_token_id")?;
            let mut definition = Definition::read(Path::new(tokenizer))?;
            gguf_tokenizer::check_same(&gguf, &definition)?;
            definition.eos = eos.and_then(|id| u32::try_from(id).ok());
            definition
        }
    };
    let digest = gguf.file.digest()?;
    let weights = GgufWeights::new(gguf, &config.family, config.heads, config.kv_heads);
    let model = Model::Decoder { config, weights: Box::new(weights) };
    Ok(Opened { model, digest, definition, teacher: None })
}

fn open_safetensors(paths: &[PathBuf], folder: &Path, options: &TowerOptions) -> Result<Opened> {
    let config_path = folder.join("config.json");
    if !config_path.is_file() {
        return Err(Error::not_found(format!(
            "{} lacks config.json, which says what the weights are",
            folder.display()
        )));
    }
    let fields = read_json(&config_path)?;
    let named = || format!("{}", config_path.display());
    let weights = SafetensorsWeights::open(paths)?;
    let files = weights.files();
    let (kind, identity, model) = if BertConfig::is(&fields) {
        let config = BertConfig::new(&fields, &weights).context(named)?;
        ("scalingnote bert 1", hash_json(&config.canonical())?, Model::Bert { config, weights })
    } else {
        let config = from_json(&fields).context(named)?;
        let identity = hash_json(&canonical(&config))?;
        (DECODER, identity, Model::Decoder { config, weights: Box::new(weights) })
    };
    let teacher = fields.get("scalingnote").map(teacher_of).transpose().context(named)?.flatten();
    let tokenizer_path = match &options.tokenizer {
        Some(path) => PathBuf::from(path),
        None => folder.join("tokenizer.json"),
    };
    check_tokenizer(fields.get("scalingnote"), &tokenizer_path)?;
    // A student cut from an LLM in a GGUF file reads as that file says.
    let definition = if tokenizer_path.extension().is_some_and(|end| end == "gguf") {
        gguf_tokenizer::from_gguf(&Gguf::open(&tokenizer_path)?)?
    } else {
        let mut definition = Definition::read(&tokenizer_path)?;
        definition.eos = eos_of(&definition, &tokenizer_path, &fields)?;
        definition
    };
    let digest = digest_of(kind, identity, &files)?;
    Ok(Opened { model, digest, definition, teacher })
}

/// The digest of safetensors files that `config.json` (`identity`) gives a meaning.
pub(super) fn digest_of(kind: &str, identity: Digest256, files: &[ReadAt]) -> Result<Digest256> {
    let mut hasher = Hasher256::new();
    hasher.field(kind).field(identity.0);
    for digest in digests(files)? {
        hasher.field(digest.0);
    }
    Ok(hasher.finish())
}

/// The end-of-sequence token: by name in `tokenizer_config.json`, else by id in `config.json`.
fn eos_of(
    definition: &Definition,
    tokenizer: &Path,
    config: &serde_json::Map<String, serde_json::Value>,
) -> Result<Option<u32>> {
    let beside = tokenizer.with_file_name("tokenizer_config.json");
    if beside.is_file() {
        let fields = read_json(&beside)?;
        let token = fields.get("eos_token");
        let name = token.and_then(|token| token.as_str().or_else(|| token["content"].as_str()));
        let id = name.and_then(|name| {
            let added = definition.json["added_tokens"].as_array().into_iter().flatten();
            let mut same = added.filter(|token| token["content"] == name);
            let listed = same.next().and_then(|token| token["id"].as_u64());
            listed.or_else(|| definition.json["model"]["vocab"].get(name)?.as_u64())
        });
        if let Some(id) = id {
            return Ok(u32::try_from(id).ok());
        }
    }
    let id = match config.get("eos_token_id") {
        Some(serde_json::Value::Array(ids)) => ids.first(),
        other => other,
    };
    Ok(id.and_then(serde_json::Value::as_u64).and_then(|id| u32::try_from(id).ok()))
}

fn cut(wanted: Option<u32>, whole: u32) -> Result<u32> {
    match wanted {
        None => Ok(whole),
        Some(wanted) if (1..=whole).contains(&wanted) => Ok(wanted),
        Some(wanted) => Err(Error::config(format!(
            "dimensions is {wanted}, but the tower's vectors have between 1 and {whole}"
        ))),
    }
}

fn utf8(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::config(format!("{} is not UTF-8 and cannot be written into a plan", path.display()))
    })
}

#[cfg(test)]
mod tests;
