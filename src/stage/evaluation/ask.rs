//! Asks what is about to be published, and the newest snapshot where its manifest does not say enough.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::comparison::{Asked, Comparison};
use super::questions::Questions;
use super::report::{Against, EvaluationReport, FirstHits};
use super::score::{DEPTH, SetScore, depth};
use crate::dataset::Query;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::evaluate::{BootstrapOptions, Paired, paired};
use crate::observe::Reporter;
use crate::observe::format::counted;
use crate::search::{Found, Hit, QueryEncoder, Snapshot};
use crate::snapshot::{Content, Manifest, proposed};
use crate::stage::GateOptions;
use crate::store::Root;
use crate::tower::{DeviceSpec, Tower};
use crate::types::Cancel;

/// What asking needs beside the content.
pub struct EvaluationRequest<'a> {
    /// What is asked.
    pub questions: &'a Questions,
    /// The pipeline's query tower; it is loaded where the content admits it as it is.
    pub query_tower: &'a Tower,
    /// Relative paths of towers start here.
    pub base_dir: &'a Path,
    /// Where queries are encoded.
    pub device: DeviceSpec,
    /// Hears what is asked.
    pub reporter: &'a Arc<dyn Reporter>,
    /// Cancellation.
    pub cancel: &'a Cancel,
}

/// What came of it.
pub(crate) struct Evaluated {
    /// For the run report and the gates.
    pub report: EvaluationReport,
    /// For the manifest.
    pub score: Option<SetScore>,
}

/// Asks a content that is not published yet. `parent` is the newest snapshot; it is searched only where a gate needs what
/// its manifest does not tell, and where the tower is another.
///
/// # Errors
/// Config where the judged set is of other notes; what a search says. A parent that cannot be asked is not an error:
/// its tower may be gone.
pub(crate) async fn evaluate(
    request: &EvaluationRequest<'_>,
    root: &Root,
    content: &Content,
    parent: Option<&Manifest>,
    gates: &GateOptions,
) -> Result<Evaluated> {
    let questions = request.questions;
    let folder = tempfile::tempdir()
        .or_error(ErrorKind::Resource, || "making a folder for the evaluation (set TMPDIR)")?;
    let asking = Asking { request, root, folder: folder.path() };
    let queries = counted(questions.count() as u64, "query");
    request.reporter.info(format!("asking {queries} of [evaluation] before publishing"));
    let snapshot = Snapshot::of(root, proposed(parent, content)?, folder.path(), None).await?;
    let snapshot = Arc::new(snapshot);
    let encoder = asking.encoder(snapshot.manifest()).await?;
    let is_served = parent.is_some_and(|parent| encoder.serves(parent));
    let now = asking.ask(snapshot, Some(encoder), None).await?;
    let mut evaluated = Evaluated { report: EvaluationReport::default(), score: None };
    let report = &mut evaluated.report;
    if let Some(judged) = &questions.judged {
        let score = SetScore::of(judged, questions.of_set(&now.hits), &now.snapshot)?;
        if score.missing == score.relevant && content.notes > 0 {
            return Err(judged.is_of_other_notes());
        }
        report.set = Some(score.set.clone());
        report.queries = score.per_query.len() as u64;
        report.ndcg_10 = Some(score.ndcg_10);
        (report.relevant, report.missing) = (score.relevant, score.missing);
        evaluated.score = Some(score);
    }
    let Some(parent) = parent else { return Ok(evaluated) };

    let judged = questions.judged.as_ref();
    let told = judged.and_then(|judged| SetScore::told_of(judged, &parent.provenance));
    let is_other = !is_served || parent.content.space_id != content.space_id;
    let wants_score = judged.is_some() && told.is_none() && gates.max_ndcg_drop.is_some();
    let is_needed = wants_score || (is_other && gates.max_top1_change.is_some());
    let mut before = told;
    // Another tower is rare, and what it changes is worth knowing whether or not a gate asks.
    if wants_score || is_other {
        let encoded = is_served.then_some(&now);
        match asking.ask_parent(parent, &now.snapshot, encoded, is_needed).await? {
            ControlFlow::Break(why) => report.not_compared = Some(why),
            ControlFlow::Continue(then) => {
                if let Some(judged) = judged.filter(|_| before.is_none()) {
                    let found = questions.of_set(&then.hits);
                    before = Some(SetScore::of(judged, found, &then.snapshot)?);
                }
                if is_other {
                    let comparison = asking.compare(&then, &now, is_served).await?;
                    report.first_hits = Some(FirstHits::of(&comparison));
                    report.comparison = Some(comparison);
                }
            }
        }
    }
    if let Some((before, now)) = before.zip(evaluated.score.as_ref()) {
        let Paired { difference, low, high } =
            paired(&before.per_query, &now.per_query, &BootstrapOptions::default())?;
        let (snapshot, ndcg_10) = (parent.number, before.ndcg_10);
        report.against = Some(Against { snapshot, ndcg_10, difference, low, high });
    }
    Ok(evaluated)
}

