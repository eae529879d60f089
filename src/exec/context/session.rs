//! A run at work: its context, what it is asked to do, where its events go, and its towers.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::request::{RunContext, RunOptions};
use super::towers::Towers;
use crate::config::Pipeline;
use crate::corpus::PrepareOutcome;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::observe::{Reporter, Tee, Timeline};
use crate::stage::{
    self, AdaptRequest, NotesRequest, Plan, PlanRequest, Planned, Questions, SharesPlan,
    SharesPlanned, TaskEnv,
};
use crate::tower::Tower;
use crate::types::Digest256;

/// A run at work. Clones share the towers.
#[derive(Clone)]
pub(crate) struct Session {
    pub ctx: RunContext,
    pub options: RunOptions,
    /// Gets the events: the reporter of the context, and the timeline of the report where there is one.
    pub reporter: Arc<dyn Reporter>,
    towers: Arc<Towers>,
    questions: Arc<OnceCell<Option<Questions>>>,
}

impl Session {
    /// Without a timeline, asked for nothing but the usual.
    pub fn new(ctx: &RunContext) -> Self {
        let (ctx, reporter) = (ctx.clone(), Arc::clone(&ctx.reporter));
        let (options, towers, questions) = (RunOptions::default(), Arc::default(), Arc::default());
        Self { ctx, options, reporter, towers, questions }
    }

    /// The same run, asked to do this.
    pub fn with_options(self, options: &RunOptions) -> Self {
        Self { options: options.clone(), ..self }
    }

    /// The same run, its events also kept for a report.
    pub fn recorded(&self) -> (Self, Arc<Timeline>) {
        let timeline = Arc::new(Timeline::new());
        let keeper = Arc::clone(&timeline) as Arc<dyn Reporter>;
        let reporter = Arc::new(Tee(vec![Arc::clone(&self.ctx.reporter), keeper]));
        (Self { reporter, ..self.clone() }, timeline)
    }

    /// The same run of another pipeline, whose towers are others.
    pub fn with_pipeline(&self, pipeline: Pipeline) -> Self {
        let ctx = RunContext { pipeline, ..self.ctx.clone() };
        Self { ctx, towers: Arc::default(), ..self.clone() }
    }

    /// The tower that encodes notes.
    ///
    /// # Errors
    /// As [`Tower::resolve`].
    pub async fn document(&self) -> Result<&Tower> {
        self.towers.document(&self.ctx.pipeline, &self.reporter).await
    }

    /// The tower that encodes queries.
    ///
    /// # Errors
    /// As [`super::check_query_tower`].
    pub async fn query(&self) -> Result<&Tower> {
        self.towers.query(&self.ctx.pipeline, &self.reporter).await
    }

    /// The queries of `[evaluation]`, read when they are first asked for: before the work, so that what is wrong with
    /// them is said then. `None` without them.
    ///
    /// # Errors
    /// As [`Questions::read`].
    pub async fn questions(&self) -> Result<Option<&Questions>> {
        let read = || async {
            let pipeline = &self.ctx.pipeline;
            let Some(options) = pipeline.evaluation.clone() else { return Ok(None) };
            let base_dir = pipeline.base_dir.clone();
            let reading = move || Questions::read(&options, &base_dir);
            let questions = tokio::task::spawn_blocking(reading)
                .await
                .or_error(ErrorKind::Internal, || "reading [evaluation]")??;
            questions.warnings().into_iter().for_each(|warning| self.reporter.warn(warning));
            Ok(Some(questions))
        };
        self.questions.get_or_try_init(read).await.map(Option::as_ref)
    }

    /// Refuses a judged set that is of other notes than the plan's.
    ///
    /// # Errors
    /// As [`Questions::check_plan`].
    pub async fn check_questions(&self, plan: &Plan) -> Result<()> {
        let RunContext { pipeline, root, .. } = &self.ctx;
        match self.questions().await? {
            Some(questions) => questions.check_plan(plan, pipeline.corpus.mode, root).await,
            None => Ok(()),
        }
    }

    /// The document tower, where something asked for it before.
    pub fn known_document(&self) -> Option<Tower> {
        self.towers.known_document()
    }

