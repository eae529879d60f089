//! A model's files, opened: what it is, its tokenizer, what it says about itself.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result, ResultExt};
use crate::tower::decoder::check_arithmetic;
use crate::tower::encoder_tower;
use crate::tower::fake::FakeTower;
use crate::tower::files::config::{beyond_window, canonical, from_json, read_json};
use crate::tower::files::disk::{ReadAt, digests};
use crate::tower::files::encoder;
use crate::tower::files::gguf::Gguf;
use crate::tower::files::licence;
use crate::tower::files::provenance::{check_tokenizer, teacher_of};
use crate::tower::files::safetensors::SafetensorsWeights;
use crate::tower::files::sentence::{AddedTokens, Card};
use crate::tower::files::weights::GgufWeights;
use crate::tower::files::whole::present;
use crate::tower::files::{gguf_config, gguf_encoder, gguf_modules};
use crate::tower::model::encoder_config::EncoderConfig;
use crate::tower::tokenize::gguf as gguf_tokenizer;
use crate::tower::tokenize::tokenizer::Definition;
use crate::tower::{DecoderConfig, Defaults, TowerOptions, WeightSource};
use crate::types::{Digest256, EmbeddingSpace, Hasher256, Sourced, hash_json};

/// Begins the digest of a decoder's safetensors.
pub(super) const DECODER: &str = "scalingnote safetensors 1";

/// What a model is, its weights not yet loaded.
pub(super) enum Model {
    Fake(FakeTower),
    Decoder { config: DecoderConfig, weights: Box<dyn WeightSource> },
    Encoder { config: EncoderConfig, weights: Box<dyn WeightSource> },
}

impl Model {
    pub(super) fn max_positions(&self) -> usize {
        match self {
            Self::Fake(_) => usize::MAX,
            Self::Decoder { config, .. } => config.max_positions,
            Self::Encoder { config, .. } => config.max_positions,
        }
    }

    pub(super) fn vocab_size(&self) -> usize {
        match self {
            Self::Fake(_) => usize::MAX,
            Self::Decoder { config, .. } => config.vocab_size,
            Self::Encoder { config, .. } => config.vocab_size,
        }
    }

    /// What kind of model it is, as its own files call it.
    pub(super) fn family(&self) -> &str {
        match self {
            Self::Fake(_) => "fake",
            Self::Decoder { config, .. } => &config.family,
            Self::Encoder { config, .. } => &config.family,
        }
    }

    /// Elements of its weights, biases and norms left out.
    pub(super) fn parameters(&self) -> u64 {
        match self {
            Self::Fake(_) => 0,
            Self::Encoder { config, .. } => config.parameters(),
            Self::Decoder { config, .. } => {
                let count = |n: usize| n as u64;
                let (hidden, middle) = (count(config.hidden_size), count(config.intermediate_size));
                let heads = count((config.heads + config.kv_heads) * config.head_dim);
                let layer = 2 * hidden * heads + 3 * hidden * middle;
                count(config.layers) * layer + count(config.vocab_size) * hidden
            }
        }
    }

    /// Elements of a pooled state.
    pub(super) fn width(&self) -> u32 {
        match self {
            Self::Fake(fake) => fake.dimensions,
            Self::Decoder { config, .. } => config.hidden_size as u32,
            Self::Encoder { config, .. } => config.dimensions() as u32,
        }
    }

    /// Cuts a decoder to its first layers.
    pub(super) fn keep_layers(&mut self, wanted: Option<u32>) -> Result<()> {
        let (Self::Decoder { config, .. }, Some(wanted)) = (self, wanted) else { return Ok(()) };
        if !(1..=config.layers).contains(&(wanted as usize)) {
            return Err(Error::config(format!(
                "layers is {wanted}, but the model has {}",
                config.layers
            ))
            .of_key("layers"));
        }
        config.layers = wanted as usize;
        Ok(())
    }

