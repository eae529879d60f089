//! An HTTP client that listens to what a store says beside its answer: the status of a conditional create, and
//! for how long a busy store asks to be left alone. `object_store` tells neither.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, Extensions};

use super::redirect::Browser;

/// The longest wait that a retrying client grants a store.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What the store answered to one request. Travels with the request as an extension.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Option<Answer>>);

#[derive(Debug, Clone, Copy)]
struct Answer {
    status: u16,
    retry_after: Option<Duration>,
}

impl Heard {
    /// A listener and the extensions that carry it.
    pub fn new() -> (Arc<Self>, Extensions) {
        let heard = Arc::new(Self::default());
        let mut extensions = Extensions::new();
        extensions.insert(Arc::clone(&heard));
        (heard, extensions)
    }

    fn answer(&self) -> Option<Answer> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status; `None` where no answer came, or the store does not speak HTTP.
    pub fn status(&self) -> Option<u16> {
        self.answer().map(|answer| answer.status)
    }

    /// For how long the store asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        self.answer().and_then(|answer| answer.retry_after)
    }

    /// Whether a request that failed may have been carried out all the same.
    pub fn in_doubt(&self) -> bool {
        !self.status().is_some_and(|status| matches!(status, 300..500) && status != 408)
    }
}

/// Makes listening clients.
#[derive(Debug)]
pub(super) struct Listening {
    /// Whether the client itself waits as long as a busy store asks, because `object_store` repeats behind it.
    pub waits: bool,
    /// How a web server is asked; `None` for an object store.
    pub browser: Option<Browser>,
}

impl HttpConnector for Listening {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = match self.browser {
            Some(browser) => browser.connect()?,
            None => ReqwestConnector::default().connect(options)?,
        };
        Ok(HttpClient::new(Listener { inner, waits: self.waits }))
    }
}

#[derive(Debug)]
struct Listener {
    inner: HttpClient,
    waits: bool,
}

#[async_trait]
impl HttpService for Listener {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let heard = request.extensions().get::<Arc<Heard>>().cloned();
        let response = self.inner.execute(request).await?;
        let status = response.status().as_u16();
        let busy = matches!(status, 429 | 500..);
        let header = |name| response.headers().get(name).and_then(|text| text.to_str().ok());
        // A date is by the server's clock, as its answer tells it; this machine's may be wrong.
        let now = || header("date").and_then(date).unwrap_or_else(Utc::now);
        let retry_after = header("retry-after").filter(|_| busy).and_then(|text| parse(text, now));
        if let Some(heard) = heard {
            *heard.0.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Answer { status, retry_after });
        }
        if let Some(pause) = retry_after.filter(|_| self.waits) {
            tokio::time::sleep(pause.min(LONGEST_WAIT)).await;
        }
        Ok(response)
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
fn parse(text: &str, now: impl FnOnce() -> DateTime<Utc>) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some((date(text)? - now()).to_std().unwrap_or_default())
}

fn date(text: &str) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc2822(text.trim()).ok()?.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = || DateTime::from_timestamp(1_700_000_000, 0).unwrap_or_default();
        assert_eq!(parse(" 7 ", now), Some(Duration::from_secs(7)));
        let date = "Tue, 14 Nov 2023 22:13:50 GMT";
        assert_eq!(parse(date, now), Some(Duration::from_secs(30)));
        assert_eq!(parse("Tue, 14 Nov 2023 22:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(parse("soon", now), None);
    }

    #[test]
    fn only_a_refusal_leaves_no_doubt() {
        let heard = |status| {
            let answer = Answer { status, retry_after: None };
            Heard(Mutex::new(Some(answer))).in_doubt()
        };
        assert!(Heard::default().in_doubt());
        assert!(heard(500) && heard(503) && heard(408));
        assert!(!heard(429) && !heard(412) && !heard(409) && !heard(403));
    }
}
