//! Whoever answers the requests.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tracing::error;
use upgrade_aware_proxy::{BoxError, ResponseBody};

use super::activity::{Activity, InFlight};
use crate::connection::Connection;

/// Answers requests. Implemented for functions `Fn(Request<Incoming>, Arc<Connection>) -> Future`.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. There is no way to fail: errors are answers too.
    fn handle(
        &self,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send;

    /// The answer when [`handle`](Self::handle) has panicked.
    fn panicked(&self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::full("internal error: see the server's log\n"));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    }
}

impl<F, Answer> Handler for F
where
    F: Fn(Request<Incoming>, Arc<Connection>) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Response<ResponseBody>> + Send,
{
    fn handle(
        &self,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send {
        self(request, connection)
    }
}

/// An extension of an answer that may pause as long as its reader likes: a watch or followed log in somebody's
/// pager. The write-stall limit does not apply while it lasts.
#[derive(Clone, Copy, Debug)]
pub struct LongRunning;

/// Runs the handler; a panic becomes an answer.
pub(super) async fn answer<H: Handler>(
    handler: Arc<H>,
    request: Request<Incoming>,
    connection: Arc<Connection>,
    activity: Arc<Activity>,
) -> Result<Response<CountedBody>, Infallible> {
    let mut in_flight = InFlight::begin(activity);
    // The handler's state is shared with other requests either way; a lock it left poisoned is its own business.
    let outcome = AssertUnwindSafe(async { handler.handle(request, connection).await }).catch_unwind().await;
    let response = outcome.unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        error!(panic = message, "a request's handler panicked; please report this");
        handler.panicked()
    });
    if response.extensions().get::<LongRunning>().is_some() {
        in_flight.be_patient();
    }
    Ok(response.map(|body| {
        if !body.is_end_stream() {
            in_flight.offers();
        }
        CountedBody { body, in_flight }
    }))
}

/// An answer's body, which counts as a request in flight until it ends.
pub(super) struct CountedBody {
    body: ResponseBody,
    in_flight: InFlight,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.in_flight.is_taken();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.in_flight.offers();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
