//! The LLM's vectors of the drawn texts, and the student that learns them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result, ResultExt};
use crate::observe::{Event, Reporter, Stage};
use crate::stage::plan::AdaptTask;
use crate::stage::worker::{Loaded, TaskEnv, Worker};
use crate::tower::{DeviceSpec, Tower, TowerOptions, TowerTokenizer};
use crate::train::{
    self, DistillOptions, Documents, OptimizerOptions, PackOptions, StudentOptions, Teacher,
    ValidationOptions, pack_student,
};
use crate::types::{Arithmetic, Cancel, Digest256, EmbeddingSpace, Embeddings};

/// Notes that the student and the LLM score, at most: a step's time and memory grow with them.
pub(super) const SCORED: usize = 4096;
/// Texts that are looked at between steps, to keep the best ones: at most, and as a share of all.
const WATCHED: (usize, usize) = (128, 8);
/// Looks at them.
const LOOKS: u64 = 4;
/// Texts of one batch of a small tower.
const BATCH: usize = 64;

/// Relative paths of a task start nowhere: it has none.
fn nowhere() -> &'static Path {
    Path::new(".")
}

/// The time that an adaptation may take.
pub(super) struct Budget {
    began: Instant,
    all: Option<Duration>,
}

impl Budget {
    pub fn of(minutes: Option<u32>) -> Self {
        let all = minutes.map(|minutes| Duration::from_secs(60 * u64::from(minutes)));
        Self { began: Instant::now(), all }
    }

    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// When the LLM has to be done: half of the time is the student's.
    fn half(&self) -> Option<Instant> {
        self.all.and_then(|all| self.began.checked_add(all / 2))
    }

    /// What is left of the LLM's half.
    fn half_left(&self) -> Option<Duration> {
        self.half().map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// What is left of it.
    fn left(&self) -> Option<Duration> {
        self.all.map(|all| all.saturating_sub(self.began.elapsed()))
    }
}

/// The LLM as it placed what the student was taught.
pub(super) struct Llm {
    tower: Tower,
    pub space: EmbeddingSpace,
}

impl Llm {
    /// # Errors
    /// As [`Tower::resolve`]; Input where the files changed since the task was planned.
    pub async fn resolve(task: &AdaptTask, reporter: &Arc<dyn Reporter>) -> Result<Self> {
        let tower = Tower::resolve(&task.teacher, nowhere(), reporter).await?;
        let space = tower.space(Digest256::of(b""));
        let differing = task.spec.space.incomparable(&space);
        match differing.is_empty() {
            true => Ok(Self { tower, space }),
            false => Err(Error::input(format!(
                "the files of the tower {} changed since run {} was planned (other {}); plan again",
                task.teacher.model,
                task.spec.run,
                differing.join(", ")
            ))),
        }
    }

    /// The vectors of the first of these texts, as many as the time allows, and of the first `least` in any case; `None` for a
    /// text that cannot be encoded. Reports that the stage begins and how far it is: who calls reports its end.
    pub async fn vectors(
        &self,
        texts: &[&str],
        least: usize,
        budget: &Budget,
        task: &AdaptTask,
        worker: &mut Worker,
        env: &TaskEnv,
    ) -> Result<Vec<Option<Vec<f32>>>> {
        let tokenizer = self.tower.tokenizer();
        let ids: Vec<Option<Vec<u32>>> =
            texts.iter().map(|text| tokenizer.tokenize(text).ok().map(|found| found.ids)).collect();
        let all_tokens = ids.iter().flatten().map(|ids| ids.len() as u64).sum();
        let (stage, total) = (Stage::Distill, texts.len() as u64);
        env.reporter.event(Event::StageStarted { stage, total, unit: "texts", tokens: all_tokens });
        if let Some(left) = budget.half_left() {
            let seconds = left.as_secs_f64();
            env.reporter.event(Event::Limited { stage, total, seconds });
        }
        let (until, cancel) = (budget.half(), env.cancel.clone());
        let reporter = Arc::clone(&env.reporter);
        let token_budget = u64::from(task.spec.encode.token_budget);
        let job = move |loaded: &mut Loaded, _: &TowerTokenizer| -> Result<_> {
            let most = token_budget.min(loaded.limit.unwrap_or(u64::MAX));
            let mut vectors: Vec<Option<Vec<f32>>> = Vec::with_capacity(ids.len());
            let mut read = 0;
            while vectors.len() < ids.len() {
                cancel.check()?;
                let late = until.is_some_and(|until| Instant::now() >= until);
                if late && vectors.len() >= least {
                    break;
                }
                let rest = &ids[vectors.len()..];
                let mut tokens = 0;
                let fitting = rest.iter().take_while(|ids| {
                    tokens += ids.as_ref().map_or(0, |ids| ids.len() as u64);
                    tokens <= most
                });
                let batch = &rest[..fitting.count().max(1)];
                read += batch.iter().flatten().map(|ids| ids.len() as u64).sum::<u64>();
                let known: Vec<&[u32]> = batch.iter().flatten().map(Vec::as_slice).collect();
                let found = match known.is_empty() {
                    true => Embeddings::with_capacity(1, 0),
                    false => loaded.encoder.encode(&known)?,
                };
                let mut rows = found.rows();
                let usable = |row: &[f32]| row.iter().all(|value| value.is_finite());
                vectors.extend(batch.iter().map(|ids| {
                    ids.as_ref()
                        .and_then(|_| rows.next())
                        .filter(|row| usable(row))
                        .map(<[f32]>::to_vec)
                }));
                let done = vectors.len() as u64;
                reporter.event(Event::Progress { stage, done, tokens: read });
            }
            Ok(vectors)
        };
        worker.compute(&task.spec, env, "the LLM's reading of queries", job).await?
    }
}

/// A small tower on the processor.
pub(super) struct Small(Tower);

impl Small {
    pub async fn resolve(options: &TowerOptions, reporter: &Arc<dyn Reporter>) -> Result<Self> {
        Tower::resolve(options, nowhere(), reporter).await.map(Self)
    }