impl Questions {
    fn of_judged(&self) -> usize {
        self.judged.as_ref().map_or(0, |judged| judged.set.queries.len())
    }

    fn count(&self) -> usize {
        self.of_judged() + self.others.len()
    }

    /// Of what was found for all queries, that of the set's.
    fn of_set(&self, found: &[Vec<Found>]) -> Hits {
        found[..self.of_judged()].to_vec()
    }

    /// The place of the first query whose hits are compared.
    fn compared_from(&self) -> usize {
        if self.others.is_empty() { 0 } else { self.of_judged() }
    }

    /// All of them, in the order in which they are asked.
    fn all(&self) -> impl Iterator<Item = &Query> {
        let judged = self.judged.iter().flat_map(|judged| &judged.set.queries);
        judged.chain(&self.others)
    }
}

/// What was found for each query, best first.
type Hits = Vec<Vec<Found>>;

/// The vector of each query; `None` for one that the tower can make nothing of, and which finds nothing.
type Vectors = Arc<Vec<Option<Vec<f32>>>>;

/// A snapshot with what it finds.
struct Answers {
    snapshot: Arc<Snapshot>,
    /// The tower that encoded the queries.
    tower: String,
    vectors: Vectors,
    hits: Hits,
}

struct Asking<'a> {
    request: &'a EvaluationRequest<'a>,
    root: &'a Root,
    /// Files of a root that is not local are copied there; both snapshots share them.
    folder: &'a Path,
}

