//! Where one note is, and why.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::config::Pipeline;
use crate::corpus::Look;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::observe::Reporter;
use crate::report::RunReport;
use crate::search::{QueryEncoder, Snapshot};
use crate::snapshot::{self, Manifest, ids, removed};
use crate::stage::look_at_note;
use crate::store::Root;
use crate::store::layout::{self, ReportName};
use crate::tower::{DeviceSpec, Tower};
use crate::types::{Cancel, Digest256, NoteId, TextHash, shard_of};

/// Vectors of a snapshot in which other notes with the same text are looked for: it takes all ids files.
const MOST_VECTORS: u64 = 1_000_000;
/// Notes with the same text that are named.
const MOST_SAME: usize = 10;
/// How far down the hits a note is looked for, step by step.
const DEPTHS: [usize; 4] = [10, 100, 1_000, 10_000];

/// What is asked.
pub struct ExplainRequest<'a> {
    /// Whose note it is.
    pub pipeline: &'a Pipeline,
    /// The pipeline's root.
    pub root: &'a Root,
    /// The note. An id of the other type that reads the same is taken, too.
    pub note: &'a NoteId,
    /// A query to rank it for.
    pub query: Option<&'a str>,
    /// Whether to show its text.
    pub text: bool,
    /// Where files of remote roots are kept.
    pub cache: &'a Path,
    /// Progress.
    pub reporter: &'a Arc<dyn Reporter>,
    /// Cancellation.
    pub cancel: &'a Cancel,
}

/// A file that rows of the note come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceRows {
    /// The table.
    pub table: String,
    /// The file.
    pub uri: String,
    /// Rows of the query that are the note's where only this file of the table is read.
    pub rows: u64,
}

/// One text of the note as the corpus has it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CorpusText {
    /// Which window of a chunked note.
    pub chunk: u32,
    /// SHA-256 of the rendered text.
    pub text_hash: TextHash,
    /// The text, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What the corpus has of the note.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InCorpus {
    /// Rows of the query with its id.
    pub rows: u64,
    /// Rows among them that gave way to a newer one, or without an `updated_at` to another.
    pub duplicates: u64,
    /// Whether the query has an `updated_at` that says which row is the newest.
    pub has_updated_at: bool,
    /// The files that they come from.
    pub files: Vec<SourceRows>,
    /// Why it was rejected; empty where it was not.
    pub rejected: Vec<String>,
    /// Whether its row says that it is deleted.
    pub deleted: bool,
    /// Its texts.
    pub texts: Vec<CorpusText>,
    /// Why the corpus could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One vector of the note in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// Which window of a chunked note.
    pub chunk: u32,
    /// SHA-256 of the text that was encoded.
    pub text_hash: TextHash,
    /// Its key in the index, in hexadecimal.
    pub key: String,
    /// The usearch file.
    pub index: String,
    /// 0 for the shard's base index, from 1 for its delta indexes.
    pub segment: usize,
    /// The Parquet file with the vector.
    pub part: String,
    /// The vector's row in it, from 0.
    pub row: u32,
    /// Whether it counts: a later segment may have replaced or removed it.
    pub live: bool,
}

/// What the newest snapshot has of the note.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InSnapshot {
    /// Its number.
    pub number: u64,
    /// The note's shard.
    pub shard: u32,
    /// Whether the note was purged: runs leave it out.
    pub purged: bool,
    /// Why the run that made the snapshot continued without it, where its report says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
    /// Its vectors.
    pub vectors: Vec<Placed>,
    /// Other notes whose text is the same, and which share its vector; absent where the snapshot is too large to look.
    pub same_text: Option<Vec<String>>,
}

/// Where the note comes for a query.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ranked {
    /// Rank among all notes, from 1, by the graphs; absent where it is not among the first 10,000.
    pub graph: Option<usize>,
    /// The same by comparing with every vector.
    pub exact: Option<usize>,
    /// Its cosine similarity.
    pub score: Option<f32>,
    /// Notes of the snapshot.
    pub notes: u64,
}

/// Where a note is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// Its id with its type, as it is stored where it is found.
    pub note: String,
    /// The corpus, read as the next run would read it.
    pub corpus: InCorpus,
    /// The newest snapshot; absent where there is none.
    pub snapshot: Option<InSnapshot>,
    /// Its rank for the query, where one was given and the snapshot holds the note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<Ranked>,
    /// What follows from all of this, in sentences.
    pub because: Vec<String>,
}

