//! The two bodies that pass through: the client's on its way to the target and the target's on its way back.
//!
//! Both stream frame by frame (data and trailers) and hold nothing back; an error of the source stays an error, so
//! that a body that broke off can never look like one that ended.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::body::Incoming;

use crate::pool::PooledBody;

/// Any error, as bodies carry it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The client's body.
#[derive(Default)]
pub struct RequestBody(RequestKind);

#[derive(Default)]
enum RequestKind {
    #[default]
    Empty,
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

impl RequestBody {
    /// No body at all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Wraps `body`; one that is known to be empty costs nothing.
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            Self::empty()
        } else {
            Self(RequestKind::Boxed(body.map_err(Into::into).boxed_unsync()))
        }
    }

    /// The same, with its trailers changed by `edit` on the way.
    pub(crate) fn with_trailers<B>(body: B, edit: impl Fn(&mut HeaderMap) + Send + 'static) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        Self::new(body.map_frame(move |frame| match frame.into_trailers() {
            Ok(mut trailers) => {
                edit(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(data) => data,
        }))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            RequestKind::Empty => Poll::Ready(None),
            RequestKind::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            RequestKind::Empty => true,
            RequestKind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            RequestKind::Empty => SizeHint::with_exact(0),
            RequestKind::Boxed(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("size", &self.size_hint()).finish()
    }
}

/// The answer's body: the target's, or one of our own.
#[derive(Default)]
pub struct ResponseBody(ResponseKind);

#[derive(Default)]
enum ResponseKind {
    #[default]
    Empty,
    Full(Option<Bytes>),
    Pooled(PooledBody),
    Incoming(Incoming),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

impl ResponseBody {
    /// No body at all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// All of it at once.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(ResponseKind::Full(Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty())))
    }

    /// Any other body.
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(ResponseKind::Boxed(body.map_err(Into::into).boxed_unsync()))
    }
}

impl From<PooledBody> for ResponseBody {
    fn from(body: PooledBody) -> Self {
        Self(ResponseKind::Pooled(body))
    }
}

impl From<Incoming> for ResponseBody {
    fn from(body: Incoming) -> Self {
        Self(ResponseKind::Incoming(body))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            ResponseKind::Empty => Poll::Ready(None),
            ResponseKind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            ResponseKind::Pooled(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            ResponseKind::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            ResponseKind::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            ResponseKind::Empty => true,
            ResponseKind::Full(bytes) => bytes.is_none(),
            ResponseKind::Pooled(body) => body.is_end_stream(),
            ResponseKind::Incoming(body) => body.is_end_stream(),
            ResponseKind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            ResponseKind::Empty => SizeHint::with_exact(0),
            ResponseKind::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            ResponseKind::Pooled(body) => body.size_hint(),
            ResponseKind::Incoming(body) => body.size_hint(),
            ResponseKind::Boxed(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("size", &self.size_hint()).finish()
    }
}
