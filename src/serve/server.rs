//! The server: its address, its routes, and how it stops.

use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::{Notify, Semaphore};

use super::app::App;
use super::filters::Filters;
use super::limits::Limits;
use super::listener::Listener;
use super::metrics::{Metrics, age};
use super::refusal::Refusal;
use super::search;
use crate::error::{Error, ErrorKind, Result, kind_of_io};
use crate::search::SnapshotWatcher;

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
        let failed = |cause: std::io::Error| {
            let kind = match kind_of_io(&cause) {
                ErrorKind::NotFound | ErrorKind::Transient => ErrorKind::Input,
                kind => kind,
            };
            Error::new(kind, format!("cannot listen on {address}; choose another with --bind"))
                .with_source(cause)
        };
        let socket = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let app = App {
            seats: Arc::new(Semaphore::new(limits.searches)),
            filters: Filters::new(limits.filters),
            metrics: Metrics::default(),
            draining: AtomicBool::new(false),
            watcher,
            limits,
        };
        let listener = Listener::new(socket, app.limits.connections);
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
    /// Internal where the listener fails.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let router = Router::new()
            .route("/search", get(search::handle).post(search::handle))
            .route("/healthz", get(health))
            .route("/metrics", get(report))
            .fallback(|| async { Refusal::not_found() })
            .method_not_allowed_fallback(|| async { Refusal::wrong_method() })
            .with_state(Arc::clone(&self.app));
        let stopped = Arc::new(Notify::new());
        let (app, told) = (Arc::clone(&self.app), Arc::clone(&stopped));
        let stop = async move {
            stop.await;
            app.draining.store(true, Ordering::Release);
            told.notify_one();
        };
        let serving = axum::serve(self.listener, router).with_graceful_shutdown(stop);
        let drain = self.app.limits.drain;
        let too_long = async {
            stopped.notified().await;
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            ended = serving.into_future() => {
                ended.map_err(|cause| Error::internal("the server ended").with_source(cause))
            }
            () = too_long => {
                tracing::warn!(seconds = drain.as_secs(), "requests in flight took too long and are dropped");
                Ok(())
            }
        }
    }
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let status = app.watcher.status();
    let failure = status.failure.map(|failure| match failure.snapshot {
        Some(number) => format!("snapshot {number} is not taken over: {}", failure.message),
        None => failure.message,
    });
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
    let text = app.metrics.render(&status, app.watcher.current().as_deref());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