/// Says where a note is, and why.
///
/// # Errors
/// What the store says; whatever [`QueryEncoder::load`] says where there is a query. A corpus that cannot be read is
/// part of the answer.
pub async fn explain(request: &ExplainRequest<'_>) -> Result<Explained> {
    let root = request.root;
    let manifest = snapshot::newest(root).await?;
    let (corpus, found) = in_corpus(request, manifest.as_ref()).await?;
    let mut note = found.unwrap_or_else(|| request.note.clone());
    let mut snapshot = None;
    if let Some(manifest) = &manifest {
        let mut seen = in_snapshot(root, manifest, &note).await?;
        // It may be known by an id of the other type alone.
        if seen.vectors.is_empty()
            && let Some(other) = note.of_other_type()
        {
            let by_other = in_snapshot(root, manifest, &other).await?;
            if !by_other.vectors.is_empty() || (by_other.purged && !seen.purged) {
                (note, seen) = (other, by_other);
            }
        }
        seen.quarantined = quarantined(root, manifest, &note).await;
        seen.same_text = same_text(root, manifest, &note, &seen.vectors).await?;
        snapshot = Some(seen);
    }
    let lives = snapshot.iter().flat_map(|seen| &seen.vectors).any(|placed| placed.live);
    let rank = match (request.query, lives) {
        (Some(query), true) => Some(rank(request, &note, query).await?),
        _ => None,
    };
    let rolled_back = manifest.as_ref().and_then(Manifest::rolled_back);
    let asked = request.query.is_some();
    let because = because(&corpus, snapshot.as_ref(), rolled_back, rank.as_ref(), asked);
    Ok(Explained { note: note.to_string(), corpus, snapshot, rank, because })
}

/// What the corpus has, and the id as it has it.
async fn in_corpus(
    request: &ExplainRequest<'_>,
    manifest: Option<&Manifest>,
) -> Result<(InCorpus, Option<NoteId>)> {
    let pipeline = request.pipeline;
    let base_dir = &pipeline.base_dir;
    let looking = async {
        let tower = match pipeline.chunking {
            None => None,
            Some(_) => Tower::resolve_here(&pipeline.tower, base_dir, request.reporter).await?,
        };
        let input = pipeline.corpus_input(request.reporter, request.cancel);
        let chunking = tower.as_ref().zip(pipeline.chunking);
        look_at_note(input, chunking, (request.root, manifest), request.note).await
    };
    let look: Look = match pipeline.origins.placed(looking.await) {
        Ok(look) => look,
        Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Deadline) => {
            return Err(error);
        }
        Err(error) => {
            return Ok((InCorpus { error: Some(error.to_string()), ..InCorpus::default() }, None));
        }
    };
    let note = look.chunks.first().map(|chunk| chunk.note_id.clone());
    let texts = look.chunks.iter().filter(|chunk| !chunk.deleted).map(|chunk| CorpusText {
        chunk: chunk.chunk,
        text_hash: chunk.text_hash,
        text: request.text.then(|| chunk.text.clone()),
    });
    let files = look.files.iter().map(|(file, rows)| SourceRows {
        table: file.table.clone(),
        uri: file.uri.clone(),
        rows: *rows,
    });
    let has_row = look.rows_read > 0;
    let is_rejected = look.rejections.total() > 0;
    let found = InCorpus {
        rows: look.rows_read,
        duplicates: look.duplicates,
        has_updated_at: look.has_updated_at,
        files: files.collect(),
        rejected: look.rejections.by_reason.keys().cloned().collect(),
        // A row that is neither rejected nor a text says that it is deleted.
        deleted: has_row && !is_rejected && look.chunks.iter().all(|chunk| chunk.deleted),
        texts: texts.collect(),
        error: None,
    };
    Ok((found, note))
}

