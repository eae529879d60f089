//! What the template is given.

use std::collections::HashMap;
use std::time::Duration;

use minijinja::Value;
use serde::Serialize;
use serde_json::Value as Json;

use super::form::Form;
use super::history::{Known, Past, Run};
use super::html::Nonce;
use crate::report::{Asked, Changes, Comparison, Interval, bar_chart, interval_series};
use crate::search::Hit;
use crate::serve::limits::Limits;
use crate::serve::metrics::age;
use crate::serve::refusal::Refusal;
use crate::snapshot::{GateOutcome, Manifest};
use crate::types::ModelCard;

/// Characters of a stored value that a page shows.
const LONGEST: usize = 300;
/// Stored columns that give a hit its heading, the first that there is.
const HEADINGS: [&str; 3] = ["title", "name", "heading"];

/// Everything on the page.
#[derive(Serialize)]
pub(in crate::serve) struct Frame<'a> {
    pub nonce: &'a Nonce,
    pub form: &'a Form,
    most: usize,
    choices: Vec<Choice>,
    refusal: Option<Told<'a>>,
    pub found: Option<Found>,
    pub card: Option<Card<'a>>,
    /// Why the newest snapshot is not in service.
    pub failure: Option<String>,
}

impl<'a> Frame<'a> {
    pub fn new(nonce: &'a Nonce, form: &'a Form, limits: &Limits) -> Self {
        Self {
            nonce,
            form,
            most: Form::most(limits),
            choices: Vec::new(),
            refusal: None,
            found: None,
            card: None,
            failure: None,
        }
    }

    /// With earlier snapshots to choose from.
    pub fn with_choices(mut self, known: &Known, current: u64) -> Self {
        let in_service = known.past.iter().find(|past| past.number == current);
        let others = known.past.iter().rev().filter(|past| past.number != current);
        self.choices = others
            .map(|past| Choice {
                number: past.number,
                chosen: self.form.beside == past.number.to_string(),
                comparable: in_service.is_some_and(|current| past.is_asked_like(current)),
            })
            .collect();
        self
    }

    pub fn with_refusal(mut self, refusal: &'a Refusal) -> Self {
        let waits = refusal.outcome() == crate::serve::metrics::Outcome::NoSnapshot;
        let again = refusal.retry().filter(|_| waits);
        self.refusal = Some(Told { message: refusal.message(), again });
        self
    }
}

/// A snapshot that the hits can be shown beside.
#[derive(Serialize)]
struct Choice {
    number: u64,
    chosen: bool,
    comparable: bool,
}

#[derive(Serialize)]
struct Told<'a> {
    message: &'a str,
    /// Seconds after which the page reloads.
    again: Option<u32>,
}

/// Hits, on one side or on two.
#[derive(Serialize)]
pub(in crate::serve) struct Found {
    encode_ms: f64,
    sides: Vec<Shown>,
    changes: Option<Changes>,
}

/// One list of hits as it was found.
pub(in crate::serve) struct Side {
    pub title: String,
    pub hits: Vec<Hit>,
    pub took: Duration,
}

#[derive(Serialize)]
struct Shown {
    title: String,
    ms: f64,
    hits: Vec<ShownHit>,
}

#[derive(Serialize)]
struct ShownHit {
    rank: usize,
    score: f32,
    id: String,
    chunk: u32,
    heading: Option<String>,
    stored: Vec<(String, String)>,
    mark: Option<Mark>,
}

/// Where a hit stands on the other side.
#[derive(Serialize)]
struct Mark {
    class: &'static str,
    text: String,
    /// The same in words.
    label: String,
}

