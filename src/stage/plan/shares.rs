//! `prepare` in shares that any processes read: what they have to know, and what each of them does. The plan of the run
//! follows once all shards are gathered.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::envelope::load_plan;
use super::notes::{NotesRequest, unless_purged, warn_of_purged};
use super::parent::lost_files;
use crate::corpus::{self, PrepareOutcome, SharedCorpus, Sharing, TableOptions};
use crate::error::{Error, Result, ResultExt};
use crate::snapshot::{self, Manifest, PlannedUnder, Tombstones};
use crate::stage::inputs::Inputs;
use crate::store::{Root, layout};
use crate::types::{Digest256, SpaceId, hash_json};

/// Version of this format that this release writes and reads.
pub const SHARES_VERSION: u32 = 1;

/// How the corpus of a run is read in shares: `runs/<run id>/shares.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharesPlan {
    /// [`SHARES_VERSION`].
    pub version: u32,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Run id: that of the plan that follows, too.
    pub run: String,
    /// Names what the pipeline file says of the notes: all tasks have to read the same.
    pub notes: Digest256,
    /// Embedding space that the notes are prepared for.
    pub space_id: SpaceId,
    /// Number of the newest snapshot.
    pub parent: Option<u64>,
    /// Names the tombstones of the newest snapshot; absent where it has none. Under others the plan is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<Digest256>,
    /// The corpus.
    pub corpus: SharedCorpus,
}

/// What is planned of a corpus before anybody reads its rows.
pub enum SharesPlanned {
    /// It is read in shares; the plan of them is stored.
    Shares(Box<SharesPlan>),
    /// One task reads it, and why.
    One(String),
}

/// Plans the shares of a corpus, and stores the plan.
///
/// # Errors
/// As [`super::plan`], as far as they can be told before rows are read.
pub async fn plan_shares(request: &NotesRequest<'_>, space_id: &SpaceId) -> Result<SharesPlanned> {
    let root = request.root;
    let parent = snapshot::newest(root).await?;
    let inputs = Inputs::default();
    let prepare = request.prepare(&inputs, parent.as_ref(), &HashSet::new(), None).await?;
    let corpus = match Box::pin(corpus::share(&prepare)).await? {
        Sharing::One(why) => return Ok(SharesPlanned::One(why)),
        Sharing::Shares(corpus) => *corpus,
    };
    let under = PlannedUnder::of(parent.as_ref());
    let plan = SharesPlan {
        version: SHARES_VERSION,
        created_at: chrono::Utc::now().to_rfc3339(),
        run: request.run.to_owned(),
        notes: request.digest()?,
        space_id: space_id.clone(),
        parent: under.parent,
        purged: under.stamp,
        corpus,
    };
    let json = serde_json::to_vec(&plan).context(|| "writing the plan of the shares as JSON")?;
    root.put(&layout::shares_plan(&plan.run), json.into()).await?;
    Ok(SharesPlanned::Shares(Box::new(plan)))
}

impl NotesRequest<'_> {
    /// Names what decides which notes are made of which rows.
    fn digest(&self) -> Result<Digest256> {
        let corpus = self.input.options;
        // An address may be signed, by each process in its own way.
        let tables = corpus.tables.iter();
        let tables = tables.map(|table| TableOptions { uri: table.shown_uri(), ..table.clone() });
        let tables: Vec<TableOptions> = tables.collect();
        let made = (&corpus.sql, &corpus.template, &corpus.stored_columns, corpus.types);
        hash_json(&(made, tables, corpus.mode, self.chunking, self.keep_texts, self.read_texts))
    }
}

impl SharesPlan {
    /// Reads the plan of a run.
    ///
    /// # Errors
    /// NotFound, Corrupt; Unsupported for that of another release.
    pub async fn load(root: &Root, run: &str) -> Result<Self> {
        let kind = ("a plan of shares", SHARES_VERSION);
        load_plan(root, &layout::shares_plan(run), kind, "plan the shares again").await
    }

    fn under(&self) -> PlannedUnder {
        PlannedUnder { parent: self.parent, stamp: self.purged }
    }

    /// Reads these shares of the corpus.
    ///
    /// # Errors
    /// As [`corpus::read_shares`]; Conflict where notes were purged since, or the pipeline is another.
    pub async fn read(&self, request: &NotesRequest<'_>, shares: &[u32]) -> Result<()> {
        self.check(request).await?;
        let prepare = request.prepare(&Inputs::default(), None, &HashSet::new(), None).await?;
        let reading = Box::pin(corpus::read_shares(&prepare, &self.corpus, shares));
        unless_purged(request.root, &self.run, self.under(), reading).await
    }

    /// Gathers these shards, once all shares are read.
    ///
    /// # Errors
    /// As [`corpus::gather_shards`]; Conflict where notes were purged since, or the pipeline is another.
    pub async fn gather(&self, request: &NotesRequest<'_>, shards: &[u32]) -> Result<()> {
        self.check(request).await?;
        let root = request.root;
        let (parent, inputs) = (self.parent(root).await?, Inputs::default());
        let lost = Box::pin(lost_files(root, parent.as_ref())).await?;
        let space = Some(&self.space_id);
        let prepare = request.prepare(&inputs, parent.as_ref(), &lost, space).await?;
        let gathering = Box::pin(corpus::gather_shards(&prepare, &self.corpus, shards));
        unless_purged(root, &self.run, self.under(), gathering).await
    }

    /// What comes of the shards, all of which are gathered.
    ///
    /// # Errors
    /// Transient where one is not; Conflict where another snapshot was published since.
    pub async fn prepared(&self, request: &NotesRequest<'_>) -> Result<PrepareOutcome> {
        self.check(request).await?;
        let newest = snapshot::numbers(request.root).await?.pop();
        if newest != self.parent {
            return Err(Error::conflict(format!(
                "another snapshot was published since the shares of run {} were planned; plan them again",
                self.run
            )));
        }
        let prepare = request.prepare(&Inputs::default(), None, &HashSet::new(), None).await?;
        let prepared = Box::pin(corpus::prepared_shares(&prepare, &self.corpus)).await?;
        warn_of_purged(&prepared, &**request.input.reporter);
        Ok(prepared)
    }

    /// Deletes what the shards were made of, once they are in a plan.
    ///
    /// # Errors
    /// What the store says.
    pub async fn clear(&self, request: &NotesRequest<'_>) -> Result<()> {
        let prepare = request.prepare(&Inputs::default(), None, &HashSet::new(), None).await?;
        corpus::clear_shares(&prepare, &self.corpus).await
    }

    async fn parent(&self, root: &Root) -> Result<Option<Manifest>> {
        match self.parent {
            Some(number) => snapshot::read(root, number).await.map(Some),
            None => Ok(None),
        }
    }

    async fn check(&self, request: &NotesRequest<'_>) -> Result<()> {
        if request.digest()? != self.notes {
            return Err(Error::conflict(format!(
                "the pipeline makes other notes than when the shares of run {} were planned; plan them again",
                self.run
            )));
        }
        match Tombstones::default().since(request.root, self.under()).await? {
            Some(_) => Err(snapshot::overtaken_by_purge(&format!("run {}", self.run))),
            None => Ok(()),
        }
    }
}
