//! One adaptation, from the prepared notes to the receipt.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use super::draw::{Drawn, Piece};
use super::judge::{Found, Judged};
use super::learn::{Budget, Lesson, Llm, SCORED, Small, Start, learn};
use super::read::Read;
use super::receipt::{AdaptOutcome, AdaptReceipt, AdaptSummary, AdaptedTower};
use crate::embedding;
use crate::error::{Error, ErrorKind, Result, ResultExt, unless};
use crate::observe::{Event, Stage, format};
use crate::snapshot::{Adapted, Laid, Purged};
use crate::stage::inputs::is_damage;
use crate::stage::plan::AdaptTask;
use crate::stage::vectors::{find_in_parts, gather};
use crate::stage::worker::{TaskEnv, Worker};
use crate::store::{FileRef, layout, receipt};
use crate::tower::TowerOptions;
use crate::types::{Cancel, Digest256, EmbeddingSpace, Embeddings};

/// Fewest texts that anything is learnt from.
const LEAST: usize = 16;
/// Of the texts drawn, one in this many may be new before the tower learns again.
const NEW: u64 = 5;

/// Adapts the query tower, unless the receipt is there.
///
/// # Errors
/// Conflict where a note that it read was purged meanwhile; what stopped it.
pub(in crate::stage) async fn adapt(
    task: &AdaptTask,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<AdaptReceipt> {
    let key = layout::adapt_receipt(&task.id);
    let mut ours = false;
    let work = async {
        ours = true;
        work(task, worker, env).await
    };
    let receipt = receipt::once(&env.root, &key, work).await?;
    if !ours {
        env.adopted.add(&task.id);
    }
    let files: &[FileRef] = receipt.tower.as_ref().map_or(&[], |tower| &tower.files);
    let read = match files.is_empty() {
        true => None,
        false => unless(Read::open(&env.root, files).await, is_damage)?,
    };
    let mut written = vec![key.as_str()];
    written.extend(files.iter().map(|file| file.path.as_str()));
    let holds = |purged: &Purged| read.is_some_and(|read| read.holds(purged));
    env.unless_purged(&task.spec, &written, holds).await?;
    Ok(receipt)
}

/// What the parent snapshot's adaptation left.
struct Previous {
    read: Read,
    laid: Laid,
    tower: AdaptedTower,
}

impl Previous {
    /// `None` where there is none, or where it is damaged: then the tower starts from scratch.
    async fn open(task: &AdaptTask, env: &TaskEnv) -> Result<Option<Self>> {
        let Some(tower) = &task.previous else { return Ok(None) };
        let Some(adapted) = &tower.adapted else { return Ok(None) };
        let Some((read, laid)) = unless(Self::files(adapted, env).await, is_damage)? else {
            env.reporter.warn(
                "the adapted query tower cannot be read; adapting it from scratch".to_owned(),
            );
            return Ok(None);
        };
        let tower = AdaptedTower {
            fingerprint: tower.fingerprint,
            options: tower.options.clone(),
            teacher: tower.teacher.clone(),
            files: adapted.files.clone(),
            by: adapted.options,
        };
        Ok(Some(Self { read, laid, tower }))
    }

    async fn files(adapted: &Adapted, env: &TaskEnv) -> Result<(Read, Laid)> {
        Ok((Read::open(&env.root, &adapted.files).await?, adapted.lay(&env.root).await?))
    }
}

/// The vectors of the drawn notes that have one.
struct Notes {
    vectors: Embeddings,
    /// Where the vector of each drawn note is.
    rows: Vec<Option<usize>>,
}

impl Notes {
    async fn gather(task: &AdaptTask, drawn: &Drawn, env: &TaskEnv) -> Result<Self> {
        let parts = embedding::list_parts(&env.root, &task.spec.space_id, None).await?;
        let wanted: HashSet<Digest256> = drawn.notes.iter().map(|(_, hash)| *hash).collect();
        let places = find_in_parts(&env.root, &parts, &wanted).await?;
        let mut found = Vec::new();
        let mut rows = Vec::with_capacity(drawn.notes.len());
        for (_, hash) in &drawn.notes {
            let place = places.get(hash);
            rows.push(place.map(|_| found.len()));
            found.extend(place);
        }
        let dimensions = task.spec.space.dimensions as usize;
        Ok(Self { vectors: gather(&env.root, dimensions, found).await?, rows })
    }

    /// The row of a text's own note.
    fn row_of(&self, piece: &Piece) -> Option<usize> {
        piece.own_note().and_then(|note| self.rows[note])
    }
}

/// A text, the LLM's vector of it, and the row of its own note where it has one.
type TaughtText = (Piece, Vec<f32>, Option<usize>);

/// Texts with the LLM's vectors.
struct Taught {
    pieces: Vec<Piece>,
    vectors: Embeddings,
    /// Rows of the texts' own notes.
    own: Vec<Option<usize>>,
}

impl Taught {
    fn of(dimensions: usize, taught: impl Iterator<Item = TaughtText>) -> Self {
        let mut all = Self {
            pieces: Vec::new(),
            vectors: Embeddings::with_capacity(dimensions, 0),
            own: Vec::new(),
        };
        for (piece, vector, own) in taught {
            all.pieces.push(piece);
            all.vectors.push(&vector);
            all.own.push(own);
        }
        all
    }

    fn texts(&self) -> Vec<String> {
        self.pieces.iter().map(|piece| piece.text.clone()).collect()
    }

    async fn found(&self, tower: &Small, notes: &Notes, cancel: &Cancel) -> Result<Found> {
        let queries = tower.vectors(self.texts(), cancel).await?;
        Ok(self.found_by(&queries, notes))
    }

    /// What these vectors of the texts find.
    fn found_by(&self, queries: &Embeddings, notes: &Notes) -> Found {
        let own: Vec<usize> = self.own.iter().copied().flatten().collect();
        Found::of(queries, &own, &notes.vectors)
    }
}

async fn work(task: &AdaptTask, worker: &mut Worker, env: &TaskEnv) -> Result<AdaptReceipt> {
    let budget = Budget::of(task.options.minutes);
    let drawn = Drawn::from(env, &task.notes, task.options.max_texts as usize).await?;
    let previous = Previous::open(task, env).await?;
    let texts = drawn.pieces().count() as u64;
    let new = match &previous {
        Some(previous) => previous.read.new_among(&drawn),
        None => drawn.pieces().map(|piece| piece.hash).collect(),
    };
    let new_texts = new.len() as u64;
    let adapted = task.previous.as_ref().and_then(|tower| tower.adapted.as_ref());
    let steps_left = adapted.map_or(0, |adapted| adapted.steps_left);
    let summary = |outcome, judged| AdaptSummary {
        outcome,
        texts,
        new_texts,
        learnt: 0,
        steps: 0,
        steps_left,
        minutes: task.options.minutes,
        seconds: budget.seconds(),
        judged,
    };
    let stays = |summary: AdaptSummary| {
        let tower = previous.as_ref().map(|previous| previous.tower.clone());
        AdaptReceipt { id: task.id.clone(), tower, summary }
    };
    let by = task.options.digest()?;
    let same = |previous: &&Previous| previous.tower.by == by && new_texts * NEW <= texts;
    let going_on = previous.as_ref().filter(same);
    let taken = going_on.map_or(0, |previous| previous.read.steps);
    let steps = u64::from(task.options.steps).saturating_sub(taken);
    if let Some(previous) = going_on
        && steps == 0
    {
        return Ok(stays(summary(AdaptOutcome::Kept, Some(previous.read.judged))));
    }

    let begins = match &previous {
        Some(previous) => in_folder(task, previous.laid.folder()),
        None => task.student.clone(),
    };
    let before = Small::resolve(&begins, &env.reporter).await?;
    if previous.is_none() && before.fingerprint()? != task.fingerprint {
        return Err(Error::input(format!(
            "the files of the query tower {} changed since run {} was planned; plan again",
            task.student.model, task.spec.run
        )));
    }
    let notes = Notes::gather(task, &drawn, env).await?;
    let llm = Llm::resolve(task, &env.reporter).await?;
    let lessons = chosen(&drawn, &new, &before, &notes);
    let (asked, shown) = teach(&llm, lessons, &notes, &budget, task, worker, env).await?;
    if asked.pieces.is_empty() || shown.pieces.len() < LEAST {
        return Ok(stays(summary(AdaptOutcome::TooFew, None)));
    }

    let folder = tempfile::tempdir()
        .or_error(ErrorKind::Resource, || "making a folder for the query tower (set TMPDIR)")?;
    let scored = notes.vectors.first(SCORED);
    let learnt = shown.pieces.len() as u64;
    let lesson = Lesson {
        texts: shown.texts(),
        own: shown.own.iter().map(|row| row.filter(|row| *row < scored.len())).collect(),
        vectors: shown.vectors,
        notes: scored,
        space: llm.space.clone(),
        steps,
    };
    let start = Start::of(&begins);
    let (packed, done) = match learn(task, start, lesson, &budget, folder.path(), env).await {
        // Its numbers are no longer finite: the notes are to be published all the same.
        Err(error) if error.kind() == ErrorKind::Input => {
            env.reporter.warn(format!("the query tower stays as it was: {error}"));
            return Ok(stays(summary(AdaptOutcome::Refused, None)));
        }
        learnt => learnt?,
    };
    let now = Small::resolve(&in_folder(task, &packed), &env.reporter).await?;
    let judged = Judged {
        texts: asked.pieces.len() as u64,
        notes: notes.vectors.len() as u64,
        llm: asked.found_by(&asked.vectors, &notes),
        before: asked.found(&before, &notes, &env.cancel).await?,
        now: asked.found(&now, &notes, &env.cancel).await?,
    };
    let ended = |outcome| AdaptSummary { learnt, steps: done, ..summary(outcome, Some(judged)) };
    if !judged.is_as_good() {
        return Ok(stays(ended(AdaptOutcome::Refused)));
    }
    let read_now = asked.pieces.iter().chain(&shown.pieces).map(|piece| &piece.hash);
    let earlier = previous.as_ref().map(|previous| &previous.read);
    let read = Read::of(&drawn, read_now, earlier, judged, taken + done);
    let files = store(&packed, now.fingerprint()?, &read, env).await?;
    let tower = AdaptedTower {
        fingerprint: now.fingerprint()?,
        options: options_in_root(task, now.fingerprint()?)?,
        teacher: unsaid(task, llm.space),
        files,
        by,
    };
    // Where there was no time for one step, there will be none tomorrow.
    let steps_left = if done == 0 { 0 } else { steps.saturating_sub(done) };
    let summary = AdaptSummary { steps_left, ..ended(AdaptOutcome::Adapted) };
    Ok(AdaptReceipt { id: task.id.clone(), tower: Some(tower), summary })
}

/// What the tower is judged by, and what it is to learn from: what it has not read comes first, for time may run out.
fn chosen<'a>(
    drawn: &'a Drawn,
    new: &HashSet<Digest256>,
    student: &Small,
    notes: &Notes,
) -> (Vec<&'a Piece>, Vec<&'a Piece>) {
    let reads = |piece: &&Piece| student.reads(&piece.text);
    let asked = drawn.held_out.iter().filter(|piece| notes.row_of(piece).is_some());
    let mut shown: Vec<&Piece> = drawn.learnt.iter().filter(reads).collect();
    shown.sort_by_key(|piece| !new.contains(&piece.hash));
    (asked.filter(reads).collect(), shown)
}

