//! A tower from its options: files found and hashed, tokenizer open, weights not yet loaded.

mod head;
mod here;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;

use self::head::{after, own_head};
use self::here::understand;
use crate::error::{Error, ErrorKind, Result, ResultExt, shielded};
use crate::observe::Reporter;
use crate::tower::decoder::{Decoder, shaped};
use crate::tower::encoder_tower::EncoderFiles;
use crate::tower::fake::{FakeEncoder, FakeTower};
use crate::tower::files::hub::Hub;
use crate::tower::files::lora::Adapter;
use crate::tower::files::sentence::{Card, ModuleFile};
use crate::tower::files::source::{ModelSource, absolute, parse};
use crate::tower::model::encoder_config::EncoderConfig;
use crate::tower::model::head::Head;
use crate::tower::model::shape::Shape;
use crate::tower::opened::{Model, Opened};
use crate::tower::tokenize::tokenizer::TowerTokenizer;
use crate::tower::understood::fill;
use crate::tower::{
    DecoderConfig, Defaults, DeviceSpec, Encoder, TowerOptions, Understood, WeightSource,
};
use crate::types::{
    Arithmetic, Digest256, ENCODER_REVISION, EmbeddingSpace, Hasher256, HeadModule, Sourced,
    hash_json,
};

/// A tower whose files are found, hashed and checked, and whose weights are not yet loaded. Cheap to
/// clone.
#[derive(Clone)]
pub struct Tower {
    inner: Arc<Inner>,
}

/// Where a model is.
enum Located {
    Fake(FakeTower),
    /// In a file, or a folder.
    Files(PathBuf),
}

