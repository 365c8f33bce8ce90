//! The connections to one target: an [`Upstream`].

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::{BoxIo, Dial, DialError, RequestBody};

/// Limits of an [`Upstream`].
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Most connections at a time.
    pub max_connections: usize,
    /// How long a request waits for a stream once `max_connections` are full.
    pub busy_wait: Duration,
    /// Connections without a request are closed after this long.
    pub idle_timeout: Duration,
    /// HTTP/2: quiet time before a ping.
    pub ping_interval: Duration,
    /// HTTP/2: time for the answer to a ping before the connection counts as dead.
    pub ping_timeout: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_connections: 200,
            busy_wait: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(90),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(15),
        }
    }
}

/// A look at an [`Upstream`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Open connections.
    pub connections: usize,
    /// Requests whose response body has not ended.
    pub in_flight: usize,
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection could be opened. The request was not sent.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// All connections were busy for `busy_wait`. The request was not sent.
    #[error("all {connections} connections are busy")]
    Exhausted {
        /// How many there are.
        connections: usize,
    },
    /// The target surely did not process the request (never written, REFUSED_STREAM, GOAWAY), and it could not be
    /// sent once more, or that failed too.
    #[error("not processed: {0}")]
    NotProcessed(String),
    /// The target may have processed the request.
    #[error("broken: {0}")]
    Broken(String),
    /// The response head did not come in time.
    #[error("no response within {0:?}")]
    HeadTimeout(Duration),
    /// The client's body failed while it was sent.
    #[error("the request body failed: {0}")]
    RequestBody(String),
}

/// The pooled connections to one target, and the way to open more.
pub struct Upstream {
    dialer: Arc<dyn Dial>,
    config: PoolConfig,
}

impl Upstream {
    /// A pool without connections; they are opened on demand.
    pub fn new(dialer: Arc<dyn Dial>, config: PoolConfig) -> Arc<Self> {
        Arc::new(Self { dialer, config })
    }

    /// Sends a plain request and waits for the response head, at most `head_timeout` from the moment a stream is
    /// ready. The URI of `request` is absolute; `Host`, `:authority` and the version are set to fit the connection.
    ///
    /// Dropping the future, or the body of the response, cancels the exchange at once.
    ///
    /// # Errors
    /// [`SendError`]; it tells whether the target may have processed the request.
    pub async fn send(
        &self,
        _request: Request<RequestBody>,
        _head_timeout: Duration,
    ) -> Result<Response<PooledBody>, SendError> {
        let _ = &self.config;
        todo!()
    }

    /// Opens a connection of its own for one upgrade. It never joins the pool.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial_upgrade(&self) -> Result<BoxIo, DialError> {
        Ok(self.dialer.dial(crate::Purpose::Upgrade).await?.io)
    }

    /// How many connections and requests there are right now.
    pub fn stats(&self) -> PoolStats {
        todo!()
    }

    /// Takes the target out of use: idle connections close now, busy ones when their last response ends.
    pub fn close(&self) {
        todo!()
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").finish_non_exhaustive()
    }
}

/// A response body that keeps its stream counted until it ends or is dropped.
#[derive(Debug)]
pub struct PooledBody {
    inner: Incoming,
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