/// The LLM's vectors of what the tower is judged by, and of what it learns from as far as there is time.
async fn teach(
    llm: &Llm,
    (asked, shown): (Vec<&Piece>, Vec<&Piece>),
    notes: &Notes,
    budget: &Budget,
    task: &AdaptTask,
    worker: &mut Worker,
    env: &TaskEnv,
) -> Result<(Taught, Taught)> {
    let (judged_by, mut pieces) = (asked.len(), asked);
    pieces.extend(shown);
    let all = pieces.len();
    let most = task.options.minutes.map(|minutes| f64::from(minutes) * 60.0);
    env.reporter.info(format!(
        "adapting the query tower{}: the LLM reads {} titles and sentences{}",
        most.map_or_else(String::new, |most| format!(", at most {}", format::seconds(most))),
        format::count(all as u64),
        most.map_or_else(String::new, |most| format!(
            " in at most {}",
            format::seconds(most / 2.0)
        ))
    ));
    let began = Instant::now();
    let texts: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
    let vectors = llm.vectors(&texts, judged_by + LEAST, budget, task, worker, env).await?;
    let dimensions = task.spec.space.dimensions as usize;
    let mut taught: Vec<(usize, TaughtText)> = Vec::with_capacity(vectors.len());
    for (at, (piece, vector)) in pieces.into_iter().zip(vectors).enumerate() {
        let own = notes.row_of(piece);
        taught.extend(vector.map(|vector| (at, (piece.clone(), vector, own))));
    }
    let learnt = taught.split_off(taught.partition_point(|(at, _)| *at < judged_by));
    let counted = |count: usize| format::count(count as u64);
    let summary = format!(
        "the LLM read {} of {} titles and sentences: {} to learn from, {} to judge by",
        counted(taught.len() + learnt.len()),
        counted(all),
        counted(learnt.len()),
        counted(taught.len())
    );
    let (stage, seconds) = (Stage::Distill, began.elapsed().as_secs_f64());
    env.reporter.event(Event::StageFinished { stage, seconds, summary });
    let of = |taught: Vec<(usize, _)>| Taught::of(dimensions, taught.into_iter().map(|(_, t)| t));
    Ok((of(taught), of(learnt)))
}