async fn in_snapshot(root: &Root, manifest: &Manifest, note: &NoteId) -> Result<InSnapshot> {
    let content = &manifest.content;
    let shard = shard_of(note, content.shard_count);
    let tagged = note.to_string();
    let mut vectors = Vec::new();
    let segments =
        content.shards.iter().filter(|of| of.shard == shard).flat_map(|of| of.segments());
    for (at, segment) in segments.enumerate() {
        let gone = removed::read(root, segment.removed.as_ref()).await?;
        let columns = ["key", "note_id", "chunk", "text_hash", "part", "row"];
        for batch in ids::read(root, &segment.ids, &columns).await? {
            let batch = batch?;
            let notes = ids::notes(&batch)?;
            for row in (0..batch.num_rows()).filter(|row| notes.value(*row) == tagged) {
                let key = ids::keys(&batch)?[row];
                vectors.push(Placed {
                    chunk: ids::chunks(&batch)?[row],
                    text_hash: Digest256(ids::text_hashes(&batch)?[row]),
                    key: format!("{key:016x}"),
                    index: segment.index.path.clone(),
                    segment: at,
                    part: ids::parts(&batch)?.value(row).to_owned(),
                    row: ids::rows(&batch)?[row],
                    live: gone.binary_search(&key).is_err(),
                });
            }
        }
    }
    let purged = manifest.purged.contains(note);
    Ok(InSnapshot { number: manifest.number, shard, purged, vectors, ..InSnapshot::default() })
}

/// What the report of the run that made a snapshot says of a note that could not be encoded. A report that is gone says
/// nothing.
async fn quarantined(root: &Root, manifest: &Manifest, note: &NoteId) -> Option<String> {
    let key = layout::report(&manifest.provenance.run, ReportName(1));
    let report: RunReport = serde_json::from_slice(&root.get(&key).await.ok()?).ok()?;
    let prefix = format!("{note}: ");
    let mut samples = report.corpus.quarantined_samples.iter();
    samples.find_map(|sample| sample.strip_prefix(&prefix).map(str::to_owned))
}

/// Other notes with the text of one of these vectors.
async fn same_text(
    root: &Root,
    manifest: &Manifest,
    note: &NoteId,
    vectors: &[Placed],
) -> Result<Option<Vec<String>>> {
    if manifest.content.vectors > MOST_VECTORS {
        return Ok(None);
    }
    let live = || vectors.iter().filter(|placed| placed.live);
    let tagged = note.to_string();
    let mut same = Vec::new();
    let segments = manifest.content.shards.iter().flat_map(|shard| shard.segments());
    for segment in segments.filter(|_| live().next().is_some()) {
        let gone = removed::read(root, segment.removed.as_ref()).await?;
        for batch in ids::read(root, &segment.ids, &["key", "note_id", "text_hash"]).await? {
            let batch = batch?;
            let (keys, notes) = (ids::keys(&batch)?, ids::notes(&batch)?);
            for (row, hash) in ids::text_hashes(&batch)?.iter().enumerate() {
                let is_same = live().any(|placed| placed.text_hash.0 == *hash);
                let other = notes.value(row);
                let counts = is_same && other != tagged && gone.binary_search(&keys[row]).is_err();
                if counts && same.len() < MOST_SAME && !same.iter().any(|known| known == other) {
                    same.push(other.to_owned());
                }
            }
        }
    }
    Ok(Some(same))
}

async fn rank(request: &ExplainRequest<'_>, note: &NoteId, query: &str) -> Result<Ranked> {
    let opened = Snapshot::open(request.root, None, request.cache).await?;
    let device = DeviceSpec::Cpu { threads: 0 };
    let base_dir = &request.pipeline.base_dir;
    let (root, manifest) = (request.root, opened.manifest());
    let encoder =
        QueryEncoder::load(root, manifest, None, base_dir, &device, request.reporter).await?;
    let (note, query) = (note.clone(), query.to_owned());
    let ranking = move || {
        let vector = encoder.encode(&query)?;
        let place = |exact: bool| -> Result<Option<(usize, f32)>> {
            for depth in DEPTHS {
                let hits = opened.search_vector(&vector, depth, exact)?;
                if let Some(at) = hits.iter().position(|hit| hit.note_id == note) {
                    return Ok(Some((at + 1, hits[at].score)));
                }
                if hits.len() < depth {
                    break;
                }
            }
            Ok(None)
        };
        let (graph, exact) = (place(false)?, place(true)?);
        Ok(Ranked {
            graph: graph.map(|(rank, _)| rank),
            exact: exact.map(|(rank, _)| rank),
            score: exact.or(graph).map(|(_, score)| score),
            notes: opened.manifest().content.notes,
        })
    };
    tokio::task::spawn_blocking(ranking).await.or_error(ErrorKind::Internal, || "ranking a note")?
}

