//! The student of stage 2: a small encoder, or the LLM cut in depth, that learns the teacher's query vectors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Result as CandleResult, Tensor, Var};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokenizers::{Tokenizer, TruncationParams};

use super::adapter::{Adapter, LoraOptions};
use super::bert::{Bert, Learnt, PartLoss};
use super::case::keep_case;
use super::decoder::{Decoder, NamedVar, Precision, Trainable};
use super::projection::{PROJECTION, Projection};
use crate::dataset::SplitMix64;
use crate::error::{Error, Result, ResultExt};
use crate::observe::Reporter;
use crate::tower::{Tower, TowerOptions, TowerTokenizer, check_tokenizer};
use crate::train::faults::Faults;
use crate::train::files::{cannot, place, read_small_text, write, write_json};
use crate::train::gradients::Gradients;
use crate::train::tensors::{bytes, numbers, tensor_error};
use crate::types::{Arithmetic, Cancel, Digest256, EmbeddingSpace, Hasher256, Pooling, hash_json};

/// What the student starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum StudentOptions {
    /// A BERT-family encoder, mean pooled, with a projection to the teacher's dimensions.
    Bert {
        /// Folder with `config.json`, `model.safetensors` and `tokenizer.json`: any encoder, or a student that is to
        /// learn more, packed or not.
        path: PathBuf,
        /// Its tokenizer, where that is elsewhere: a packed student has none beside it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokenizer: Option<PathBuf>,
        /// Layers kept, spread evenly over the encoder's; all by default.
        #[serde(default)]
        layers: Option<usize>,
        /// Longest text in tokens, special tokens included.
        #[serde(default = "default_max_tokens")]
        max_tokens: usize,
        /// Also train the embedding tables (most of the parameters of a small encoder).
        #[serde(default)]
        train_embeddings: bool,
        /// Show an encoder that folds capitals where they were: its tokenizer puts a mark before them. Wants
        /// `train_embeddings`, for what the marks mean has to be learnt.
        #[serde(default)]
        keep_case: bool,
        /// Queries that the projection is fitted to by least squares before the first step; 0 starts it at random.
        #[serde(default = "default_fit_queries")]
        fit_queries: usize,
        /// Queries that a projection which the encoder brings along is refitted to before the first step, by least
        /// squares near what it was; 0 leaves it alone.
        #[serde(default, skip_serializing_if = "is_zero")]
        refit_queries: usize,
        /// Arithmetic of the training: f32, or bf16, whose products are of rounded numbers (faster).
        #[serde(default = "default_arithmetic")]
        arithmetic: Arithmetic,
    },
    /// The first layers of a decoder LLM, trained in full or by low-rank adapters; where its vectors have other dimensions
    /// than the teacher's, in full, with a projection to them.
    Decoder {
        /// The LLM, with the query side's prompt and pooling; its `arithmetic` is that of the training, f32 or bf16.
        tower: TowerOptions,
        /// Layers kept.
        layers: usize,
        /// Also train the embedding table.
        #[serde(default)]
        train_embeddings: bool,
        /// Train low-rank adapters beside frozen weights instead of the weights; the student is then an adapter, to be
        /// named as `adapter` beside the same model and `layers`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lora: Option<LoraOptions>,
        /// Queries that a projection is fitted to by least squares before the first step; 0 starts it at random.
        #[serde(default = "default_fit_queries", skip_serializing_if = "is_default_fit")]
        fit_queries: usize,
    },
}

