//! An answer as JSON: what `scalingnote search --json` prints and `scalingnote serve` sends.

use serde::Serialize;
use serde_json::{Map, Value};

use super::opened::Found;
use crate::types::NoteId;

/// The hits of one query, all of one snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// Number of the snapshot.
    pub snapshot: u64,
    /// Fingerprint of the tower that encoded the query; absent where the query was a vector.
    pub query_tower: Option<String>,
    /// Best first.
    pub hits: Vec<Hit>,
}

/// One note found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    /// From 1.
    pub rank: usize,
    /// Cosine similarity.
    pub score: f32,
    /// The id as the corpus gave it: a number or a string.
    pub note_id: Value,
    /// Which window of a chunked note matched best.
    pub chunk: u32,
    /// Stored columns.
    pub stored: Map<String, Value>,
}

impl Hit {
    /// The hits of a search, ranked.
    pub fn ranked(found: Vec<Found>) -> Vec<Self> {
        let hit = |(at, found): (usize, Found)| Self {
            rank: at + 1,
            score: found.score,
            note_id: match found.note_id {
                NoteId::Int(id) => Value::from(id),
                NoteId::Str(id) => Value::from(id),
            },
            chunk: found.chunk,
            stored: found.stored,
        };
        found.into_iter().enumerate().map(hit).collect()
    }
}
