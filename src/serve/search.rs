//! `/search`: one snapshot, taken once, answers one request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;

use super::app::App;
use super::connection::{Holding, Place};
use super::metrics::Outcome;
use super::refusal::Refusal;
use super::request::{SearchQuery, SearchRequest};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::search::{Answer, Hit, Passing, Serving, Snapshot};
use crate::types::Cancel;

/// Names the snapshot of an answer beside its body.
const SNAPSHOT: &str = "x-scalingnote-snapshot";

/// An answer as it is sent.
struct Written {
    snapshot: u64,
    hits: usize,
    body: Bytes,
}

pub(super) async fn handle(
    State(app): State<Arc<App>>,
    Extension(place): Extension<Arc<Place>>,
    request: Request<Body>,
) -> Response {
    let began = Instant::now();
    let _counted = app.metrics.in_flight();
    let limit = app.limits.timeout;
    let answered = match tokio::time::timeout(limit, answer(&app, &place, request)).await {
        Ok(answered) => answered,
        Err(_) if place.awaits_body() => Err(Refusal::slow(limit.as_secs_f64())),
        Err(_) => Err(Refusal::timeout(limit.as_secs_f64())),
    };
    let outcome = answered.as_ref().map_or_else(Refusal::outcome, |_| Outcome::Answered);
    let took = began.elapsed();
    app.metrics.count(outcome, took);
    match answered {
        Ok(Written { snapshot, hits, body }) => {
            tracing::debug!(snapshot, hits, ?took, "answered");
            let json = HeaderValue::from_static("application/json");
            let named = HeaderValue::from(snapshot);
            ([(header::CONTENT_TYPE.as_str(), json), (SNAPSHOT, named)], body).into_response()
        }
        Err(refusal) => {
            tracing::debug!(status = refusal.status().as_u16(), ?took, "refused");
            refusal.into_response()
        }
    }
}

async fn answer(app: &Arc<App>, place: &Place, request: Request<Body>) -> Result<Written, Refusal> {
    let held = place.holding();
    let request = SearchRequest::read(request, &app.limits, &held).await?;
    place.has_body();
    let serving = app.watcher.current().ok_or_else(Refusal::no_snapshot)?;
    let number = serving.snapshot.manifest().number;
    on_a_seat(app, number, move |app, cancel| {
        let answer = compute(app, &serving, request, &held, cancel)?;
        written(&answer, held)
    })
    .await
}

/// Does what takes a processor, in its turn. `snapshot` is the one that is asked.
pub(super) async fn on_a_seat<T: Send + 'static>(
    app: &Arc<App>,
    snapshot: u64,
    work: impl FnOnce(&App, &Cancel) -> Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let seat = seat(app).await?;
    let app = Arc::clone(app);
    // A search that nobody waits for any more ends with its filter, else it still computes; it keeps its seat until then.
    let waiting = Waiting(Cancel::new());
    let cancel = waiting.0.clone();
    let computed = tokio::task::spawn_blocking(move || {
        let _seat = seat;
        work(&app, &cancel)
    });
    let computed = computed.await.unwrap_or_else(|cause| {
        Err(Error::internal("the search ended unexpectedly").with_source(cause))
    });
    computed.map_err(|error| {
        let refusal = Refusal::of(&error, snapshot);
        // Being asked for too much at once is not a failure, and must not fill the log.
        if refusal.status() == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(snapshot, %error, "a search failed");
        }
        refusal
    })
}

/// A turn to compute. Some may wait for theirs, so that a burst is answered and not refused.
async fn seat(app: &App) -> Result<OwnedSemaphorePermit, Refusal> {
    let seats = || Arc::clone(&app.seats);
    if let Ok(seat) = seats().try_acquire_owned() {
        return Ok(seat);
    }
    let _waiting = app.queue.try_acquire().map_err(|_| Refusal::busy())?;
    let seat = tokio::time::timeout(app.limits.turn, seats().acquire_owned()).await;
    seat.ok().and_then(std::result::Result::ok).ok_or_else(Refusal::busy)
}

/// Somebody waits for an answer. Dropped with the request: when it took too long, or its client is gone.
struct Waiting(Cancel);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn compute(
    app: &App,
    serving: &Serving,
    request: SearchRequest,
    held: &Holding,
    cancel: &Cancel,
) -> Result<Answer> {
    let snapshot = &serving.snapshot;
    let passing = passing(app, snapshot, request.condition.as_deref(), cancel)?;
    let (vector, query_tower) = match request.query {
        SearchQuery::Vector(vector) => (vector, None),
        SearchQuery::Text(text) => {
            let (vector, tower) = encode(serving, &text)?;
            (vector, Some(tower))
        }
    };
    let allowance = Allowance::new(app.limits.answer, held);
    let (k, exact, take) = (request.k, request.exact, |bytes| allowance.take(bytes));
    let found = snapshot.search_within(&vector, k, exact, passing.as_deref(), &take)?;
    Ok(Answer { snapshot: snapshot.manifest().number, query_tower, hits: Hit::ranked(found) })
}

/// The notes of a snapshot that a condition lets pass, if there is one.
pub(super) fn passing(
    app: &App,
    snapshot: &Snapshot,
    condition: Option<&str>,
    cancel: &Cancel,
) -> Result<Option<Arc<Passing>>> {
    let passing = condition.map(|text| app.filters.passing(snapshot, text, cancel)).transpose()?;
    cancel.check()?;
    Ok(passing)
}

/// The vector of a query, and the fingerprint of the tower that made it.
pub(super) fn encode(serving: &Serving, text: &str) -> Result<(Vec<f32>, String)> {
    let encoder = serving.encoder.as_ref().ok_or_else(|| {
        Error::input("this service has no query tower: send a `vector` instead of a text")
    })?;
    Ok((encoder.encode(text)?, encoder.tower().fingerprint.to_hex()))
}

/// Bytes that one answer may have, and holds.
pub(super) struct Allowance<'a> {
    limit: usize,
    taken: AtomicUsize,
    held: &'a Holding,
}

impl<'a> Allowance<'a> {
    pub fn new(limit: usize, held: &'a Holding) -> Self {
        Self { limit, taken: AtomicUsize::new(0), held }
    }

    /// # Errors
    /// Input where the answer gets too large; Resource where all answers together do.
    pub fn take(&self, bytes: usize) -> Result<()> {
        let limit = self.limit;
        if self.taken.fetch_add(bytes, Ordering::Relaxed) + bytes > limit {
            let message = format!("the answer has more than {limit} bytes; ask for a smaller `k`");
            return Err(Error::input(message));
        }
        let full = "all memory for answers is in use; try again in a moment";
        self.held.hold(bytes).map_err(|_| Error::resource(full))
    }
}

/// An answer's JSON; what it takes is held until it is sent, or given up.
fn written(answer: &Answer, held: Holding) -> Result<Written> {
    let json = serde_json::to_vec(answer).or_error(ErrorKind::Internal, || "writing an answer")?;
    let body = while_held(json, held);
    Ok(Written { snapshot: answer.snapshot, hits: answer.hits.len(), body })
}

/// A body; what it takes is held until it is sent, or given up.
pub(super) fn while_held(body: Vec<u8>, held: Holding) -> Bytes {
    struct Held(Vec<u8>, #[expect(dead_code, reason = "dropped with the bytes")] Holding);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Held(body, held))
}