fn default_fit_queries() -> usize {
    16_384
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_fit(value: &usize) -> bool {
    *value == default_fit_queries()
}

fn default_arithmetic() -> Arithmetic {
    Arithmetic::F32
}

/// How a student is trained on the processor.
fn precision(arithmetic: Arithmetic) -> Result<Precision> {
    match arithmetic {
        Arithmetic::F32 => Ok(Precision::F32),
        Arithmetic::Bf16 => Ok(Precision { packed: true, ..Precision::F32 }),
        other => Err(Error::config(format!(
            "a student is trained in f32 or bf16, not {other:?}; set its arithmetic"
        ))),
    }
}

fn default_max_tokens() -> usize {
    64
}

impl StudentOptions {
    /// What cannot work, whatever is in the files, by key.
    pub(crate) fn faults(&self) -> Vec<(String, Error)> {
        let mut faults = Faults::default();
        if let Self::Bert { keep_case: true, train_embeddings: false, .. } = self {
            faults.require(false, "keep_case", "needs train_embeddings = true");
        }
        if let Self::Decoder { train_embeddings, lora: Some(lora), .. } = self {
            let said = "leaves the weights as they are; take train_embeddings = true away";
            faults.require(!*train_embeddings, "lora", said);
            faults.within("lora", lora.faults());
        }
        faults.0
    }

    /// Queries that a projection is fitted to before the first step.
    pub(crate) fn fit_queries(&self) -> usize {
        match self {
            Self::Bert { fit_queries, .. } | Self::Decoder { fit_queries, .. } => *fit_queries,
        }
    }

    /// Queries that a projection which is there already is refitted to before the first step.
    pub(crate) fn refit_queries(&self) -> usize {
        match self {
            Self::Bert { refit_queries, .. } => *refit_queries,
            Self::Decoder { .. } => 0,
        }
    }

    /// The student as a tower, as it is before training.
    pub fn tower(&self) -> TowerOptions {
        match self {
            Self::Bert { path, tokenizer, .. } => TowerOptions {
                tokenizer: tokenizer.as_ref().map(|path| path.to_string_lossy().into_owned()),
                max_tokens: Some(self.max_tokens()),
                ..TowerOptions::new(path.to_string_lossy(), Pooling::Mean)
            },
            Self::Decoder { tower, layers, .. } => {
                TowerOptions { layers: u32::try_from(*layers).ok(), ..tower.clone() }
            }
        }
    }

    /// Longest text in tokens.
    pub fn max_tokens(&self) -> u32 {
        match self {
            Self::Bert { max_tokens, .. } => u32::try_from(*max_tokens).unwrap_or(u32::MAX),
            Self::Decoder { tower, .. } => tower.max_tokens(),
        }
    }
}

enum Model {
    Bert {
        bert: Box<Bert>,
        tokenizer: Box<Tokenizer>,
        definition: String,
        max_tokens: usize,
    },
    Decoder {
        decoder: Box<Decoder>,
        tokenizer: TowerTokenizer,
        adapter: Option<Box<Adapter>>,
        projection: Option<Projection>,
        pooling: Pooling,
        /// What the model is called, for the adapter, and what names it.
        base: String,
        origin: Digest256,
    },
}

/// A student: trained or about to be.
pub(crate) struct Student {
    model: Model,
}

impl Student {
    /// The student as it is before training, and its parameters.
    pub(crate) async fn create(
        options: &StudentOptions,
        base_dir: &Path,
        dimensions: usize,
        seed: u64,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<(Self, Vec<NamedVar>)> {
        match options {
            StudentOptions::Bert { .. } => Self::encoder(options, base_dir, dimensions, seed),
            StudentOptions::Decoder { tower, layers, train_embeddings, lora, .. } => {
                let resolved = Tower::resolve(tower, base_dir, reporter).await?;
                let (Some(config), Some(weights)) = (resolved.config(), resolved.weights()) else {
                    return Err(Error::config("student.tower.model must be a decoder LLM"));
                };
                if *layers == 0 || *layers > config.layers {
                    return Err(Error::config(format!(
                        "student.layers must be in 1..={}",
                        config.layers
                    )));
                }
                let space = resolved.space(Digest256::of(b""));
                if !space.modules.is_empty() || tower.dimensions.is_some() {
                    return Err(Error::config(
                        "a student is trained up to its pooling: take student.tower.head and dimensions away, and set its \
                         defaults = \"none\" where the model has modules of its own behind the pooling",
                    ));
                }
                let width = resolved.dimensions() as usize;
                if width != dimensions && lora.is_some() {
                    return Err(Error::config(format!(
                        "the student's tower has {width} dimensions and the teacher {dimensions}: it needs a projection, which an \
                         adapter cannot carry; take student.lora away"
                    )));
                }
                let mut config = config.clone();
                config.layers = *layers;
                let trainable = match (lora, *train_embeddings) {
                    (Some(_), _) => Trainable::None,
                    (None, true) => Trainable::All,
                    (None, false) => Trainable::Layers,
                };
                let precision = precision(tower.arithmetic)?;
                let (decoder, mut vars) =
                    Decoder::load(&config, weights, tower, trainable, precision, &Device::Cpu)?;
                let mut adapter = None;
                if let Some(lora) = lora {
                    let mut rng = SplitMix64::new(seed ^ 0x4C4F_5241);
                    let own = Adapter::new(&config, lora, &mut rng, &Device::Cpu)?;
                    vars = own.named();
                    adapter = Some(Box::new(own));
                }
                let (tokenizer, base) = (resolved.tokenizer().clone(), tower.model.clone());
                let projection = match width == dimensions {
                    true => None,
                    false => Some(Projection::drawn(dimensions, width, seed)?),
                };
                vars.extend(projection.as_ref().map(Projection::named));
                let (decoder, pooling) = (Box::new(decoder), tower.pooling());
                let origin = hash_json(&space)?;
                let model = Model::Decoder {
                    decoder,
                    tokenizer,
                    adapter,
                    projection,
                    pooling,
                    base,
                    origin,
                };
                Ok((Self { model }, vars))
            }
        }
    }

    /// [`Student::create`] of an encoder.
    pub(crate) fn encoder(
        options: &StudentOptions,
        base_dir: &Path,
        dimensions: usize,
        seed: u64,
    ) -> Result<(Self, Vec<NamedVar>)> {
        let StudentOptions::Bert {
            path,
            tokenizer,
            layers,
            max_tokens,
            train_embeddings,
            keep_case: keep,
            arithmetic,
            ..
        } = options
        else {
            return Err(Error::config("student.kind must be \"bert\""));
        };
        let source = place(path, base_dir).context(|| "student.path")?;
        if source.is_file() {
            return Err(Error::config(format!(
                "student.path {} is a file; name an encoder's folder (an LLM cut in depth is kind = \"decoder\", with \
                 [student.tower])",
                source.display()
            )));
        }
        let (round, device) = (precision(*arithmetic)?.packed, Device::Cpu);
        let (bert, vars) =
            Bert::load(&source, *layers, dimensions, *train_embeddings, seed, round, &device)?;
        let path = match tokenizer {
            Some(path) => place(path, base_dir).context(|| "student.tokenizer")?,
            None => source.join("tokenizer.json"),
        };
        check_tokenizer(bert.config.scalingnote.as_ref(), &path)?;
        let named = || path.display().to_string();
        let mut definition = read_small_text(&path)?;
        if *keep {
            definition = keep_case(&definition).context(named)?;
        }
        Ok((Self::bert(bert, definition, *max_tokens).context(named)?, vars))
    }

    fn bert(bert: Bert, definition: String, max_tokens: usize) -> Result<Self> {
        let unusable = |e| Error::input(format!("no tokenizer: {e}"));
        let mut tokenizer = Tokenizer::from_bytes(definition.as_bytes()).map_err(unusable)?;
        if max_tokens < 3 || max_tokens > bert.config.max_position_embeddings {
            return Err(Error::config(format!(
                "student.max_tokens must be in 3..={}",
                bert.config.max_position_embeddings
            )));
        }
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(TruncationParams {
                max_length: max_tokens,
                ..TruncationParams::default()
            }))
            .map_err(unusable)?;
        let model = Model::Bert {
            bert: Box::new(bert),
            tokenizer: Box::new(tokenizer),
            definition,
            max_tokens,
        };
        Ok(Self { model })
    }

    pub(crate) fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        match &self.model {
            Model::Decoder { tokenizer, .. } => Ok(tokenizer.tokenize(text)?.ids),
            Model::Bert { tokenizer, max_tokens, .. } => {
                // A query's tokens are in its first characters; the rest need not be tokenised.
                let end = text.char_indices().nth(max_tokens * 64).map_or(text.len(), |(at, _)| at);
                let encoding = tokenizer
                    .encode(&text[..end], true)
                    .map_err(|e| Error::input(format!("the student's tokenizer failed: {e}")))?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// Before the first step: an encoder's projection is put where it maps the texts closest to the teacher's vectors
    /// `targets`, `[texts, dimensions]`; one that it brought along only with `refit`.
    pub(crate) fn fit_projection(
        &self,
        texts: &[&str],
        targets: &[f32],
        batch: usize,
        refit: bool,
        cancel: &Cancel,
    ) -> Result<()> {
        if texts.is_empty() {
            return Ok(());
        }
        let sequences: Vec<Vec<u32>> =
            texts.iter().map(|text| self.tokenize(text)).collect::<Result<_>>()?;
        match &self.model {
            Model::Bert { bert, .. } => {
                bert.fit_projection(&sequences, targets, batch, refit, cancel)
            }
            Model::Decoder { projection: None, .. } => Ok(()),
            Model::Decoder { decoder, projection: Some(projection), .. } => {
                let embed = |sequences: &[&[u32]]| Ok(decoder.embed(sequences, None, false)?.0);
                projection.fit(&sequences, targets, batch, cancel, embed)
            }
        }
    }

    /// Adds to what names a run all that the student is before it: parameters, frozen tensors, tokenizer.
    pub(crate) fn starts_from(&self, vars: &[NamedVar], hasher: &mut Hasher256) -> Result<()> {
        let frozen = match &self.model {
            Model::Bert { bert, definition, .. } => {
                hasher.field(definition);
                bert.frozen()
            }
            Model::Decoder { decoder, origin, .. } => {
                hasher.field(origin.0);
                decoder.frozen()
            }
        };
        let trained = vars.iter().map(|(name, var)| (name, var.as_tensor()));
        for (name, tensor) in trained.chain(frozen.iter().map(|(name, tensor)| (name, tensor))) {
            hasher.field(name).field(bytes(&numbers(tensor)?));
        }
        Ok(())
    }

    /// The gradients of `vars`, which [`Student::create`] gave, in their order, with the sums of what `loss` gives: it
    /// is called for the vectors of some of the texts at a time, as [`Student::forward`] gives them, and the gradients
    /// are those of the sum.
    pub(crate) fn gradients(
        &self,
        sequences: &[&[u32]],
        vars: &[NamedVar],
        loss: &PartLoss<'_>,
    ) -> Result<Learnt> {
        match &self.model {
            Model::Bert { bert, .. } => bert.gradients(sequences, loss),
            Model::Decoder { decoder, adapter, projection, .. } => {
                let all: Vec<Var> = vars.iter().map(|(_, var)| var.clone()).collect();
                let mut grads = Gradients::new(&all);
                let view = adapter.as_deref().map(Adapter::view);
                let (vectors, memory) = decoder.embed(sequences, view.as_ref(), true)?;
                let mut learn = || -> CandleResult<_> {
                    let vectors = Var::from_tensor(&vectors)?;
                    let projected = project(projection.as_ref(), vectors.as_tensor())?;
                    let (loss, measure) = loss(&projected, 0..sequences.len())?;
                    let mut store = loss.backward()?;
                    let upstream = store.remove(&vectors);
                    grads.add_all(store)?;
                    Ok((loss.detach(), measure, upstream))
                };
                let (loss, measure, upstream) = learn().map_err(tensor_error)?;
                let upstream = upstream
                    .ok_or_else(|| Error::internal("the loss does not reach the vectors"))?;
                decoder.backward(memory, sequences, view.as_ref(), &upstream, &mut grads)?;
                Ok(Learnt { gradients: grads.finish(), loss, measure })
            }
        }
    }

    /// Vectors `[texts, dimensions]`; raw behind a projection, else of unit length.
    pub(crate) fn forward(&self, sequences: &[&[u32]]) -> Result<Tensor> {
        match &self.model {
            Model::Bert { bert, .. } => bert.forward(sequences),
            Model::Decoder { decoder, adapter, projection, .. } => {
                let view = adapter.as_deref().map(Adapter::view);
                let vectors = decoder.embed(sequences, view.as_ref(), false)?.0;
                project(projection.as_ref(), &vectors).map_err(tensor_error)
            }
        }
    }

    /// Writes `model.safetensors`, `config.json`, an encoder's `tokenizer.json` and a projected decoder's modules into `folder`:
    /// a tower's model; or the adapter of low-rank training. It carries the space of the document tower it was made for,
    /// if there is one.
    pub(crate) fn export(
        &self,
        folder: &Path,
        vars: &[NamedVar],
        teacher: Option<&EmbeddingSpace>,
    ) -> Result<()> {
        let io = cannot("write", folder);
        std::fs::create_dir_all(folder).map_err(io)?;
        let mut trained: HashMap<String, Tensor> =
            vars.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
        let (frozen, mut config) = match &self.model {
            Model::Bert { bert, definition, .. } => {
                write(&folder.join("tokenizer.json"), definition)?;
                let mut config =
                    serde_json::to_value(&bert.config).context(|| "the student's configuration")?;
                config["model_type"] = "bert".into();
                config["type_vocab_size"] = 2.into();
                config["architectures"] = json!(["BertModel"]);
                (bert.frozen(), config)
            }
            Model::Decoder { adapter: Some(adapter), base, .. } => {
                let ours = teacher.map(|space| json!({ "teacher": space }).to_string());
                let ours = ours.map(|text| HashMap::from([("scalingnote".to_owned(), text)]));
                return adapter.export(folder, base, false, true, ours);
            }
            Model::Decoder { decoder, projection, pooling, .. } => {
                if let Some(projection) = projection {
                    // In a file of its own.
                    trained.remove(PROJECTION);
                    projection.write(folder, *pooling)?;
                }
                (decoder.frozen(), decoder.hugging_face_config())
            }
        };
        if let Some(teacher) = teacher {
            config["scalingnote"] = json!({ "teacher": teacher });
        }
        trained.extend(frozen);
        candle_core::safetensors::save(&trained, folder.join("model.safetensors"))
            .map_err(tensor_error)
            .context(|| format!("writing {}", folder.display()))?;
        write_json(folder, "config.json", &config)
    }
}

fn project(projection: Option<&Projection>, vectors: &Tensor) -> CandleResult<Tensor> {
    match projection {
        None => Ok(vectors.clone()),
        Some(projection) => projection.apply(vectors),
    }
}
