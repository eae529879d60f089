//! Stage 1 from options to files: towers resolved, pairs read, the loop run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::data::TrainData;
use super::input::{Side, TrainInput};
use super::options::{Method, QuerySide, TrainOptions};
use super::teacher::TeacherVectors;
use super::trainer::{export_checkpoint, train_decoder};
use crate::error::{Error, Result, ResultExt};
use crate::observe::Reporter;
use crate::store::named::read_whole;
use crate::tower::{DeviceSpec, Tower, TowerOptions, TowerTokenizer};
use crate::train::files::place;
use crate::train::model::decoder::check_family;
use crate::train::model::student::Student;
use crate::train::report::TrainReport;
use crate::types::{Cancel, Digest256, Hasher256, hash_json};

/// Trains the towers on `data`, which [`TrainData::open`] read, as [`train_decoder`] says. Relative paths in `options`
/// start from `base_dir`. `teacher` knows the texts that [`TrainData::taught`] names, where the options name one.
#[expect(clippy::too_many_arguments, reason = "what a run is, where it goes, and who watches")]
pub async fn train(
    options: &TrainOptions,
    base_dir: &Path,
    data: &TrainData,
    teacher: Option<&TeacherVectors>,
    output: &Path,
    devices: Vec<DeviceSpec>,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<TrainReport> {
    if options.teacher.is_some() != teacher.is_some() {
        return Err(Error::internal("the teacher of the options has to be given, and no other"));
    }
    let run = Resolved::new(options, base_dir, reporter).await?;
    run.with(data, teacher, devices, |input| {
        train_decoder(input, options, output, reporter, cancel)
    })
}

/// Exports a run into `target`, as f32 or (`half`) as f16: what it exported itself where it is finished; where it is still
/// going, or was stopped, the parameters of its best look so far, or where it has not looked yet, those of its checkpoint.
/// Gives the steps it has taken.
#[expect(clippy::too_many_arguments, reason = "what a run is, where it goes, and who watches")]
pub async fn export(
    options: &TrainOptions,
    base_dir: &Path,
    data: &TrainData,
    output: &Path,
    target: &Path,
    half: bool,
    devices: Vec<DeviceSpec>,
    reporter: &Arc<dyn Reporter>,
) -> Result<u64> {
    let run = Resolved::new(options, base_dir, reporter).await?;
    run.with(data, None, devices, |input| export_checkpoint(input, options, output, target, half))
}

impl TrainOptions {
    /// The query side's tower as it is before training: its encoder, or the document side's with the query's prompt,
    /// length, layers and adapter.
    pub fn query_tower(&self) -> TowerOptions {
        match &self.query.student {
            Some(student) => student.tower(),
            None => self.llm_query_tower(),
        }
    }

    /// The LLM as query tower.
    fn llm_query_tower(&self) -> TowerOptions {
        let QuerySide { prompt_prefix, prompt_suffix, max_tokens, layers, adapter, .. } =
            self.query.clone();
        TowerOptions {
            prompt_prefix: Some(prompt_prefix),
            prompt_suffix: Some(prompt_suffix),
            max_tokens: Some(max_tokens),
            layers: layers.or(self.tower.layers),
            adapter: adapter.or_else(|| self.tower.adapter.clone()),
            ..self.tower.clone()
        }
    }
}

struct Resolved<'a> {
    options: &'a TrainOptions,
    base_dir: &'a Path,
    query: Tower,
    document: Tower,
    /// Tokenizers of the sources that have prompts or lengths of their own: queries', documents'.
    tokenizers: Vec<[Option<TowerTokenizer>; 2]>,
    /// A query side's encoder, for its tokenizer.
    student: Option<Student>,
    /// The adapters to train further.
    adapter: Option<PathBuf>,
    query_adapter: Option<PathBuf>,
}