/// Sentences that say why a note is where it is.
fn because(
    corpus: &InCorpus,
    snapshot: Option<&InSnapshot>,
    rolled_back: Option<String>,
    rank: Option<&Ranked>,
    asked: bool,
) -> Vec<String> {
    let mut said = Vec::new();
    let purged = snapshot.is_some_and(|seen| seen.purged);
    let live = || snapshot.into_iter().flat_map(|seen| &seen.vectors).filter(|one| one.live);
    let is_in = live().next().is_some();
    if let Some(error) = &corpus.error {
        said.push(format!("the corpus cannot be read now, so nothing is known of it: {error}"));
    } else if corpus.rows == 0 {
        said.push("the query returns no row with this id".to_owned());
    } else if corpus.duplicates > 0 {
        let which = match corpus.has_updated_at {
            true => "the one with the newest updated_at counts",
            false => {
                "one counts, a deletion or else the one with the greater values: the query has no updated_at to say \
                 which is the newest"
            }
        };
        said.push(format!("of {} rows with this id {which}", corpus.rows));
    }
    for reason in &corpus.rejected {
        said.push(format!("its row is rejected: {reason}"));
    }
    if corpus.deleted {
        said.push("its row says that it is deleted".to_owned());
    }
    if purged {
        said.push(
            "it was purged: runs leave it out until `scalingnote purge --lift` lets it come back"
                .to_owned(),
        );
    }
    if let Some(reason) = snapshot.and_then(|seen| seen.quarantined.as_ref()) {
        said.push(format!("the run of this snapshot could not encode it: {reason}"));
    }
    let would_be_in = !corpus.texts.is_empty() && !purged;
    let mut changes = false;
    match (snapshot, is_in, would_be_in) {
        (None, _, true) => {
            said.push("there is no snapshot yet; the next run puts it in".to_owned())
        }
        (None, _, false) => said.push("there is no snapshot yet".to_owned()),
        (Some(seen), false, true) => {
            changes = true;
            said.push(format!(
                "snapshot {} does not have it; the next run puts it in",
                seen.number
            ));
        }
        (Some(seen), false, false) => {
            said.push(format!("snapshot {} does not have it", seen.number))
        }
        (Some(seen), true, true) => {
            let hashes = |all: &mut dyn Iterator<Item = TextHash>| {
                let mut all: Vec<TextHash> = all.collect();
                all.sort_unstable();
                all
            };
            let now = hashes(&mut corpus.texts.iter().map(|text| text.text_hash));
            let then = hashes(&mut live().map(|placed| placed.text_hash));
            changes = now != then;
            said.push(match now == then {
                true => format!("snapshot {} has it with the text that the corpus has now", seen.number),
                false => format!(
                    "snapshot {} has it with another text than the corpus has now; the next run encodes the new one",
                    seen.number
                ),
            });
        }
        (Some(seen), true, false) if corpus.error.is_none() => {
            changes = true;
            said.push(format!("snapshot {} still has it; the next run takes it out", seen.number));
        }
        (Some(seen), true, false) => said.push(format!("snapshot {} has it", seen.number)),
    }
    said.extend(rolled_back.filter(|_| changes).map(|why| format!("but {why}")));
    match rank {
        Some(Ranked { graph: Some(graph), exact: Some(exact), .. }) if graph == exact => {}
        Some(Ranked { graph: None, exact: Some(_), .. }) => said.push(
            "the graph does not lead to it for this query, though it is near enough: raise index.expansion_search, or search \
             with --exact"
                .to_owned(),
        ),
        Some(Ranked { graph: Some(_), exact: Some(_), .. }) => {
            said.push("the graph leaves out some notes that are nearer, or orders them otherwise".to_owned());
        }
        Some(_) => said.push(format!("it is not among the {} nearest", DEPTHS[DEPTHS.len() - 1])),
        None if asked => said.push("it has no rank, since no snapshot has it".to_owned()),
        None => {}
    }
    said
}