    /// What was made of the notes; an error of a key says where that stands.
    fn placed<T>(&self, made: Result<T>) -> Result<T> {
        self.ctx.pipeline.origins.placed(made)
    }

    /// What tasks are bound to.
    pub fn env(&self) -> TaskEnv {
        let RunContext { root, cancel, .. } = &self.ctx;
        TaskEnv::new(root.clone(), Arc::clone(&self.reporter), cancel.clone())
    }

    /// Reads the corpus and plans.
    pub async fn plan(&self, run: &str) -> Result<Planned> {
        let tower = self.admitting().await?;
        self.plan_with(tower, run, None).await
    }

    /// The document tower. A query tower of its own that could not be admitted in the end is refused before the work.
    async fn admitting(&self) -> Result<&Tower> {
        if self.ctx.pipeline.query.tower.is_some() {
            self.query().await?;
        }
        self.document().await
    }

    /// Plans in which shares the corpus is read.
    ///
    /// # Errors
    /// As [`stage::plan_shares`].
    pub async fn shares(&self, run: &str) -> Result<SharesPlanned> {
        let tower = self.admitting().await?;
        let template = self.ctx.pipeline.corpus.template.as_bytes();
        let space = tower.space(Digest256::of(template)).id()?;
        self.placed(Box::pin(stage::plan_shares(&self.notes(run, None), &space)).await)
    }

    /// Reads these shares of the corpus.
    ///
    /// # Errors
    /// As [`SharesPlan::read`].
    pub async fn read(&self, plan: &SharesPlan, shares: &[u32]) -> Result<()> {
        self.placed(Box::pin(plan.read(&self.notes(&plan.run, None), shares)).await)
    }

    /// Gathers these shards of what was read.
    ///
    /// # Errors
    /// As [`SharesPlan::gather`].
    pub async fn gather(&self, plan: &SharesPlan, shards: &[u32]) -> Result<()> {
        // Only chunks need the tower.
        let tower = match self.ctx.pipeline.chunking {
            Some(_) => Some(self.document().await?),
            None => None,
        };
        self.placed(Box::pin(plan.gather(&self.notes(&plan.run, tower), shards)).await)
    }

    /// Plans with what was gathered.
    ///
    /// # Errors
    /// As [`SharesPlan::prepared`].
    pub async fn plan_gathered(&self, shares: &SharesPlan) -> Result<Planned> {
        let notes = self.notes(&shares.run, None);
        let prepared = self.placed(Box::pin(shares.prepared(&notes)).await)?;
        Box::pin(self.plan_with(self.document().await?, &shares.run, Some(&prepared))).await
    }

    /// What the notes of a run depend on; `tower` is for a task that renders them.
    pub fn notes<'a>(&'a self, run: &'a str, tower: Option<&'a Tower>) -> NotesRequest<'a> {
        let RunContext { pipeline, root, cancel, .. } = &self.ctx;
        NotesRequest {
            input: pipeline.corpus_input(&self.reporter, cancel),
            chunking: pipeline.chunking,
            tower,
            shards: pipeline.index.shards,
            devices: pipeline.encode.devices.len(),
            keep_texts: pipeline.next.is_some(),
            read_texts: pipeline.query.adapt.as_ref().map_or(0, |adapt| adapt.max_texts),
            root,
            run,
        }
    }

    /// Plans with notes that were prepared before, where there are any.
    pub async fn plan_with(
        &self,
        tower: &Tower,
        run: &str,
        prepared: Option<&PrepareOutcome>,
    ) -> Result<Planned> {
        let pipeline = &self.ctx.pipeline;
        let adapt = match &pipeline.query.adapt {
            Some(options) => {
                let student = self.query().await?;
                let (named, base_dir) = (pipeline.query_tower(), &pipeline.base_dir);
                let named = stage::resolved_tower(&named, base_dir, student);
                Some(AdaptRequest { options, student, named })
            }
            None => None,
        };
        let planning = stage::plan(PlanRequest {
            notes: self.notes(run, Some(tower)),
            tower_options: &pipeline.tower,
            tower,
            encode: &pipeline.encode,
            build: &pipeline.index,
            gates: &pipeline.gates,
            adapt,
            prepared,
        });
        self.placed(planning.await)
    }
}
