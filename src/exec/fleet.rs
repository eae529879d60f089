//! Where the tasks of a run are executed: on the devices of this process, or on a cluster. The plan, the tasks and what
//! they write are the same.

use super::admission::probe_query_tower;
use super::context::{RunContext, Session};
use super::tasks::{local, measure_speed, receipts::Receipts};
use crate::error::Result;
use crate::stage::{Plan, Planned, TaskEnv};
use crate::tower::{DeviceSpec, Tower, open_cuda};

/// What executes the tasks.
pub(super) enum Fleet {
    /// This process.
    Local(local::Workers),
    /// The executors of a Ballista cluster.
    #[cfg(feature = "cluster")]
    Cluster(Box<super::ballista::Driver>),
}

impl Fleet {
    /// Prepares and plans `run`, whose lease this process holds.
    pub async fn plan(session: &Session, run: &str) -> Result<(Planned, Self)> {
        let ctx = &session.ctx;
        #[cfg(feature = "cluster")]
        if let Some(cluster) = &session.options.cluster {
            let driver = super::ballista::Driver::new(ctx, cluster, run);
            let planned = driver.plan(ctx, &session.reporter).await;
            let planned = ctx.pipeline.origins.placed(planned)?;
            return Ok((planned, Self::Cluster(Box::new(driver))));
        }
        // Before the corpus is read. A fake tower computes nowhere.
        for (at, device) in ctx.pipeline.encode.devices()?.into_iter().enumerate() {
            if let DeviceSpec::Cuda(number) = device
                && !ctx.pipeline.tower.model.starts_with("fake:")
            {
                let opened = open_cuda(number);
                let key = || format!("encode.devices.{at}");
                ctx.pipeline.origins.placed(opened.map_err(|error| error.of_key(key())))?;
            }
        }
        if ctx.pipeline.query.tower.is_some() {
            probe_query_tower(session).await?;
        }
        let planned = session.plan(run).await?;
        let fleet = Self::for_plan(session, run, session.document().await?.clone())?;
        Ok((planned, fleet))
    }

    /// For a plan that was made and stored by this process; `run` is the run whose lease this process holds.
    #[cfg_attr(
        not(feature = "cluster"),
        expect(unused_variables, reason = "only clusters are told")
    )]
    pub fn for_plan(session: &Session, run: &str, tower: Tower) -> Result<Self> {
        #[cfg(feature = "cluster")]
        if let Some(cluster) = &session.options.cluster {
            let driver = super::ballista::Driver::new(&session.ctx, cluster, run);
            return Ok(Self::Cluster(Box::new(driver)));
        }
        Ok(Self::Local(local::Workers::new(&session.ctx.pipeline, Some(tower))?))
    }

    /// Stores a plan that [`Fleet::plan`] made, where it is not stored yet.
    pub async fn store(&self, plan: &Plan, ctx: &RunContext) -> Result<()> {
        match self {
            Self::Local(_) => plan.store(&ctx.root).await,
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => Ok(()),
        }
    }

    /// Tokens per second of one device, where one can be tried before the work: nobody knows yet who will come to a
    /// cluster. The trial is a fiftieth of the work at most, and two texts in any case.
    pub async fn speed(&mut self, planned: &Planned, env: &TaskEnv) -> Result<Option<f64>> {
        match self {
            Self::Local(workers) => {
                let texts: u64 =
                    planned.plan.shards.iter().map(|shard| shard.texts_to_encode).sum();
                let few = (texts / 50).max(1) as usize;
                let speed = measure_speed(planned, few, workers.first(), env).await;
                env.cancel.check()?;
                // What is wrong with a text or the device is for the tasks to find out: they have ways around it.
                Ok(speed.unwrap_or_default())
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => Ok(None),
        }
    }

    /// The self-test, where it is asked for, and the drift of the tower, before anything is encoded.
    pub async fn check(
        &mut self,
        plan: &Plan,
        self_test: bool,
        env: &TaskEnv,
    ) -> Result<Option<(f64, usize)>> {
        match self {
            Self::Local(workers) => local::check(plan, self_test, workers.first(), env).await,
            #[cfg(feature = "cluster")]
            Self::Cluster(driver) => driver.check(plan, self_test, env).await,
        }
    }

    /// Runs every task of the plan. `receipts` holds what was finished even where an error stops the rest.
    pub async fn run(
        &mut self,
        plan: &Plan,
        session: &Session,
        env: &TaskEnv,
        receipts: &mut Receipts,
    ) -> Result<()> {
        match self {
            Self::Local(workers) => {
                let (pipeline, attempts) = (&session.ctx.pipeline, session.options.attempts);
                workers.run(plan, pipeline, attempts, env, receipts).await
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(driver) => driver.run(plan, env, receipts).await,
        }
    }
}
