//! The server: its address, its routes, and how it stops.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::app::App;
use super::bound::Bound;
use super::browse;
use super::connection::{Connections, Listener, drive};
use super::filters::Filters;
use super::hosts::Hosts;
use super::limits::Limits;
use super::metrics::{Metrics, age};
use super::page::Page;
use super::refusal::Refusal;
use super::search;
use crate::error::Result;
use crate::search::SnapshotWatcher;

/// Requests that may wait for a seat, for each seat.
const WAITING: usize = 8;

/// A server that listens and has not started to answer.
pub struct Server {
    listener: Listener,
    address: SocketAddr,
    app: Arc<App>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the address. The watcher is not told to look: that is its owner's.
    ///
    /// # Errors
    /// Input where the address is taken or not this machine's.
    pub async fn bind(
        address: SocketAddr,
        watcher: Arc<SnapshotWatcher>,
        limits: Limits,
    ) -> Result<Self> {
        Self::listen(Bound::at(address)?, watcher, limits)
    }

    /// [`Server::bind`] at an address that was bound before: clients connect from now on, and are answered once it runs.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn listen(bound: Bound, watcher: Arc<SnapshotWatcher>, limits: Limits) -> Result<Self> {
        let address = bound.address();
        let listener = bound.listen()?;
        let app = App {
            connections: Connections::new(&limits),
            hosts: Hosts::new(address.ip(), &limits.hosts),
            seats: Arc::new(Semaphore::new(limits.searches)),
            queue: Semaphore::new(WAITING * limits.searches),
            filters: Filters::new(limits.filters),
            metrics: Metrics::default(),
            page: Page::new()?,
            draining: AtomicBool::new(false),
            watcher,
            limits,
        };
        Ok(Self { listener, address, app: Arc::new(app) })
    }

    /// Where it listens: the port that was chosen where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`; then accepts nothing more and returns when every request in flight is answered, or the time
    /// for that is over.
    ///
    /// # Errors
    /// None so far: a listener that fails for now is asked again.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let page = match self.app.limits.page {
            true => Router::new().route("/", get(browse::handle)),
            false => Router::new(),
        };
        let router = page
            .route("/search", get(search::handle).post(search::handle))
            .route("/healthz", get(health))
            .route("/metrics", get(report))
            .fallback(|| async { Refusal::not_found() })
            .method_not_allowed_fallback(|| async { Refusal::wrong_method() })
            .with_state(Arc::clone(&self.app));
        let (stopping, told) = watch::channel(false);
        let mut open = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let (stream, place) = tokio::select! {
                () = &mut stop => break,
                next = self.listener.next(&self.app.connections) => next,
            };
            while open.try_join_next().is_some() {}
            let (app, router, mut told) = (Arc::clone(&self.app), router.clone(), told.clone());
            let answer = move |request| answer(Arc::clone(&app), router.clone(), request);
            open.spawn(async move {
                let stopped = async {
                    // The server is gone altogether where this fails.
                    let _ = told.wait_for(|stopping| *stopping).await;
                };
                drive(stream, place, answer, stopped).await;
            });
        }
        drop(self.listener);
        self.app.draining.store(true, Ordering::Release);
        stopping.send_replace(true);
        let drain = self.app.limits.drain;
        let all_ended = async { while open.join_next().await.is_some() {} };
        if tokio::time::timeout(drain, all_ended).await.is_err() {
            let (seconds, left) = (drain.as_secs(), open.len());
            tracing::warn!(seconds, left, "requests in flight took too long and are dropped");
            open.shutdown().await;
        }
        Ok(())
    }
}

async fn answer(app: Arc<App>, router: Router, request: Request<Body>) -> Response {
    if let Err(refusal) = app.hosts.check(&request) {
        app.metrics.count_foreign();
        return refusal.into_response();
    }
    match TowerToHyperService::new(router).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let failure = app.watcher.status().failure.map(|failure| failure.to_string());
    let serving = app.watcher.current();
    let draining = app.draining.load(Ordering::Acquire);
    let (code, said) = match (&serving, draining) {
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (Some(_), false) => (StatusCode::OK, "ready"),
        (None, false) => (StatusCode::SERVICE_UNAVAILABLE, "waiting for a snapshot"),
    };
    let manifest = serving.as_ref().map(|serving| serving.snapshot.manifest());
    let body = json!({
        "status": said,
        "snapshot": manifest.map(|manifest| manifest.number),
        "age_seconds": manifest.and_then(age),
        "notes": manifest.map(|manifest| manifest.content.notes),
        "text_queries": serving.as_ref().map(|serving| serving.encoder.is_some()),
        "failure": failure,
    });
    (code, Json(body)).into_response()
}

async fn report(State(app): State<Arc<App>>) -> Response {
    let status = app.watcher.status();
    let counts = app.connections.counts();
    let text = app.metrics.render(&status, app.watcher.current().as_deref(), &counts);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
