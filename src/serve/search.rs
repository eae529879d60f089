//! `/search`: one snapshot, taken once, answers one request.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Request};
use axum::response::{IntoResponse, Response};

use super::app::App;
use super::metrics::Outcome;
use super::refusal::Refusal;
use super::request::{SearchQuery, SearchRequest};
use crate::error::{Error, Result};
use crate::search::{Answer, Hit, Serving};

/// Names the snapshot of an answer beside its body.
const SNAPSHOT: &str = "x-scalingnote-snapshot";

pub(super) async fn handle(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let began = Instant::now();
    let _counted = app.metrics.in_flight();
    let limit = app.limits.timeout;
    let answered = match tokio::time::timeout(limit, answer(&app, request)).await {
        Ok(answered) => answered,
        Err(_) => Err(Refusal::timeout(limit.as_secs_f64())),
    };
    let outcome = answered.as_ref().map_or_else(Refusal::outcome, |_| Outcome::Answered);
    let took = began.elapsed();
    app.metrics.count(outcome, took);
    match answered {
        Ok(answer) => {
            let number = answer.snapshot;
            tracing::debug!(snapshot = number, hits = answer.hits.len(), ?took, "answered");
            let mut response = Json(answer).into_response();
            response.headers_mut().insert(SNAPSHOT, HeaderValue::from(number));
            response
        }
        Err(refusal) => {
            tracing::debug!(status = refusal.status().as_u16(), ?took, "refused");
            refusal.into_response()
        }
    }
}

async fn answer(app: &Arc<App>, request: Request<Body>) -> Result<Answer, Refusal> {
    let request = SearchRequest::read(request, &app.limits).await?;
    let serving = app.watcher.current().ok_or_else(Refusal::no_snapshot)?;
    let seat = Arc::clone(&app.seats).try_acquire_owned().map_err(|_| Refusal::busy())?;
    let app = Arc::clone(app);
    let number = serving.snapshot.manifest().number;
    // A search that nobody waits for any more still computes, and keeps its seat until it is done.
    let computed = tokio::task::spawn_blocking(move || {
        let _seat = seat;
        compute(&app, &serving, request)
    });
    let computed = computed.await.unwrap_or_else(|cause| {
        Err(Error::internal("the search ended unexpectedly").with_source(cause))
    });
    computed.map_err(|error| {
        let refusal = Refusal::of(&error, number);
        if refusal.status().is_server_error() {
            tracing::error!(snapshot = number, %error, "a search failed");
        }
        refusal
    })
}

fn compute(app: &App, serving: &Serving, request: SearchRequest) -> Result<Answer> {
    let snapshot = &serving.snapshot;
    let condition = request.condition.as_deref();
    let passing = condition.map(|text| app.filters.passing(snapshot, text)).transpose()?;
    let (vector, query_tower) = match request.query {
        SearchQuery::Vector(vector) => (vector, None),
        SearchQuery::Text(text) => {
            let encoder = serving.encoder.as_ref().ok_or_else(|| {
                Error::input("this service has no query tower: send a `vector` instead of a text")
            })?;
            (encoder.encode(&text)?, Some(encoder.tower().fingerprint.to_hex()))
        }
    };
    let found = match &passing {
        None => snapshot.search_vector(&vector, request.k, request.exact)?,
        Some(passing) => snapshot.search_among(&vector, request.k, request.exact, passing)?,
    };
    Ok(Answer { snapshot: snapshot.manifest().number, query_tower, hits: Hit::ranked(found) })
}