    /// Refuses options that this kind of model cannot have.
    pub(super) fn check(&self, options: &TowerOptions) -> Result<()> {
        if let Self::Decoder { config, .. } = self {
            check_arithmetic(config, options.arithmetic)?;
        }
        let Self::Encoder { config, .. } = self else { return Ok(()) };
        let (key, wrong) = if options.adapter.is_some() {
            ("adapter", "takes no adapter")
        } else if options.layers.is_some() {
            ("layers", "is not cut; leave `layers` out")
        } else {
            return Ok(());
        };
        let family = &config.family;
        let said = format!("{} is an encoder ({family}), which {wrong}", options.model);
        Err(Error::config(said).of_key(key))
    }
}

/// The files that make a model what it is.
pub(super) enum Identity {
    /// One that says everything.
    Gguf(ReadAt),
    /// Weights that `config.json`, whose digest this is, gives a meaning.
    Safetensors { kind: &'static str, config: Digest256, files: Vec<ReadAt> },
}

impl Identity {
    /// Reads the files from end to end where no digest of them is known.
    ///
    /// # Errors
    /// What reading reports.
    pub(super) fn digest(&self) -> Result<Digest256> {
        match self {
            Self::Gguf(file) => file.digest(),
            Self::Safetensors { kind, config, files } => digest_of(kind, *config, files),
        }
    }
}

/// A model whose files are open. They are not hashed yet.
pub(super) struct Opened {
    pub(super) model: Model,
    pub(super) identity: Identity,
    /// What texts of more tokens depend on beside what went into the digest.
    pub(super) beyond: Option<(usize, Digest256)>,
    pub(super) definition: Definition,
    pub(super) teacher: Option<EmbeddingSpace>,
    /// What its files say of pooling, prompts and texts.
    pub(super) card: Card,
    /// What says which family it is of.
    pub(super) family_by: &'static str,
    pub(super) licence: Option<Sourced<String>>,
}

pub(super) fn open_gguf(path: &Path, options: &TowerOptions) -> Result<Opened> {
    let gguf = Gguf::open(path)?;
    let encoder = gguf_encoder::from_gguf(&gguf)?;
    let decoder = match encoder {
        None => Some(gguf_config::from_gguf(&gguf)?),
        Some(_) => None,
    };
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
    let identity = Identity::Gguf(gguf.file.clone());
    let licence = licence::of_gguf(&gguf);
    let card = Card {
        pooling: gguf_config::pooling(&gguf)?,
        modules: gguf_modules::read(&gguf)?,
        ..Card::default()
    };
    let model = match (encoder, decoder) {
        (Some(config), _) => {
            let weights = GgufWeights::by_own_names(gguf);
            encoder_tower::check(&config, &weights, |name, shape| weights.check(name, shape))?;
            Model::Encoder { config, weights: Box::new(weights) }
        }
        (None, Some(config)) => {
            let weights = Box::new(GgufWeights::new(gguf, &config));
            Model::Decoder { config, weights }
        }
        (None, None) => return Err(Error::internal("a model is an encoder or a decoder")),
    };
    let (beyond, teacher, family_by) = (None, None, "general.architecture");
    Ok(Opened { model, identity, beyond, definition, teacher, card, family_by, licence })
}

pub(super) fn open_safetensors(
    paths: &[PathBuf],
    index: Option<&Path>,
    folder: &Path,
    options: &TowerOptions,
) -> Result<Opened> {
    let config_path = folder.join("config.json");
    if !present(&config_path)? {
        return Err(Error::not_found(format!(
            "{} lacks config.json, which says what the weights are",
            folder.display()
        )));
    }
    let fields = read_json(&config_path)?;
    let named = || format!("{}", config_path.display());
    let weights = SafetensorsWeights::open(paths)?;
    index.map_or(Ok(()), |index| weights.check_index(index))?;
    let mut files = weights.files();
    let encoder = encoder::read(&fields, |name| weights.shape(name)).context(named)?;
    let mut beyond = None;
    let (kind, identity, model) = if let Some(config) = encoder {
        encoder_tower::check(&config, &weights, |name, shape| weights.check(name, shape))?;
        let identity = hash_json(&config.canonical())?;
        (config.kind(), identity, Model::Encoder { config, weights: Box::new(weights) })
    } else {
        let config = from_json(&fields).context(named)?;
        let identity = hash_json(&canonical(&config))?;
        if let Some((most, window)) = beyond_window(&config) {
            beyond = Some((most, hash_json(&window)?));
        }
        (DECODER, identity, Model::Decoder { config, weights: Box::new(weights) })
    };
    let teacher = fields.get("scalingnote").map(teacher_of).transpose().context(named)?.flatten();
    let tokenizer_path = match &options.tokenizer {
        Some(path) => PathBuf::from(path),
        None => folder.join("tokenizer.json"),
    };
    check_tokenizer(fields.get("scalingnote"), &tokenizer_path)?;
    // A student cut from an LLM in a GGUF file reads as that file says.
    let mut definition = if tokenizer_path.extension().is_some_and(|end| end == "gguf") {
        gguf_tokenizer::from_gguf(&Gguf::open(&tokenizer_path)?)?
    } else {
        let mut definition = Definition::read(&tokenizer_path)?;
        definition.eos = eos_of(&definition, &tokenizer_path, &fields)?;
        definition
    };
    let read_card = || Card::read(folder, model.max_positions(), model.width());
    let card = match options.defaults {
        Defaults::Model => read_card()?,
        // Nothing but the pooling is asked of it, and that only where it is left out.
        Defaults::None if options.pooling.is_none() => read_card()?,
        Defaults::None => Card::default(),
    };
    if options.defaults == Defaults::Model {
        definition.lower_case = card.lower_case;
        definition.keeps_end =
            card.keeps_end.unwrap_or(definition.json["truncation"]["direction"] == "Left");
        if let Some(added) = card.tokens {
            definition.around = Some(around(added, &definition, &tokenizer_path)?);
        }
        for module in &card.modules {
            files.extend(module.files.iter().cloned());
        }
    }
    let identity = Identity::Safetensors { kind, config: identity, files };
    let (family_by, licence) = ("config.json", licence::of_folder(folder));
    Ok(Opened { model, identity, beyond, definition, teacher, card, family_by, licence })
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
    if let Some(id) = special(definition, tokenizer, "eos_token")? {
        return Ok(Some(id));
    }
    let id = match config.get("eos_token_id") {
        Some(serde_json::Value::Array(ids)) => ids.first(),
        other => other,
    };
    Ok(id.and_then(serde_json::Value::as_u64).and_then(|id| u32::try_from(id).ok()))
}

/// The id of a token that `tokenizer_config.json` names under `key`.
fn special(definition: &Definition, tokenizer: &Path, key: &str) -> Result<Option<u32>> {
    let beside = tokenizer.with_file_name("tokenizer_config.json");
    if !beside.is_file() {
        return Ok(None);
    }
    let fields = read_json(&beside)?;
    let token = fields.get(key);
    let name = token.and_then(|token| token.as_str().or_else(|| token["content"].as_str()));
    let id = name.and_then(|name| {
        let added = definition.json["added_tokens"].as_array().into_iter().flatten();
        let mut same = added.filter(|token| token["content"] == name);
        let listed = same.next().and_then(|token| token["id"].as_u64());
        listed.or_else(|| definition.json["model"]["vocab"].get(name)?.as_u64())
    });
    Ok(id.and_then(|id| u32::try_from(id).ok()))
}

/// The ids that flags of `tokenizer_config.json` put around a text.
fn around(
    added: AddedTokens,
    definition: &Definition,
    tokenizer: &Path,
) -> Result<(Vec<u32>, Vec<u32>)> {
    let one = |wanted: bool, key: &str| {
        match wanted {
        false => Ok(Vec::new()),
        true => special(definition, tokenizer, key)?.map(|id| vec![id]).ok_or_else(|| {
            Error::input(format!(
                "tokenizer_config.json beside {} says add_{key} = true, but its {key} is not one of the tokenizer's",
                tokenizer.display()
            ))
        }),
    }
    };
    Ok((one(added.bos, "bos_token")?, one(added.eos, "eos_token")?))
}
