//! The response body of a pooled request.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{lease::Lease, upload::Upload};

/// A response body that keeps its stream counted until it ends or is dropped.
///
/// Dropping it before its end cancels the exchange at once: an HTTP/2 stream is reset, an HTTP/1.1 connection closed.
/// (An upload that goes on after the response head, and that the target has stopped reading, is reset only when the
/// target reads again or the connection ends: hyper does not let go of it earlier.)
pub struct PooledBody {
    // Dropped in this order: first the exchange is cancelled, then the stream is given back.
    inner: Incoming,
    lease: Option<Lease>,
    upload: Option<Arc<Upload>>,
}

/// A response body that broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The transport failed, or the target reset the stream.
    #[error("the response body broke off: {}", super::error_chain(.0))]
    Transport(hyper::Error),
    /// The target gave up the stream without an error and without having ended the body.
    #[error("the response body broke off: the target closed the stream before the end of the body")]
    Truncated,
}

impl PooledBody {
    pub(super) fn new(inner: Incoming, lease: Lease, upload: Option<Arc<Upload>>) -> Self {
        let mut body = Self { inner, lease: Some(lease), upload };
        if body.inner.is_end_stream() {
            body.finish();
        }
        body
    }

    /// The response is complete.
    fn finish(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let upload_over = self.upload.as_ref().is_none_or(|upload| upload.is_over());
        match &self.upload {
            // The peer counts an HTTP/2 stream until both directions are over.
            Some(upload) if lease.is_http2() && !upload_over => upload.hold(lease),
            _ => lease.complete(upload_over),
        }
    }

    fn abandon(&mut self) {
        if let Some(upload) = self.upload.take() {
            upload.cancel();
        }
        self.lease = None;
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if self.inner.is_end_stream() {
                    self.finish();
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.abandon();
                Some(Err(BodyError::Transport(error)))
            }
            // hyper takes RST_STREAM(NO_ERROR) for an end, although only END_STREAM is one.
            None if self.lease.as_ref().is_some_and(Lease::is_http2) && !self.inner.is_end_stream() => {
                self.abandon();
                Some(Err(BodyError::Truncated))
            }
            None => {
                self.finish();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl fmt::Debug for PooledBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBody").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Drop for PooledBody {
    fn drop(&mut self) {
        if let (Some(upload), Some(_)) = (&self.upload, &self.lease) {
            upload.cancel();
        }
    }
}