impl Asking<'_> {
    async fn encoder(&self, manifest: &Manifest) -> Result<QueryEncoder> {
        let EvaluationRequest { query_tower, base_dir, device, reporter, .. } = self.request;
        QueryEncoder::load_known(self.root, manifest, query_tower, base_dir, device, reporter)
            .await
            .context(|| "loading the tower for [evaluation] (evaluation.device says where)")
    }

    /// Asks a snapshot, by this tower, or with the vectors that are `encoded` already.
    async fn ask(
        &self,
        snapshot: Arc<Snapshot>,
        encoder: Option<QueryEncoder>,
        encoded: Option<&Answers>,
    ) -> Result<Answers> {
        let (tower, vectors) = match encoded {
            Some(encoded) => (encoded.tower.clone(), Arc::clone(&encoded.vectors)),
            None => {
                let encoder = match encoder {
                    Some(encoder) => encoder,
                    None => self.encoder(snapshot.manifest()).await?,
                };
                (encoder.tower().fingerprint.to_hex(), self.encode(encoder).await?)
            }
        };
        let hits = self.search(&snapshot, &vectors).await?;
        Ok(Answers { snapshot, tower, vectors, hits })
    }

    /// What changes; where both towers are of one space, crosswise too.
    async fn compare(
        &self,
        before: &Answers,
        now: &Answers,
        one_tower: bool,
    ) -> Result<Comparison> {
        let questions = self.request.questions;
        let spaces = [before, now].map(|side| &side.snapshot.manifest().content.space_id);
        let not_crosswise = Comparison::not_crosswise(spaces, one_tower);
        let crossed = match not_crosswise {
            Some(_) => None,
            None => Some([
                self.search(&now.snapshot, &before.vectors).await?,
                self.search(&before.snapshot, &now.vectors).await?,
            ]),
        };
        let hits =
            |hits: &Hits, at: usize| Hit::ranked(hits[at].iter().take(DEPTH).cloned().collect());
        let queries = questions.all().enumerate().skip(questions.compared_from());
        let asked: Vec<Asked> = queries
            .map(|(at, query)| Asked {
                id: query.id.clone(),
                text: None,
                hits: [hits(&before.hits, at), hits(&now.hits, at)],
                crossed: crossed.as_ref().map(|both| both.each_ref().map(|found| hits(found, at))),
            })
            .collect();
        let numbers = [before, now].map(|side| side.snapshot.manifest().number);
        let towers = [before, now].map(|side| side.tower.clone());
        let by = questions.by.as_deref();
        Ok(Comparison { not_crosswise, ..Comparison::of(numbers, towers, DEPTH, by, &asked) })
    }

    /// The tower goes with it: two of them need not fit into memory.
    async fn encode(&self, encoder: QueryEncoder) -> Result<Vectors> {
        let queries: Vec<_> = self.request.questions.all().cloned().collect();
        let (cancel, reporter) = (self.request.cancel.clone(), Arc::clone(self.request.reporter));
        let encode = move || {
            let mut vectors = Vec::with_capacity(queries.len());
            for query in &queries {
                cancel.check()?;
                vectors.push(match encoder.encode(&query.text) {
                    Ok(vector) => Some(vector).filter(|vector| vector.iter().any(|v| *v != 0.0)),
                    Err(error) if error.kind() == ErrorKind::Input => {
                        let id = &query.id;
                        reporter.warn(format!("query {id} of [evaluation] finds nothing: {error}"));
                        None
                    }
                    Err(error) => return Err(error),
                });
            }
            Ok::<_, Error>(Arc::new(vectors))
        };
        blocking(encode).await
    }

    async fn search(&self, snapshot: &Arc<Snapshot>, vectors: &Vectors) -> Result<Hits> {
        let k = self.request.questions.judged.as_ref().map_or(DEPTH, depth);
        let (snapshot, vectors) = (Arc::clone(snapshot), Arc::clone(vectors));
        let cancel = self.request.cancel.clone();
        let search = move || {
            let search = |vector: &Option<Vec<f32>>| -> Result<Vec<Found>> {
                cancel.check()?;
                let found = vector.as_ref().map(|vector| snapshot.search_vector(vector, k, false));
                found.unwrap_or_else(|| Ok(Vec::new()))
            };
            vectors.iter().map(search).collect::<Result<Hits>>()
        };
        blocking(search).await
    }

    /// Opens the parent beside what is new and asks it, by its own tower unless what is `encoded` is by that one. Breaks with
    /// the reason where it cannot be asked; what another attempt may get past is an error where a gate needs the answer.
    async fn ask_parent(
        &self,
        parent: &Manifest,
        beside: &Snapshot,
        encoded: Option<&Answers>,
        is_needed: bool,
    ) -> Result<ControlFlow<String, Answers>> {
        let asked = async {
            let snapshot =
                Snapshot::of(self.root, parent.clone(), self.folder, Some(beside)).await?;
            self.ask(Arc::new(snapshot), None, encoded).await
        };
        let number = parent.number;
        match asked.await {
            Ok(asked) => Ok(ControlFlow::Continue(asked)),
            Err(error) if goes_on(&error, is_needed) => {
                Ok(ControlFlow::Break(format!("snapshot {number} cannot be asked: {error}")))
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether to go on without the parent: another attempt would meet the same (files that are gone or others, a tower
/// that cannot compute here), or no gate needs it.
fn goes_on(error: &Error, is_needed: bool) -> bool {
    use ErrorKind::{Cancelled, Config, Corrupt, Deadline, Input, NotFound, Unsupported};
    match error.kind() {
        Cancelled | Deadline => false,
        Config | Corrupt | Input | NotFound | Unsupported => true,
        _ => !is_needed,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .or_error(ErrorKind::Internal, || "asking the queries of [evaluation]")?
}