impl Found {
    /// The hits of the snapshot in service, and those that they are shown beside. `lacking` says what a hit is that only the
    /// one or only the other has.
    pub fn new(encoded: Duration, main: Side, beside: Option<(Side, [&'static str; 2])>) -> Self {
        let encode_ms = millis(encoded);
        let Some((beside, [only_main, only_beside])) = beside else {
            return Self { encode_ms, sides: vec![shown(&main, |_| None)], changes: None };
        };
        let (in_main, in_beside) = (places(&main.hits), places(&beside.hits));
        let sides = vec![
            shown(&main, |hit| Some(main_mark(hit, &in_beside, only_main))),
            shown(&beside, |hit| beside_mark(hit, &in_main, only_beside)),
        ];
        let k = main.hits.len();
        let asked =
            Asked { id: String::new(), text: None, hits: [beside.hits, main.hits], crossed: None };
        let compared = Comparison::of([0, 0], Default::default(), k, None, &[asked]);
        Self { encode_ms, sides, changes: Some(compared.all) }
    }
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn places(hits: &[Hit]) -> HashMap<String, usize> {
    hits.iter().map(|hit| (hit.note_id.to_string(), hit.rank)).collect()
}

fn main_mark(hit: &Hit, there: &HashMap<String, usize>, only: &'static str) -> Mark {
    let moved = |class, sign, places, way| Mark {
        class,
        text: format!("{sign} {places}"),
        label: format!("{places} places {way}"),
    };
    match there.get(&hit.note_id.to_string()).copied() {
        None => Mark { class: "new", text: only.to_owned(), label: only.to_owned() },
        Some(rank) if rank > hit.rank => moved("up", '\u{25b2}', rank - hit.rank, "up"),
        Some(rank) if rank < hit.rank => moved("down", '\u{25bc}', hit.rank - rank, "down"),
        Some(_) => Mark { class: "same", text: "=".to_owned(), label: "the same place".to_owned() },
    }
}

fn beside_mark(hit: &Hit, there: &HashMap<String, usize>, only: &'static str) -> Option<Mark> {
    let gone = !there.contains_key(&hit.note_id.to_string());
    gone.then(|| Mark { class: "gone", text: only.to_owned(), label: only.to_owned() })
}

fn shown(side: &Side, mark: impl Fn(&Hit) -> Option<Mark>) -> Shown {
    let hit = |hit: &Hit| {
        let heading = HEADINGS.iter().find(|name| {
            hit.stored
                .get(**name)
                .and_then(Json::as_str)
                .is_some_and(|text| !text.trim().is_empty())
        });
        let stored = hit.stored.iter().filter(|(name, value)| {
            !value.is_null() && heading.is_none_or(|heading| heading != name)
        });
        ShownHit {
            rank: hit.rank,
            score: hit.score,
            id: text(&hit.note_id),
            chunk: hit.chunk,
            heading: heading.map(|name| text(&hit.stored[*name])),
            stored: stored.map(|(name, value)| (name.clone(), text(value))).collect(),
            mark: mark(hit),
        }
    };
    Shown {
        title: side.title.clone(),
        ms: millis(side.took),
        hits: side.hits.iter().map(hit).collect(),
    }
}

/// A stored value as a page shows it: long ones are cut.
fn text(value: &Json) -> String {
    let text = match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text,
    }
}

/// What a snapshot is and how it came about.
#[derive(Serialize)]
pub(in crate::serve) struct Card<'a> {
    number: u64,
    parent: Option<u64>,
    content: String,
    created_at: &'a str,
    age: Option<f64>,
    by: &'a str,
    made_by: Option<&'a str>,
    program: &'a str,
    copied: Option<&'a Json>,
    notes: u64,
    vectors: u64,
    dimensions: u32,
    shards: u32,
    index_bytes: u64,
    part_bytes: u64,
    quantization: Option<&'a str>,
    space: String,
    stored_columns: &'a [String],
    gates: &'a [GateOutcome],
    towers: Vec<Tower<'a>>,
    model: Option<ModelCard>,
    text_queries: bool,
    recall: Option<crate::index::Recall>,
    run: Option<&'a Run>,
    history: History<'a>,
}

#[derive(Serialize)]
struct Tower<'a> {
    kind: &'a str,
    model: &'a str,
    fingerprint: String,
    adapted: bool,
}

#[derive(Serialize)]
struct History<'a> {
    past: Vec<&'a Past>,
    notes: Value,
    recall: Option<Value>,
}

/// The card of the snapshot in service.
pub(in crate::serve) fn card_of<'a>(
    manifest: &'a Manifest,
    text_queries: bool,
    known: &'a Known,
) -> Card<'a> {
    let (content, provenance) = (&manifest.content, &manifest.provenance);
    let part_bytes: u64 = content.parts.iter().map(|part| part.size).sum();
    let bytes: u64 = content.files().map(|file| file.size).sum();
    let towers = content.query_towers.iter().map(|tower| Tower {
        kind: &tower.kind,
        model: tower.options.get("model").and_then(Json::as_str).unwrap_or_default(),
        fingerprint: tower.fingerprint.short(),
        adapted: tower.adapted.is_some(),
    });
    Card {
        number: manifest.number,
        parent: manifest.parent,
        content: manifest.content_hash.to_hex(),
        created_at: &provenance.created_at,
        age: age(manifest),
        by: &provenance.run,
        made_by: provenance.made_by().filter(|run| *run != provenance.run),
        program: &provenance.program,
        copied: provenance.measured.get("copied"),
        notes: content.notes,
        vectors: content.vectors,
        dimensions: content.space.dimensions,
        shards: content.shard_count,
        index_bytes: bytes.saturating_sub(part_bytes),
        part_bytes,
        quantization: content.index.options.get("quantization").and_then(Json::as_str),
        space: content.space_id.to_string(),
        stored_columns: &content.stored_columns,
        gates: &provenance.gates,
        towers: towers.collect(),
        model: provenance.card(),
        text_queries,
        recall: Past::of(manifest).recall,
        run: known.run.as_ref(),
        history: History {
            past: known.past.iter().rev().collect(),
            notes: Value::from_safe_string(notes_chart(&known.past)),
            recall: recall_chart(&known.past).map(Value::from_safe_string),
        },
    }
}

fn notes_chart(past: &[Past]) -> String {
    let bar = |past: &Past| {
        let tip = format!("snapshot {}: {} notes", past.number, past.notes);
        (past.number.to_string(), past.notes, tip)
    };
    bar_chart("Notes by snapshot", &past.iter().map(bar).collect::<Vec<_>>())
}

fn recall_chart(past: &[Past]) -> Option<String> {
    past.iter().any(|past| past.recall.is_some()).then(|| {
        let point = |past: &Past| {
            let interval = past.recall.map(|recall| Interval {
                low: recall.low,
                value: recall.mean,
                high: recall.high,
            });
            let recall = past.recall.map_or(0.0, |recall| recall.mean);
            let tip = format!("snapshot {}: recall {recall:.4}", past.number);
            (past.number.to_string(), interval, tip)
        };
        interval_series("Recall by snapshot", &past.iter().map(point).collect::<Vec<_>>())
    })
}