struct Inner {
    options: TowerOptions,
    model: Model,
    /// What follows the pooling.
    modules: Vec<ModuleFile>,
    /// Of their weights, where they are not the model's own.
    head: Option<Digest256>,
    /// What the options left to the model.
    understood: Vec<Understood>,
    /// What says which family the model is of.
    family_by: &'static str,
    licence: Option<Sourced<String>>,
    tokenizer: TowerTokenizer,
    weights: Digest256,
    adapter: Option<Digest256>,
    dimensions: u32,
    teacher: Option<EmbeddingSpace>,
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
        let (options, place) = Self::located(options, base_dir, reporter, hub).await?;
        let path = match place {
            Located::Fake(fake) => return Self::fake(options, fake),
            Located::Files(path) => path,
        };
        // Hashing gigabytes blocks.
        tokio::task::spawn_blocking(move || Self::open(options, &path))
            .await
            .or_error(ErrorKind::Internal, || "opening the tower")?
    }

    /// The options with absolute paths and the commit of a repository, and where the model's files are.
    async fn located(
        options: &TowerOptions,
        base_dir: &Path,
        reporter: &Arc<dyn Reporter>,
        hub: impl FnOnce() -> Result<Hub>,
    ) -> Result<(TowerOptions, Located)> {
        let source = parse(&options.model, base_dir)?;
        if !matches!(source, ModelSource::Fake(_)) {
            options.check_files(base_dir)?;
        }
        let mut options = options.clone();
        let path = match source {
            ModelSource::Fake(fake) => return Ok((options, Located::Fake(fake))),
            ModelSource::Local(path) => {
                options.model = utf8(&path)?;
                path
            }
            ModelSource::Hub { repo, file } => {
                let revision = options.revision.as_deref();
                let card = options.defaults == Defaults::Model || options.pooling.is_none();
                let fetching = hub()?;
                let fetched =
                    fetching.fetch(&repo, revision, file.as_deref(), card, reporter).await?;
                // A later reader of these options gets these very files.
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
        let TowerOptions { tokenizer, adapter, head, .. } = &mut options;
        for place in [tokenizer, adapter, head].into_iter().flatten() {
            *place = utf8(&absolute(place, base_dir)?)?;
        }
        Ok((options, Located::Files(path)))
    }

    fn fake(mut options: TowerOptions, fake: FakeTower) -> Result<Self> {
        if options.adapter.is_some() || options.tokenizer.is_some() || options.head.is_some() {
            return Err(Error::config("a fake tower takes neither adapter nor tokenizer nor head"));
        }
        let weights =
            Digest256::of(format!("scalingnote fake tower 1: {}", fake.dimensions).as_bytes());
        let dimensions = cut(options.dimensions, fake.dimensions)?;
        let understood = fill(&mut options, &Card::default(), usize::MAX)?;
        let inner = Inner {
            tokenizer: TowerTokenizer::fake(&options)?,
            options,
            model: Model::Fake(fake),
            modules: Vec::new(),
            head: None,
            understood,
            family_by: "set",
            licence: None,
            weights,
            adapter: None,
            dimensions,
            teacher: None,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn open(mut options: TowerOptions, path: &Path) -> Result<Self> {
        let (opened, understood) = understand(&mut options, path)?;
        let Opened {
            mut model,
            identity,
            beyond,
            definition,
            mut teacher,
            card,
            family_by,
            licence,
        } = opened;
        let mut digest = identity.digest()?;
        if let Some((most, window)) = beyond
            && options.max_tokens() as usize > most
        {
            let mut hasher = Hasher256::new();
            hasher.field(digest.0).field(window.0);
            digest = hasher.finish();
        }
        let (modules, head) = match (&options.head, options.defaults) {
            (Some(folder), _) => own_head(Path::new(folder), &model, options.pooling())
                .map_err(|error| error.of_key("head"))?,
            (None, Defaults::Model) => (card.modules, None),
            (None, Defaults::None) => (Vec::new(), None),
        };
        let mut adapter = None;
        if let Some(path) = &options.adapter {
            let wrong = |error: Error| error.of_key("adapter");
            let opened = Adapter::open(Path::new(path)).map_err(wrong)?;
            adapter = Some(opened.digest());
            teacher = opened.teacher().map_err(wrong)?.or(teacher);
            model = match model {
                Model::Decoder { config, weights } => {
                    let weights = Box::new(opened.over(weights).map_err(wrong)?);
                    Model::Decoder { config, weights }
                }
                other => other,
            };
        }
        let dimensions = cut(options.dimensions, after(&modules, model.width()))?;
        if let (Some(teacher), Some(head)) = (&mut teacher, head) {
            // What compares before one head compares behind it.
            teacher.modules.extend(modules.iter().map(|file| file.module));
            (teacher.head, teacher.dimensions) = (Some(head), dimensions);
        }
        let named = || match (&options.tokenizer, path.is_dir()) {
            (Some(tokenizer), _) => tokenizer.clone(),
            (None, true) => path.join("tokenizer.json").display().to_string(),
            (None, false) => format!("the tokenizer of {}", path.display()),
        };
        let reading = || TowerTokenizer::new(definition, &options, model.vocab_size());
        let tokenizer = shielded(ErrorKind::Input, named, reading)
            .context(named)
            .map_err(|error| error.of_key("tokenizer"))?;
        let inner = Inner {
            options,
            model,
            modules,
            head,
            understood,
            family_by,
            licence,
            tokenizer,
            weights: digest,
            adapter,
            dimensions,
            teacher,
        };
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
            prompt_prefix: options.prompt_prefix().to_owned(),
            prompt_suffix: options.prompt_suffix().to_owned(),
            template,
            pooling: options.pooling(),
            dimensions: self.inner.dimensions,
            normalize: options.normalize(),
            max_tokens: options.max_tokens(),
            arithmetic: options.arithmetic,
            modules: self.inner.modules.iter().map(|file| file.module).collect(),
            head: self.inner.head,
            prompt_joined: self.inner.tokenizer.joins(),
            layers: options.layers,
            encoder_revision: ENCODER_REVISION,
        }
    }

    /// What the options left to the model, and which of its files said it.
    pub fn understood(&self) -> &[Understood] {
        &self.inner.understood
    }

    /// What kind of model it is, as its own files call it.
    pub fn family(&self) -> &str {
        self.inner.model.family()
    }

    /// What says so: a file, or a key of a GGUF.
    pub(super) fn family_by(&self) -> &str {
        self.inner.family_by
    }

    /// The licence that its authors state.
    pub(super) fn licence(&self) -> Option<&Sourced<String>> {
        self.inner.licence.as_ref()
    }

    /// Elements of its weights, biases and norms left out.
    pub fn parameters(&self) -> u64 {
        self.inner.model.parameters()
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
            Model::Encoder { .. } | Model::Fake(_) => None,
        }
    }

    /// The decoder's weights, adapter merged; `None` for an encoder and for a fake tower.
    pub fn weights(&self) -> Option<&dyn WeightSource> {
        match &self.inner.model {
            Model::Decoder { weights, .. } => Some(weights.as_ref()),
            Model::Encoder { .. } | Model::Fake(_) => None,
        }
    }

    /// Estimated bytes of one loaded encoder, activations of `token_budget` tokens included.
    pub fn memory(&self, token_budget: usize) -> u64 {
        let config = match &self.inner.model {
            Model::Fake(fake) => return u64::from(fake.dimensions) * 16,
            Model::Encoder { config, .. } => {
                return config.memory(token_budget, self.inner.options.arithmetic);
            }
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
        // Residual, normalised and output states; q, k, v and context; gate, up and their product. Gemma keeps what it
        // normalises before it joins.
        let states = if config.gemma.is_some() { 5 } else { 4 };
        let activations = 4 * (states * hidden + 2 * heads + 2 * kv_heads + 3 * middle);
        products + embedding + count(token_budget) * activations
    }

    /// Loads the weights onto a device: those that were hashed, or none. The encoder keeps nothing of the files, so
    /// what becomes of them afterwards does not matter to it.
    ///
    /// # Errors
    /// Input where a file was written into since it was hashed; Transient where one is being written.
    pub fn load(&self, device: &DeviceSpec) -> Result<Box<dyn Encoder>> {
        let options = &self.inner.options;
        match &self.inner.model {
            Model::Fake(fake) => {
                let encoder = FakeEncoder::new(*fake, self.inner.dimensions, options.normalize());
                Ok(Box::new(encoder))
            }
            Model::Encoder { config, weights } => {
                let files = self.encoder_files(config, weights.as_ref())?;
                let encoder = files.load(device);
                Ok(Box::new(encoder.context(|| format!("loading the tower {}", options.model))?))
            }
            Model::Decoder { config, weights } => {
                let decoder = Decoder::load(
                    config,
                    weights.as_ref(),
                    device,
                    options.arithmetic,
                    options.max_tokens() as usize,
                )
                .context(|| format!("loading the tower {}", options.model))?;
                let shape = self.shape(config.hidden_size)?;
                Ok(shaped(decoder, options.pooling(), shape))
            }
        }
    }
}

impl Tower {
    /// The same tower on candle tensors of the processor: what other devices run, for tests on machines that have none.
    /// There f32 and f16 work.
    ///
    /// # Errors
    /// As [`Tower::load`].
    pub fn load_on_tensors(&self) -> Result<Box<dyn Encoder>> {
        let options = &self.inner.options;
        match &self.inner.model {
            Model::Fake(_) => Err(Error::unsupported("a fake tower has no tensors")),
            Model::Encoder { config, weights } => {
                let files = self.encoder_files(config, weights.as_ref())?;
                Ok(Box::new(files.on_tensors(&Device::Cpu)?))
            }
            Model::Decoder { config, weights } => {
                let (arithmetic, longest) = (options.arithmetic, options.max_tokens() as usize);
                let weights = weights.as_ref();
                let decoder = Decoder::load_on_tensors(config, weights, arithmetic, longest)?;
                Ok(shaped(decoder, options.pooling(), self.shape(config.hidden_size)?))
            }
        }
    }

    fn encoder_files<'a>(
        &self,
        config: &'a EncoderConfig,
        weights: &'a dyn WeightSource,
    ) -> Result<EncoderFiles<'a>> {
        let options = &self.inner.options;
        Ok(EncoderFiles {
            config,
            weights,
            pooling: options.pooling(),
            vectors: self.shape(config.dimensions())?,
            arithmetic: options.arithmetic,
        })
    }

    /// How a pooled state of `hidden` elements becomes a vector.
    fn shape(&self, hidden: usize) -> Result<Shape> {
        let modules: Vec<HeadModule> = self.inner.modules.iter().map(|file| file.module).collect();
        let weights = self.inner.modules.iter().map(|file| file.weights.as_deref());
        let weights: Vec<Option<&dyn WeightSource>> = weights.collect();
        Ok(Shape {
            hidden,
            head: Arc::new(Head::load(&modules, &weights, hidden)?),
            dimensions: self.inner.dimensions as usize,
            normalize: self.inner.options.normalize(),
        })
    }
}

fn cut(wanted: Option<u32>, whole: u32) -> Result<u32> {
    match wanted {
        None => Ok(whole),
        Some(wanted) if (1..=whole).contains(&wanted) => Ok(wanted),
        Some(wanted) => Err(Error::config(format!(
            "dimensions is {wanted}, but the tower's vectors have between 1 and {whole}"
        ))
        .of_key("dimensions")),
    }
}

fn utf8(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::config(format!("{} is not UTF-8 and cannot be written into a plan", path.display()))
    })
}

#[cfg(test)]
mod tests;