/// The task's query tower with its files in this folder.
fn in_folder(task: &AdaptTask, folder: &Path) -> TowerOptions {
    let model = folder.to_string_lossy().into_owned();
    TowerOptions { model, tokenizer: None, revision: None, ..task.student.clone() }
}

/// How a snapshot names the tower: by the folder below the root.
fn options_in_root(task: &AdaptTask, fingerprint: Digest256) -> Result<serde_json::Value> {
    let options = in_folder(task, Path::new(&layout::tower_dir(&fingerprint.short())));
    serde_json::to_value(options).context(|| "writing query tower options")
}

/// The space of the teacher, where the snapshot's own does not say it.
fn unsaid(task: &AdaptTask, teacher: EmbeddingSpace) -> Option<EmbeddingSpace> {
    let own = EmbeddingSpace { template: teacher.template, ..task.spec.space.clone() };
    (own != teacher).then_some(teacher)
}

/// Stores the packed tower, and what it read.
async fn store(
    packed: &Path,
    fingerprint: Digest256,
    read: &Read,
    env: &TaskEnv,
) -> Result<Vec<FileRef>> {
    let tower = fingerprint.short();
    // What it read is there before it is: a purge that comes between finds whose the weights are.
    let json = read.to_json()?;
    let key = layout::tower_texts(&tower, &Digest256::of(&json).short());
    let texts = env.root.put(&key, json.into()).await?;
    let mut files = Vec::new();
    for (name, key) in [
        ("model.safetensors", layout::tower_weights(&tower)),
        ("config.json", layout::tower_config(&tower)),
        ("tokenizer.json", layout::tower_tokenizer(&tower)),
    ] {
        files.push(env.root.upload(&key, &packed.join(name)).await?);
    }
    files.push(texts);
    Ok(files)
}
