//! `/`: the page, within the limits that `/search` has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::response::{IntoResponse, Response};

use super::app::App;
use super::connection::{Holding, Place};
use super::metrics::Outcome;
use super::page::{Asked, Beside, Form, Found, Frame, Known, Nonce, Side, card_of};
use super::refusal::Refusal;
use super::search::{Allowance, encode, on_a_seat, passing, while_held};
use crate::error::{Error, ErrorKind, Result};
use crate::search::{Hit, Passing, Serving, Snapshot};
use crate::types::Cancel;

/// Bytes that a page may have beside those of its hits.
const FRAME: usize = 256 << 10;

pub(super) async fn handle(
    State(app): State<Arc<App>>,
    Extension(place): Extension<Arc<Place>>,
    request: Request<Body>,
) -> Response {
    let _counted = app.metrics.in_flight();
    // If there is a body, nobody waits for it.
    place.has_body();
    let (form, answered) = match Form::read(request.uri(), &app.limits) {
        Err(refusal) => (Form::default(), Err(refusal)),
        Ok(form) => {
            let limit = app.limits.timeout;
            let answered = tokio::time::timeout(limit, answer(&app, &place, &form)).await;
            let late = |_| Err(Refusal::timeout(limit.as_secs_f64()));
            (form, answered.unwrap_or_else(late))
        }
    };
    let outcome = answered.as_ref().map_or_else(Refusal::outcome, |_| Outcome::Answered);
    app.metrics.count_page(outcome);
    match answered {
        Ok((body, nonce)) => (headers(&nonce), body).into_response(),
        Err(refusal) => refused(&app, &form, refusal),
    }
}

/// The page that says why a search was refused; the form keeps its input.
fn refused(app: &App, form: &Form, refusal: Refusal) -> Response {
    let nonce = Nonce::new();
    let page = {
        let frame = Frame::new(&nonce, form, &app.limits).with_refusal(&refusal);
        app.page.html.page(&frame, &|_| Ok(()))
    };
    let Ok(body) = page else { return refusal.into_response() };
    let mut response = (refusal.status(), headers(&nonce), body).into_response();
    if let Some(seconds) = refusal.retry() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn headers(nonce: &Nonce) -> HeaderMap {
    let fixed = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        // Results are for the person who searched.
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let fixed = fixed.map(|(name, value)| (name, HeaderValue::from_static(value)));
    let policy = (header::CONTENT_SECURITY_POLICY, nonce.policy());
    fixed.into_iter().chain([policy]).collect()
}

async fn answer(app: &Arc<App>, place: &Place, form: &Form) -> Result<(Bytes, Nonce), Refusal> {
    let asked = form.asked(&app.limits)?;
    let serving = app.watcher.current().ok_or_else(Refusal::no_snapshot)?;
    let manifest = serving.snapshot.manifest();
    let number = manifest.number;
    let known = app.page.history.of(app.watcher.root(), manifest).await;
    let second = match asked.as_ref().map(|asked| asked.beside) {
        Some(Beside::Snapshot(other)) => Some(second(app, other).await?),
        _ => None,
    };
    let (form, held) = (form.clone(), place.holding());
    on_a_seat(app, number, move |app, cancel| {
        let found =
            asked.map(|asked| find(app, &asked, &serving, second.as_deref(), &held, cancel));
        let found = found.transpose()?;
        written(app, &form, &serving, &known, found, held)
    })
    .await
}

/// A second snapshot. Opening it may take longer than a request; then the next request finds it.
async fn second(app: &App, number: u64) -> Result<Arc<Serving>, Refusal> {
    let opening = app.watcher.beside(number, app.limits.second);
    // Some time is left to search.
    let opened = tokio::time::timeout(app.limits.timeout / 2, opening).await;
    let opened = opened.map_err(|_| Refusal::opening(number))?;
    opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Refusal::no_such_snapshot(number),
        _ => Refusal::of(&error, number),
    })
}

fn find(
    app: &App,
    asked: &Asked,
    serving: &Serving,
    second: Option<&Serving>,
    held: &Holding,
    cancel: &Cancel,
) -> Result<Found> {
    let allowance = Allowance::new(app.limits.answer, held);
    let take = |bytes: usize| allowance.take(bytes);
    let passing = |snapshot: &Snapshot| passing(app, snapshot, asked.condition.as_deref(), cancel);
    let passes = passing(&serving.snapshot)?;
    let began = Instant::now();
    let (vector, _) = encode(serving, &asked.text)?;
    let encoded = began.elapsed();
    let side = |title: String, snapshot: &Snapshot, exact, passes: Option<&Passing>| {
        cancel.check()?;
        let began = Instant::now();
        let found = snapshot.search_within(&vector, asked.k, exact, passes, &take)?;
        let took: Duration = began.elapsed();
        Ok::<_, Error>(Side { title, hits: Hit::ranked(found), took })
    };
    let title = |snapshot: &Snapshot| format!("Snapshot {}", snapshot.manifest().number);
    let own = &serving.snapshot;
    let main = match asked.beside {
        Beside::Exact => side("Graph".to_owned(), own, false, passes.as_deref())?,
        _ => side(title(own), own, false, passes.as_deref())?,
    };
    let beside = match (asked.beside, second) {
        (Beside::Exact, _) => {
            let exact = side("Exact".to_owned(), own, true, passes.as_deref())?;
            Some((exact, ["not in exact", "missed"]))
        }
        (Beside::Snapshot(_), Some(second)) => {
            let passes = passing(&second.snapshot)?;
            let before = side(title(&second.snapshot), &second.snapshot, false, passes.as_deref())?;
            Some((before, ["new", "gone"]))
        }
        _ => None,
    };
    Ok(Found::new(encoded, main, beside))
}

fn written(
    app: &App,
    form: &Form,
    serving: &Serving,
    known: &Known,
    found: Option<Found>,
    held: Holding,
) -> Result<(Bytes, Nonce)> {
    let manifest = serving.snapshot.manifest();
    let nonce = Nonce::new();
    let mut frame = Frame::new(&nonce, form, &app.limits).with_choices(known, manifest.number);
    frame.card = Some(card_of(manifest, serving.encoder.is_some(), known));
    frame.failure = app.watcher.status().failure.map(|failure| failure.to_string());
    frame.found = found;
    // What was found is in memory beside it.
    let allowance = Allowance::new(app.limits.answer + FRAME, &held);
    let html = app.page.html.page(&frame, &|bytes| allowance.take(bytes))?;
    drop(frame);
    Ok((while_held(html, held), nonce))
}
