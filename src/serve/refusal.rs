//! Answers that are not hits: a status code and JSON that says what to change.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::metrics::Outcome;
use crate::error::{Error, ErrorKind};

/// Why a request is not answered with hits.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    /// Seconds after which trying again makes sense.
    retry: Option<u32>,
    /// The snapshot that was asked, if one was.
    snapshot: Option<u64>,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry: None, snapshot: None }
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there are /, /search, /healthz and /metrics")
    }

    pub fn opening(number: u64) -> Self {
        let message = format!("snapshot {number} is still being opened; try again in a moment");
        Self { retry: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    pub fn no_such_snapshot(number: u64) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("snapshot {number} is no longer there"))
    }

    pub fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "use GET, or POST for /search")
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the request has more than {limit} bytes"))
    }

    pub fn busy() -> Self {
        let message = "as many searches as allowed are in progress; try again in a moment";
        Self { retry: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    pub fn no_snapshot() -> Self {
        let message = "no snapshot is in service yet";
        Self { retry: Some(5), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    pub fn timeout(seconds: f64) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!(
                "the search took longer than {seconds} s; ask for fewer notes, or without `exact`"
            ),
        )
    }

    pub fn slow(seconds: f64) -> Self {
        let message = format!("the request's body was not there within {seconds} s");
        Self::new(StatusCode::REQUEST_TIMEOUT, message)
    }

    /// A request for `host`.
    pub fn misdirected(host: &str) -> Self {
        let host: String = host.chars().take(100).collect();
        let message = format!(
            "this service is not called `{host}`; where it is, start it with --allow-host and that name"
        );
        Self::new(StatusCode::MISDIRECTED_REQUEST, message)
    }

    pub fn foreign() -> Self {
        let message = "a web page of another site may not ask here; start the service with --allow-host and the site's \
                       name where it may";
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// An error of searching snapshot `number`.
    pub fn of(error: &Error, number: u64) -> Self {
        let status = match error.kind() {
            ErrorKind::Input | ErrorKind::Config | ErrorKind::Usage => StatusCode::BAD_REQUEST,
            ErrorKind::Resource | ErrorKind::Transient => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let retry = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        Self { retry, snapshot: Some(number), ..Self::new(status, error.to_string()) }
    }

    pub fn outcome(&self) -> Outcome {
        match self.status {
            StatusCode::PAYLOAD_TOO_LARGE => Outcome::TooLarge,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Outcome::Timeout,
            StatusCode::SERVICE_UNAVAILABLE if self.retry == Some(5) => Outcome::NoSnapshot,
            StatusCode::SERVICE_UNAVAILABLE => Outcome::Busy,
            status if status.is_client_error() => Outcome::BadRequest,
            _ => Outcome::Failed,
        }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Seconds after which trying again makes sense.
    pub fn retry(&self) -> Option<u32> {
        self.retry
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let reason = self.status.canonical_reason().unwrap_or("error").to_lowercase();
        let body = json!({
            "error": { "status": self.status.as_u16(), "reason": reason, "message": self.message },
            "snapshot": self.snapshot,
        });
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
