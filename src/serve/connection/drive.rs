//! One connection from its first byte to its end, and giving up on a client that keeps it waiting.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::phase::{Phase, Reason};
use super::table::Place;
use super::watched::Watched;

/// Bytes of a head: the longest address that is read has 64 KiB.
const HEAD: usize = 96 << 10;
/// Time that the rest of a head gets when the server stops.
const LAST_HEAD: Duration = Duration::from_secs(1);

/// Answers the requests of one connection by HTTP/1, until it ends, has to close, or `stop` ends and the current
/// request is answered.
///
/// Nothing else is spoken: the frames of HTTP/2 would need limits of their own.
pub(in crate::serve) async fn drive<A, F>(
    stream: TcpStream,
    place: Place,
    answer: A,
    stop: impl Future<Output = ()>,
) where
    A: Fn(Request<Body>) -> F,
    F: Future<Output = Response>,
{
    // Dropped after the connection, so that a place is free only when its descriptor is.
    let place = Arc::new(place);
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&place)));
    let (answer, served) = (&answer, &place);
    let service = service_fn(move |request: Request<Incoming>| async move {
        // This is not polled before the answer to the request before has been sent.
        let whole = request.body().is_end_stream();
        served.enter(if whole { Phase::Working } else { Phase::Body });
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arc::clone(served));
        let response = answer(request).await;
        served.enter(Phase::Answer);
        Ok::<_, Infallible>(response)
    });
    let mut http = http1::Builder::new();
    // A head's time is counted here, and apart from that between two requests.
    http.header_read_timeout(None).max_buf_size(HEAD);
    let mut serving = pin!(http.serve_connection(io, service));
    let (mut stop, mut told) = (pin!(stop), pin!(place.told()));
    let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
    let mut last_head = None;
    let late = poll_fn(|cx| {
        if last_head.is_none() && stop.as_mut().poll(cx).is_ready() {
            last_head = Some(Instant::now() + LAST_HEAD);
            serving.as_mut().graceful_shutdown();
        }
        // First what has arrived is read: it may be what this connection would be closed for want of.
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        while told.as_mut().poll(cx).is_ready() {
            if !place.may_stay() {
                return Poll::Ready(None);
            }
            told.set(place.told());
        }
        let Some((deadline, why)) = deadline(&place, last_head) else { return Poll::Pending };
        let deadline = tokio::time::Instant::from_std(deadline);
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx).map(|()| Some(why))
    });
    if let Some(why) = late.await {
        place.closed(why);
    }
}

fn deadline(place: &Place, last_head: Option<Instant>) -> Option<(Instant, Reason)> {
    let (deadline, why) = place.deadline()?;
    let last_head = last_head.filter(|last| why != Reason::Unread && *last < deadline);
    Some(last_head.map_or((deadline, why), |last| (last, Reason::Stop)))
}