impl<'a> Resolved<'a> {
    async fn new(
        options: &'a TrainOptions,
        base_dir: &'a Path,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<Self> {
        options.validate()?;
        if options.tower.head.is_some() {
            return Err(Error::config(
                "training knows no tower.head; take it away, and fit one to what was trained with `scalingnote whiten`",
            ));
        }
        let (mut document, mut query) = (options.tower.clone(), options.llm_query_tower());
        // Low-rank training goes on where the adapter stands; full training starts from the merged weights.
        let further = |method: &Method, tower: &mut TowerOptions| match method {
            Method::Lora(_) => {
                tower.adapter.take().map(|folder| place(&folder, base_dir)).transpose()
            }
            Method::Full(_) => Ok(None),
        };
        let adapter = further(&options.method, &mut document)?;
        let query_adapter = further(options.query_method(), &mut query)?;
        let mut tokenizers = Vec::new();
        for [of_queries, of_documents] in own_prompts(options) {
            let mut pair = [None, None];
            for ((own, tower), to) in
                [(of_queries, &query), (of_documents, &document)].into_iter().zip(&mut pair)
            {
                let (prefix, max_tokens) = own;
                if prefix.is_none() && max_tokens.is_none() {
                    continue;
                }
                let tower = TowerOptions {
                    prompt_prefix: prefix.or_else(|| tower.prompt_prefix.clone()),
                    max_tokens: max_tokens.or(tower.max_tokens),
                    ..tower.clone()
                };
                let tower = Tower::resolve(&tower, base_dir, reporter).await?;
                *to = Some(tower.tokenizer().clone());
            }
            tokenizers.push(pair);
        }
        let document = Tower::resolve(&document, base_dir, reporter).await?;
        let query = Tower::resolve(&query, base_dir, reporter).await?;
        for tower in [&document, &query] {
            tower.config().map_or(Ok(()), check_family)?;
        }
        let mut student = None;
        if let Some(encoder) = &options.query.student {
            let dimensions = document.dimensions() as usize;
            let made = Student::encoder(encoder, base_dir, dimensions, options.seed);
            student = Some(made.context(|| "query")?.0);
        }
        Ok(Self { options, base_dir, query, document, tokenizers, student, adapter, query_adapter })
    }

    fn tokenize(&self, side: Side, source: u32, text: &str) -> Result<Vec<u32>> {
        if let (Side::Query, Some(student)) = (side, &self.student) {
            return student.tokenize(text);
        }
        let own = self.tokenizers.get(source as usize);
        let (own, tower) = match side {
            Side::Query => (own.and_then(|both| both[0].as_ref()), &self.query),
            Side::Document => (own.and_then(|both| both[1].as_ref()), &self.document),
        };
        Ok(own.unwrap_or_else(|| tower.tokenizer()).tokenize(text)?.ids)
    }

    fn with<T>(
        &self,
        data: &TrainData,
        teacher: Option<&TeacherVectors>,
        devices: Vec<DeviceSpec>,
        f: impl FnOnce(&TrainInput<'_>) -> Result<T>,
    ) -> Result<T> {
        let (Some(config), Some(weights), Some(query_weights)) =
            (self.document.config(), self.document.weights(), self.query.weights())
        else {
            return Err(Error::config("tower.model must be a decoder LLM to be trained"));
        };
        let mut origin = Hasher256::new();
        for tower in [&self.document, &self.query] {
            origin.field(hash_json(&tower.space(Digest256::of(b"")))?.0);
        }
        for folder in [&self.adapter, &self.query_adapter] {
            // What is missing is reported where it is opened.
            let file = folder.as_ref().map(|folder| folder.join("adapter_model.safetensors"));
            origin
                .field(file.and_then(|file| read_whole(&file, u64::MAX).ok()).unwrap_or_default());
        }
        if let Some(teacher) = &self.options.teacher {
            teacher.hash(self.base_dir, &mut origin)?;
        }
        if let (Some(student), Some(encoder)) = (&self.student, &self.options.query.student) {
            let dimensions = self.document.dimensions() as usize;
            let (_, vars) =
                Student::encoder(encoder, self.base_dir, dimensions, self.options.seed)?;
            student.starts_from(&vars, &mut origin)?;
        }
        f(&TrainInput {
            config,
            weights,
            query_weights,
            data,
            teacher,
            tokenize: &|side, source, text| self.tokenize(side, source, text),
            adapter: self.adapter.as_deref(),
            query_adapter: self.query_adapter.as_deref(),
            base_dir: self.base_dir,
            document: Some(&self.document),
            origin: origin.finish(),
            devices,
        })
    }
}

/// A prompt's beginning and a length in tokens, where a source has its own.
type Own = (Option<String>, Option<u32>);

/// What each source says of its queries and of its documents, plain texts behind the pairs.
fn own_prompts(options: &TrainOptions) -> Vec<[Own; 2]> {
    let pairs = options.pairs.iter().map(|source| {
        let documents = (source.document_prefix.clone(), source.max_tokens);
        [(source.query_prefix.clone(), None), documents]
    });
    let texts = options.texts.iter().map(|source| {
        let own = (source.prefix.clone(), source.max_tokens);
        [own.clone(), own]
    });
    pairs.chain(texts).collect()
}