    pub fn fingerprint(&self) -> Result<Digest256> {
        self.0.fingerprint()
    }

    /// Whether it has a token for the text.
    pub fn reads(&self, text: &str) -> bool {
        self.0.tokenizer().tokenize(text).is_ok()
    }

    /// The vectors of texts that it [`Small::reads`].
    pub async fn vectors(&self, texts: Vec<String>, cancel: &Cancel) -> Result<Embeddings> {
        let (tower, cancel) = (self.0.clone(), cancel.clone());
        let encoding = tokio::task::spawn_blocking(move || -> Result<Embeddings> {
            let mut encoder = tower.load(&DeviceSpec::Cpu { threads: 0 })?;
            let mut all = Embeddings::with_capacity(tower.dimensions() as usize, texts.len());
            for texts in texts.chunks(BATCH) {
                cancel.check()?;
                let tokens = texts.iter().map(|text| tower.tokenizer().tokenize(text));
                let tokens = tokens.collect::<Result<Vec<_>>>()?;
                let ids: Vec<&[u32]> = tokens.iter().map(|found| found.ids.as_slice()).collect();
                encoder.encode(&ids)?.rows().for_each(|row| all.push(row));
            }
            Ok(all)
        });
        encoding.await.context(|| "a query tower's encoding ended unexpectedly")?
    }
}

/// What the student is taught.
pub(super) struct Lesson {
    pub texts: Vec<String>,
    pub vectors: Embeddings,
    /// The notes that both score.
    pub notes: Embeddings,
    /// The note of each text, where it is one of them.
    pub own: Vec<Option<usize>>,
    pub space: EmbeddingSpace,
    /// Steps to take, at most.
    pub steps: u64,
}

/// The student as it begins: its folder and its tokenizer.
pub(super) struct Start {
    pub model: PathBuf,
    pub tokenizer: PathBuf,
}

impl Start {
    /// A tower in a folder.
    pub fn of(tower: &TowerOptions) -> Self {
        let model = PathBuf::from(&tower.model);
        let tokenizer = tower.tokenizer.as_ref().map(PathBuf::from);
        Self { tokenizer: tokenizer.unwrap_or_else(|| model.join("tokenizer.json")), model }
    }
}

/// Teaches the student, packs it into a folder that is a tower's model, and says how many steps that took.
pub(super) async fn learn(
    task: &AdaptTask,
    start: Start,
    lesson: Lesson,
    budget: &Budget,
    folder: &Path,
    env: &TaskEnv,
) -> Result<(PathBuf, u64)> {
    let options = options(task, start, &lesson, budget.left());
    let output = folder.join("run");
    let (reporter, cancel, at) = (Arc::clone(&env.reporter), env.cancel.clone(), output.clone());
    let own_weight = task.options.own_weight;
    let work = async move || {
        let Lesson { vectors, notes, own, space, .. } = &lesson;
        let documents = Some(Documents { vectors: notes, own, own_weight });
        let teacher = Teacher { vectors, documents, space };
        train::distill(&lesson.texts, &teacher, &options, nowhere(), &at, &reporter, &cancel).await
    };
    let report = train::on_large_stack(work).await?;
    let (student, packed) = (output.join("student"), folder.join("packed"));
    let target = packed.clone();
    let packing = tokio::task::spawn_blocking(move || {
        let tokenizer = student.join("tokenizer.json");
        let options = PackOptions { bits: 8, table_bits: 8, ..PackOptions::default() };
        pack_student(&student, &target, &options, None, &tokenizer)?;
        std::fs::copy(&tokenizer, target.join("tokenizer.json"))
            .map(drop)
            .map_err(|cause| crate::error::not_written(&target, cause))
    });
    packing.await.context(|| "packing the student ended unexpectedly")??;
    Ok((packed, report.steps.len() as u64))
}

fn options(
    task: &AdaptTask,
    start: Start,
    lesson: &Lesson,
    limit: Option<Duration>,
) -> DistillOptions {
    let own = &task.options;
    let Lesson { texts, steps, .. } = lesson;
    let texts = texts.len();
    let (most, share) = WATCHED;
    let watched = (texts / share).min(most);
    let batch = (own.batch as usize).min(texts - watched);
    let student = StudentOptions::Bert {
        path: start.model,
        tokenizer: Some(start.tokenizer),
        layers: None,
        max_tokens: task.student.max_tokens() as usize,
        train_embeddings: true,
        keep_case: false,
        fit_queries: 0,
        refit_queries: 0,
        arithmetic: match task.student.arithmetic {
            Arithmetic::Bf16 => Arithmetic::Bf16,
            _ => Arithmetic::F32,
        },
    };
    DistillOptions {
        teacher: task.teacher.clone(),
        pairs: Vec::new(),
        student,
        mse_weight: own.mse_weight,
        cosine_weight: own.cosine_weight,
        score_weight: own.score_weight,
        score_temperature: 0.05,
        optimizer: OptimizerOptions {
            learning_rate: own.learning_rate,
            warmup_steps: (steps / 5).min(20),
            final_share: 0.01,
            ..OptimizerOptions::default()
        },
        batch,
        steps: Some(*steps),
        validation: ValidationOptions {
            pairs: watched,
            every: (steps / LOOKS).max(1),
            ..ValidationOptions::default()
        },
        seed: own.seed,
        checkpoint_seconds: None,
        limit,
    }
}
