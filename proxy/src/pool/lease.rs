//! One stream to the target, lent to one request.

use std::sync::Arc;

use hyper::client::conn::{http1, http2};
use tokio::{runtime::Handle, task::AbortHandle};

use super::{lending::Pool, upload::Outgoing};

/// The right to send one request. Dropping it gives the stream back, or closes what cannot be used again.
pub(super) struct Lease {
    pool: Arc<Pool>,
    /// `None` only while it is being given back.
    stream: Option<Stream>,
    /// Connections with at least this number were opened after this lease was granted.
    pub(super) floor: u64,
    /// Whether the stream was used and its response has not come to a clean end.
    used: bool,
    /// Whether the pool knows that it will be given back in a moment.
    announced: bool,
}

pub(super) enum Stream {
    Http2 { id: u64, sender: http2::SendRequest<Outgoing> },
    Http1(Http1),
}

/// An HTTP/1.1 connection, owned by whoever uses it. Dropping it closes the socket at once.
pub(super) struct Http1 {
    pub(super) id: u64,
    pub(super) sender: http1::SendRequest<Outgoing>,
    /// Whether it has served a request before: then the target may be about to close it.
    pub(super) reused: bool,
    driver: AbortHandle,
}

impl Http1 {
    pub(super) fn new(id: u64, sender: http1::SendRequest<Outgoing>, driver: AbortHandle) -> Self {
        Self { id, sender, reused: false, driver }
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, stream: Stream, floor: u64) -> Self {
        Self { pool, stream: Some(stream), floor, used: false, announced: false }
    }

    /// The stream, from now on in use.
    pub(super) fn stream(&mut self) -> Option<&mut Stream> {
        self.used = true;
        self.stream.as_mut()
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self.stream, Some(Stream::Http2 { .. }))
    }

    /// Whether this is an HTTP/1.1 connection that has served a request before.
    pub(super) fn is_reused_http1(&self) -> bool {
        matches!(&self.stream, Some(Stream::Http1(connection)) if connection.reused)
    }

    /// Gives the stream back without the pool's taking notice; for the pool itself, under its lock.
    pub(super) fn into_stream(mut self) -> Option<Stream> {
        self.stream.take()
    }

    /// The response is complete: an HTTP/1.1 connection may serve the next request, as soon as it is ready to. That
    /// is now or in a moment, unless the request's body is still being sent.
    pub(super) fn complete(mut self, upload_over: bool) {
        let Some(Stream::Http1(connection)) = &mut self.stream else { return };
        connection.reused = true;
        if connection.sender.is_ready() {
            self.used = false;
        } else if !connection.sender.is_closed()
            && let Ok(runtime) = Handle::try_current()
        {
            if upload_over {
                self.announced = true;
                self.pool.returning();
            }
            runtime.spawn(self.come_back());
        }
    }

    /// Waits until hyper has noticed that the exchange is over.
    async fn come_back(mut self) {
        if let Some(Stream::Http1(connection)) = &mut self.stream {
            self.used = connection.sender.ready().await.is_err();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.pool.give_back(stream, self.used, self.announced);
        }
    }
}
